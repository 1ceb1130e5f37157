"""Finds and loads the compiled op libraries, and says what is wrong when that fails.

The CPU library is needed. The CUDA library is loaded only where torch has CUDA; when it cannot be used, symkern works
on the CPU and every call with CUDA tensors raises the reason.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from symkern import __version__

MINIMUM_TORCH = (2, 10)
# oldest driver that runs programs of a CUDA major version
MINIMUM_DRIVER = {12: "525", 13: "580"}

_REBUILD = "make build (in a source tree), or pip install --no-build-isolation --force-reinstall --no-deps ."


@dataclass(frozen=True)
class LibraryStatus:
    """One op library: where it is, what it was built from, and why it is not in use (None if it is)."""

    path: Path
    build: dict[str, str]
    problem: str | None


def check_torch(found: str) -> str | None:
    """Why this version of torch cannot be used, or None."""
    major, minor = found.split("+")[0].split(".")[:2]
    if (int(major), int(minor)) >= MINIMUM_TORCH:
        return None
    return (
        f"found torch {found}, expected torch >= 2.10 (symkern is built on its stable C++ interface); "
        "install a newer one: pip install -U 'torch>=2.10'"
    )


def check_driver(driver: int, built_by: str) -> str | None:
    """Why a driver for CUDA `driver` (12080 for 12.8, 0 for none) cannot run a library built by CUDA `built_by`.

    Within a major version any driver runs any library; a newer major version needs a newer driver.
    """
    major = int(built_by.split(".")[0])
    if driver == 0 or driver // 1000 >= major:
        return None
    minimum = MINIMUM_DRIVER.get(major, f"of CUDA {major}")
    return (
        f"found a GPU driver for CUDA {driver // 1000}.{driver % 1000 // 10}, expected one for CUDA {major} "
        f"(driver >= {minimum}), because this symkern was built by CUDA {built_by}; "
        "update the driver, or install a symkern built for your CUDA"
    )


def check_files(path: Path, build: dict[str, str], hint: str) -> str | None:
    """Why the library at `path`, described by `build`, cannot belong to this package, or None."""
    if not path.exists():
        return f"found no {path.name} in {path.parent}, expected it there; {hint}"
    found = build.get("version", "an unknown version")
    if found != __version__:
        return (
            f"found {path.name} of symkern {found}, expected {__version__}; a stale build was left behind: {_REBUILD}"
        )
    return None


def _locate(name: str) -> tuple[Path, dict[str, str]]:
    directory = Path(__file__).parent / "lib"
    candidates = sorted(directory.glob(f"libsymkern_{name}.*"))
    description = directory / f"symkern_{name}.json"
    build = json.loads(description.read_text()) if description.exists() else {}
    return (candidates[0] if candidates else directory / f"libsymkern_{name}.so"), build


def _load(path: Path) -> str | None:
    try:
        torch.ops.load_library(path)
    except OSError as error:
        return f"found {path.name}, expected it to load with torch {torch.__version__}, but: {error}; {_REBUILD}"
    return None


def _load_cpu() -> LibraryStatus:
    path, build = _locate("cpu")
    problem = check_torch(torch.__version__) or check_files(path, build, f"build it: {_REBUILD}") or _load(path)
    return LibraryStatus(path, build, problem)


def _load_cuda() -> LibraryStatus:
    path, build = _locate("cuda")
    if torch.version.cuda is None:
        problem: str | None = f"found torch {torch.__version__}, expected a torch with CUDA"
    else:
        problem = (
            check_files(path, build, "build it where nvcc is found, with SYMKERN_CUDA=ON")
            or check_driver(_driver(), build["cuda"])
            or _load(path)
        )
    return LibraryStatus(path, build, problem)


def _driver() -> int:
    version: int = torch._C._cuda_getDriverVersion()  # type: ignore[attr-defined]  # absent from CPU-only torch
    return version


def op_names() -> list[str]:
    """All ops of the library, without the namespace."""
    names = (name.partition("::") for name in torch._C._dispatch_get_all_op_names())
    return sorted({op for namespace, _, op in names if namespace == "symkern"})


def has_kernel(op: str, key: str) -> bool:
    """Whether `op` has a kernel for a dispatch key such as "CPU" or "CUDA"."""
    return bool(torch._C._dispatch_has_kernel_for_dispatch_key(f"symkern::{op}", key))


def _block_cuda(problem: str) -> torch.library.Library:
    """Register kernels that raise `problem`, where torch itself would only say that there is none."""

    def blocked(*_args: Any, **_kwargs: Any) -> Any:
        raise RuntimeError(f"symkern has no CUDA kernels here: {problem}")

    library = torch.library.Library("symkern", "FRAGMENT")
    for name in op_names():
        library.impl(name, blocked, "CUDA")
    return library


cpu = _load_cpu()
if cpu.problem is not None:
    raise ImportError(f"symkern: {cpu.problem}")
cuda = _load_cuda()
_blocked = _block_cuda(cuda.problem) if cuda.problem is not None else None
