"""`symkern pointgroup`: what it prints, writes and refuses."""

from __future__ import annotations

import io
import json
import re
import sys

import numpy as np
import pytest

import symkern as sk
from symkern import cli

ase = pytest.importorskip("ase")
pytest.importorskip("rich")

from ase.build import bulk, molecule  # noqa: E402
from ase.io import read, write  # noqa: E402


@pytest.fixture(autouse=True)
def _here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # short names in the table
    monkeypatch.delenv("SYMKERN_DATA", raising=False)


@pytest.fixture
def run(capsys):
    """Runs the command; its exit code, standard output and standard error."""

    def call(*arguments: object) -> tuple[int, str, str]:
        code = cli.main(["pointgroup", *map(str, arguments)])
        captured = capsys.readouterr()
        return code, captured.out, re.sub(r"\s+", " ", captured.err)

    return call


def rows(table: str) -> list[list[str]]:
    """The cells of the table, without empty ones."""
    lines = table.splitlines()
    rule = next((k for k, line in enumerate(lines) if "────" in line), len(lines))
    body = lines[rule + 1 :]
    return [
        re.split(r" {2,}", line.strip()) for line in body[: next(k for k, line in enumerate(body) if not line.strip())]
    ]


def distorted(amplitude: float = 0.004):
    atoms = molecule("C6H6")
    atoms.positions += np.random.default_rng(3).uniform(-amplitude, amplitude, atoms.positions.shape)
    return atoms


# ---- table ----


def test_formats_and_frames(run):
    write("water.xyz", molecule("H2O"))
    write("several.extxyz", [molecule(name) for name in ("C6H6", "CH4", "CO2", "H")])
    write("ammonia.pdb", molecule("NH3"))
    write("ethane.traj", molecule("C2H6"))
    code, out, err = run("water.xyz", "several.extxyz", "ammonia.pdb", "ethane.traj")
    assert (code, err) == (0, "")
    found = [row[:6] for row in rows(out)]
    assert found == [
        ["water.xyz", "0", "H2O", "C2v", "4", "2"],
        ["several.extxyz", "0", "C6H6", "D6h", "24", "2"],
        ["several.extxyz", "1", "CH4", "Td", "24", "2"],
        ["several.extxyz", "2", "CO2", "Dinfh", "∞", "2"],
        ["several.extxyz", "3", "H", "Kh", "∞", "1"],
        ["ammonia.pdb", "0", "H3N", "C3v", "6", "2"],
        ["ethane.traj", "0", "C2H6", "D3d", "12", "2"],
    ]
    assert "tolerance 0.01 Å" in out
    assert "7 structures: 1 C2v, 1 D6h, 1 Td, 1 Dinfh, 1 Kh, 1 C3v, 1 D3d" in out


def test_archives(run):
    atoms = molecule("CH4")
    np.savez("rattled.npz", z=atoms.numbers, train_pos=np.stack([atoms.positions, 1.1 * atoms.positions]))
    assert [row[:4] for row in rows(run("rattled.npz")[1])] == [["rattled.npz", str(k), "CH4", "Td"] for k in (0, 1)]


@pytest.mark.parametrize(
    ("index", "frames"), [("1", [1]), ("-1", [3]), ("::2", [0, 2]), ("1:3", [1, 2]), (":", [0, 1, 2, 3])]
)
def test_index(index, frames, run):
    write("several.xyz", [molecule(name) for name in ("C6H6", "CH4", "CO2", "H")])
    assert [int(row[1]) for row in rows(run("several.xyz", f"--index={index}")[1])] == frames


def test_patterns_and_directories(run):
    for name in ("b.xyz", "a.xyz", "c.extxyz"):
        write(name, molecule("H2O"))
    assert [row[0] for row in rows(run("*.xyz")[1])] == ["a.xyz", "b.xyz"]
    assert [row[0] for row in rows(run("b.xyz", "*.xyz", "b.xyz")[1])] == ["b.xyz", "a.xyz"]  # each once
    assert len(rows(run(".")[1])) == 3


def test_standard_input(run, monkeypatch):
    text = io.StringIO()
    write(text, [molecule("H2O"), molecule("NH3")], format="xyz")
    monkeypatch.setattr(sys, "stdin", io.StringIO(text.getvalue()))
    code, out, _ = run("-")
    assert code == 0
    assert [row[:4] for row in rows(out)] == [["-", "0", "H2O", "C2v"], ["-", "1", "H3N", "C3v"]]


def test_input_format(run):
    write("structure", molecule("H2O"), format="xyz")
    assert rows(run("structure", "--input-format", "xyz")[1])[0][3] == "C2v"


