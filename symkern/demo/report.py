"""The HTML page of the demo."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape

from symkern import info
from symkern._page import figure, page
from symkern.demo.results import Plot, Results, Section, Timing

TIMING_NOTE = (
    "fp64, full lists with shifts. symkern: sorted by receiver, median of several calls after a warm-up, fresh "
    "outputs. ASE: one call per structure, one thread, on the atoms in its column. Ratio: of atoms per second."
)


def html(results: Results, rates: Plot) -> str:
    """The whole page."""
    failed = sum(not check.passed for check in results.checks)
    verdict = f"{failed} of {len(results.checks)} checks failed" if failed else "all checks passed"
    body = [
        "<h1>symkern demo</h1>",
        f'<div class="verdict {"fail" if failed else "pass"}">{verdict}</div>',
        f'<p class="quiet">{escape(results.started)}, {results.seconds:.0f} s</p>',
        _tiles(results),
        *(_section(section) for section in results.sections),
        "<section><h2>All timings</h2>",
        _timing_table(results.timings, results.info["torch"]["threads"]),
        f'<p class="quiet">{escape(TIMING_NOTE)}</p>{_figure(rates)}</section>',
        f"<section><h2>What is installed</h2><pre>{escape(info.text(results.info))}</pre></section>",
    ]
    return page("symkern demo", "\n".join(body))


def timing_header(threads: int) -> list[str]:
    many = f"{threads} threads" if threads > 1 else "1 thread"
    times = [f"{many}\nms", "1 thread\nms", "ASE\nms", "ASE\natoms"]
    return ["system", "cutoff\nÅ", "structures", "atoms", "edges", *times, "ratio", "ratio,\n1 thread", "same"]


def timing_cells(timing: Timing) -> list[str]:
    return [
        timing.system,
        f"{timing.cutoff:g}",
        f"{timing.structures:,}",
        f"{timing.atoms:,}",
        f"{timing.edges:,}",
        _milliseconds(timing.seconds),
        _milliseconds(timing.seconds_one_thread),
        _milliseconds(timing.ase_seconds),
        f"{timing.ase_atoms:,}",
        f"{timing.rate / timing.ase_rate:.0f}x",
        f"{timing.rate_one_thread / timing.ase_rate:.0f}x",
        "yes" if timing.identical else "NO",
    ]


def _milliseconds(seconds: float) -> str:
    return (
        f"{seconds * 1e3:,.0f}"
        if seconds >= 0.1
        else f"{seconds * 1e3:.2g}"
        if seconds < 0.01
        else f"{seconds * 1e3:.1f}"
    )


def _tiles(results: Results) -> str:
    largest = max(results.timings, key=lambda timing: timing.edges)
    passed = sum(check.passed for check in results.checks)
    tiles = [
        (f"{passed} / {len(results.checks)}", "checks passed"),
        (
            f"{sum(timing.edges for timing in results.timings) / 1e6:.1f} M",
            "edges computed in one pass over all inputs",
        ),
        (f"{largest.edges / largest.seconds / 1e6:.0f} M/s", f"edges per second, {largest.system}"),
        (f"{largest.rate_one_thread / largest.ase_rate:.0f}x", f"ASE's rate, {largest.system}, one thread each"),
    ]
    cells = (f'<div class="tile"><b>{escape(value)}</b><span>{escape(what)}</span></div>' for value, what in tiles)
    return f'<div class="tiles">{"".join(cells)}</div>'


def _section(section: Section) -> str:
    marks = {True: '<span class="mark pass">pass</span>', False: '<span class="mark fail">FAIL</span>'}
    checks = (f"<li>{marks[c.passed]}<b>{escape(c.name)}</b>: {escape(c.detail)}</li>" for c in section.checks)
    figures = "".join(f"<dt>{escape(name)}</dt><dd>{escape(value)}</dd>" for name, value in section.figures.items())
    return (
        f"<section><h2>{escape(section.title)}</h2><p>{escape(section.text)}</p><ul>{''.join(checks)}</ul>"
        + (f"<dl>{figures}</dl>" if figures else "")
        + "".join(map(_figure, section.plots))
        + "</section>"
    )


def _timing_table(timings: Sequence[Timing], threads: int) -> str:
    def row(tag: str, cells: Iterable[str]) -> str:
        first, *others = cells
        return (
            f'<tr><{tag} class="text">{escape(first)}</{tag}>'
            + "".join(f"<{tag}>{escape(c).replace(chr(10), '<br>')}</{tag}>" for c in others)
            + "</tr>"
        )

    rows = [row("th", timing_header(threads)), *(row("td", timing_cells(timing)) for timing in timings)]
    return f'<div class="scroll"><table>{"".join(rows)}</table></div>'


def _figure(plot: Plot) -> str:
    return figure(plot.png, plot.caption)
