"""Prints registers, shared memory and spills of every kernel from a build log with ``-Xptxas -v``.

Exits with 1 if a kernel spills registers; passes over edges, which use all there are, may keep a few numbers on the
stack: in which of them that is changes with every version of the compiler. Usage: ptxas_figures.py LOG
"""

import re
import subprocess
import sys
from collections import defaultdict
from pathlib import Path

_ENTRY = re.compile(r"Compiling entry function '(\w+)' for 'sm_(\w+)'")
_STACK = re.compile(r"(\d+) bytes stack frame, (\d+) bytes spill stores, (\d+) bytes spill loads")
_PASS = ", math "  # in the short name of a pass over edges, core/tile_launch.cuh
_FEW = 32  # bytes written and read
_USED = re.compile(r"Used (\d+) registers(?:.*?(\d+) bytes smem)?")


def parse(log: str) -> dict[tuple[str, str], dict[str, int]]:
    """(mangled kernel, architecture) -> registers, stack, spills and static shared memory in bytes."""
    figures: dict[tuple[str, str], dict[str, int]] = defaultdict(dict)
    current: tuple[str, str] | None = None
    for line in log.splitlines():
        if entry := _ENTRY.search(line):
            current = (entry[1], entry[2])
        elif current and (stack := _STACK.search(line)):
            figures[current].update(stack=int(stack[1]), spills=int(stack[2]) + int(stack[3]))
        elif current and (used := _USED.search(line)):
            figures[current].update(registers=int(used[1]), shared=int(used[2] or 0))
    return dict(figures)


def short_name(mangled: str) -> str:
    name = subprocess.run(["c++filt", mangled], capture_output=True, text=True, check=True).stdout.strip()
    name = re.sub(r"\(anonymous namespace\)::|symkern::|void |neighbor_cuda::", "", name)
    name = re.sub(r"\(Tile(Math|Bug)\)", "", name)
    name = re.sub(r"tile_pass<GpuBlock<(\w+), (\d), (\d+), .*?>, (\w+)<.*", r"\4 \1, math \2, \3 rows", name)
    return re.sub(r"\((?!.*\().*$", "", name.split("(")[0] if "for_each" not in name else name)[:60]


def main(path: str) -> int:
    figures = parse(Path(path).read_text())
    own = {key: value for key, value in figures.items() if "cub" not in key[0]}
    if not own:
        print(f"no kernels in {path}: was it built with -Xptxas -v?", file=sys.stderr)
        return 1
    print(f"{'kernel':62} {'sm':>5} {'registers':>9} {'stack':>6} {'spills':>6} {'shared':>6}")
    spilling = 0
    for (mangled, architecture), f in sorted(own.items()):
        name = short_name(mangled)
        spilling += f.get("spills", 0) > (_FEW if _PASS in name else 0)
        print(
            f"{name:62} {architecture:>5} {f.get('registers', 0):9} {f.get('stack', 0):6} "
            f"{f.get('spills', 0):6} {f.get('shared', 0):6}"
        )
    if spilling:
        print(f"{spilling} kernels spill registers", file=sys.stderr)
    return 1 if spilling else 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1]))
