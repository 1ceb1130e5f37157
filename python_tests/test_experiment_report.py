"""Rows, tables, plots and the page of results; `symkern reproduce all` and `report`."""

from __future__ import annotations

import inspect
import json
import re
import shutil
from pathlib import Path

import pytest

from symkern import cli, experiments
from symkern.experiments import plots, record, report
from symkern.experiments.cells import CellError
from symkern.experiments.record import Row


def rows() -> list[Row]:
    made = []
    for section in ("paper's protocol", "converged"):
        for task in ("symmetric", "asymmetric"):
            stops = {"best_epoch": [61, 194], "stopped_epoch": [70, 200], "paper_stopped_epoch": [73, 86]}
            notes = {"section": section, "mark": "red", "paper_mark": "green", "paper_std": 0.092, "unit": "Å²"}
            made += [
                Row("EGNN", f"{task}/sbcd", 0.907, [0.25, 0.75], True, {**notes, **stops}),
                Row("SANN", f"{task}/sbcd", None, [0.0, 0.0], False, {"section": section, "parameters": 12345}),
                Row("SANN", f"{task}/matched", None, [1.0, float("nan")], True, {"section": section}),
            ]
    return made


def write(folder: Path, name: str = "sann-table2", stem: str | None = None, **settings: object) -> dict:
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{stem or name}.json"
    return record.write(path, name, ["abc"], {"limit": 0.1, **settings}, rows())


def text_of(page: str) -> str:
    return re.sub(r"\s+", " ", re.sub(r"<[^>]*>", " ", page))


# ---- rows and tables -------------------------------------------------------------------------------------------------


def test_json_has_no_numbers_that_json_lacks(tmp_path: Path) -> None:
    content = write(tmp_path, worst=float("inf"), nested={"values": [1.0, float("nan")]})

    def refuse(text: str) -> None:
        raise AssertionError(text)

    assert json.loads((tmp_path / "sann-table2.json").read_text(), parse_constant=refuse) == content
    assert content["settings"]["worst"] is None
    assert content["settings"]["nested"] == {"values": [1.0, None]}
    broken = content["rows"][2]
    assert (broken["mean"], broken["std"], broken["runs"]) == (None, None, [1.0, None])
    assert content["rows"][0]["mean"] == 0.5
    assert content["rows"][0]["std"] == 0.25


def test_rows_are_checked() -> None:
    with pytest.raises(ValueError, match="runs must not be empty, got none for SANN, a/b"):
        Row("SANN", "a/b", None, [], True)
    with pytest.raises(ValueError, match="mark must be green, red or None, got 'blue'"):
        Row("SANN", "a/b", None, [1.0], True, {"mark": "blue"})


def test_table(tmp_path: Path) -> None:
    content = write(tmp_path, findings=["No single reading fits."])
    lines = record.table(content).splitlines()
    assert lines[0] == "No single reading fits."
    assert lines[2] == "paper's protocol"
    assert re.fullmatch(r"EGNN +symmetric/sbcd, Å² +0\.907 ± 0\.092 +0\.5 +0\.25 +61-194 +full", lines[4])
    assert re.fullmatch(r"SANN +symmetric/matched +not finite +full", lines[6])
    assert lines.count("converged") == 1
    assert "\033" not in "".join(lines)
    colored = record.table(content, colored=True)
    assert "\033[31m" in colored.splitlines()[4]  # ours red
    assert "\033[32m" in colored.splitlines()[4]  # paper green
    assert re.sub(r"\033\[\d+m", "", colored).splitlines() == lines


# ---- the page --------------------------------------------------------------------------------------------------------