def test_periodic_structures_are_said_to_be_taken_as_molecules(run):
    write("salt.cif", bulk("NaCl", "rocksalt", 5.6, cubic=True))
    write("water.xyz", molecule("H2O"))
    code, out, _ = run("salt.cif", "water.xyz")
    assert code == 0
    assert "salt.cif: periodic: the cell is ignored" in out
    assert "water.xyz: periodic" not in out


def test_a_tolerance_that_decides_is_noted(run):
    """C60 of ASE is 0.0085 Å from icosahedral."""
    write("c60.xyz", molecule("C60"))
    (row,) = rows(run("c60.xyz")[1])
    assert row[3:5] == ["Ih", "120"]
    lower = re.fullmatch(r"D3d at (0\.00\d+)", row[-1])
    assert lower, row
    again = rows(run("c60.xyz", "--tolerance", str(float(lower[1]) - 1e-4))[1])
    assert again[0][3] != "Ih"


def test_symmetry_that_noise_hides_is_named(run):
    noise = np.random.default_rng(0).normal(scale=0.01, size=(12, 3))
    benzene = molecule("C6H6")
    benzene.positions += noise
    write("noisy.xyz", [benzene, molecule("CH4")])
    out = run("noisy.xyz")[1]
    hidden, exact = rows(out)
    assert (hidden[3], hidden[-1]) == ("C1", "D6h at 0.0500")
    assert "D6h" not in " ".join(exact)
    assert "X at t: with a tolerance of t Å it would be X" in out
    (found, _) = json.loads(run("noisy.xyz", "--format", "json")[1])
    assert found["other_tolerances"] == [{"tolerance": 0.05, "point_group": "D6h"}]
    write("methane.xyz", molecule("CH4"))
    assert " at t" not in run("methane.xyz")[1]  # no note, nothing to explain


def test_operations_that_form_no_group_are_noted(run):
    write("noisy.xyz", distorted())
    tolerances = np.linspace(0.003, 0.02, 18)
    sym = [sk.transforms.from_ase(distorted(), tolerance=t) for t in tolerances]
    open_ones = [t for t, s in zip(tolerances, sym, strict=True) if not bool(s.closed)]
    assert open_ones  # the molecule was chosen so
    code, out, _ = run("noisy.xyz", "--tolerance", f"{open_ones[0]:.6f}", "--format", "json")
    (found,) = json.loads(out)
    assert code == 0
    assert not found["closed"]
    assert any("form no group" in note for note in found["notes"])
    out = run("noisy.xyz", "--tolerance", f"{open_ones[0]:.6f}")[1]
    assert "not closed" in rows(out)[0][-1]
    assert "not closed: the operations within the tolerance form no group" in out


@pytest.mark.parametrize("policy", ["raw", "generate"])
def test_policies(policy, run):
    """Over a range where the operations of the noisy molecule sometimes form no group."""
    write("noisy.xyz", [distorted(), molecule("C6H6")])
    for tolerance in np.linspace(0.003, 0.02, 18):
        code, out, _ = run("noisy.xyz", "--policy", policy, "--tolerance", f"{tolerance:.4f}", "--format", "json")
        first, second = json.loads(out)
        assert code == 0
        assert first["order"] == len(first["operations"])
        assert second["point_group"] == "D6h"
        if policy == "raw":
            assert first["max_residual"] <= tolerance
        else:
            assert 24 % first["order"] == 0


def test_atoms_on_top_of_each_other_are_noted(run):
    atoms = molecule("H2O") + ase.Atoms("H", [molecule("H2O").positions[1]])
    write("twice.xyz", atoms)
    code, out, _ = run("twice.xyz", "--format", "json")
    assert code == 0
    assert json.loads(out)[0]["ambiguous"]
    assert any("permutations need not be unique" in note for note in json.loads(out)[0]["notes"])


# ---- JSON ----


