"""Table 4: the measure, the constructions that are compared, and what is written."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from symkern import cli
from symkern.experiments import record
from symkern.experiments.sann import frame_errors, table4
from symkern.experiments.sann.asun import asun_frame
from symkern.experiments.sann.frame_errors import Molecule
from symkern.experiments.sann.pca import pca_frame

NAMES = ("H2O", "CH4", "C6H6", "CO2", "CH3CH2OH", "HCN", "C2H6", "bicyclobutane")


@pytest.fixture
def members() -> list[Molecule]:
    from ase.build import molecule

    atoms = [molecule(name) for name in NAMES]
    return [Molecule(a.positions, a.numbers.astype(np.int64), k) for k, a in enumerate(atoms)]


def test_emd() -> None:
    x = np.array([[0.0, 0, 0], [1, 0, 0], [0, 2, 0]])
    y = np.stack([x[[2, 0, 1]], x + np.array([0, 0, 0.5]), x])
    assert frame_errors.emd(x, y).tolist() == [0, 0.5, 0]
    # the best of all orders, not that of nearest atoms
    line = np.arange(4.0)[:, None] * np.array([1.0, 0, 0])
    assert frame_errors.emd(line, line[None] + np.array([0.6, 0, 0])).tolist() == [pytest.approx(0.6)]
    types = np.array([1, 1, 8]), np.array([[8, 1, 1], [1, 1, 8]])
    assert frame_errors.emd(x, np.stack([x, x]), types).tolist() == [pytest.approx(4 / 3), 0]
    with pytest.raises(ValueError, match="y_type must have the types of x_type"):
        frame_errors.emd(x, x[None], (types[0], types[0][None] + 1))


def test_copies_are_what_they_are_called(members: list[Molecule]) -> None:
    m = members[4]
    for kind in frame_errors.KINDS:
        copies = frame_errors.copies_of(m, 4, 0, [kind])
        assert np.array_equal(copies.positions[0], m.positions)
        for k, (x, numbers) in enumerate(zip(copies.centered[1:], copies.numbers[1:], strict=True)):
            q = np.linalg.lstsq(copies.centered[0], x, rcond=None)[0]
            assert np.array_equal(np.sort(numbers), np.sort(m.numbers))
            if kind == "permuted":
                assert not np.array_equal(numbers, m.numbers)
                continue
            assert np.abs(q @ q.T - np.eye(3)).max() < 1e-10
            assert np.linalg.det(q) == pytest.approx(-1 if kind == "o3" and k % 2 else 1)
        again = frame_errors.copies_of(m, 4, 0, [kind])
        assert np.array_equal(copies.positions, again.positions)
        assert np.abs(copies.positions[1:].mean(1)).max() > 0.1  # moved


def test_exact_frames_score_zero_and_wrong_ones_do_not(members: list[Molecule]) -> None:
    """The oracle, and that it can fail."""
    scores = frame_errors.score(members, 4)
    for kind, values in scores["ASUN+"].emd.items():
        assert max(values) < 1e-5, kind
    assert not any(scores["ASUN+"].failed)
    assert np.mean(scores["PCA"].emd["so3"]) > 0.01
    assert max(scores["PCA sign-fixed"].emd["so3"]) > 0.01  # degenerate axes
    assert np.median(scores["ASUN"].emd["so3"]) < 1e-5
    assert frame_errors.ranks_of(members).tolist() == [2, 3, 2, 1, 3, 1, 3, 3]
    shifted = Molecule(members[0].positions + np.array([1, 2, 3]), members[0].numbers, 0)
    assert frame_errors.ranks_of([shifted], centered=False).tolist() == [3]


def test_break_downs_count(members: list[Molecule], monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> None:
        raise RuntimeError("no hull")

    monkeypatch.setattr(frame_errors, "asun_frame", broken)
    scores = frame_errors.score(members, 2, slow={m.identity for m in members[:5]})["ASUN"]
    assert scores.failed == [True] * 5 + [False] * 3
    assert min(scores.emd["so3"][:5]) > 0.1  # as without any frame
    assert np.isnan(scores.emd["so3"][5:]).all()


def test_pca_and_asun_are_frames(members: list[Molecule]) -> None:
    for m in members:
        for frame in (
            pca_frame(m.positions),
            pca_frame(m.positions, fix_signs=True),
            asun_frame(m.positions, m.numbers.tolist()),
        ):
            assert np.abs(frame.T @ frame - np.eye(3)).max() < 1e-12
    y = members[4].positions - members[4].positions.mean(0)
    fixed = y @ pca_frame(y, fix_signs=True)
    assert ((fixed**3).sum(0) > -1e-12).all()
    assert (np.diff((fixed**2).sum(0)) < 0).all()
    shown = y @ asun_frame(y, members[4].numbers.tolist())
    on_axis = np.abs(shown[:, :2]).max(1) < 1e-10
    assert (shown[on_axis, 2] > 0).any()  # some atom is on z


def test_command(tmp_path: Path, members: list[Molecule], monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    monkeypatch.setattr(table4, "_g2", lambda: members)
    repeated = members[4:5] * 3 + members[:1]
    np.savez(
        tmp_path / "qm9_20k.npz",
        z=np.concatenate([m.numbers for m in repeated]).astype(np.int8),
        pos=np.concatenate([m.positions for m in repeated]).astype(np.float32),
        ptr=np.cumsum([0, *(len(m.numbers) for m in repeated)]),
        gdb_id=np.arange(4),
    )
    out = tmp_path / "out"
    command = ["reproduce", "sann-table4", "--quick", "--data", str(tmp_path / "qm9_20k.npz"), "--out", str(out)]
    assert cli.main(command) == 0
    content = json.loads((out / "sann-table4.json").read_text())
    rows = {(row["model"], row["column"]): row for row in content["rows"]}
    assert (out / "sann-table4.png").stat().st_size > 10_000
    ours = rows["ASUN+", "qm9/rank3/emd"]
    assert ours["paper"] == 0.00009
    assert ours["status"] == "reduced"
    assert ours["molecules"] == 3
    assert ours["mean"] < 1e-5
    assert rows["PCA", "qm9/rank3/emd"]["paper"] == 0.82758
    assert rows["PCA sign-fixed", "g2/rank2/emd"]["paper"] is None
    assert rows["ASUN", "g2/rank1/failures"]["mean"] == 0
    assert content["settings"]["quoted"]["AE"] == {"rank1": 1.15122, "rank2": 0.037539, "rank3": 0.03178}
    out_text = capsys.readouterr().out
    assert "ASUN+ (symkern.canonicalize)  qm9/rank3/emd, Å" in out_text
    assert "\nQM9: the largest EMD of any molecule" in out_text


def test_without_qm9(tmp_path: Path, members: list[Molecule], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SYMKERN_DATA", raising=False)
    monkeypatch.setattr(table4, "_g2", lambda: members[:3])
    content = table4.run(None, tmp_path, seeds=2, progress=False)
    row = next(row for row in content["rows"] if (row["model"], row["column"]) == ("ASUN+", "g2/rank2/emd"))
    assert row["status"] == "full"
    assert len(row["runs"]) == 2
    np.savez(tmp_path / "other.npz", z=[1])
    with pytest.raises(FileNotFoundError, match=r"neither qm9\.npz nor qm9_20k\.npz found in .*; symkern fetch qm9"):
        table4.run(tmp_path / "other.npz", tmp_path, progress=False)


@pytest.mark.parametrize("damage", ["cut", "empty", "keys", "array", "ptr"])
def test_damaged_archives_are_named(
    tmp_path: Path, damage: str, members: list[Molecule], monkeypatch: pytest.MonkeyPatch, capsys
) -> None:
    monkeypatch.setattr(table4, "_g2", lambda: members[:1])
    path = tmp_path / "qm9_20k.npz"
    arrays = {"z": [8, 1], "pos": np.eye(2, 3), "ptr": [0, 2], "gdb_id": [1]}
    if damage == "keys":
        del arrays["gdb_id"]
    if damage == "ptr":
        arrays["ptr"] = [0, 5]
    if damage == "array":
        with path.open("wb") as file:
            np.save(file, np.eye(3))
    else:
        np.savez(path, **arrays)
    if damage in ("cut", "empty"):
        path.write_bytes(path.read_bytes()[: 200 if damage == "cut" else 0])
    with pytest.raises(SystemExit, match="2"):
        cli.main(["reproduce", "sann-table4", "--quick", "--data", str(path), "--out", str(tmp_path / "out")])
    assert f"error: {path}: " in capsys.readouterr().err


RESULTS = Path(__file__).parent.parent / "results" / "sann-table4"


def test_committed_results() -> None:
    """Zero to rounding for every rank, kind of copy and set, with nothing dropped."""
    content = json.loads((RESULTS / "sann-table4.json").read_text())
    ours = {row["column"]: row for row in content["rows"] if row["model"] == "ASUN+"}
    for name in ("g2", "qm9"):
        for rank in (1, 2, 3):
            for column in ("emd", "emd-typed", "emd-permuted", "emd-o3"):
                assert ours[f"{name}/rank{rank}/{column}"]["mean"] < 1e-5
            assert ours[f"{name}/rank{rank}/failures"]["mean"] == 0
    counted = sum(ours[f"qm9/rank{rank}/emd"]["molecules"] for rank in (1, 2, 3))
    assert counted == content["settings"]["molecules"]["qm9"]
    assert "+" not in content["commit"]
    rows = [
        record.Row(row["model"], row["column"], None, row["runs"], True, {k: row[k] for k in row.keys() - record.KEYS})
        for row in content["rows"]
    ]
    g2, qm9, _ = table4.findings(rows)
    assert g2.startswith("G2: the largest EMD of any molecule")
    largest = [max(ours[f"qm9/rank{rank}/emd"]["largest"]) for rank in (1, 2, 3)]
    assert f"ASUN+ (symkern.canonicalize) {largest[0]:.2g} / {largest[1]:.2g} / {largest[2]:.2g}, PCA" in qm9
