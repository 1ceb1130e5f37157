"""The measuring tools: order, medians and ratios with a fake clock, the verdicts, and the files in results/."""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
from pathlib import Path

import pytest
import torch

from benchmarks import (
    contest,
    gpu,
    layer_memory,
    layer_ops,
    machine,
    message_ops,
    peers,
    report,
    systems,
    timing,
)
from benchmarks.contest import Work
from benchmarks.peers import OURS, Entry
from benchmarks.report import Row

ROOT = Path(__file__).resolve().parent.parent
ROW = Row("op", "system", OURS, "form", 1, "avx2", "float32", "fresh", "4K", "ms", 2.0, 0.1, 5)


class Clock:
    """Time that passes only when somebody works."""

    def __init__(self):
        self.now = 0.0
        self.log = []

    def __call__(self):
        return self.now

    def worker(self, name, *durations):
        durations = list(durations)

        def work():
            self.log.append(name)
            self.now += durations.pop(0) if len(durations) > 1 else durations[0]

        return work


def test_race_interleaves_and_rotates():
    clock = Clock()
    race = timing.Race({name: clock.worker(name, 1.0) for name in "abc"}, clock)
    for _ in range(4):
        race.round()
    assert "".join(clock.log) == "abcbcacababc"
    assert {name: len(samples) for name, samples in race.samples.items()} == {"a": 4, "b": 4, "c": 4}


def test_samples_are_seconds_per_call():
    clock = Clock()
    race = timing.Race({"short": clock.worker("short", 1e-5), "long": clock.worker("long", 0.5)}, clock)
    per_round = race.calibrate(shortest=2e-4)
    assert race.inner == {"short": pytest.approx(20, abs=1), "long": 1}
    assert per_round == pytest.approx(0.5 + race.inner["short"] * 1e-5)
    assert race.samples == {"short": [], "long": []}  # warm-up does not count
    race.round()
    assert race.samples["short"] == [pytest.approx(1e-5)]
    assert race.samples["long"] == [pytest.approx(0.5)]


def test_garbage_collection_is_off_while_timing_and_back_after():
    import gc

    seen = []
    timing.Race({"a": lambda: seen.append(gc.isenabled())}).round()
    assert seen == [False]
    assert gc.isenabled()


@pytest.mark.parametrize(
    ("samples", "expected"),
    [([3.0], (3.0, 0.0)), ([1.0, 2.0, 3.0, 4.0, 100.0], (3.0, 2.0)), ([4.0, 1.0, 3.0, 2.0], (2.5, 1.5))],
)
def test_median_and_iqr(samples, expected):
    assert timing.median_and_iqr(samples) == pytest.approx(expected)


def test_rounds_within():
    assert timing.rounds_within(10, 1.0) == 10
    assert timing.rounds_within(10, 60.0) == 5
    assert timing.rounds_within(10, 1e-6) == 100


def test_ratio_and_verdict_follow_from_the_samples():
    clock = Clock()
    entries = [
        Entry(OURS, "op", clock.worker("ours", 0.010), limit=0.02),
        Entry("slow", "list", clock.worker("slow", 0.070, 0.080, 0.090), target=8),
        Entry("fast", "list", clock.worker("fast", 0.079), target=8),
    ]
    race = timing.Race({entry.name: entry.call for entry in entries}, clock)
    for _ in range(3):
        race.round()
    rows = contest.rows(entries, race, "op", "system", 1, Work(1e6, 0, 0), (10.0, 100.0))
    assert [row.median for row in rows] == pytest.approx([10.0, 80.0, 79.0])
    assert [row.ratio for row in rows] == [None, pytest.approx(8.0), pytest.approx(7.9)]
    assert [row.met for row in rows] == [True, rows[1].ratio >= 8, False]
    assert rows[0].unit == "ms"
    assert rows[0].reached == pytest.approx(10.0)
    assert rows[0].target == pytest.approx(20.0)
    assert {row.repeats for row in rows} == {3}
    assert rows[0].flops is None


def test_contestants_of_one_name_are_refused():
    entry = Entry(OURS, "op", int)
    contest.calls([entry, dataclasses.replace(entry, dtype="float64")])
    with pytest.raises(AssertionError, match="one name"):
        contest.calls([entry, entry])


@pytest.mark.parametrize(
    ("target", "kind", "reached", "met"),
    [
        (8, "at_least", 8.0, True),
        (8, "at_least", 7.99, False),
        (10, "at_most", 9.0, True),
        (10, "at_most", 10.1, False),
        (None, None, 3.0, None),
        (8, "at_least", None, None),
    ],
)
def test_judge(target, kind, reached, met):
    assert report.judge(target, kind, reached) is met


