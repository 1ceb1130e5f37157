"""The runner of cells: what it keeps, what it runs again, what it says when cells fail."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from symkern.experiments import cells, record
from symkern.experiments.cells import Cell, CellError


def double(x: float, log: str | None = None) -> dict:
    if log is not None:
        with open(log, "a") as file:
            file.write(f"{x}\n")
    return {"twice": 2 * x, "pair": (x, x), "random": float(torch.rand(())), "threads": torch.get_num_threads()}


def triple(x: float, log: str | None = None) -> dict:
    return {**double(x, log), "twice": 3 * x}


def fail(x: float) -> dict:
    raise ValueError(f"cannot do {x}")


def leave(x: float) -> dict:
    os._exit(3)


def no_dict() -> list:
    return [1]


def no_json() -> dict:
    return {"tensor": torch.zeros(1)}


def wait(folder: str) -> dict:
    (Path(folder) / f"{os.getpid()}.pid").touch()
    time.sleep(100)
    return {}


def calls(log: Path) -> list[float]:
    return [float(line) for line in log.read_text().split()]


def test_results_are_kept_and_taken_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    log = tmp_path / "log"
    table = [Cell(f"task/EGNN+Noise/{k}", double, {"x": k, "log": str(log)}) for k in range(3)]
    monkeypatch.setattr(record, "commit", lambda: "first")
    before = torch.get_num_threads()
    results = cells.run(table, tmp_path, progress=False)
    assert torch.get_num_threads() == before
    assert list(results) == [cell.key for cell in table]
    assert [result["twice"] for result in results.values()] == [0, 2, 4]
    assert results["task/EGNN+Noise/1"]["pair"] == [1, 1]  # as a later run will read it
    assert {result["threads"] for result in results.values()} == {1}
    (path,) = (tmp_path / "task/EGNN+Noise").glob("1.*.json")
    kept = json.loads(path.read_text())
    assert kept == {
        "function": "test_experiment_cells.double",
        "arguments": {"x": 1, "log": str(log)},
        "commit": "first",
        "seconds": pytest.approx(0, abs=10),
        "result": results["task/EGNN+Noise/1"],
    }

    monkeypatch.setattr(record, "commit", lambda: "second")
    more = [*table, Cell("more", double, {"x": 7, "log": str(log)})]
    with pytest.warns(UserWarning, match=f"{tmp_path} has cells of first, now second: they are kept"):
        again = cells.run(more, tmp_path, progress=False)
    assert {key: again[key] for key in results} == results
    assert calls(log) == [0, 1, 2, 7]
    assert cells.commits(again) == ["first", "second"]
    assert list(again.seconds) == [cell.key for cell in more]


def test_other_arguments_and_functions_are_run_again(tmp_path: Path) -> None:
    log = str(tmp_path / "log")
    assert cells.run([Cell("a", double, {"x": 1, "log": log})], tmp_path, progress=False)["a"]["twice"] == 2
    assert cells.run([Cell("a", double, {"x": 5, "log": log})], tmp_path, progress=False)["a"]["twice"] == 10
    assert cells.run([Cell("a", triple, {"x": 5, "log": log})], tmp_path, progress=False)["a"]["twice"] == 15
    assert cells.run([Cell("a", triple, {"log": log, "x": 5})], tmp_path, progress=False)["a"]["twice"] == 15
    # and none has taken the place of another
    assert cells.run([Cell("a", double, {"x": 1, "log": log})], tmp_path, progress=False)["a"]["twice"] == 2
    assert calls(tmp_path / "log") == [1, 5, 5]


@pytest.mark.parametrize("damage", ["", "{", "[]", "null", '{"result": 1}', "cut"])
def test_damaged_files_are_run_again(tmp_path: Path, damage: str) -> None:
    cell = Cell("a", double, {"x": 1})
    whole = cells.run([cell], tmp_path, progress=False)
    (path,) = tmp_path.glob("a.*.json")
    path.write_text(path.read_text()[:-20] if damage == "cut" else damage)
    with pytest.warns(UserWarning, match=r"a\.\w{8}\.json cannot be read and is computed again"):
        assert cells.run([cell], tmp_path, progress=False) == whole
    assert json.loads(path.read_text())["result"] == whole["a"]
    assert not list(tmp_path.glob("*.partial"))


def test_workers_change_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    """Neither do the order and what else is drawn at random; a bar is no result."""
    monkeypatch.setenv("FORCE_COLOR", "1")  # as in a terminal
    table = [Cell(str(k), double, {"x": k}) for k in range(4)]
    alone = cells.run(table, tmp_path / "alone", progress=False)
    torch.manual_seed(5)
    state = torch.random.get_rng_state()
    assert cells.run(table[::-1], tmp_path / "backwards", progress=True, label="backwards") == alone
    assert "━" in capsys.readouterr().err
    assert torch.equal(torch.random.get_rng_state(), state)
    assert cells.run(table, tmp_path / "two", workers=2, progress=False) == alone
    assert len({result["random"] for result in alone.values()}) == 4


def test_progress_without_a_terminal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    """Lines, not bars: a log shows how far a run is."""
    monkeypatch.setattr(cells, "_LINES_APART", 0.0)
    table = [Cell(f"{k}", double, {"x": k, "log": str(tmp_path / "log")}) for k in range(3)]
    cells.run(table[:1], tmp_path / "out", progress=False)
    assert capsys.readouterr().err == ""
    cells.run(table, tmp_path / "out", label="a table")
    lines = capsys.readouterr().err.splitlines()
    assert [line.partition(" cells, ")[0] for line in lines] == ["a table: 2 of 3", "a table: 3 of 3"]
    assert lines[1].endswith("cells, 0 s left")


@pytest.mark.parametrize("workers", [1, 2])
def test_failures_are_told_when_the_others_are_done(tmp_path: Path, workers: int) -> None:
    table = [
        Cell("first", fail, {"x": 1}),
        Cell("second", no_dict, {}),
        Cell("third", no_json, {}),
        Cell("good", double, {"x": 1}),
    ]
    with pytest.raises(CellError, match=r"3 of 4 cells failed: first, second, third. The first, first:") as error:
        cells.run(table, tmp_path, workers=workers, progress=False)
    assert "ValueError: cannot do 1" in str(error.value)
    assert "in fail" in str(error.value)  # the traceback
    assert [path.name.partition(".")[0] for path in tmp_path.glob("*.json")] == ["good"]
    with pytest.raises(CellError, match="must return a dict, got list"):
        cells.run(table[1:2], tmp_path, progress=False)


def test_a_process_that_ends_is_a_failure(tmp_path: Path) -> None:
    table = [Cell("gone", leave, {"x": 1}), Cell("good", double, {"x": 1})]
    cells.run(table[1:], tmp_path, progress=False)
    with pytest.raises(CellError, match=r"1 of 2 cells failed: gone. The first, gone:\nBrokenProcessPool"):
        cells.run(table, tmp_path, workers=2, progress=False)


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGKILL])
def test_interrupted_runs_keep_what_is_done_and_leave_no_process(tmp_path: Path, how: signal.Signals) -> None:
    script = f"""
