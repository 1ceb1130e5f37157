"""Pictures: they show the elements of the group, PNG and browser draw the same, and the page needs no network."""

from __future__ import annotations

import io
import json
import re
import shutil
import subprocess

import numpy as np
import pytest

import symkern as sk

ase = pytest.importorskip("ase")
pytest.importorskip("matplotlib")

from ase.build import molecule  # noqa: E402

from symkern.pointgroup import html, render  # noqa: E402
from symkern.pointgroup.classes import shown as elements  # noqa: E402
from symkern.pointgroup.scene import scene  # noqa: E402

NODE = shutil.which("node")


def stabilizers(atoms, tolerance: float = 0.02) -> sk.Stabilizers:
    return sk.transforms.from_ase(atoms, tolerance=tolerance)


def sulfur_hexafluoride():
    points = [[0, 0, 0], *(sign * 1.56 * np.eye(3)[k] for k in range(3) for sign in (1, -1))]
    return ase.Atoms("SF6", points)


def ferrocene(twist: float):
    """Eclipsed at 0, staggered at half a fifth of a turn."""
    symbols, points = ["Fe"], [[0.0, 0.0, 0.0]]
    for height, turn in ((1.65, 0.0), (-1.65, twist)):
        for radius, symbol in ((1.21, "C"), (2.29, "H")):
            angle = 2 * np.pi * (np.arange(5) + turn) / 5
            points += [[radius * np.cos(a), radius * np.sin(a), height] for a in angle]
            symbols += [symbol] * 5
    return ase.Atoms(symbols, points)


# Classes of character tables: F. A. Cotton, Chemical Applications of Group Theory, appendix II.
CLASSES = {
    "H2O": ("C2v", "E C2 σv σv′"),
    "NH3": ("C3v", "E 2C3 3σv"),
    "CH3OH": ("Cs", "E σh"),
    "H2O2": ("C2", "E C2"),
    "C2H4": ("D2h", "E C2 C2 C2 i σ σ σ"),
    "C2H6": ("D3d", "E 2C3 3C2 i 2S6 3σd"),
    "C3H4_D2d": ("D2d", "E C2 2C2′ 2S4 2σd"),
    "C6H6": ("D6h", "E 2C6 2C3 C2 3C2′ 3C2″ i 2S6 2S3 σh 3σd 3σv"),
    "CH4": ("Td", "E 8C3 3C2 6S4 6σd"),
    "C60": ("Ih", "E 12C5 12C5² 20C3 15C2 i 12S10 12S10³ 20S6 15σ"),
    "CO2": ("Dinfh", "E C∞ ∞σv i S∞ ∞C2"),
    "HCN": ("Cinfv", "E C∞ ∞σv"),
    "SF6": ("Oh", "E 6C4 8C3 3C2 6C2′ i 8S6 6S4 3σh 6σd"),
    "eclipsed": ("D5h", "E 2C5 2C5² 5C2 2S5 2S5³ σh 5σv"),
    "staggered": ("D5d", "E 2C5 2C5² 5C2 i 2S10 2S10³ 5σd"),
}


def named(name: str):
    special = {"SF6": sulfur_hexafluoride, "eclipsed": lambda: ferrocene(0), "staggered": lambda: ferrocene(0.5)}
    return special[name]() if name in special else molecule(name)


@pytest.mark.parametrize("name", CLASSES)
def test_classes_are_those_of_the_character_table(name):
    label, expected = CLASSES[name]
    found = elements(stabilizers(named(name)))
    assert found.label == label
    written = {f"{size if size > 1 else ''}{text}" for size, text in found.classes}
    assert written == set(expected.split())
    if label not in ("Dinfh", "Cinfv"):
        assert sum(size for size, _ in found.classes) == len(found.operations)


def rotation(n: int, axis=(0.0, 0.0, 1.0)) -> np.ndarray:
    from scipy.spatial.transform import Rotation

    return Rotation.from_rotvec(2 * np.pi / n * np.asarray(axis) / np.linalg.norm(axis)).as_matrix()


