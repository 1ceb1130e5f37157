"""What a step of the demo hands over to the terminal, the report and ``results.json``."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any


@dataclass(frozen=True)
class Check:
    """One thing that was compared, and whether it held."""

    name: str
    passed: bool
    detail: str


@dataclass(frozen=True)
class Timing:
    """One input through neighbor_list, and through ASE as far as ASE was asked.

    Attributes:
        seconds, seconds_one_thread: median of symkern calls on the whole input.
        ase_atoms: atoms ASE was given; ase_seconds: its time for these.
        compared: atoms whose complete neighbor sets were compared; fewer than ase_atoms where ASE was given a cluster.
        at_cutoff: pairs within rounding of the cutoff on which the two differ; they are not compared.
    """

    system: str
    structures: int
    atoms: int
    edges: int
    cutoff: float
    seconds: float
    seconds_one_thread: float
    compared: int
    ase_atoms: int
    ase_seconds: float
    at_cutoff: int
    identical: bool

    @property
    def rate(self) -> float:
        """Atoms per second."""
        return self.atoms / self.seconds

    @property
    def rate_one_thread(self) -> float:
        return self.atoms / self.seconds_one_thread

    @property
    def ase_rate(self) -> float:
        return self.ase_atoms / self.ase_seconds

    def check(self) -> Check:
        part = "all" if self.compared == self.atoms else f"{self.compared:,} of {self.atoms:,}"
        detail = f"pairs and shifts {'equal' if self.identical else 'DIFFER FROM'} ASE's ({part} atoms)"
        if self.at_cutoff:
            detail += f"; {self.at_cutoff} pairs within rounding of the cutoff left out"
        return Check(f"{self.system}, {self.cutoff:g} Å", self.identical, detail)


@dataclass(frozen=True)
class Plot:
    """A figure as PNG and what it shows."""

    name: str
    caption: str
    png: bytes


@dataclass
class Section:
    """One step: what was done, checked, timed and drawn. `figures` are further numbers by name."""

    title: str
    text: str
    checks: list[Check] = field(default_factory=list)
    timings: list[Timing] = field(default_factory=list)
    plots: list[Plot] = field(default_factory=list)
    figures: dict[str, str] = field(default_factory=dict)


@dataclass
class Results:
    """The whole run."""

    info: dict[str, Any]
    started: str
    sections: list[Section] = field(default_factory=list)
    seconds: float = 0.0

    @property
    def checks(self) -> list[Check]:
        return [check for section in self.sections for check in section.checks]

    @property
    def timings(self) -> list[Timing]:
        return [timing for section in self.sections for timing in section.timings]

    @property
    def passed(self) -> bool:
        return bool(self.checks) and all(check.passed for check in self.checks)

    def as_json(self) -> dict[str, Any]:
        """Plain values, without the pictures."""
        return {
            "passed": self.passed,
            "started": self.started,
            "seconds": self.seconds,
            "info": self.info,
            "checks": [asdict(check) for check in self.checks],
            "timings": [asdict(timing) for timing in self.timings],
            "figures": {section.title: section.figures for section in self.sections if section.figures},
        }
