#!/usr/bin/env bash
# ASan + UBSan over core and ops (the Python tests against an instrumented build) and over the SIMT shim.
set -euo pipefail
cd "$(dirname "$0")/.."
root=$PWD
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

tests() {
  run "$python" -m pytest --capture=sys -p no:cacheprovider -c "$root/pyproject.toml" --rootdir "$root" "$@"
}
names=("$root"/python_tests/test_{neighbor_list,neighbor_list_numerics,neighbors,edge_vectors,verlet,host}.py
  "$root"/python_tests/test_{stabilizers_core,chamfer,symmetric_losses,canonical_frames,sann_graphs}.py)
slow="memory_is_proportional or crystals or large_systems or immensely_far"
echo "asan: ops, AVX-512 or the best there is"
tests "${names[@]}" -k "not ($slow)"
# every op's values and derivatives, and what it refuses; the other checks run the same code on the same samples again
tests "$root/python_tests/test_contract.py" -k "test_reference or not_contiguous or derivatives or bad_input"
for isa in avx2 baseline; do
  echo "asan: ops, $isa"
  SYMKERN_ISA=$isa tests "${names[0]}" -k "generated or g2 or bravais"
done
echo "asan: SIMT shim and GPU schedules"
csrc/testing/run.sh asan