ACROSS, UPRIGHT, INVERSION = np.diag([1.0, 1, -1]), np.diag([1.0, -1, 1]), -np.eye(3)
GOLDEN = (1 + np.sqrt(5)) / 2
GENERATED = {
    "Ci": ([INVERSION], "E i"),
    "C2h": ([rotation(2), ACROSS], "E C2 i σh"),
    "C3h": ([rotation(3), ACROSS], "E C3 C3² σh S3 S3⁵"),
    "S4": ([rotation(4) @ ACROSS], "E S4 C2 S4³"),
    "S6": ([rotation(6) @ ACROSS], "E C3 C3² i S6⁵ S6"),
    "C4v": ([rotation(4), UPRIGHT], "E 2C4 C2 2σv 2σd"),
    "D2": ([rotation(2), rotation(2, (1, 0, 0))], "E C2 C2 C2"),
    "D3": ([rotation(3), rotation(2, (1, 0, 0))], "E 2C3 3C2"),
    "D4": ([rotation(4), rotation(2, (1, 0, 0))], "E 2C4 C2 2C2′ 2C2″"),
    "D3h": ([rotation(3), ACROSS, UPRIGHT], "E 2C3 3C2 σh 2S3 3σv"),
    "D4h": ([rotation(4), ACROSS, UPRIGHT], "E 2C4 C2 2C2′ 2C2″ i 2S4 σh 2σv 2σd"),
    "D4d": ([rotation(8) @ ACROSS, UPRIGHT], "E 2S8 2C4 2S8³ C2 4C2′ 4σd"),
    "T": ([rotation(2), rotation(3, (1, 1, 1))], "E 4C3 4C3² 3C2"),
    "Th": ([rotation(2), rotation(3, (1, 1, 1)), INVERSION], "E 4C3 4C3² 3C2 i 4S6 4S6⁵ 3σh"),
    "O": ([rotation(4), rotation(3, (1, 1, 1))], "E 8C3 3C2 6C4 6C2′"),
    "I": ([rotation(5, (0, 1, GOLDEN)), rotation(3, (1, 1, 1))], "E 12C5 12C5² 20C3 15C2"),
}


@pytest.mark.parametrize("label", GENERATED)
def test_classes_of_groups_that_molecules_seldom_have(label):
    generators, expected = GENERATED[label]
    group = [np.eye(3)]
    for g in group:  # grows on the way
        group += [m for h in generators if not any(np.allclose(m := g @ h, known) for known in group)]
    rng = np.random.default_rng(1)
    points, symbols = [], []
    for symbol, point in zip("CNO", rng.normal(size=(3, 3)) * 4, strict=True):
        points += [g @ point for g in group]
        symbols += [symbol] * len(group)
    found = elements(stabilizers(ase.Atoms(symbols, points), 1e-3))
    assert found.label == label
    assert {f"{size if size > 1 else ''}{text}" for size, text in found.classes} == set(expected.split())
    assert sum(size for size, _ in found.classes) == len(group)


def test_names_do_not_depend_on_orientation_nor_on_the_order_of_atoms():
    rng = np.random.default_rng(0)
    for name in ("C6H6", "CH4", "SF6", "H2O", "C2H6"):
        atoms = named(name)
        expected = sorted(elements(stabilizers(atoms)).classes)
        rotation = np.linalg.qr(rng.normal(size=(3, 3)))[0]
        turned = ase.Atoms(atoms.numbers, atoms.positions @ rotation.T)[rng.permutation(len(atoms))]
        assert sorted(elements(stabilizers(turned)).classes) == expected


def test_elements_of_benzene():
    shown = scene(stabilizers(molecule("C6H6")))
    assert [axis.names for axis in shown.axes].count(["C2′"]) == 3
    np.testing.assert_allclose(np.abs(shown.axes[0].direction), [0, 0, 1], atol=1e-6)  # the main axis is up
    assert shown.axes[0].names == ["C6", "S6"]
    for plane in shown.planes:
        on_atoms = (np.abs(shown.positions @ plane.normal) < 1e-3).sum()
        assert (plane.name, on_atoms) in {("σh", 12), ("σv", 4), ("σd", 0)}
    for axis in shown.axes[1:]:
        through = (np.linalg.norm(np.cross(shown.positions, axis.direction), axis=1) < 1e-3).sum()
        assert (axis.names[0], through) in {("C2′", 4), ("C2″", 0)}
    assert len({axis.color for axis in shown.axes}) == 3  # C6, C2′ and C2″
    assert shown.inversion
    assert len(shown.bonds) == 12
    assert shown.order == 24


def test_no_plane_is_seen_from_its_edge():
    for name in ("C6H6", "NH3", "C2H6", "CH4"):
        shown = scene(stabilizers(named(name)))
        eye = render.view(*render.good_view(shown))[2]
        assert min(abs(float(plane.normal @ eye)) for plane in shown.planes) > 0.1


