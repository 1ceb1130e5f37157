# The one task runner. Needs make, Python >= 3.10 with venv and a C++20 compiler; everything else goes into .venv.
#   make demo   set up from nothing and run the main job      make test   set up and run the tests
#   make lint   ruff, mypy, clang-format                      make asan   ASan + UBSan over core, ops and the SIMT shim
#   make bench  timings beside the peers                      make wheel  a wheel, installed and tried in a fresh venv
#   make docs   run the documentation's code, build the site  make build  just compile, in place
SHELL := /bin/bash
PYTHON ?= python3
JOBS ?= $(shell nproc 2>/dev/null || sysctl -n hw.ncpu)
CUDA ?= AUTO
ARGS ?=

VENV := .venv
PY := $(VENV)/bin/python
BUILD := build/dev
CXX_FILES = $(shell git ls-files -co --exclude-standard 'csrc/*.h' 'csrc/*.cpp' 'csrc/*.cuh')

.DEFAULT_GOAL := help
.PHONY: help demo test lint format asan bench wheel docs build clean
.DELETE_ON_ERROR:

help:
	@sed -n 's/^# \?//p' Makefile | head -7

demo: build
	$(PY) -m symkern demo $(ARGS)

test: build
	$(PY) -m pytest $(ARGS)
	bash csrc/testing/run.sh

lint: $(VENV)/ready
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy
	$(VENV)/bin/clang-format --dry-run --Werror $(CXX_FILES)

format: $(VENV)/ready
	$(VENV)/bin/ruff check --fix .
	$(VENV)/bin/ruff format .
	$(VENV)/bin/clang-format -i $(CXX_FILES)

asan: build
	bash scripts/asan.sh

bench: build $(VENV)/bench
	$(PY) -m symkern bench $(ARGS)

wheel: $(VENV)/ready
	bash scripts/wheel.sh

docs: build $(VENV)/docs
	$(PY) -m pytest python_tests/test_docs.py $(ARGS)
	NO_MKDOCS_2_WARNING=1 $(VENV)/bin/mkdocs build --strict --quiet
	@echo "the site is in site/index.html"

build: $(VENV)/ready
	@scripts/build.sh $(BUILD) $(CUDA) $(JOBS)

$(VENV)/ready: requirements/dev.txt scripts/setup.sh
	@scripts/setup.sh $(PYTHON) $(VENV)

$(VENV)/bench: requirements/bench.txt $(VENV)/ready
	$(PY) -m pip install -q -r requirements/bench.txt
	@touch $@

$(VENV)/docs: requirements/docs.txt $(VENV)/ready
	$(PY) -m pip install -q -r requirements/docs.txt
	@touch $@

clean:
	rm -rf build dist symkern/lib symkern/_host*.so
