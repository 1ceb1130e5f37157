"""What was measured where: the machine, its software, and the rates it reaches at the moment."""

from __future__ import annotations

import datetime
import importlib.metadata
import os
import platform
import re
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

HERE = Path(__file__).resolve().parent
# the folder to import this package from: the checkout, or site-packages where a wheel put it into symkern
IMPORTS = HERE.parents[len(__name__.split(".")) - 2]
SOURCE = HERE.parent if (HERE.parent / "pyproject.toml").exists() else None
PEERS = ("vesin", "nvalchemi-toolkit-ops", "warp-lang", "ase", "pymsym", "pymatgen-core", "torch-geometric")
_HUGE = 8 << 20  # the ops ask for huge pages from this size on


def all_threads() -> int:
    """Threads that "all" means: the processors this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def cpu_model() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def imports() -> dict[str, str]:
    """The environment of a process that imports this package and whatever this process was told to find."""
    places = [str(IMPORTS), *filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep))]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(dict.fromkeys(places))}


def slug(*parts: str) -> str:
    """A file name from words: "AMD EPYC 9554 64-Core Processor" -> "amd-epyc-9554"."""
    text = " ".join(parts).lower()
    text = re.sub(r"\((r|tm)\)|@.*?ghz|\bcpu\b|\bprocessor\b|\b\d+-core\b", " ", text)
    return "-".join(re.findall(r"[a-z0-9.]+", text))


def isa() -> str:
    from symkern import host

    return str(host.build_info()["isa"])


def thp() -> str:
    """The system's setting of transparent huge pages: always, madvise, never, or none where there is no such thing."""
    try:
        text = Path("/sys/kernel/mm/transparent_hugepage/enabled").read_text()
    except OSError:
        return "none"
    chosen = re.search(r"\[(\w+)\]", text)
    return chosen.group(1) if chosen else "none"


def pages(own: bool, block: int) -> str:
    """Page size under a fresh output of `block` bytes: symkern's own, or another library's."""
    setting = thp()
    asked = own and block >= _HUGE and os.environ.get("SYMKERN_HUGE_PAGES", "1")[:1] != "0"
    return "2M" if setting == "always" or (setting == "madvise" and asked) else "4K"


def results_folder(complete: bool) -> Path:
    """Where results go: only a complete run of a checkout may replace what is committed."""
    if SOURCE is None:
        return Path.cwd() / "symkern_bench"
    return HERE / "results" if complete else SOURCE / "build" / "bench"


def commit() -> tuple[str, bool]:
    """Commit, and whether the tree differs from it. SYMKERN_COMMIT says it where a copy has no .git."""
    given = os.environ.get("SYMKERN_COMMIT", "")
    if given:
        return given.removesuffix("-dirty"), given.endswith("-dirty")
    if SOURCE is None or not (SOURCE / ".git").exists():  # git would find the repository around it, if any
        return "unknown", True
    try:
        head = _git("rev-parse", "--short=12", "HEAD")
        # the results of an earlier run are not part of what is measured
        changed = _git("status", "--porcelain", "--", ".", ":!benchmarks/results")
    except (OSError, subprocess.CalledProcessError):
        return "unknown", True
    return head, bool(changed)


def _git(*arguments: str) -> str:
    command = ["git", "-C", str(SOURCE), *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


def versions(names: tuple[str, ...] = PEERS) -> dict[str, str | None]:
    found: dict[str, str | None] = {}
    for name in names:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            found[name] = None
    return found


def describe() -> dict[str, Any]:
    """The head of a result file of this machine. No paths, no host name."""
    import symkern

    head, dirty = commit()
    cores = all_threads()
    return {
        "machine": slug(cpu_model(), f"{cores}c", isa()),
        "device": "cpu",
        "model": cpu_model(),
        "cores": cores,
        "isa": isa(),
        "thp": thp(),
        "commit": head,
        "dirty": dirty,
        "date": datetime.datetime.now(datetime.timezone.utc).strftime("%Y-%m-%d"),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "symkern": symkern.__version__,
        "peers": versions(),
        "driver": None,
        "cuda": None,
    }


def copy_rate(repeats: int = 7, megabytes: int = 128) -> float:
    """GB/s of a large copy on the current thread count: bytes read plus bytes written, over reused memory."""
    source = torch.ones(megabytes << 18)
    target = torch.empty_like(source)
    seconds = _median_time(lambda: target.copy_(source), repeats)
    return 2 * source.nbytes / seconds / 1e9


def matmul_rate(repeats: int = 7, size: int = 1024) -> float:
    """GFLOP/s of a float32 matrix product on the current thread count."""
    a, b = torch.rand(2, size, size)
    out = torch.empty_like(a)
    return 2 * size**3 / _median_time(lambda: torch.mm(a, b, out=out), repeats) / 1e9


def _median_time(call: Callable[[], Any], repeats: int) -> float:
    call()
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        call()
        times.append(time.perf_counter() - start)
    return statistics.median(times)


def resident_bytes() -> int:
    """Memory this process holds now (its peak so far where the system does not tell)."""
    try:
        return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except OSError:
        return peak_bytes()


def peak_bytes() -> int:
    """Most memory this process has held (maxrss)."""
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak << 10


def available_bytes() -> int | None:
    """Memory that could still be used, where the system tells."""
    try:
        text = Path("/proc/meminfo").read_text()
    except OSError:
        return None
    found = re.search(r"MemAvailable:\s+(\d+) kB", text)
    return int(found.group(1)) << 10 if found else None