def test_report(tmp_path: Path) -> None:
    write(tmp_path, findings=["A <finding> & more."], notes=["What was", "chosen."])
    write(tmp_path / "sann-table1", "sann-table1")
    write(tmp_path / "sann-table1", "sann-table1", "sann-table1-stretch")
    write(tmp_path / "sann-table1" / "cells" / "x", "too-deep")
    for stem, byte in (("sann-table1", b"1"), ("sann-table1-more", b"2"), ("sann-table1-stretch", b"3")):
        (tmp_path / "sann-table1" / f"{stem}.png").write_bytes(byte)
    (tmp_path / "other.json").write_text('{"no": "result"}')
    page = report.build(tmp_path).read_text()
    headings = re.findall(r"<h2>(.*?)</h2>", page)
    assert headings == [
        experiments.TITLES["sann-table1"],
        experiments.TITLES["sann-table1"] + " (stretch)",
        experiments.TITLES["sann-table2"],
    ]
    sections = page.split("<section")[2:]
    pictures = [re.findall(r"base64,([^\"]*)", section) for section in sections]
    assert pictures == [["Mg==", "MQ=="], ["Mw=="], []]
    last = sections[-1]
    assert "<li>A &lt;finding&gt; &amp; more.</li>" in last
    assert "What was\nchosen." in last
    assert '<span class="cell fail" title="runs: 0.25, 0.75">0.5 ± 0.25</span>' in last
    assert '<span class="cell pass" title="">0.907 ± 0.092</span>' in last
    text = text_of(last)
    assert text.count("EGNN best epoch 61-194 stopped at 70-200 paper stopped at 73-86 0.907 ± 0.092 0.5 ± 0.25") == 2
    assert "12,345 parameters" in text
    assert "not finite" in text
    assert "reduced" in text
    assert re.search(r"limit 0\.1", text)
    assert text.count("converged") == 1


def test_digest(tmp_path: Path) -> None:
    """Findings and plots, with links that lead from the folder to them."""
    write(tmp_path / "one", findings=["All is well."])
    plots.bars(tmp_path / "one" / "sann-table2.png", [row.as_json() for row in rows()], title="plot")
    report.build(tmp_path)
    text = (tmp_path / "report.md").read_text()
    assert "## SANN, Table 2: normal modes of water\n\n[sann-table2.json](one/sann-table2.json), full, reduced" in text
    assert "- All is well.\n\n![sann-table2](one/sann-table2.png)\n" in text


def test_committed_digest_is_that_of_the_committed_results(tmp_path: Path) -> None:
    results = Path(__file__).parent.parent / "results"
    shutil.copytree(results, tmp_path / "results", ignore=shutil.ignore_patterns("cells", "report.*", "*.pt"))
    report.build(tmp_path / "results")
    assert (results / "report.md").read_text() == (tmp_path / "results" / "report.md").read_text()


FOREIGN = {
    "rows": '{"name": "x", "commit": "c", "settings": {}, "rows": [{"model": "a"}]}',
    "settings": '{"name": "x", "commit": "c", "settings": null, "rows": [{}]}',
    "text": '{"name": "x", "commit": "c", "settings": {}, "rows": ["a"]}',
    "deep": "[" * 100_000,
}


@pytest.mark.parametrize("name", FOREIGN)
def test_report_beside_foreign_files(name: str, tmp_path: Path) -> None:
    write(tmp_path)
    (tmp_path / f"{name}[1].json").write_text(FOREIGN[name])
    (tmp_path / "folder.json").mkdir()
    with pytest.warns(UserWarning, match=r"is left out of the report"):
        report.build(tmp_path)
    assert "sann-table2.json" in (tmp_path / "report.html").read_text()


