#!/usr/bin/env bash
# ASan + UBSan over core and ops (the Python tests against an instrumented build) and over the SIMT shim.
set -euo pipefail
cd "$(dirname "$0")/.."
python=$PWD/.venv/bin/python
stage=$PWD/build/asan/stage
PREFIX=$stage scripts/build.sh build/asan OFF "${JOBS:-2}" -DSYMKERN_SANITIZE=address,undefined
(cd symkern && find . -name '*.py' -exec cp --parents {} "$stage/symkern/" \;)

asan=$(c++ -print-file-name=libasan.so)
stdcxx=$(c++ -print-file-name=libstdc++.so)
run() {
  # leaks: CPython and torch keep what they allocate at start
  (cd "$stage" && LD_PRELOAD="$asan $stdcxx" ASAN_OPTIONS=detect_leaks=0:abort_on_error=0 SYMKERN_ASAN=1 \
    PYTHONPATH="$stage" PYTHONMALLOC=malloc "$@")
}

echo "asan: a planted overflow must be found"
echo 'extern "C" int planted(int n) { int* x = new int[4]; int y = x[n]; delete[] x; return y; }' |
  c++ -x c++ -g -shared -fPIC -fsanitize=address,undefined -o "$stage/planted.so" -
if run "$python" -c "import ctypes; ctypes.CDLL('./planted.so').planted(4)" >"$stage/planted.log" 2>&1; then
  echo "asan: the planted overflow passed unseen" >&2
  exit 1
fi
grep -q "heap-buffer-overflow" "$stage/planted.log"

echo "asan: the package in use is the instrumented one"
run "$python" -c "import symkern._library as l; assert l.cpu.path.is_relative_to('$stage'), l.cpu.path"

echo "asan: ops"
for isa in avx512 avx2 baseline; do
  SYMKERN_ISA=$isa run "$python" -m pytest -p no:cacheprovider -c "$PWD/pyproject.toml" --rootdir "$PWD" \
    "$PWD/python_tests/test_neighbor_list.py" "$PWD/python_tests/test_neighbors.py" \
    "$PWD/python_tests/test_edge_vectors.py" "$PWD/python_tests/test_host.py" -m "not subprocess" \
    ${ASAN_ARGS:-} $([ $isa = avx512 ] || echo "-k hypothesis")
done
echo "asan: SIMT shim and GPU schedules"
csrc/testing/run.sh asan