import sys
from pathlib import Path
sys.path.insert(0, {str(Path(__file__).parent)!r})
if __name__ == "__main__":
    import test_experiment_cells as here
    from symkern.experiments import cells
    table = [cells.Cell("done", here.double, {{"x": 1}})]
    table += [cells.Cell(f"waits/{{k}}", here.wait, {{"folder": {str(tmp_path)!r}}}) for k in range(4)]
    cells.run(table, Path({str(tmp_path / "kept")!r}), workers=2)
"""
    file = tmp_path / "script.py"
    file.write_text(script)
    process = subprocess.Popen([sys.executable, str(file)], stderr=subprocess.PIPE, text=True)
    try:
        begin = time.monotonic()
        while not (len(list(tmp_path.glob("*.pid"))) == 2 and list((tmp_path / "kept").glob("done.*.json"))):
            assert process.poll() is None
            assert time.monotonic() - begin < 60
            time.sleep(0.1)
        process.send_signal(how)
        _, errors = process.communicate(timeout=30)  # ends when the workers have closed it too
    finally:
        process.kill()
    assert ("KeyboardInterrupt" in errors) == (how == signal.SIGINT)
    for path in tmp_path.glob("*.pid"):
        begin = time.monotonic()
        while Path(f"/proc/{path.stem}").exists() and time.monotonic() - begin < 10:
            time.sleep(0.1)
        with pytest.raises(ProcessLookupError):
            os.kill(int(path.stem), 0)
    assert [path.name.partition(".")[0] for path in (tmp_path / "kept").rglob("*.json")] == ["done"]


def test_what_is_refused(tmp_path: Path) -> None:
    def local() -> dict:
        return {}

    good = Cell("a", double, {"x": 1})
    for key in ("", "/a", "../a", "a//b", "a/.hidden", "a\\b", "a\nb"):
        with pytest.raises(ValueError, match="key must be a relative path"):
            cells.run([Cell(key, double, {"x": 1})], tmp_path)
    with pytest.raises(ValueError, match="key must be unique, got 'a' twice"):
        cells.run([good, good], tmp_path)
    with pytest.raises(ValueError, match=r"function must be at the top level of a module, got .*local"):
        cells.run([Cell("a", local, {})], tmp_path)
    with pytest.raises(ValueError, match="workers must be positive, got 0"):
        cells.run([good], tmp_path, workers=0)
    assert not list(tmp_path.iterdir())
    assert cells.run([], tmp_path, workers=2) == {}
