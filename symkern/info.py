"""What is installed and what it can do here; `symkern info`."""

from __future__ import annotations

import platform
from pathlib import Path
from typing import Any

from symkern import __version__


def collect() -> dict[str, Any]:
    """Everything `symkern info` shows, as JSON-ready values. A part that is broken is described, not raised."""
    found: dict[str, Any] = {
        "symkern": __version__,
        "python": platform.python_version(),
        "platform": f"{platform.system()} {platform.machine()}",
    }
    found["host"] = _host()
    found["torch"] = _torch()
    if "problem" not in found["torch"]:
        found |= _libraries()
    return found


def problems(found: dict[str, Any]) -> list[str]:
    """What keeps symkern from working on the CPU; empty if nothing does."""
    parts = (found["host"], found["torch"], found.get("cpu_library", {}))
    return [str(part["problem"]) for part in parts if part.get("problem")]


def text(found: dict[str, Any]) -> str:
    """The same for reading, in plain ASCII columns."""
    host, torch = found["host"], found["torch"]
    lines = [
        ("symkern", found["symkern"]),
        ("Python", f"{found['python']} on {found['platform']}"),
        ("torch", torch.get("problem") or f"{torch['version']}, {_cuda_of(torch)}, {torch['threads']} threads"),
    ]
    if "problem" in host:
        lines.append(("host module", f"NOT USABLE: {host['problem']}"))
    else:
        lines += [
            ("compiler", host["compiler"]),
            ("ISA", f"{host['isa']} in use, {host['isa_detected']} found"),
            ("huge pages", f"{'asked for' if host['huge_pages'] else 'off'} (system: {host['huge_pages_system']})"),
        ]
    for label, key in (("CPU library", "cpu_library"), ("CUDA library", "cuda_library")):
        if key in found:
            lines.append((label, _library_line(found[key])))
    if "gpus" in found:
        lines.append(("GPU", ", ".join(found["gpus"]) or "none found"))
    body = [f"{label:<13} {value}" for label, value in lines]
    if found.get("ops"):
        width = max(len(name) for name in found["ops"])
        body += ["", f"{'op':<{width}}  CPU  CUDA"]
        body += [f"{name:<{width}}  {_yes(op['cpu']):<3}  {_yes(op['cuda'])}" for name, op in found["ops"].items()]
    return "\n".join(body)


def _host() -> dict[str, Any]:
    try:
        from symkern import host
    except ImportError as error:
        return {"problem": str(error)}
    info = host.build_info()
    setting = Path("/sys/kernel/mm/transparent_hugepage/enabled")
    # the file reads "always [madvise] never"
    choice = setting.read_text().partition("[")[2].partition("]")[0] if setting.exists() else "unknown"
    keys = ("version", "compiler", "isa", "isa_detected", "huge_pages")
    return {**{key: info[key] for key in keys}, "huge_pages_system": choice}


def _torch() -> dict[str, Any]:
    try:
        import torch
    except ImportError as error:
        return {"problem": f"cannot be imported: {error}; install it: pip install 'torch>=2.10'"}
    return {"version": torch.__version__, "cuda": torch.version.cuda, "threads": torch.get_num_threads()}


def _libraries() -> dict[str, Any]:
    import torch

    try:
        from symkern import _library
    except (ImportError, OSError) as error:
        return {"cpu_library": {"problem": str(error)}}
    cuda = _library.cuda.problem is None
    return {
        "cpu_library": _status(_library.cpu),
        "cuda_library": _status(_library.cuda),
        "gpus": [torch.cuda.get_device_name(k) for k in range(torch.cuda.device_count())],
        # without the CUDA library, kernels under the CUDA key are placeholders that raise the reason
        "ops": {
            name: {"cpu": _library.has_kernel(name, "CPU"), "cuda": cuda and _library.has_kernel(name, "CUDA")}
            for name in _library.op_names()
        },
    }


def _status(library: Any) -> dict[str, Any]:
    return {
        "path": str(library.path),
        "exists": library.path.exists(),
        "build": dict(library.build),
        "problem": library.problem,
    }


def _library_line(library: dict[str, Any]) -> str:
    build = library.get("build") or {}
    parts = [f"{key} {build[key]}" for key in ("compiler", "cuda", "architectures") if key in build]
    described = f" ({'; '.join(parts)})" if parts else ""
    if library["problem"]:
        return f"not in use: {library['problem']}{described}"
    return f"{library['path']}{described}"


def _cuda_of(torch: dict[str, Any]) -> str:
    return f"CUDA {torch['cuda']}" if torch["cuda"] else "no CUDA"


def _yes(value: bool) -> str:
    return "yes" if value else "no"