def test_json(run):
    write("two.xyz", [molecule("NH3"), molecule("CO2")])
    code, out, _ = run("two.xyz", "--format", "json", "--tolerance", "0.02")
    assert code == 0
    ammonia, dioxide = json.loads(out)
    assert (ammonia["file"], ammonia["frame"], ammonia["formula"], ammonia["tolerance"]) == ("two.xyz", 0, "H3N", 0.02)
    assert (ammonia["point_group"], ammonia["order"], ammonia["continuous"]) == ("C3v", 6, False)
    assert ammonia["orbits"] == [[0], [1, 2, 3]]
    assert ammonia["site_symmetries"] == ["C3v", "Cs", "Cs", "Cs"]
    x = molecule("NH3").positions - ammonia["centroid"]
    for operation in ammonia["operations"]:
        image = x[operation["permutation"]]
        assert np.linalg.norm(x @ np.array(operation["matrix"]).T - image, axis=1).max() <= operation["residual"] + 1e-9
    assert sorted(o["name"] for o in ammonia["operations"]) == ["C3", "C3^2", "E", *["sigma_v"] * 3]
    assert [plane["name"] for plane in ammonia["elements"]["planes"]] == ["σv"] * 3
    assert ammonia["max_residual"] == max(o["residual"] for o in ammonia["operations"])
    assert ammonia["axis"] is None
    assert (dioxide["point_group"], dioxide["order"], dioxide["continuous"]) == ("Dinfh", 0, True)
    np.testing.assert_allclose(np.abs(dioxide["axis"]), [0, 0, 1], atol=1e-9)
    assert dioxide["elements"]["inversion"]


def test_permutations_count_within_the_structure(run):
    write("three.xyz", [molecule("H2O")] * 3)
    first, *others = json.loads(run("three.xyz", "--format", "json")[1])
    for other in others:
        assert {**other, "frame": 0} == first


# ---- failures ----


def test_a_bad_file_does_not_stop_the_others(run, tmp_path):
    write("good.xyz", molecule("H2O"))
    (tmp_path / "empty.xyz").write_text("")
    (tmp_path / "bad.xyz").write_text("hello\nworld\n")
    (tmp_path / "cut.xyz").write_text("3\n\nH 0 0 0\n")
    (tmp_path / "nan.xyz").write_text("2\n\nH 0 0 0\nH 0 0 nan\n")
    (tmp_path / "dummy.xyz").write_text("2\n\nH 0 0 0\nX 0 0 1\n")
    names = ["missing.xyz", "empty.xyz", "bad.xyz", "cut.xyz", "nan.xyz", "dummy.xyz", "no*.xyz", "good.xyz"]
    code, out, err = run(*names)
    assert code == 1
    assert [row[:4] for row in rows(out)] == [["good.xyz", "0", "H2O", "C2v"]]
    assert "missing.xyz: no such file or directory" in err
    for name in ("empty.xyz", "bad.xyz", "cut.xyz"):
        assert f"{name}: ASE cannot read it" in err
    assert "nan.xyz, frame 0: positions that are not finite" in err
    assert "dummy.xyz, frame 0: atoms of an unknown element" in err
    assert "no*.xyz: no file matches this pattern" in err
    assert "7 failed" in err
    assert "Traceback" not in out + err


def test_nothing_readable(run):
    code, out, err = run("missing.xyz", "--format", "json")
    assert (code, json.loads(out)) == (1, [])
    assert "missing.xyz" in err


@pytest.mark.parametrize("index", ["7", "4:"])
def test_frames_that_do_not_exist(index, run):
    write("one.xyz", molecule("H2O"))
    code, _, err = run("one.xyz", "--index", index)
    assert code == 1
    assert "one.xyz: " in err
    assert index in err


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["--tolerance", "0"], "must be a positive length in Å, got 0"),
        (["--tolerance", "-0.1"], "must be a positive length in Å, got -0.1"),
        (["--tolerance", "nan"], "must be a positive length in Å, got nan"),
        (["--tolerance", "small"], "must be a positive length in Å, got small"),
        (["--policy", "best"], "invalid choice: 'best'"),
        (["--index", "first"], "must be a number or a slice such as 0, -1, 5:10 or ::10, got first"),
        (["--index", "::0"], "must be a number or a slice"),
        (["--format", "xml"], "invalid choice: 'xml'"),
        (["--policy", "raw", "--symmetrize", "y.xyz"], "--symmetrize needs operations that form a group"),
    ],
)
def test_bad_arguments(arguments, reason, capsys):
    with pytest.raises(SystemExit) as end:
        cli.main(["pointgroup", "x.xyz", *arguments])
    assert end.value.code == 2
    assert reason in capsys.readouterr().err


# ---- symmetrised structures ----


def test_symmetrize_a_file(run):
    write("noisy.xyz", [distorted(), distorted()])
    assert rows(run("noisy.xyz", "--tolerance", "0.0005")[1])[0][3] != "D6h"
    code, out, err = run("noisy.xyz", "--tolerance", "0.05", "--symmetrize", "exact.extxyz")
    assert (code, err) == (0, "")
    made = read("exact.extxyz", ":")
    assert len(made) == 2
    assert sk.transforms.from_ase(made, tolerance=1e-6).labels == ["D6h", "D6h"]
    moved = np.linalg.norm(made[0].positions - distorted().positions, axis=1).max()
    assert float(rows(out)[0][8]) == pytest.approx(moved, abs=1e-4)
    assert 0 < moved < 0.05


def test_what_belongs_to_the_old_positions_is_left_out(run):
    atoms = distorted()
    atoms.info |= {"REF_energy": -1.0, "source": "here"}
    atoms.set_array("dft_forces", np.zeros((12, 3)))
    write("noisy.extxyz", atoms)
    code, _, err = run("noisy.extxyz", "--tolerance", "0.05", "--symmetrize", "exact.extxyz")
    assert code == 0
    assert "exact.extxyz: without REF_energy, dft_forces, which belong to the positions in noisy.extxyz" in err
    made = read("exact.extxyz")
    assert made.info == {"source": "here"}
    assert set(made.arrays) == {"numbers", "positions"}


def test_symmetrize_to_a_directory_keeps_names_and_formats(run, tmp_path):
    write("a.xyz", distorted())
    write("b.traj", distorted())
    code, out, _ = run(
        "a.xyz", "b.traj", "--tolerance", "0.05", "--symmetrize", "pdbs", "--output-format", "proteindatabank"
    )
    assert sorted(path.name for path in (tmp_path / "pdbs").iterdir()) == ["a.pdb", "b.pdb"]
    code, out, _ = run("a.xyz", "b.traj", "--tolerance", "0.05", "--symmetrize", "exact")
    assert code == 0
    assert sorted(path.name for path in (tmp_path / "exact").iterdir()) == ["a.xyz", "b.traj"]
    assert sk.transforms.from_ase(read("exact/b.traj"), tolerance=1e-6).labels == ["D6h"]
    assert [row[0] for row in rows(out)] == ["a.xyz", "b.traj"]


def test_nothing_is_overwritten_without_being_told(run, tmp_path):
    write("a.xyz", distorted())
    before = (tmp_path / "a.xyz").read_bytes()
    for target in ("a.xyz", "."):
        code, out, err = run("a.xyz", "--symmetrize", target, "--tolerance", "0.05")
        assert (code, out) == (1, "")
        assert "a.xyz: exists already; --force replaces it" in err
    assert (tmp_path / "a.xyz").read_bytes() == before
    (tmp_path / "p.html").write_text("mine")
    assert run("a.xyz", "--picture", "p.html")[0] == 1
    assert (tmp_path / "p.html").read_text() == "mine"
    assert run("a.xyz", "--symmetrize", "a.xyz", "--tolerance", "0.05", "--force")[0] == 0
    assert sk.transforms.from_ase(read("a.xyz"), tolerance=1e-6).labels == ["D6h"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.xyz", "p.html"]  # no remains


def test_two_inputs_never_share_an_output(run, tmp_path):
    for folder in ("one", "two"):
        (tmp_path / folder).mkdir()
        write(f"{folder}/a.xyz", molecule("H2O"))
    code, _, err = run("one/a.xyz", "two/a.xyz", "--symmetrize", "exact")
    assert code == 1
    assert "two inputs would be written to it" in err
    code, _, err = run("one/a.xyz", "two/a.xyz", "--symmetrize", "exact.xyz")
    assert code == 1
    assert "2 files need a directory" in err


def test_a_format_that_cannot_be_written(run, tmp_path):
    write("a.xyz", molecule("H2O"))
    code, out, err = run("a.xyz", "--symmetrize", "a.nonsense")
    assert code == 1
    assert "a.nonsense: ASE cannot write it" in err
    assert rows(out)[0][3] == "C2v"
    assert not (tmp_path / "a.nonsense").exists()


# ---- pictures ----


def test_pictures(run, tmp_path):
    pytest.importorskip("matplotlib")
    write("two.xyz", [molecule("H2O"), molecule("NH3")])
    write("one.xyz", molecule("CH4"))
    code, _, err = run("two.xyz", "one.xyz", "--picture", "pictures", "--picture-format", "html")
    assert (code, err) == (0, "")
    assert sorted(path.name for path in (tmp_path / "pictures").iterdir()) == ["one.html", "two-0.html", "two-1.html"]
    assert "H3N: C3v" in (tmp_path / "pictures" / "two-1.html").read_text()
    assert run("one.xyz", "--picture", "one.png")[0] == 0
    assert (tmp_path / "one.png").read_bytes().startswith(b"\x89PNG")
    code, _, err = run("two.xyz", "--picture", "two.png")
    assert code == 1
    assert "2 structures need a directory" in err
    code, _, err = run("one.xyz", "--picture", "one.svg")
    assert code == 1
    assert "ends in .png or .html" in err
