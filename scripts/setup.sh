#!/usr/bin/env bash
# Creates the virtual environment with the pinned development dependencies. Usage: setup.sh PYTHON VENV
set -euo pipefail
python=$1 venv=$2

missing() {
  echo "symkern: $1 is missing; install it: $2" >&2
  exit 1
}
command -v "$python" >/dev/null || missing "$python" "sudo apt-get install python3 python3-venv   (macOS: brew install python)"
"$python" -c 'import sys; sys.exit(sys.version_info < (3, 10))' ||
  missing "Python >= 3.10 ($("$python" --version) was found)" "sudo apt-get install python3.11 python3.11-venv, then: make PYTHON=python3.11"
"$python" -c 'import ensurepip, venv' 2>/dev/null ||
  missing "Python's venv module" "sudo apt-get install python3-venv   (or python3.X-venv for python3.X)"
compiler=${CXX:-$(command -v c++ || command -v g++ || command -v clang++ || true)}
[ -n "$compiler" ] || missing "a C++20 compiler" "sudo apt-get install g++   (macOS: xcode-select --install)"
echo 'int main() { auto f = []<class T>(T x) { return x; }; return f(0); }' | "$compiler" -std=c++20 -x c++ -fsyntax-only - 2>/dev/null ||
  missing "a compiler for C++20 ($compiler is too old)" "sudo apt-get install g++-12, then: make CXX=g++-12"

[ -x "$venv/bin/python" ] || "$python" -m venv "$venv"
echo "symkern: installing pinned dependencies into $venv (torch is about 200 MB; minutes on a slow line)"
"$venv/bin/python" -m pip install -q --disable-pip-version-check --progress-bar on -r requirements/dev.txt
# the package runs from the source tree
"$venv/bin/python" - <<'END'
import os, sysconfig
with open(os.path.join(sysconfig.get_path("purelib"), "symkern-source.pth"), "w") as file:
    file.write(os.getcwd() + "\n")
END
printf '#!/bin/sh\nexec "%s" -m symkern "$@"\n' "$PWD/$venv/bin/python" >"$venv/bin/symkern"
chmod +x "$venv/bin/symkern"
touch "$venv/ready"
