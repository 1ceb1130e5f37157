#!/usr/bin/env bash
# Builds and runs the host tests of the GPU schedules. Usage: run.sh [plain|asan|race|nvcc ...], default plain and race.
set -euo pipefail
cd "$(dirname "$0")/../.."
[ -d .venv/bin ] && PATH="$PWD/.venv/bin:$PATH"
modes=${*:-plain race}
cmake -S csrc/testing -B build/simt -G Ninja --log-level=WARNING >/dev/null
cmake --build build/simt | { grep -vE '^ninja: no work|^\[' || true; }
ctest --test-dir build/simt --output-on-failure -L "^(${modes// /|})\$"
