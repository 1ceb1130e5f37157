"""Tables of the ASAN paper: the data, how rows are judged, and what is written."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from itertools import combinations
from pathlib import Path

import ase.build
import numpy as np
import pytest
import torch

from symkern.experiments.asan import models, qm9, table1, table2, table3
from symkern.experiments.asan.models import EV, NETWORKS
from symkern.experiments.asan.pair_histograms import ELEMENTS, pair_histograms

SMALL = ("H2O", "CH4", "NH3", "CH3OH", "CO2", "HCN", "C2H2", "C2H4", "C2H6", "CH3CHO")


@pytest.fixture
def sample(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A little QM9: 100 distorted molecules, whose "gap" is 0.2 and a bit for each distance and element."""
    random = np.random.default_rng(0)
    z, pos, gap = [], [], []
    for k in range(100):
        atoms = ase.build.molecule(SMALL[k % len(SMALL)])
        x = atoms.positions + 0.1 * random.normal(size=atoms.positions.shape)
        z.append(atoms.numbers)
        pos.append(x)
        gap.append(0.2 + 0.01 * np.mean(np.linalg.norm(x[:, None] - x, axis=2)) + 0.002 * atoms.numbers.mean())
    np.savez(
        tmp_path / "qm9_small.npz",
        z=np.concatenate(z).astype(np.int8),
        pos=np.concatenate(pos).astype(np.float32),
        ptr=np.cumsum([0, *map(len, z)]),
        gdb_id=np.arange(1, 101),
        gap=np.array(gap),
    )
    np.savez(tmp_path / "qm9_other.npz", z=[1], pos=np.zeros((1, 3)), ptr=[0, 1])  # of another kind: not read
    chosen = {
        "leak-free": {"train": list(range(1, 81)), "test": list(range(81, 101))},
        "leaky": {"train": list(range(1, 81)), "test": list(range(1, 21))},
    }
    monkeypatch.setattr(qm9, "stored", lambda: chosen)
    plain = models.settings
    monkeypatch.setattr(models, "settings", lambda *given: replace(plain(*given), batch_size=16))
    qm9._sample.cache_clear()
    yield str(tmp_path)
    qm9._sample.cache_clear()


# ---- data


def test_stored_molecules_follow_the_rule(data: Path) -> None:
    identities, atoms = [], []
    for _, _, ptr, ids, _ in qm9._archives(str(data)):
        identities += ids.tolist()
        atoms += np.diff(ptr).tolist()
    assert qm9.derive(identities, atoms) == qm9.stored()


def test_splits(data: Path) -> None:
    """One is clean, the other leaks as published; labels are those of QM9, in Hartree."""
    sizes = {"leak-free": (800, 200, 0), "leaky": (683, 197, 197)}
    for name, (size, tested, both) in sizes.items():
        train, test = qm9.split(str(data), name)
        assert (len(train), len(test)) == (size, tested)
        assert len(set(train.names) & set(test.names)) == both
        assert len(set(train.names)) == size
        gap = train.per_structure["gap"]
        assert gap.min() == pytest.approx(0.1151)  # as the published labels
        assert gap.max() == pytest.approx(0.5048)  # methane
        assert int(train.ptr.diff().max()) == qm9.MAX_ATOMS
    test = qm9.split(str(data), "leaky")[1]
    assert test.names[0] == "dsgdb9nsd_000001"
    assert test.z[:5].tolist() == [6, 1, 1, 1, 1]
    assert float(test.per_structure["gap"][0]) == 0.5048


def test_missing_data(tmp_path: Path, sample: str, monkeypatch: pytest.MonkeyPatch) -> None:
    more = {"leak-free": {"train": [5, 133885], "test": [133886]}}
    monkeypatch.setattr(qm9, "stored", lambda: more)
    with pytest.raises(FileNotFoundError, match=r"2 of the 3 .* not in .*: dsgdb9nsd_133885 is the first"):
        qm9.split(sample, "leak-free")
    folder = tmp_path / "empty"
    folder.mkdir()
    np.savez(folder / "qm9_20k.npz", z=[1])
    for table in (table1, table2, table3):
        with pytest.raises(FileNotFoundError, match=r"no archive qm9\*\.npz with z, pos, ptr, gdb_id, gap found in"):
            table.run(folder, tmp_path, progress=False)
    monkeypatch.delenv("SYMKERN_DATA", raising=False)
    with pytest.raises(FileNotFoundError, match="nowhere: give --data or SYMKERN_DATA"):
        qm9.source(None)


