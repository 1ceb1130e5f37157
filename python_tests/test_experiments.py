"""`symkern reproduce` and `symkern train`: what they write, what they refuse."""

from __future__ import annotations

import json
import re
from pathlib import Path

import ase.build
import numpy as np
import pytest
import torch

import symkern as sk
from symkern import cli, training
from symkern.data import Dataset
from symkern.experiments import record, rmd17
from symkern.training.run import _described

Z = np.array([6, 1, 1, 1, 1], dtype=np.int8)


def _frames(count: int, seed: int) -> dict[str, np.ndarray]:
    """Methane with springs between all atoms: something that can be learned."""
    rng = np.random.default_rng(seed)
    rest = ase.build.molecule("CH4").positions
    pos = rest + rng.normal(scale=0.05, size=(count, 5, 3))
    ideal = np.linalg.norm(rest[:, None] - rest, axis=-1)
    between = pos[:, :, None] - pos[:, None]
    d = np.linalg.norm(between, axis=-1) + np.eye(5)
    stretch = (d - ideal - np.eye(5)) * (1 - np.eye(5))
    forces = -100 * (stretch / d)[..., None] * between
    return {"pos": pos, "energy": 25 * (stretch**2).sum((1, 2)) - 25_000.0, "forces": forces.sum(2)}


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    path = tmp_path / "rmd17_ethanol.npz"
    arrays = {f"{split}_{k}": v for split, n in (("train", 1000), ("test", 40)) for k, v in _frames(n, n).items()}
    np.savez(path, z=Z, **arrays)
    return path


def test_reproduce_rmd17(archive: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch) -> None:
    monkeypatch.setattr(
        rmd17,
        "MODELS",
        {name: lambda: sk.models.SchNet(1, 8, 8, 1, 8, rmd17.CUTOFF) for name in ("SchNet", "EGNN")},
    )
    out = tmp_path / "out"
    assert cli.main(["reproduce", "rmd17-ethanol", "--data", str(archive), "--out", str(out), "--quick"]) == 0
    content = json.loads((out / "rmd17-ethanol.json").read_text())
    assert content["name"] == "rmd17-ethanol"
    assert content["settings"]["train"] + content["settings"]["valid"] == 1000
    assert content["commit"] == record.commit()
    rows = {(row["model"], row["column"]): row for row in content["rows"]}
    assert set(rows) == {(m, f"ethanol/{t}") for m in ("SchNet", "EGNN") for t in ("forces_mae", "energy_mae")}
    row = rows["SchNet", "ethanol/forces_mae"]
    assert row["paper"] == 0.427
    assert row["status"] == "reduced"
    assert row["runs"] == [pytest.approx(row["mean"])]
    potential = sk.load_potential(out / "SchNet-0-quick" / "potential.pt")
    test = Dataset.read(archive, split="test", energy_unit="kcal/mol")
    batch = test.loader(rmd17.CUTOFF).collate(torch.arange(40))
    _, forces = sk.energy_and_forces(potential, batch.z, batch.pos, batch.batch, nb=batch.nb)
    assert float((forces - batch.targets["forces"]).abs().mean()) == pytest.approx(row["mean"], rel=1e-5)
    assert re.search(r"^SchNet +ethanol/forces_mae, kcal/mol/Å +0\.427 ", capsys.readouterr().out, re.MULTILINE)


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["reproduce", "nonsense"], "name must be one of asan-table1"),
        (["reproduce", "rmd17-ethanol"], "rmd17_ethanol.npz not found"),
        (["reproduce", "rmd17-ethanol", "--data", "FILE", "--seeds", "0"], "seeds must be positive"),
        (["train", "no.npz", "--out", "run"], "no.npz: no such file"),
        (["train", "FILE", "--out", "run"], "split"),
        (["train", "FILE", "--out", "run", "--split", "train"], "nothing says in which unit"),
        (["train", "FILE", "--out", "run", "--split", "train", "--energy-unit", "Hartree"], "must be one of"),
        (
            ["train", "FILE", "--out", "run", "--split", "train", "--energy-unit", "eV", "--sizes", "1", "2"],
            "sizes must",
        ),
        (
            ["train", "FILE", "--out", "run", "--split", "train", "--energy-unit", "eV", "--sizes", "x"],
            "--sizes must be",
        ),
        (
            ["train", "FILE", "--out", "run", "--split", "train", "--energy-unit", "eV", "--epochs", "0"],
            "epochs must be",
        ),
        (
            ["train", "FILE", "--out", "run", "--split", "train", "--energy-unit", "eV", "--cutoff", "-1"],
            "cutoff must be",
        ),
    ],
)
def test_bad_arguments(arguments, reason, archive, tmp_path, monkeypatch, capsys) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("SYMKERN_DATA", raising=False)
    try:
        code = cli.main([str(archive) if a == "FILE" else a for a in arguments])
    except SystemExit as end:
        code = end.code
    assert code == 2
    error = capsys.readouterr().err
    assert reason in error
    assert "Traceback" not in error