def test_a_full_run_is_not_replaced_by_less(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    full = [Row("EGNN", "a/b", None, [1.0, 2.0], True), Row("zero", "a/b", None, [1.0], True)]
    before = record.write(path, "a", ["abc"], {}, full)
    with pytest.raises(ValueError, match="holds a run of the whole protocol, which this one would replace"):
        record.write(path, "a", ["abc"], {}, [Row("EGNN", "a/b", None, [3.0], False), full[1]])
    assert json.loads(path.read_text()) == before
    assert before["rows"][0]["std"] == 0.5
    assert before["rows"][1]["std"] is None  # a single run
    record.write(path, "a", ["abc"], {}, full)  # its like takes its place


def test_interrupted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(experiments, "load", lambda name: interrupted)
    assert cli.main(["reproduce", "sann-table2", "--out", str(tmp_path)]) == 130
    assert f"interrupted; what is finished is kept in {tmp_path}" in capsys.readouterr().err


def test_report_fetches_nothing(tmp_path: Path) -> None:
    write(tmp_path)
    plots.bars(tmp_path / "sann-table2.png", rows())
    page = report.build(tmp_path).read_text()
    links = re.findall(r"""(?:src|href)\s*=\s*["']([^"']{0,30})""", page)
    assert len(links) == 2
    assert all(link.startswith(("#table-", "data:image/png;base64,iVBOR")) for link in links)
    assert not re.search(r"https?://|@import|url\(|<script", page)


def test_every_figure_of_every_row_is_on_the_page(tmp_path: Path) -> None:
    """Also of wide tables, and of rows that share model and column."""
    made = [
        Row("SANN", f"{task}/{metric}", None, [1000.0 + 100 * i + k], True)
        for i, task in enumerate("abcd")
        for k, metric in enumerate(("x", "y", "z"))
    ]
    made.append(Row("SANN", "a/x", None, [5000.0], True))
    made += [Row("SANN", f"one/{k}", None, [6000.0 + k], True, {"section": "one task"}) for k in range(13)]
    record.write(tmp_path / "new.json", "new", ["abc"], {}, made)
    page = report.build(tmp_path).read_text()
    for row in made:
        assert f">{row.runs[0]:.4g}</span>" in page
    assert [table.count("<th colspan") for table in page.split("<table ")[1:]] == [4, 4, 4, 5, 5, 3]


def test_report_leaves_out_nothing_silently(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="no results of"):
        report.build(tmp_path)
    write(tmp_path)
    (tmp_path / "sann-table1.json").write_text("{")
    with pytest.warns(UserWarning, match=r"sann-table1\.json is left out of the report"):
        report.build(tmp_path)


def test_bars(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    content = write(tmp_path)
    plots.bars(path, rows(), title="Table 2")
    all_of_them = path.read_bytes()
    assert all_of_them.startswith(b"\x89PNG")
    plots.bars(path, content["rows"], title="Table 2")  # as in the file
    assert path.read_bytes() == all_of_them
    plots.bars(path, rows(), columns=["asymmetric/sbcd"])
    assert path.read_bytes() != all_of_them
    with pytest.raises(ValueError, match="columns must have rows, got unknown"):
        plots.bars(path, rows(), columns=["unknown"])


# ---- the command -----------------------------------------------------------------------------------------------------


@pytest.fixture
def fakes(monkeypatch: pytest.MonkeyPatch) -> list[dict]:
    """Experiments that take no time: two of them cannot be run."""
    seen: list[dict] = []

    def load(name: str):
        def run(data, out, *, quick, seeds, device, workers):
            options = {"quick": quick, "seeds": seeds, "device": device, "workers": workers}
            if name == "sann-table3":
                raise FileNotFoundError("8000.hdf5 not found in /nowhere")
            if name == "asan-table2":
                raise CellError("1 of 2 cells failed: a. The first, a:\nTraceback: deep inside")
            seen.append({"name": name, "data": data, **options})
            return write(out, name)

        return run

    monkeypatch.setattr(experiments, "load", load)
    return seen


def test_all_goes_on(tmp_path: Path, fakes: list[dict], capsys: pytest.CaptureFixture[str]) -> None:
    command = ["reproduce", "all", "--out", str(tmp_path), "--quick", "--seeds", "3", "--workers", "2"]
    assert cli.main(command) == 1
    out, err = capsys.readouterr()
    ran = [name for name in experiments.ALL if name not in ("sann-table3", "asan-table2")]
    assert [entry["name"] for entry in fakes] == ran
    options = {"data": None, "quick": True, "seeds": 3, "device": "cpu", "workers": 2}
    assert all(entry == {"name": entry["name"], **options} for entry in fakes)
    assert (
        "2 of 9 not finished:\n  asan-table2: 1 of 2 cells failed: a. The first, a:\n  sann-table3: 8000.hdf5 not found"
        in err
    )
    assert "Traceback: deep inside" in err
    assert f"report: {tmp_path / 'report.html'}" in out
    page = (tmp_path / "report.html").read_text()
    assert re.findall(r"<h2>(.*?)</h2>", page) == [experiments.TITLES[name] for name in ran]


def test_one(tmp_path: Path, fakes: list[dict], capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["reproduce", "sann-table1", "--out", str(tmp_path)]) == 0
    assert fakes == [
        {"name": "sann-table1", "data": None, "quick": False, "seeds": None, "device": "cpu", "workers": 1}
    ]
    assert "SANN, Table 1" in capsys.readouterr().out
    assert cli.main(["reproduce", "asan-table2", "--out", str(tmp_path)]) == 1
    assert "Traceback: deep inside" in capsys.readouterr().err
    with pytest.raises(SystemExit, match="2"):
        cli.main(["reproduce", "sann-table3", "--out", str(tmp_path)])
    assert "8000.hdf5 not found in /nowhere" in capsys.readouterr().err


def test_full(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """Where the whole protocol is not the default."""
    seen = []

    def run(data, out, *, quick, seeds, device, workers, full=False):
        seen.append(full)
        return write(out, "sann-table3")

    monkeypatch.setattr(experiments, "load", lambda name: run)
    for options in ([], ["--full"]):
        assert cli.main(["reproduce", "sann-table3", "--out", str(tmp_path), *options]) == 0
    assert seen == [False, True]
    with pytest.raises(SystemExit, match="2"):
        cli.main(["reproduce", "sann-table3", "--out", str(tmp_path), "--full", "--quick"])
    assert "--quick and --full exclude each other" in capsys.readouterr().err


@pytest.mark.parametrize("name", list(experiments.NAMES))
def test_every_experiment_has_the_same_signature(name: str) -> None:
    parameters = inspect.signature(experiments.load(name)).parameters
    assert list(parameters)[:2] == ["data", "out"]
    defaults = {"quick": False, "seeds": None, "device": "cpu", "workers": 1, "progress": True}
    assert {key: parameters[key].default for key in defaults} == defaults
    more = [parameter for key, parameter in parameters.items() if key not in ("data", "out", *defaults)]
    assert all(parameter.default is not inspect.Parameter.empty for parameter in more)


def test_report_alone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write(tmp_path)
    assert cli.main(["reproduce", "report", "--out", str(tmp_path)]) == 0
    assert (tmp_path / "report.html").exists()
    with pytest.raises(SystemExit, match="2"):
        cli.main(["reproduce", "report", "--out", str(tmp_path / "empty")])
    assert "no results of" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["nonsense"], "name must be one of asan-table1, .*, all, report, got 'nonsense'"),
        (["all", "--seeds", "0"], "--seeds must be positive, got 0"),
        (["all", "--device", "abacus"], "--device must be one that torch can use here, got 'abacus': "),
        (["all", "--workers", "-1"], "--workers must be positive, got -1"),
    ],
)
def test_refused(
    arguments: list[str], reason: str, tmp_path: Path, fakes: list[dict], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit, match="2"):
        cli.main(["reproduce", *arguments, "--out", str(tmp_path)])
    assert re.search(reason, capsys.readouterr().err)
    assert not fakes


def test_missing_packages_are_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys) -> None:
    def load(name: str):
        raise ModuleNotFoundError("No module named 'sklearn'", name="sklearn")

    monkeypatch.setattr(experiments, "load", load)
    assert cli.main(["reproduce", "asan-table1", "--out", str(tmp_path)]) == 1
    assert "needs sklearn: pip install 'symkern[reproduce]'" in capsys.readouterr().err
    assert cli.main(["reproduce", "all", "--out", str(tmp_path)]) == 1
    assert "9 of 9 not finished:\n  asan-table1: this needs sklearn" in capsys.readouterr().err


def test_names_titles_and_documentation_agree() -> None:
    assert list(experiments.TITLES) == list(experiments.NAMES)
    page = (Path(__file__).parent.parent / "docs" / "reproduction.md").read_text()
    assert [name for name in experiments.NAMES if f"`{name}`" not in page] == []