def test_judge_needs_a_direction():
    with pytest.raises(ValueError, match="target_kind"):
        report.judge(8, None, 9.0)


def _result(**changes):
    head = machine.describe()
    row = dataclasses.replace(ROW, target=8, target_kind="at_least", reached=7.0, ratio=7.0)
    return {"schema": report.SCHEMA, **head, "rows": [dataclasses.asdict(row) | changes]}


def test_schema_accepts_what_a_run_makes():
    assert report.problems(_result()) == []


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"met": True}, "met does not follow"),
        ({"median": "fast"}, "median"),
        ({"median": 0.0}, "out of range"),
        ({"threads": True}, "threads"),
        ({"speed": 3}, "speed is unknown"),
        ({"note": "see /home/somebody/x"}, "a path"),
    ],
)
def test_schema_rejects(changes, complaint):
    assert any(complaint in problem for problem in report.problems(_result(**changes)))


def test_schema_rejects_missing_fields():
    result = _result()
    del result["commit"], result["rows"][0]["iqr"]
    assert len(report.problems(result)) == 2
    for broken in ({}, [], result | {"rows": []}):
        assert report.problems(broken)


def test_written_table_is_the_table_of_the_stored_rows(tmp_path):
    row = dataclasses.replace(ROW, ratio=7.9999999, target=8, target_kind="at_least", reached=7.9999999)
    path, text = report.write(machine.describe() | {"dirty": True}, [ROW, row], tmp_path)
    stored = json.loads(path.read_text())
    assert report.problems(stored) == []
    assert report.render(stored) == text == path.with_suffix(".md").read_text()
    assert "local changes" in text
    assert "| ≥ 8x |" in text


@pytest.mark.parametrize(
    ("model", "name"),
    [
        ("AMD EPYC 9554 64-Core Processor", "amd-epyc-9554"),
        ("Intel(R) Xeon(R) Gold 6330 CPU @ 2.00GHz", "intel-xeon-gold-6330"),
        ("NVIDIA H200", "nvidia-h200"),
    ],
)
def test_slug(model, name):
    assert machine.slug(model) == name


def test_commit_can_be_given(monkeypatch):
    monkeypatch.setenv("SYMKERN_COMMIT", "abc123-dirty")
    assert machine.commit() == ("abc123", True)
    monkeypatch.setenv("SYMKERN_COMMIT", "abc123")
    assert machine.commit() == ("abc123", False)


@pytest.mark.parametrize("make", [lambda: systems.liquid(500), lambda: systems.molecules(5)], ids=["cell", "molecules"])
def test_a_peer_that_misses_an_edge_is_caught(make):
    system = make()
    entry = peers.symkern(system)

    def without_first(nb):
        receivers, senders, shifts = entry.edges(nb)
        return receivers[1:], senders[1:], None if shifts is None else shifts[1:]

    other = dataclasses.replace(entry, who="peer", edges=without_first)
    peers.check([entry, dataclasses.replace(entry, who="equal")], system)
    with pytest.raises(AssertionError, match="differ in 1 edges"):
        peers.check([entry, other], system)


def test_molecules_look_like_molecules():
    positions = systems.molecules(20).positions.reshape(20, 18, 3)
    d = (positions[:, :, None] - positions[:, None]).norm(dim=-1)
    d.diagonal(dim1=1, dim2=2).fill_(9)
    assert d.min() >= 0.95
    assert d.amin(2).max() <= 1.5


def test_gpu_benchmark_runs_dry(tmp_path, monkeypatch, capsys):
    monkeypatch.delenv("OUT", raising=False)
    assert gpu.main(["--device", "cpu", "--tiny", "--out", str(tmp_path)]) == 0
    assert "FAILED" not in capsys.readouterr().out
    result = json.loads((tmp_path / "dry-run.json").read_text())
    assert report.problems(result) == []
    ops = {"neighbor_list", "edge_vectors", "safe_norm", "radial_basis gaussian", "spherical_basis", "stabilizers"}
    ops |= {"canonical_frames", "sann_edge_features", "symmetric_chamfer", "symmetric_mse", "chamfer"}
    ops |= {"second_order_pool outer", "second_order_pool gram", "second_order_pool moment x 32"}
    ops |= {"EGNNLayer", "CFConv", "PaiNN message", "SchNet"}
    assert {row["op"].split(",")[0] for row in result["rows"]} == ops


