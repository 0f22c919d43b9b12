# Everything a contributor does, one command each. `make help` lists them.

VENV := .venv
BIN := $(VENV)/bin
PYTHON ?= python3
# Two threads that wait for each other on a shared machine are slower than one: two processes of one thread each.
TEST_ENVIRONMENT := OMP_NUM_THREADS=1

SANITIZE ?= address,undefined

.DEFAULT_GOAL := help
.PHONY: help setup compare test fuzz sanitize lint format types bench test-gpu bench-gpu pictures clean

help:  ## list these commands
	@grep -E '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /  make \1\t/' | expand -t 20

setup: $(VENV)/installed  ## create .venv and install falloff with all extras into it

KERNELS := CMakeLists.txt $(wildcard src/falloff/ops/cpu/csrc/*)

$(VENV)/installed: pyproject.toml constraints.txt $(KERNELS)
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "falloff needs Python 3.11 or later: make PYTHON=python3.12 ..." >&2; exit 2; }
	$(PYTHON) -m venv $(VENV)
	@# torch first and by itself: asked for exactly, pip finds a CPU build where one is offered.
	$(BIN)/pip install --quiet --disable-pip-version-check --constraint constraints.txt torch numpy
	$(BIN)/pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[dev]'
	@touch $@

compare: setup  ## the main job: compare the schemes on real text (quick preset), and say where the report is
	$(BIN)/falloff compare --preset quick --resume

test: setup  ## all tests
	$(TEST_ENVIRONMENT) $(BIN)/pytest -n 2 --dist worksteal

CASES ?= 10000
SEED ?= 0
IMPL ?= cpu blockwise reference
fuzz: setup  ## random calls of attention against the float64 definition (CASES, SEED, IMPL; ISA="avx2 avx512" of cpu)
	$(TEST_ENVIRONMENT) $(BIN)/python tests/fuzz/attention.py --cases $(CASES) --seed $(SEED) --impl $(IMPL) $(if $(ISA),--isa $(ISA))

sanitize:  ## run the CPU kernels under sanitizers (SANITIZE=thread for the third)
	cmake -S . -B build/sanitize-$(SANITIZE) -DCMAKE_BUILD_TYPE=None -DFALLOFF_SANITIZE=$(SANITIZE) > /dev/null
	cmake --build build/sanitize-$(SANITIZE) --parallel 2 > /dev/null
	build/sanitize-$(SANITIZE)/sanitize

lint: setup  ## check style
	$(BIN)/ruff check
	$(BIN)/ruff format --check

format: setup  ## mend style
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

types: setup  ## check types
	$(BIN)/mypy

bench: setup  ## time attention beside PyTorch's, verified first
	$(BIN)/falloff bench

# On a machine with a GPU: its own Python, with torch, triton and pytest; nothing is installed.
GPU_PYTHON ?= python3
GPU_RESULTS ?= build
IN_PARALLEL = $(shell $(GPU_PYTHON) -c 'import xdist; print("-n 8")' 2> /dev/null)

test-gpu:  ## test the Triton kernels on this machine's GPU (needs torch, triton and pytest alone)
	mkdir -p $(GPU_RESULTS)
	FALLOFF_SHAPE_CHECKS=0 FALLOFF_TEST_REPORT=$(GPU_RESULTS)/test-gpu.json PYTHONPATH=src \
		$(GPU_PYTHON) -m pytest $(IN_PARALLEL) -q -p no:cacheprovider tests/ops/triton --ignore tests/ops/triton/test_compile.py

bench-gpu:  ## time the Triton kernels beside PyTorch's on this machine's GPU (needs torch and triton alone)
	mkdir -p $(GPU_RESULTS)
	PYTHONPATH=src $(GPU_PYTHON) -m falloff.bench.gpu --out $(GPU_RESULTS)/gpu.json

pictures: setup  ## draw the pictures of the README anew (the report needs Chromium and a finished run in runs/compare-small)
	$(BIN)/falloff show t5 --num-buckets 4 --max-distance 5 --tokens "q u e r y ?" --image docs/t5-grid.png
	chromium --headless --no-sandbox --disable-gpu --hide-scrollbars --window-size=1200,1900 --virtual-time-budget=6000 \
		--screenshot=docs/report.png file://$(CURDIR)/runs/compare-small/report.html

clean:  ## remove .venv and caches; runs/ stays
	rm -rf $(VENV) build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis
