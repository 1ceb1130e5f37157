"""The command line: what it prints, what it refuses, and the demo in its quick form."""

from __future__ import annotations

import importlib
import json
import re
import subprocess
import sys

import numpy as np
import pytest
import torch

import symkern
from symkern import _library, cli, info


@pytest.fixture(autouse=True)
def _no_data(monkeypatch):
    monkeypatch.delenv("SYMKERN_DATA", raising=False)


def python(code: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True, timeout=120)


# ---- info ----


def test_info_text(capsys):
    assert cli.main(["info"]) == 0
    text = capsys.readouterr().out
    assert text.isascii()
    assert re.search(rf"^symkern +{re.escape(symkern.__version__)}$", text, re.M)
    assert re.search(rf"^torch +{re.escape(torch.__version__)}, ", text, re.M)
    assert re.search(r"^ISA +(baseline|avx2|avx512) in use", text, re.M)
    assert str(_library.cpu.path) in text
    assert re.search(r"^neighbor_list +yes +(yes|no)$", text, re.M)


def test_info_json(capsys):
    assert cli.main(["info", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["torch"]["version"] == torch.__version__
    assert found["cpu_library"]["problem"] is None
    assert list(found["ops"]) == _library.op_names()
    assert all(op["cpu"] for op in found["ops"].values())


def test_info_does_not_count_placeholders(monkeypatch):
    """Without the CUDA library every op has a kernel under the CUDA key: one that raises the reason."""
    status = _library.LibraryStatus(_library.cuda.path, {}, "planted problem")
    monkeypatch.setattr(_library, "cuda", status)
    monkeypatch.setattr(_library, "has_kernel", lambda op, key: True)
    found = info.collect()
    assert not any(op["cuda"] for op in found["ops"].values())
    assert "not in use: planted problem" in info.text(found)
    monkeypatch.setattr(_library, "cuda", _library.LibraryStatus(_library.cuda.path, {"architectures": "80 90a"}, None))
    found = info.collect()
    assert all(op["cuda"] for op in found["ops"].values())
    assert "architectures 80 90a" in info.text(found)


def test_info_describes_what_is_broken():
    """A torch that cannot be imported: said, with exit code 1, and the rest still shown."""
    done = python("import sys; sys.modules['torch'] = None; from symkern.cli import main; sys.exit(main(['info']))")
    assert done.returncode == 1
    assert re.search(r"^torch +cannot be imported: .*pip install 'torch>=2.10'$", done.stdout, re.M), done.stdout
    assert "ISA" in done.stdout
    assert done.stderr == ""


# ---- arguments ----


@pytest.mark.parametrize(
    "arguments", [["--help"], ["--version"], ["demo", "--help"], ["bench", "--help"], ["fetch", "--help"]]
)
def test_help_and_version_do_not_import_torch(arguments):
    done = python(
        "import sys\n"
        "from symkern.cli import main\n"
        "try: main()\n"
        "except SystemExit as end: code = end.code\n"
        "heavy = {'torch', 'ase', 'matplotlib', 'numpy', 'rich'} & set(sys.modules)\n"
        "sys.exit(f'imported {heavy}' if heavy else code)",
        *arguments,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("symkern 0" if arguments == ["--version"] else "usage: symkern")


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        ([], "required: COMMAND"),
        (["nonsense"], "invalid choice: 'nonsense'"),
        (["info", "--nonsense"], "unrecognized arguments: --nonsense"),
        (["info", "extra"], "unrecognized arguments: extra"),
        (["demo", "--data", "/no/such/place"], "/no/such/place: no such file or directory"),
        (["demo", "--out"], "expected one argument"),
    ],
)
def test_bad_arguments(arguments, reason, capsys):
    with pytest.raises(SystemExit) as end:
        cli.main(arguments)
    assert end.value.code == 2
    error = capsys.readouterr().err
    assert reason in error
    assert "Traceback" not in error


def test_demo_refuses_damaged_files_before_it_computes(tmp_path, capsys, monkeypatch):
    (tmp_path / "bad.npz").write_bytes(b"hello")
    monkeypatch.setenv("SYMKERN_DATA", str(tmp_path / "bad.npz"))
    with pytest.raises(SystemExit) as end:
        cli.main(["demo", "--out", str(tmp_path / "out")])
    assert end.value.code == 2
    found = capsys.readouterr()
    assert "bad.npz: not a readable .npz archive" in found.err
    assert found.out == ""


def test_demo_needs_a_place_to_write(tmp_path, capsys):
    (tmp_path / "file").write_text("")
    with pytest.raises(SystemExit) as end:
        cli.main(["demo", "--out", str(tmp_path / "file" / "below")])
    assert end.value.code == 2
    assert "--out: " in capsys.readouterr().err


@pytest.mark.parametrize(
    ("command", "package", "extra"),
    [("demo", "ase", "demo"), ("demo", "matplotlib", "demo"), ("demo", "rich", "demo"), ("demo", "scipy", "demo"),
     ("bench", "pytest_benchmark", "bench")],
)  # fmt: skip
def test_missing_packages_are_named(command, package, extra, tmp_path):
    code = "import sys; sys.modules[sys.argv[1]] = None; from symkern.cli import main; sys.exit(main(sys.argv[2:]))"
    where = ["--out", str(tmp_path)] if command == "demo" else []
    done = python(code, package, command, *where)
    assert done.returncode == 1
    assert done.stderr == f"symkern: this command needs {package}: pip install 'symkern[{extra}]'\n"


def test_other_missing_modules_are_not_disguised(monkeypatch):
    def broken(_parser):
        def run(_args):
            importlib.import_module("symkern.no_such_module")

        return run

    monkeypatch.setitem(cli._COMMANDS, "broken", broken)
    with pytest.raises(ModuleNotFoundError, match="no_such_module"):
        cli.main(["broken"])


# ---- bench ----


def test_bench_hands_its_arguments_to_pytest(tmp_path, monkeypatch):
    pytest.importorskip("pytest_benchmark")
    (tmp_path / "bench_x.py").write_text("def test_x(): pass\n")
    monkeypatch.setattr(cli, "_benchmarks", lambda: tmp_path)
    seen: list[list[str]] = []
    monkeypatch.setattr(pytest, "main", lambda arguments: seen.append(arguments) or 3)
    assert cli.main(["bench", "-k", "neighbor_list", "--benchmark-disable", "-x"]) == 3
    assert seen[0][-5:] == [str(tmp_path), "-k", "neighbor_list", "--benchmark-disable", "-x"]


def test_bench_finds_both_places(tmp_path, monkeypatch):
    package = tmp_path / "symkern"
    package.mkdir()
    monkeypatch.setattr(cli, "__file__", str(package / "cli.py"))
    assert cli._benchmarks() is None
    for folder in (tmp_path / "benchmarks", package / "benchmarks"):
        folder.mkdir()
        assert cli._benchmarks() != folder  # empty: not taken
        (folder / "bench_x.py").write_text("")
        assert cli._benchmarks() == folder


# ---- demo ----


@pytest.fixture(scope="module")
def quick(tmp_path_factory):
    """A quick demo with a file of the user's."""
    pytest.importorskip("rich")
    pytest.importorskip("matplotlib")
    where = tmp_path_factory.mktemp("demo")
    rng = np.random.default_rng(0)
    cell = np.diag([9.0, 10.0, 11.0])
    np.savez(where / "mine.npz", z=np.full(80, 6), pos=rng.random((80, 3)) @ cell, cell=cell, pbc=np.ones(3, bool))
    code = "import sys; from symkern.cli import main; sys.exit(main())"
    done = python(code, "demo", "--quick", "--data", str(where / "mine.npz"), "--out", str(where / "out"))
    return done, where / "out"


def test_demo_passes(quick):
    done, _ = quick
    assert done.returncode == 0, done.stdout + done.stderr
    assert "all checks passed" in done.stdout
    assert "FAIL" not in done.stdout
    assert "mine, 6 Å: pairs and shifts equal ASE's (all atoms)" in done.stdout
    assert done.stderr == ""


def test_demo_results(quick):
    results = json.loads((quick[1] / "results.json").read_text())
    assert results["passed"] is True
    systems = {timing["system"]: timing for timing in results["timings"]}
    assert set(systems) == {"G2 molecules", "water box", "quartz, triclinic", "mine"}
    for timing in systems.values():
        assert timing["identical"] is True
        assert timing["compared"] == timing["atoms"]
        assert min(timing["edges"], timing["seconds"], timing["ase_seconds"]) > 0
    assert (systems["G2 molecules"]["structures"], systems["G2 molecules"]["atoms"]) == (162, 860)
    names = {check["name"] for check in results["checks"]}
    assert {"gradient: positions", "gradient: cell", "gradient: Hessian product", "forces sum to zero"} <= names
    assert {"bending is learned", "asymmetric stretch cannot be learned", "forces on unseen frames"} <= names


def test_demo_report_stands_alone(quick):
    page = (quick[1] / "report.html").read_text(encoding="utf-8")
    assert "all checks passed" in page
    links = re.findall(r"""(?:src|href)\s*=\s*["']([^"']{0,30})""", page)
    assert len(links) >= 5
    assert all(link.startswith("data:image/png;base64,iVBOR") for link in links)
    assert not re.search(r"https?://|@import|url\(", page)


def test_demo_fails_when_a_pair_is_missing(tmp_path, monkeypatch, capsys):
    """ASE that finds one pair less: the check says so, the exit code is 1, the report is red."""
    from symkern.demo import ase_check, learning, report, steps, symmetry

    def wrong(quantities, atoms, cutoff):
        return tuple(column[1:] for column in true(quantities, atoms, cutoff))

    true = ase_check.ase_neighbor_list
    monkeypatch.setattr(ase_check, "ase_neighbor_list", wrong)
    skipped = report.Section("skipped", "")
    for name in ("walk", "derivatives", "large"):
        monkeypatch.setattr(steps, name, lambda *_args: skipped)
    monkeypatch.setattr(symmetry, "symmetry", lambda *_args: skipped)
    for name in ("normal_modes", "learned_forces"):
        monkeypatch.setattr(learning, name, lambda *_args: skipped)
    assert cli.main(["demo", "--quick", "--out", str(tmp_path)]) == 1
    out = capsys.readouterr().out
    assert "FAIL  G2 molecules, 5 Å: pairs and shifts DIFFER FROM ASE's" in out
    assert "2 of 3 checks failed" in out
    assert json.loads((tmp_path / "results.json").read_text())["passed"] is False
    assert "2 of 3 checks failed" in (tmp_path / "report.html").read_text(encoding="utf-8")


def test_demo_learning_checks_can_fail(monkeypatch):
    """Too few steps; and a "network" that is not equivariant, which learns what no equivariant one can."""
    from symkern.demo import learning, modes

    def passed(steps):
        return {check.name: check.passed for check in learning.normal_modes(steps, lambda: None).checks}

    def free(model, positions):
        """Nine free numbers in place of a network."""
        return 3 * model.embedding.weight[0, :9].reshape(3, 3) + 0.1 * positions.flip(1)

    assert not passed(2)["bending is learned"]
    monkeypatch.setattr(modes, "displacements", free)
    monkeypatch.setattr(modes, "_random_rotation", lambda: torch.eye(3, dtype=torch.float64))
    assert passed(600) == {
        "symmetric stretch is learned": True,
        "bending is learned": True,
        "asymmetric stretch cannot be learned": False,
    }


def test_demo_derivative_check_can_fail():
    from symkern.demo.steps import _agree

    exact = torch.tensor([1.0, 2.0], dtype=torch.float64)
    assert _agree("x", exact, exact * (1 + 1e-9)).passed
    assert not _agree("x", exact, exact * (1 + 1e-6)).passed
    assert not _agree("x", exact, exact * float("nan")).passed


@pytest.mark.parametrize("pbc", [(True, True, True), (True, False, True), (False, False, False)])
def test_comparison_on_a_part(pbc):
    """The cluster that ASE is given for a part of a huge structure holds every neighbor; a wrong shift is seen."""
    from symkern.demo import ase_check, systems

    rows = np.array([[7.0, 0.5, 0.0], [-2.0, 6.5, 1.0], [1.0, -1.5, 8.0]])
    scattered = (np.random.default_rng(3).random((24, 3)) * 3 - 1) @ rows  # also far outside the cell
    structures = systems.one("part", np.ones(24), scattered, rows)
    structures.pbc[:] = pbc
    for cutoff in (3.0, 8.0):
        nb = ase_check.builder(structures, cutoff)()
        part, whole = (ase_check.compare(structures, nb, cutoff, limit) for limit in (10, 1000))
        assert part.identical
        assert whole.identical
        assert whole.ase_atoms == whole.compared == part.compared == 24
        assert part.ase_atoms >= 24
        nb.shifts[nb.num_edges // 2, 1] += 1
        assert not ase_check.compare(structures, nb, cutoff, 10).identical
        assert not ase_check.compare(structures, nb, cutoff, 1000).identical


def test_pairs_on_the_cutoff_are_left_out_and_counted():
    from ase import Atoms

    from symkern.demo.ase_check import same_edges

    atoms = Atoms("H3", positions=[[0, 0, 0], [2, 0, 0], [3.5, 0, 0]])
    both = np.array([[0, 1, 0, 0, 0], [1, 0, 0, 0, 0], [1, 2, 0, 0, 0], [2, 1, 0, 0, 0]])
    assert same_edges(both, both[::-1], atoms, 2.0) == (True, 0)
    assert same_edges(both[2:], both, atoms, 2.0) == (True, 2)
    assert same_edges(both[:2], both, atoms, 2.0) == (False, 2)
