#!/usr/bin/env bash
# Builds a wheel (with CUDA for all architectures where nvcc is found), installs it into a fresh environment and tries it
# there. SYMKERN_CUDA=OFF builds without CUDA; SYMKERN_CUDA_ARCHITECTURES="80;90a" narrows it.
set -euo pipefail
cd "$(dirname "$0")/.."
PATH="$PWD/.venv/bin:$PATH"
rm -rf dist build/wheel-check
# a release wheel carries CUDA whatever torch is here: its users bring their own
cuda=$(command -v "${CUDACXX:-nvcc}" >/dev/null && echo ON || echo OFF)
options=(-C "cmake.define.SYMKERN_CUDA=${SYMKERN_CUDA:-$cuda}")
[ -z "${SYMKERN_CUDA_ARCHITECTURES:-}" ] || options+=(-C "cmake.define.SYMKERN_CUDA_ARCHITECTURES=$SYMKERN_CUDA_ARCHITECTURES")
python -m pip wheel --no-build-isolation --no-deps --disable-pip-version-check -w dist "${options[@]}" .
ls -l dist

# torch and numpy come from the development environment; symkern only from the wheel
python -m venv --without-pip build/wheel-check
site=$(build/wheel-check/bin/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')
python -c 'import sysconfig; print(sysconfig.get_path("purelib"))' >"$site/torch.pth"
python -m pip --python build/wheel-check/bin/python install -q --no-deps --no-index --ignore-installed dist/*.whl
cd build/wheel-check
bin/python - <<'END'
import sys
from symkern import host
assert "torch" not in sys.modules
import numpy, torch, symkern
assert symkern.__file__.startswith(sys.prefix), symkern.__file__
nb = symkern.neighbor_list(torch.eye(3), 2.0)
assert nb.num_edges == 6 and host.neighbor_list(numpy.eye(3), 2.0).edge_index.shape == (2, 6)
print("wheel: works in a fresh environment")
END
bin/symkern info