# ---- how rows are judged


def test_judge_against_closed_forms(sample: str) -> None:
    """The x coordinate of a vector turned at random has the spread |v| / sqrt(3), and mean 0."""
    _, valid, test = models.parts(sample, "leak-free", 0, 0)

    def first_x(batch) -> torch.Tensor:
        return batch.pos[batch.ptr[:-1], 0]

    found = models.judge(first_x, valid, test, None)
    first = test.pos[test.ptr[:-1]]
    labels = test.per_structure["gap"]
    assert found["mae"] == pytest.approx(float((first[:, 0] - labels).abs().mean()), abs=1e-6)
    assert found["rotation_spread"] == pytest.approx(float((first.norm(dim=1) / 3**0.5).mean()), rel=0.1)
    held = valid.pos[valid.ptr[:-1], 0] - valid.per_structure["gap"]
    assert found["valid_mse"] == pytest.approx(float(held.square().mean()), abs=1e-6)
    # an x coordinate uniform in +-|v|, from a label within or beyond
    v, y = first.norm(dim=1), labels.abs()
    expected = torch.where(y < v, (v**2 + y**2) / (2 * v), y).mean()
    assert found["mae_turned"] == pytest.approx(float(expected), rel=0.1)
    assert found["rotation_spread_largest"] >= found["rotation_spread"]


def test_mean_predictor(sample: str) -> None:
    for split in qm9.SPLITS:
        train, _, test = models.parts(sample, split, 1, 0)
        found = models.predict_mean(split, 1, 0, sample)
        error = test.per_structure["gap"] - train.per_structure["gap"].mean()
        assert found["mae"] == pytest.approx(float(error.abs().mean()), abs=1e-12)
        assert found["mae_turned"] == pytest.approx(found["mae"], abs=1e-12)
        assert found["rotation_spread"] < 1e-15
    train, valid, test = models.parts(sample, "leak-free", 0, 0)
    assert (len(train), len(valid), len(test)) == (64, 16, 20)
    assert not set(train.names) & (set(valid.names) | set(test.names))


def test_networks_are_trained_alike_and_repeatably(sample: str) -> None:
    arguments = {"split": "leak-free", "fold": 0, "seed": 0, "data": sample, "epochs": 3}
    found = models.train_network("outer", **arguments)
    again = models.train_network("outer", **arguments)
    other = models.train_network("outer", **{**arguments, "fold": 1})
    timeless = [{k: v for k, v in one.items() if k != "training_seconds"} for one in (found, again, other)]
    assert timeless[0] == timeless[1] != timeless[2]
    assert found["stopped_epoch"] == 3
    assert 1 <= found["best_epoch"] <= 3
    assert found["rotation_spread"] > 1e-5
    # products between atoms: the rotation does nothing but round, so these two differ by rounding alone
    gram = [models.train_network("gram", **arguments, num_angles=d) for d in (5, 0)]
    assert gram[0]["mae"] == pytest.approx(gram[1]["mae"], rel=1e-3)
    assert gram[0]["rotation_spread"] < 1e-8
    plain = models.train_network("outer", **arguments, augment=False)
    assert plain["mae"] != found["mae"]
    network = NETWORKS["EGNN"]
    assert network.make(5).config["num_layers"] == 3