# ---- PNG ----


@pytest.mark.parametrize("name", ["C6H6", "CO2", "H", "CH3OH"])
def test_png(name, tmp_path):
    from matplotlib.image import imread

    path = sk.symmetry_picture(tmp_path / "picture.png", stabilizers(molecule(name)))
    assert path == tmp_path / "picture.png"
    picture = imread(io.BytesIO(path.read_bytes()))[..., :3]
    assert picture.shape[:2] == (900, 1278)
    assert 0.005 < (picture < 0.98).any(-1).mean() < 0.9
    left = picture[:, :900]
    assert (left[400:500, 400:500] < 0.98).any()  # the molecule, in the middle


def test_an_atom_before_a_plane_is_not_tinted_by_it():
    canvas = render.Canvas(101, 2.0)
    canvas.sphere(np.array([0.0, 0.0, 0.0]), 0.8, np.array([0.5, 0.5, 0.5]))
    before = canvas.color.copy()
    tilt = np.array([0.0, np.sqrt(0.5), np.sqrt(0.5)])  # z = -y: behind the upper half of the sphere, before the lower
    canvas.disks(tilt[None], np.array([[1.0, 0.0, 0.0]]), 1.9, 0.5)
    assert np.array_equal(canvas.color[30, 50], before[30, 50])
    assert not np.allclose(canvas.color[75, 50], before[75, 50])


def test_other_suffixes_and_molecules_are_refused(tmp_path):
    sym = stabilizers(molecule("H2O"))
    with pytest.raises(ValueError, match=r"end in \.png or \.html, got picture\.svg"):
        sk.symmetry_picture(tmp_path / "picture.svg", sym)
    with pytest.raises(IndexError, match=r"0 \.\. 0, got 1"):
        sk.symmetry_picture(tmp_path / "picture.png", sym, 1)
    assert not list(tmp_path.iterdir())


def test_the_chosen_molecule_is_drawn(tmp_path):
    both = stabilizers([molecule("H2O"), molecule("CH4")])
    page = sk.symmetry_picture(tmp_path / "b.html", both, 1).read_text()
    assert "CH4: Td" in page
    alone = sk.symmetry_picture(tmp_path / "a.html", stabilizers(molecule("CH4"))).read_text()
    assert page == alone


# ---- HTML ----


def test_html_is_one_page_without_a_network(tmp_path):
    page = sk.symmetry_picture(tmp_path / "c60.html", stabilizers(molecule("C60"))).read_text()
    assert not re.search(r"https?:|//cdn|src=|@import|url\(|<link|fetch\(|XMLHttpRequest|import\(", page)
    assert "<title>C60: Ih</title>" in page
    data = json.loads(re.search(r'id="scene">(.*?)</script>', page, re.DOTALL)[1])
    assert (len(data["atoms"]), len(data["bonds"]), len(data["axes"]), len(data["planes"])) == (60, 90, 31, 15)
    rows = re.findall(r'data-element="([^"]+)"', page)
    assert rows == ["C5", "S10", "C3", "S6", "C2", "σ", "i"]
    assert "6 C<sub>5</sub> axes" in page
    assert "12C<sub>5</sub>²" in page


def test_nothing_of_a_molecule_is_taken_for_markup():
    shown = scene(stabilizers(molecule("H2O")))
    object.__setattr__(shown, "formula", "</script><b>")
    page = html.html(shown)
    assert "<b>" not in page
    assert page.count("</script>") == 2