def test_gpu_script_parses():
    script = ROOT / "benchmarks" / "run_gpu.sh"
    assert os.access(script, os.X_OK)
    subprocess.run(["bash", "-n", script], check=True)
    assert sum(int(line.split()[2]) for line in script.read_text().splitlines() if _is_stage(line)) <= 600


def _is_stage(line):
    words = line.split()
    return len(words) >= 4 and words[0] == "stage" and words[2].isdigit()


@pytest.mark.parametrize("path", sorted((ROOT / "benchmarks" / "results").glob("*.json")), ids=lambda path: path.name)
def test_stored_results_are_as_a_run_wrote_them(path):
    result = json.loads(path.read_text())
    assert report.problems(result) == []
    assert path.stem == result["machine"]
    assert path.with_suffix(".md").read_text() == report.render(result)


def test_the_readme_shows_a_stored_result():
    text = (ROOT / "README.md").read_text()
    results = [json.loads(path.read_text()) for path in (ROOT / "benchmarks" / "results").glob("*.json")]
    assert any(report.update_readme(text, result) == text for result in results)


def test_the_summary_has_one_line_for_each_target():
    peer = dataclasses.replace(ROW, who="peer", target=4, target_kind="at_least")
    rows = [
        ROW,
        dataclasses.replace(peer, form="plain", median=10.0, ratio=5.0, reached=5.0),
        dataclasses.replace(peer, form="fast", median=6.0, ratio=3.0, reached=3.0),
    ]
    lines = report.summary(_result() | {"rows": [dataclasses.asdict(row) for row in rows]}).splitlines()
    assert len(lines) == 4 + 2
    assert "| peer: plain | 10 ms | 2 ms | ≥ 4x | 5x |" in lines[4]
    assert "**not met**" in lines[5]


def test_a_readme_without_a_place_for_the_table_is_refused():
    with pytest.raises(ValueError, match="README has no"):
        report.update_readme("nothing", _result())


def test_the_summary_has_one_line_for_all_passes_of_a_layer():
    peer = dataclasses.replace(ROW, who="peer", target=4, target_kind="at_least")
    rows = [
        dataclasses.replace(ROW, op="layer, force step"),
        dataclasses.replace(peer, op="layer, forward", ratio=5.0, reached=5.0),
        dataclasses.replace(peer, op="layer, forward + gradient", ratio=3.0, reached=3.0),
        dataclasses.replace(peer, op="layer, force step", ratio=2.0, target=None, target_kind=None),
    ]
    lines = report.summary(_result() | {"rows": [dataclasses.asdict(row) for row in rows]}).splitlines()
    assert lines[-1] == "| layer | system | peer: form | 5x (≥ 4x) | **3x** (≥ 4x) | 2x |"
    assert len([line for line in lines if "layer | system | peer" in line]) == 1


@pytest.mark.parametrize(
    ("isa", "passed", "kind", "width", "expected"),
    [
        ("avx512", "forward", "eager", 64, 5.0),
        ("avx512", "forward", "matmul", 128, 0.6),
        ("avx512", "forward + gradient", "eager", 128, 3.3),
        ("avx512", "force step", "eager", 64, 3.0),
        ("avx2", "forward", "eager", 128, 3.0),
        ("avx2", "force step", "eager", 64, None),
        ("baseline", "forward", "eager", 64, None),
    ],
)
def test_targets_of_layers_are_those_of_the_instruction_set(monkeypatch, isa, passed, kind, width, expected):
    monkeypatch.setattr(machine, "isa", lambda: isa)
    assert layer_ops.target(kind, passed, width) == expected


@pytest.mark.parametrize("name", ["egnn_edges", "egnn_layer", "painn"])
@pytest.mark.parametrize("passed", report.PASSES)
def test_peers_of_layers_compute_the_same(name, passed):
    layer = message_ops.LAYERS[name](layer_ops.molecules(2), 16)
    made = layer_ops.entries(layer, passed, compiled=False)  # compares them
    assert [entry.who for entry in made][:2] == [OURS, "torch eager"]
    wrong = dataclasses.replace(layer.forms[1], function=lambda *x: tuple(2 * y for y in layer.forms[1].function(*x)))
    with pytest.raises(AssertionError, match="differ"):
        layer_ops.entries(dataclasses.replace(layer, forms=[layer.forms[0], wrong]), passed, compiled=False)


def test_memory_is_the_most_held_at_once():
    def call():
        a = torch.empty(1000)
        del a
        return torch.empty(3000)

    assert layer_memory.allocated(call) == 12_000