def test_early_stopping(sample: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(models, "PATIENCE", 2)
    monkeypatch.setattr(models, "ROTATIONS", 2)
    found = models.train_network("CoordinateMLP", "leak-free", 0, 0, sample, epochs=60)
    assert found["stopped_epoch"] == found["best_epoch"] + 2 < 60


def test_masked_and_kernel_ridge_learn_what_depends_on_elements_and_distances(
    sample: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(models, "ROTATIONS", 4)
    nothing = models.predict_mean("leak-free", 0, 0, sample)["mae"]
    masked = models.train_network("masked", "leak-free", 0, 0, sample, epochs=150)
    assert masked["mae"] < 0.6 * nothing
    ridge = models.kernel_ridge("leak-free", 0, 0, sample)
    assert ridge["mae"] < 0.3 * nothing
    assert ridge["rotation_spread"] < 1e-6  # positions are turned in fp32
    assert set(ridge["chosen"]) == {"metric", "gamma", "alpha"}
    assert ridge == models.kernel_ridge("leak-free", 0, 0, sample)


def test_pair_histograms() -> None:
    atoms = [ase.build.molecule(name) for name in ("CH3OH", "H2O", "HCN")]
    z = torch.tensor(np.concatenate([a.numbers for a in atoms]))
    pos = torch.tensor(np.concatenate([a.positions for a in atoms]))
    ptr = torch.tensor(np.cumsum([0, *map(len, atoms)]))
    found = pair_histograms(z, pos, ptr, bins=7, largest=3.5, width=0.3)
    pairs = [(a, b) for k, a in enumerate(ELEMENTS) for b in ELEMENTS[k:]]
    assert found.shape == (3, len(pairs) * 7 + 4)
    for row, molecule in zip(found.numpy(), atoms, strict=True):
        expected = {pair: np.zeros(7) for pair in pairs}
        for i, j in combinations(range(len(molecule)), 2):
            pair = tuple(sorted((molecule.numbers[i], molecule.numbers[j])))
            distance = np.linalg.norm(molecule.positions[i] - molecule.positions[j])
            expected[pair] += np.exp(-((distance - np.linspace(0.5, 3.5, 7)) ** 2) / (2 * 0.3**2))
        counts = [(molecule.numbers == element).sum() for element in ELEMENTS]
        assert np.abs(row - np.concatenate([*expected.values(), counts])).max() < 1e-12
    with pytest.raises(ValueError, match=r"z must hold the elements \(1, 6, 7, 8\) only, got \[9\]"):
        pair_histograms(torch.where(z == 8, 9, z), pos, ptr)


# ---- what is written


def test_table1(sample: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(models, "ROTATIONS", 2)
    out = tmp_path / "out"
    content = table1.run(sample, out, quick=True, progress=False)
    assert json.loads((out / "asan-table1.json").read_text()) == content
    assert (out / "asan-table1.png").stat().st_size > 10_000
    rows = {(row["model"], row["column"]): row for row in content["rows"]}
    names = {row["model"] for row in content["rows"]}
    assert {"mean predictor", "Baseline", "MIT-Inspired", "ASAN", "kernel ridge", "SchNet", "EGNN"} < names
    assert {"ASAN (gram)", "ASAN (moment)", "ASAN (released)", "ASAN (masked)"} < names
    assert len(rows) == len(content["rows"]) == len(names) * 2 * len(table1.COLUMNS)
    three = ("Baseline", "MIT-Inspired", "ASAN")
    assert [rows[name, "gap/mae_ha"]["paper"] for name in three] == [0.0527, 0.0468, 0.046]
    assert [rows[name, "gap/valid_mse"]["paper"] for name in three] == [0.0028, 0.0017, 0.0019]
    ours = rows["ASAN", "gap-leaky/mae_ev"]
    assert ours["mean"] == pytest.approx(EV * rows["ASAN", "gap-leaky/mae_ha"]["mean"])
    assert (ours["paper"], ours["status"], ours["paper_stopped_epoch"]) == (EV * 0.046, "reduced", [73, 86])
    assert rows["mean predictor", "gap/mae_ha"]["paper"] is None
    assert len(rows["ASAN", "gap/mae_ha"]["best_epoch"]) == 1
    settings = content["settings"]
    assert settings["labels"]["leaky"]["test molecules that are also in train"] == 20
    assert settings["split"] == qm9.stored()
    assert "Hartree" in settings["findings"][0]


def test_table2(sample: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(models, "ROTATIONS", 2)
    monkeypatch.setattr(table2, "ROTATIONS", 64)
    content = table2.run(sample, tmp_path / "out", quick=True, progress=False)
    assert (tmp_path / "out" / "asan-table2.png").stat().st_size > 10_000
    rows = {(row["model"], row["column"]): row for row in content["rows"]}
    assert len(rows) == len(content["rows"])
    for name, mae, change in (
        ("No Symmetry Layer", 0.0485, 0.0025),
        ("No Augmentation", 0.0492, 0.0032),
        ("d = 10 Parameters", 0.0462, 0.0002),
    ):
        for reading in ("", " (gram)", " (moment)"):
            assert rows[name + reading, "gap/mae_ha"]["paper"] == mae
            row = rows[name + reading, "gap/change_ha"]
            assert row["paper"] == change
            both = [rows[n + reading, "gap/mae_ha"]["runs"] for n in (name, "ASAN")]
            assert row["runs"] == pytest.approx([a - b for a, b in zip(*both, strict=True)])
    assert rows["ASAN", "gap/mae_ha"]["paper"] == 0.046
    assert ("Baseline, No Augmentation", "gap-leaky/mae_turned_ha") in rows
    assert abs(rows["No Symmetry Layer (gram)", "gap/change_ha"]["mean"]) < 1e-5
    gradient = content["settings"]["gradient"]
    assert gradient["gram"]["as_stored"] < 1e-13
    for reading in ("outer", "moment"):
        assert gradient[reading]["as_stored"] > 1e-4
        assert gradient[reading]["mean_turned"] < 0.5 * gradient[reading]["turned"]
    assert len(content["settings"]["findings"]) == 6


def test_table3(sample: str, tmp_path: Path) -> None:
    content = table3.run(sample, tmp_path / "out", quick=True, progress=False)
    assert (tmp_path / "out" / "asan-table3.png").stat().st_size > 10_000
    rows = {(row["model"], row["column"]): row for row in content["rows"]}
    for name, paper in (("Baseline", 1.0), ("MIT-Inspired", 1.5), ("ASAN", 1.2), ("Equivariant Model", 3.0)):
        assert rows[name, "training/relative"]["paper"] == paper
    assert rows["Baseline", "training/relative"]["runs"] == [1.0, 1.0]
    assert rows["Equivariant Model", "training/relative-step"]["mean"] > 1
    assert rows["SchNet", "training/step"]["mean"] > 0
    assert rows["SchNet", "training/step"]["status"] == "reduced"


# ---- committed results

RESULTS = Path(__file__).parent.parent / "results"


def _committed(name: str) -> dict[tuple[str, str], dict]:
    content = json.loads((RESULTS / name / f"{name}.json").read_text())
    assert "+" not in content["commit"]
    assert all(row["status"] == "full" for row in content["rows"])
    assert content["settings"]["findings"]
    return {(row["model"], row["column"]): row for row in content["rows"]}


def test_committed_table1() -> None:
    rows = _committed("asan-table1")
    for model in ("mean predictor", *(network.title for network in NETWORKS.values()), "kernel ridge"):
        for task in ("gap", "gap-leaky"):
            for column in table1.COLUMNS:
                assert len(rows[model, f"{task}/{column}"]["runs"]) == 5
    nothing = rows["mean predictor", "gap/mae_ha"]["mean"]
    assert rows["ASAN (masked)", "gap/mae_ha"]["mean"] <= nothing / 2  # the goal
    for model in ("mean predictor", "MIT-Inspired", "ASAN (gram)", "SchNet", "EGNN", "kernel ridge"):
        assert rows[model, "gap/rotation_spread_ha"]["mean"] < 1e-6
    for model in ("Baseline", "ASAN", "ASAN (released)"):
        assert rows[model, "gap/rotation_spread_ha"]["mean"] > 1e-4


def test_committed_table2_and_3() -> None:
    rows = _committed("asan-table2")
    assert len(rows["No Symmetry Layer", "gap/change_ha"]["runs"]) == 5
    rows = _committed("asan-table3")
    assert len(rows["ASAN", "training/relative"]["runs"]) == table3.ROUNDS