@pytest.mark.parametrize("model", ["schnet", "egnn", "dimenet++", "painn"])
def test_train(model: str, archive: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = ["train", str(archive), "--split", "train", "--energy-unit", "kcal/mol", "--out", str(tmp_path / "run")]
    small = ["--hidden", "8", "--layers", "1", "--sizes", "40", "10", "rest", "--batch-size", "20", "--model", model]
    assert cli.main([*source, *small, "--epochs", "1", "--test-split", "test", "--sizes", "900", "100"]) == 0
    shown = capsys.readouterr().out
    assert "test: energy_mae" in shown
    potential = sk.load_potential(tmp_path / "run" / "potential.pt")
    atoms = ase.build.molecule("CH4")
    atoms.calc = sk.Calculator(potential)
    assert atoms.get_potential_energy() == pytest.approx(-25_000 * sk.units.ENERGY_IN_EV["kcal/mol"], rel=0.01)


def test_train_again_needs_resume(archive: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["train", str(archive), "--split", "test", "--energy-unit", "eV", "--out", str(tmp_path / "run")]
    command += ["--hidden", "4", "--layers", "1", "--epochs", "1"]
    assert cli.main(command) == 0
    assert cli.main(command) == 2
    assert "resume it with --resume" in capsys.readouterr().err
    assert cli.main([*command, "--resume"]) == 0
    (tmp_path / "run" / "last.pt").write_bytes(b"damaged")
    assert cli.main([*command, "--resume"]) == 2
    assert "last.pt" in capsys.readouterr().err


def test_train_is_prolonged_and_interrupted(archive: Path, tmp_path: Path, capsys, monkeypatch) -> None:
    command = ["train", str(archive), "--split", "test", "--energy-unit", "eV", "--out", str(tmp_path / "run")]
    command += ["--hidden", "4", "--layers", "1", "--decay-epochs", "3", "--warmup-steps", "2"]
    assert cli.main([*command, "--epochs", "1"]) == 0
    assert cli.main([*command, "--epochs", "3", "--resume"]) == 0
    assert len((tmp_path / "run" / "log.jsonl").read_text().splitlines()) == 3
    capsys.readouterr()

    def interrupted(*_args, **_options):
        raise KeyboardInterrupt

    monkeypatch.setattr("symkern.training.command.train_potential", interrupted)
    assert cli.main([*command, "--epochs", "3", "--resume"]) == 130
    error = capsys.readouterr().err
    assert "interrupted; " in error
    assert "last.pt holds the run: continue with --resume" in error


def test_train_on_energies_alone(tmp_path: Path, capsys) -> None:
    frames = _frames(30, 3)
    rows = np.arange(0, 151, 5)
    labels = {"REF_energy": frames["energy"], "junk": np.where(np.arange(30) < 2, np.nan, 1.0)}
    np.savez(tmp_path / "set.npz", z=np.tile(Z, 30), pos=frames["pos"].reshape(-1, 3), ptr=rows, **labels)
    command = ["train", str(tmp_path / "set.npz"), "--out", str(tmp_path / "run"), "--hidden", "4", "--epochs", "1"]
    assert cli.main(command) == 2
    assert "it has, per structure: REF_energy, junk" in capsys.readouterr().err
    command += ["--energy", "REF_energy", "--energy-unit", "kcal/mol"]
    assert cli.main(command) == 2
    assert "--forces-weight 0" in capsys.readouterr().err
    assert cli.main([*command, "--forces-weight", "0", "--energy-weight", "1", "--device", "foo"]) == 2
    assert "--device must be cpu, cuda or cuda:N, got 'foo'" in capsys.readouterr().err
    assert cli.main([*command, "--forces-weight", "0", "--energy-weight", "1"]) == 0


def _train(data: Dataset, out: Path, cutoff: float = 4.0, **options) -> training.Result:
    settings = training.Settings(epochs=2, batch_size=10)
    task = training.EnergyForces(0.01, 1.0, per_atom=options.pop("per_atom", False))
    network = lambda: sk.models.SchNet(1, 4, 4, 1, 5, cutoff)  # noqa: E731
    return training.train_potential(network, data, settings, task, out=out, progress=False, **options)[1]


def test_resuming_another_run_is_refused(archive: Path, tmp_path: Path) -> None:
    """Each of these would train on, with weights that were made for something else."""
    data = Dataset.read(archive, split="test", energy_unit="kcal/mol")
    first = _train(data, tmp_path)
    assert _train(data, tmp_path, resume=True).best == first.best
    nudged = Dataset.read(archive, split="test", energy_unit="kcal/mol")
    model = sk.Potential.fit(sk.models.SchNet(1, 4, 4, 1, 5, 4.0), nudged)
    last_digit = sk.Potential(model.model, references=model.references, scale=float(model.scale) * (1 + 1e-14))
    assert _described(last_digit).replace("eV", "kcal/mol") == _described(model)  # as on another machine
    moved = Dataset.read(archive, split="train", energy_unit="kcal/mol").subset(range(40))
    for what, changed in (
        ("model", {"cutoff": 3.0}),
        ("task", {"per_atom": True}),
        ("train_data", {"data": moved}),
        ("model was .*kcal/mol.*now .*eV", {"data": data.in_unit("eV")}),
    ):
        with pytest.raises(training.CheckpointError, match=f"of another run: .*{what}"):
            _train(**{"data": data, "out": tmp_path, "resume": True, **changed})


def test_graphs_and_units_must_be_the_models(archive: Path) -> None:
    data = Dataset.read(archive, split="test", energy_unit="kcal/mol")
    potential = sk.Potential.fit(sk.models.SchNet(1, 4, 4, 1, 5, 4.0), data)
    task = training.EnergyForces()
    with pytest.raises(ValueError, match="nb must be complete for the model's cutoff of 4 Å, got a list for 3 Å"):
        training.evaluate(potential, task, data.loader(3.0))
    with pytest.raises(ValueError, match="the model is in kcal/mol, but the targets are in eV"):
        training.evaluate(potential, task, data.in_unit("eV").loader(4.0))
    assert training.evaluate(potential, task, data.loader(5.0)) == pytest.approx(
        training.evaluate(potential, task, data.loader(4.0)), rel=1e-5
    )


def test_one_run_per_folder(archive: Path, tmp_path: Path) -> None:
    from symkern.training.lock import only_run

    data = Dataset.read(archive, split="test", energy_unit="kcal/mol")
    with only_run(tmp_path / "run"), pytest.raises(FileExistsError, match="another process is training there"):
        _train(data, tmp_path / "run")
    _train(data, tmp_path / "run")
    assert not list((tmp_path / "run").glob("*.partial"))


def test_provenance_is_that_of_the_training(archive: Path, tmp_path: Path, monkeypatch) -> None:
    """Rerunning at a later commit only rewrites the summary: it must keep naming the commit that trained."""
    monkeypatch.setattr(rmd17, "MODELS", {"SchNet": lambda: sk.models.SchNet(1, 4, 4, 1, 5, rmd17.CUTOFF)})
    for commit in ("first", "second"):
        monkeypatch.setattr(record, "commit", lambda commit=commit: commit)
        content = rmd17.run(archive, tmp_path, quick=True, models=("SchNet",), progress=False)
        assert content["commit"] == "first"


def test_training_improves_and_is_judged_on_unseen_frames(archive: Path, tmp_path: Path) -> None:
    data = Dataset.read(archive, split="train", energy_unit="kcal/mol").subset(range(240))
    settings = training.Settings(epochs=12, batch_size=10, learning_rate=5e-3, schedule="cosine", ema=0.9)
    torch.manual_seed(0)
    _, result = training.train_potential(
        lambda: sk.models.SchNet(1, 16, 16, 2, 12, 4.0),
        data,
        settings,
        training.EnergyForces(0.01, 1.0),
        out=tmp_path / "run",
        sizes=(200, 20, "rest"),
        progress=False,
    )
    zero = float(data.per_atom["forces"].abs().mean())
    assert result.test is not None
    assert result.test["forces_mae"] < 0.35 * zero
    with pytest.raises(ValueError, match="sizes must be those of training, validation, test"):
        training.train_potential(lambda: None, data, settings, training.EnergyForces(), out=tmp_path, sizes=(1, 2))  # type: ignore[arg-type,return-value]
    with pytest.raises(ValueError, match="test must be in kcal/mol as data, got eV"):
        training.train_potential(
            lambda: None,  # type: ignore[arg-type,return-value]
            data,
            settings,
            training.EnergyForces(),
            out=tmp_path,
            sizes=(0.9, 0.1),
            test=data.in_unit("eV"),
        )


def test_demo_learns_rmd17_where_it_is_given(archive: Path) -> None:
    pytest.importorskip("matplotlib")
    from symkern.demo import learning

    plan = learning.plan([archive.with_name("other.npz"), archive], quick=True)
    assert (plan.name, len(plan.dataset), plan.dataset.energy_unit) == ("ethanol", 1000, "kcal/mol")
    assert learning.plan([], quick=True).name == "copper"


RESULTS = Path(__file__).parent.parent / "results"


@pytest.mark.parametrize("model", list(rmd17.PUBLISHED))
def test_committed_rmd17_runs_reach_the_published_figures(model: str) -> None:
    """Within 20 % of what others published for these models, from the whole protocol; the logs tell the same."""
    content = json.loads((RESULTS / "rmd17-ethanol" / "rmd17-ethanol.json").read_text())
    row = next(row for row in content["rows"] if (row["model"], row["column"]) == (model, "ethanol/forces_mae"))
    assert row["status"] == "full"
    assert row["paper"] == rmd17.PUBLISHED[model]
    assert row["mean"] <= 1.2 * row["paper"]
    assert (content["settings"]["train"], content["settings"]["test"]) == (950, 1000)
    for seed, value in enumerate(row["runs"]):
        folder = RESULTS / "rmd17-ethanol" / f"{model}-{seed}"
        assert json.loads((folder / "result.json").read_text())["test"]["forces_mae"] == value
        log = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
        assert [record["epoch"] for record in log] == list(range(1, content["settings"]["epochs"] + 1))