def run_node(script: str, *inputs: str) -> str:
    done = subprocess.run([NODE, "-e", script, "--", *inputs], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.skipif(NODE is None, reason="needs node")
def test_the_browser_draws_what_numpy_draws(tmp_path):
    shown, size = scene(stabilizers(molecule("C6H6"))), 160
    extent = 1.5 * shown.radius
    expected = render.render(shown, render.view(*render.good_view(shown)), size, extent, samples=1).color
    page = tmp_path / "page.html"
    page.write_text(html.html(shown))
    script = r"""
    const page = require("fs").readFileSync(process.argv[1], "utf8");
    const code = /<script>\n([^]*?)<\/script>/.exec(page)[1].split("// The page:")[0];
    const scene = JSON.parse(/id="scene">([^]*?)<\/script>/.exec(page)[1]);
    const render = new Function(code + "\nreturn render;")();
    const shown = { axes: scene.axes, planes: scene.planes, orbits: false };
    console.log(JSON.stringify([...render(scene, shown, scene.view, SIZE, 1.5 * scene.radius).bytes]));
    """.replace("SIZE", str(size))
    found = np.array(json.loads(run_node(script, str(page)))).reshape(size, size, 4)[..., :3] / 255
    differ = np.abs(found - expected).max(-1) > 0.02
    assert differ.mean() < 2e-3  # pixels at outlines, where rounding decides


PAGE = r"""
const page = require("fs").readFileSync(process.argv[1], "utf8");
const words = [], frames = [];
const context = new Proxy({}, { get: (kept, name) => kept[name] ?? ((...given) => {
  if (name === "fillText") words.push(given[0]);
  return name === "measureText" ? { width: 8 } : undefined;
}), set: (kept, name, value) => { kept[name] = value; return true; } });
function element(id, more) {
  const heard = {};
  return { id, checked: id !== "orbits", dataset: {}, clientWidth: 300, textContent: "", heard,
    getContext: () => context, addEventListener: (name, act) => (heard[name] = act), setPointerCapture() {},
    getBoundingClientRect: () => ({ left: 0, top: 0, width: 300 }), ...more };
}
const elements = {};
for (const id of ["view", "said", "axes", "planes", "labels", "orbits", "reset", "save"]) elements[id] = element(id);
elements.scene = { textContent: /id="scene">([^]*?)<\/script>/.exec(page)[1] };
const rows = [...page.matchAll(/data-element="([^"]+)"/g)].map((m) => element("", { dataset: { element: m[1] } }));
const document = { getElementById: (id) => elements[id], createElement: (id) => element(id), heard: {},
  addEventListener: (name, act) => (document.heard[name] = act), querySelectorAll: () => rows };
const window = { devicePixelRatio: 1, addEventListener() {} };
const state = new Function("document", "window", "requestAnimationFrame", "ImageData", "setTimeout", "clearTimeout",
  /<script>\n([^]*?)<\/script>/.exec(page)[1] + "\nreturn state;")(
  document, window, (draw) => frames.push(draw), class {}, () => 0, () => 0);
const flush = () => { words.length = 0; while (frames.length) frames.shift()(); return words.join(" "); };
const key = (name) => ({ key: name, preventDefault() {} });
const report = { first: flush() };
const start = JSON.stringify(state.looking), view = elements.view.heard;
view.pointermove({ clientX: 150, clientY: 150 });
report.said = elements.said.textContent;
view.pointerdown({ pointerId: 1, clientX: 100, clientY: 100 });
view.pointermove({ pointerId: 1, clientX: 160, clientY: 130 });
view.pointerup({ pointerId: 1 });
report.turned = JSON.stringify(state.looking) !== start;
const m = state.looking;
report.skew = Math.max(...m.flatMap((a, i) => m.map((b, j) =>
  Math.abs(a[0] * b[0] + a[1] * b[1] + a[2] * b[2] - (i === j ? 1 : 0)))));
view.wheel({ deltaY: -200, preventDefault() {} });
report.zoom = state.zoom;
flush();
view.keydown(key("0"));
report.reset = JSON.stringify(state.looking) === start && state.zoom === 1;
view.keydown(key("ArrowLeft"));
report.arrow = JSON.stringify(state.looking) !== start;
document.heard.keydown(key("p"));
report.without_planes = flush();
document.heard.keydown(key("a"));
report.without_axes = flush();
document.heard.keydown(key("a"));
for (const row of rows) { row.checked = row.dataset.element !== "C3"; row.heard.change(); }
report.hidden = [...state.hidden];
report.without_c3 = flush();
console.log(JSON.stringify(report));
"""


@pytest.mark.skipif(NODE is None, reason="needs node")
def test_the_page_turns_zooms_and_switches(tmp_path):
    page = sk.symmetry_picture(tmp_path / "methane.html", stabilizers(molecule("CH4")))
    found = json.loads(run_node(PAGE, str(page)))
    assert {"C", "σ", "S"} <= set(re.findall(r"[CσS]", found["first"]))
    assert found["said"] == "C, atom 0, orbit 0: no other atom is equivalent"
    assert found["turned"]
    assert found["skew"] < 1e-12
    assert found["zoom"] > 1.2
    assert found["reset"]
    assert found["arrow"]
    assert "σ" not in found["without_planes"]
    assert "S" in found["without_planes"]
    assert "S" not in found["without_axes"]
    assert found["hidden"] == ["C3"]
    assert " 3" not in found["without_c3"].replace("H 3", "")
