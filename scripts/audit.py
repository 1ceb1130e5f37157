"""Three properties of the sources and binaries that no functional test would notice: layering, the symbols that a
library needs, and what the objects of one instruction-set level share with others.

Each function returns what is wrong, one line each. Usage: python scripts/audit.py [BUILD_DIRECTORY]
"""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

TORCH_HEADER = re.compile(r'#\s*include\s*[<"]((?:torch|ATen|c10|caffe2)/[^>"]*)')
TORCH_NAME = re.compile(r"\b(torch|at|c10|caffe2)\s*::|\baoti_torch|#\s*include\s*[<\"](torch|ATen|c10)/")
# C++ of libtorch that is not the stable ABI, and the Python C API
FOREIGN = re.compile(r"^_Z\w*?(3c10|2at[0-9N]|5torch|6caffe2)|^_?Py[A-Z_]")
SOURCES = (".h", ".cpp", ".cuh", ".cu")


def layering(csrc: Path) -> list[str]:
    """Only torch/shim.h includes torch, and core, host and the schedules in ops/*.h, ops/*.cuh do not name it."""
    problems = []
    ours = {f"torch/{file.name}" for file in (csrc / "torch").glob("*.h")}
    for file in sorted(p for p in csrc.rglob("*") if p.suffix in SOURCES):
        name = file.relative_to(csrc).as_posix()
        if name == "torch/shim.h":
            continue
        free = not (name.startswith("torch/") or (name.startswith("ops/") and file.suffix in (".cpp", ".cu")))
        for number, line in enumerate(_without_comments(file.read_text()).splitlines(), 1):
            header = TORCH_HEADER.search(line)
            if header and (free or header[1] not in ours):
                problems.append(f"{name}:{number} includes a torch header; only torch/shim.h may: {line.strip()}")
            elif free and TORCH_NAME.search(line):
                problems.append(f"{name}:{number} names torch in a torch-free file: {line.strip()}")
    return problems


def _without_comments(text: str) -> str:
    def blank(match: re.Match[str]) -> str:
        return "\n" * match.group().count("\n")

    return re.sub(r"//[^\n]*|/\*.*?\*/", blank, text, flags=re.DOTALL)


def foreign_symbols(library: Path) -> list[str]:
    """Undefined symbols that would tie an op library to one version of torch or Python."""
    return [
        f"{library.name} needs {name}, which is not part of the stable interface"
        for kind, name in _symbols("-D", "--undefined-only", str(library))
        if kind in "Uwv" and FOREIGN.search(name)
    ]


def shared_symbols(objects: Iterable[Path]) -> list[str]:
    """Symbols of per-level objects that the linker could merge with those of another level.

    An inline function compiled for AVX-512 and kept by the linker would run, and fail, on every other machine.
    """
    return [
        f"{file.parent.name}/{file.name} exports {name} ({kind})"
        for file in objects
        for kind, name in _symbols("--defined-only", "--extern-only", str(file))
        if not re.match(r"^_?_ZN7symkern\d+\w+_kernels_(baseline|avx2|avx512)Ev$", name)
        and not name.startswith("symkern_")
    ]


def _symbols(*arguments: str) -> list[tuple[str, str]]:
    output = subprocess.run(["nm", *arguments], check=True, capture_output=True, text=True).stdout
    rows = [line.split() for line in output.splitlines()]
    return [(row[-2], row[-1].split("@")[0]) for row in rows if len(row) >= 2]


def level_objects(build: Path) -> list[Path]:
    return sorted((build / "CMakeFiles").glob("symkern_simd_*.dir/**/*.o"))


def main() -> int:
    root = Path(__file__).resolve().parent.parent
    build = Path(sys.argv[1]) if len(sys.argv) > 1 else root / "build" / "dev"
    libraries = sorted((root / "symkern" / "lib").glob("libsymkern_*.so"))
    objects = level_objects(build)
    for found, what in ((libraries, "libraries in symkern/lib"), (objects, f"objects in {build}")):
        if not found:
            print(f"audit: found no {what}; run make build first", file=sys.stderr)
            return 2
    problems = layering(root / "csrc") + shared_symbols(objects)
    for library in libraries:
        problems += foreign_symbols(library)
    print("\n".join(problems) or f"audit: layering, {len(libraries)} libraries and {len(objects)} objects are clean")
    return 1 if problems else 0


if __name__ == "__main__":
    raise SystemExit(main())
