#!/usr/bin/env bash
# Everything that needs a GPU, in one go, offline, within ten minutes: build, tests on cuda, compute-sanitizer, benchmarks.
#   benchmarks/run_gpu.sh                          writes benchmarks/results/<gpu>.json and .md
#   SYMKERN_GPU_DRY_RUN=1 benchmarks/run_gpu.sh    the same stages at tiny sizes on the CPU, without touching the tree
# Uses the python that is there (PYTHON=python3) with torch, pybind11, cmake, ninja, pytest, hypothesis; nothing is downloaded.
# SYMKERN_COMMIT=HASH[-dirty] names the commit where the copy has no .git. Copies of logs and results go to $OUT if set.
# A stage that fails or runs out of time does not stop the next ones; the exit code is their number. A stage that cannot
# run on this machine says why and counts as skipped, not as passed.
set -uo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.." || exit 1

python=${PYTHON:-python3}
dry=${SYMKERN_GPU_DRY_RUN:-}
work=$PWD/build/gpu
logs=$work/logs
[ -n "$dry" ] && work=$PWD/build/gpu-dry logs=$PWD/build/gpu-dry/logs
mkdir -p "$logs"
rm -f "$logs"/*.log
export PYTHONPATH=$PWD PYTHONDONTWRITEBYTECODE=1
jobs=$(nproc)
failed=() skipped=()

# stage NAME SECONDS FUNCTION: runs the function in a shell of its own, with a log, a time limit and a verdict
stage() {
  local name=$1 limit=$2 log=$logs/$1.log start=$SECONDS code=0
  echo "== $name (at most $limit s)"
  timeout --kill-after=10 "$limit" bash -c "set -euo pipefail; $3" >"$log" 2>&1 || code=$?
  if [ "$code" = 0 ]; then
    echo "   ok, $((SECONDS - start)) s"
  elif [ "$code" = 77 ]; then
    echo "   SKIPPED: $(tail -n 1 "$log")"
    skipped+=("$name")
  else
    [ "$code" = 124 ] || [ "$code" = 137 ] && echo "   out of time"
    echo "   FAILED with $code after $((SECONDS - start)) s; the end of ${log#"$PWD"/}:"
    tail -n 15 "$log" | sed 's/^/   | /'
    failed+=("$name")
  fi
}

describe() {
  if [ -z "$dry" ]; then
    nvidia-smi --query-gpu=name,driver_version,memory.total,compute_cap --format=csv
    nvcc --version | tail -n 2
  fi
  cmake --version | head -n 1
  "$python" - <<END
import sys, torch
print("python", sys.version.split()[0], "torch", torch.__version__, "CUDA", torch.version.cuda)
if not "$dry":
    assert torch.cuda.is_available(), "torch sees no CUDA device"
    print(torch.cuda.get_device_name(0), torch.cuda.get_device_capability(0))
END
}

build() {
  local cuda=ON architecture prefix=$PWD
  if [ -n "$dry" ]; then
    architecture=90a prefix=$work/tree  # the libraries in the tree stay as they are
    command -v nvcc >/dev/null || cuda=OFF
  else
    # 90 means 90a: the release wheels are built for it where wgmma is used
    architecture=$("$python" -c 'import torch; n = "%d%d" % torch.cuda.get_device_capability(0); print({"90": "90a"}.get(n, n))')
  fi
  # a configuration of another machine or torch would be reused silently
  rm -rf "$work/build"
  cmake -S . -B "$work/build" -G Ninja -DCMAKE_BUILD_TYPE=Release -DSYMKERN_CUDA=$cuda \
    -DSYMKERN_CUDA_ARCHITECTURES="$architecture" -DPython_EXECUTABLE="$("$python" -c 'import sys; print(sys.executable)')" \
    -Dpybind11_DIR="$("$python" -m pybind11 --cmakedir)"
  cmake --build "$work/build" -j "$jobs"
  cmake --install "$work/build" --prefix "$prefix"
}

ptxas_summary() {
  if [ -n "$dry" ] && ! command -v nvcc >/dev/null; then
    echo "built without CUDA"
    exit 77
  fi
  "$python" scripts/ptxas_figures.py "$logs/build.log"
}

# The host tests of the GPU schedules, as CUDA programs: the same checks on the device, tensor-core layouts among them.
schedules() {
  [ -z "$dry" ] || { echo "dry run, no GPU"; exit 77; }
  local test
  for test in csrc/testing/tests/test_*.cpp; do
    [ "$(basename "$test")" = test_planted.cpp ] && continue  # its bugs are for the host's checkers
    nvcc -std=c++20 -O2 -arch=native -I csrc -x cu "$test" -cudart static -o "$work/$(basename "$test" .cpp)" &
  done
  wait
  for test in csrc/testing/tests/test_*.cpp; do
    [ "$(basename "$test")" = test_planted.cpp ] || "$work/$(basename "$test" .cpp)"
  done
}

load() {
  # exits with an error if the library was built but could not be used
  "$python" - <<END
from symkern import _library
assert _library.cpu.problem is None, _library.cpu.problem
if not "$dry":
    assert _library.cuda.problem is None, _library.cuda.problem
for op in _library.op_names():
    keys = [key for key in ("CPU", "CUDA") if _library.has_kernel(op, key)]
    print(f"{op:32} {' '.join(keys)}")
    assert "$dry" or "CUDA" in keys, f"{op} has no CUDA kernel"
END
  "$python" -m symkern info || echo "(symkern info is not there)"
}

tests() {
  if [ -n "$dry" ]; then
    "$python" -m pytest python_tests -x -q --device cpu -k "safe_norm" -p no:cacheprovider
  else
    "$python" -m pytest python_tests -q --device cuda -rs --durations=10 -p no:cacheprovider
  fi
}

# A bug for each tool, under the filter that the real run uses: a checker that misses its bug proves nothing.
plant() {
  cat >"$work/planted.cu" <<'END'
namespace symkern {
__global__ void planted_memcheck(int* out) { out[blockDim.x + threadIdx.x] = 1; }
__global__ void planted_racecheck(int* out) {
  __shared__ int tile[64];
  tile[threadIdx.x] = threadIdx.x;
  out[threadIdx.x] = tile[63 - threadIdx.x];
}
}  // namespace symkern
int main(int argc, char**) {
  int* out = nullptr;
  if (cudaMalloc(&out, 64 * sizeof(int)) != cudaSuccess) return 3;
  if (argc > 1) symkern::planted_racecheck<<<1, 64>>>(out);
  else symkern::planted_memcheck<<<1, 64>>>(out);
  return cudaDeviceSynchronize() == cudaSuccess ? 0 : 4;
}
END
  nvcc -arch=native -o "$work/planted" "$work/planted.cu"
}

# Every op at tiny sizes, so that the checks fit into the time.
sanitize() {
  local tool=$1 code=0 argument=()
  [ -z "$dry" ] || { echo "dry run, no GPU"; exit 77; }
  [ "$tool" = racecheck ] && argument=(race)
  local check=(compute-sanitizer --tool "$tool" --error-exitcode 9 --kernel-name kns=symkern)
  plant
  "${check[@]}" "$work/planted" "${argument[@]}" 2>&1 | tee "$work/planted.log" || code=$?
  if grep -qi "device not supported" "$work/planted.log"; then
    echo "compute-sanitizer does not work on this machine: $(grep -i -m 1 "device not supported" "$work/planted.log")"
    exit 77
  fi
  [ "$code" = 9 ] || { echo "$tool did not find the planted bug (exit code $code, expected 9)"; exit 1; }
  echo "$tool found the planted bug; now the ops"
  # without torch's cache every tensor is an allocation of its own, with bounds that memcheck knows
  PYTORCH_NO_CUDA_MEMORY_CACHING=1 OUT='' "${check[@]}" "$python" -m benchmarks.gpu --tiny --out "$work/sanitizer"
}

bench() {
  if [ -n "$dry" ]; then
    "$python" -m benchmarks.gpu --device cpu --tiny --out "$work/results"
  else
    "$python" -m benchmarks.gpu --device cuda
  fi
}

export -f describe build ptxas_summary schedules load tests plant sanitize bench
export python dry work logs jobs
stage environment 30 describe
stage build 150 build
stage ptxas 10 ptxas_summary
head -n 60 "$logs/ptxas.log" | sed 's/^/   /'
stage load 30 load
stage schedules 60 schedules
stage tests 130 tests
tail -n 3 "$logs/tests.log" | sed 's/^/   /'
stage memcheck 50 "sanitize memcheck"
stage racecheck 50 "sanitize racecheck"
stage bench 90 bench
cat "$logs/bench.log"
if [ -n "${OUT:-}" ]; then
  mkdir -p "$OUT"
  cp -r "$logs" "$OUT/"
fi
[ "${#skipped[@]}" = 0 ] || echo "== skipped: ${skipped[*]}"
echo "== ${#failed[@]} stages failed${failed[*]:+: ${failed[*]}}; logs in ${logs#"$PWD"/}; $SECONDS s"
exit "${#failed[@]}"
