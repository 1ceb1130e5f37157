#!/usr/bin/env bash
# What can be verified of the CUDA half without a GPU: it compiles and links for two architectures, loads beside a
# CPU-only torch and shows its kernels, and ptxas reports next to no spills. Usage: cuda_check.sh [architectures, e.g. "80;90"]
set -euo pipefail
cd "$(dirname "$0")/.."
architectures=${1:-80;90}
if ! command -v "${CUDACXX:-nvcc}" >/dev/null; then
  echo "cuda_check: nvcc was not found, nothing checked (install the CUDA toolkit, or set CUDACXX)" >&2
  exit "${NVCC_MISSING_OK:-1}"
fi
log=build/cuda/build.log
mkdir -p build/cuda
# ptxas speaks only while compiling: a clean build of the CUDA objects, every time
rm -rf build/cuda/CMakeFiles/symkern_cuda.dir
VERBOSE_LOG=$log PREFIX=$PWD/build/cuda/stage scripts/build.sh build/cuda ON "${JOBS:-2}" \
  -DSYMKERN_CUDA_ARCHITECTURES="$architectures"
.venv/bin/python scripts/ptxas_figures.py "$log"
.venv/bin/python scripts/cuda_load.py symkern/lib/libsymkern_cpu.so build/cuda/stage/symkern/lib/libsymkern_cuda.so
