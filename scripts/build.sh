#!/usr/bin/env bash
# Compiles the libraries and puts them into the source tree. Usage: build.sh DIRECTORY CUDA(ON|OFF|AUTO) JOBS [cmake options]
set -euo pipefail
directory=$1 cuda=$2 jobs=$3
shift 3
bin=$PWD/.venv/bin
PATH="$bin:$PATH"
options=(-G Ninja -DSYMKERN_CUDA="$cuda" -DPython_EXECUTABLE="$bin/python"
         -Dpybind11_DIR="$("$bin/python" -m pybind11 --cmakedir)" --log-level=WARNING "$@")
if ! [ -f "$directory/build.ninja" ] || [ "$(cat "$directory/options" 2>/dev/null)" != "${options[*]}" ]; then
  cmake -S . -B "$directory" "${options[@]}"
  echo "${options[*]}" >"$directory/options"
fi
if [ -n "${VERBOSE_LOG:-}" ]; then
  cmake --build "$directory" -j "$jobs" >"$VERBOSE_LOG" 2>&1 || { grep -E 'error|FAILED' "$VERBOSE_LOG"; exit 1; }
else
  cmake --build "$directory" -j "$jobs" | { grep -vE '^ninja: no work to do|^\[' || true; }
fi
cmake --install "$directory" --prefix "${PREFIX:-.}" >/dev/null
