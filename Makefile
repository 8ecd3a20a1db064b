# Everything sets itself up: on a machine with Python 3.11 or newer, `make demo` and `make test` need nothing before them.
SHELL  := /bin/bash
VENV   := .venv
BIN    := $(VENV)/bin
PEERS  := .venv-peers
TORCH  := 2.13.0
TORCH_CPU := https://download.pytorch.org/whl/cpu
JOBS   ?= 2
# PYTHON=/path/to/python chooses the interpreter of the environment.
PYTHON ?= $(firstword $(foreach p,python3 python3.13 python3.12 python3.11,$(shell $(p) -c 'import sys; sys.version_info >= (3, 11) and print(sys.executable)' 2>/dev/null)))
PIP    := $(BIN)/python -m pip --disable-pip-version-check

# One thread a process: the tests run in $(JOBS) processes, and timings should not depend on the number of cores.
test test-long test-ops-sanitized bench bench-peers bench-ops chain figures: export OMP_NUM_THREADS = 1
test test-long test-ops-sanitized bench bench-peers bench-ops chain figures: export MKL_NUM_THREADS = 1

.PHONY: help demo test lint format test-long bench bench-peers chain figures docs build clean
.PHONY: ops build-cuda test-ops-sanitized bench-ops gpu-check gpu-bundle

help:
	@echo 'make demo       the whole story on a small model that is trained on the spot'
	@echo 'make test       lint, types and tests: what continuous integration runs'
	@echo 'make format     let ruff format and sort'
	@echo 'make test-long  the long random and scale tests'
	@echo 'make bench      measurements against hand-made models (wants a quiet machine)'
	@echo 'make chain      one net trained, pruned, quantized, exported, optimized: every stage in one table'
	@echo 'make figures    what the training methods reach, three seeds and more (half an hour)'
	@echo 'make bench-peers  other tools on the same models (installs them beside the project, into $(PEERS))'
	@echo 'make ops        the native runtime operators into runtime_ops/ (CUDA=ON: with CUDA kernels)'
	@echo 'make build-cuda them with CUDA kernels for every architecture, into build/cuda (needs nvcc, no GPU)'
	@echo 'make test-ops-sanitized  their tests under AddressSanitizer, UndefinedBehaviorSanitizer and ThreadSanitizer'
	@echo 'make bench-ops  how fast they are on this processor (wants a quiet machine)'
	@echo 'make gpu-check  whether they run on this GPU, and how fast (onnxruntime-gpu: GPU_PYTHON=, GPU_PYTHONPATH=)'
	@echo 'make gpu-bundle what a GPU machine without network lacks for that, in one folder (GPU_ARCH=, GPU_ORT=)'
	@echo 'make docs       build the documentation into site/'
	@echo 'make build      sdist and wheel into dist/'
	@echo 'make clean      remove what the other targets made, the environment included'

demo: $(VENV)/.ready-demo
	$(BIN)/graphopt demo

test: lint ops
	$(BIN)/python -m pytest -q -n $(JOBS) --dist loadfile

lint: $(VENV)/.ready-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright

format: $(VENV)/.ready-dev
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

test-long: $(VENV)/.ready-dev
	$(BIN)/python -m pytest -q -n $(JOBS) --dist loadfile -m long --timeout 7200 --hypothesis-profile long

bench: $(VENV)/.ready-dev
	$(BIN)/python -m tests.bench.real_nets
	$(BIN)/python -m tests.bench.joins
	$(BIN)/python -m tests.bench.scale

bench-peers: $(PEERS)/.ready
	$(PEERS)/bin/python -m tests.bench.peers

chain: $(VENV)/.ready-dev
	$(BIN)/python -m tests.bench.train.chain $(CHAIN_ARGS)

figures: $(VENV)/.ready-dev
	$(BIN)/python -m tests.bench.train.pruning
	$(BIN)/python -m tests.bench.train.quantization
	$(BIN)/python -m tests.bench.train.binarization

docs: $(VENV)/.ready-docs
	$(BIN)/mkdocs build --strict

build: $(VENV)/.ready-dev
	$(BIN)/python -m build

clean:
	rm -f $(OPS_LIBRARY)
	rm -rf $(VENV) $(PEERS) build dist site .pytest_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# --- runtime operators -----------------------------------------------------------------------------------------------
# The tests use a library in the source folder, which is built here and anew when a source changes; the editable
# installation brings none. CUDA kernels take minutes and their tests a GPU, so they are built when asked for.

OPS_LIBRARY := runtime_ops/libgraphopt_ops.so
OPS_SOURCES := $(shell find runtime_ops -name '*.cc' -o -name '*.cu' -o -name '*.h' -o -name '*.inc' -o -name CMakeLists.txt)
CUDA        ?= OFF
CXX_FOUND   := $(shell command -v $(CXX) || command -v c++ || command -v clang++)
CMAKE       := $(or $(shell command -v cmake),$(BIN)/cmake)

ops:
ifeq ($(CXX_FOUND),)
	@echo '!!! No C++ compiler was found: the native runtime operators are NOT built, and their tests are skipped. !!!'
else
	@$(MAKE) --no-print-directory $(OPS_LIBRARY)
endif

$(OPS_LIBRARY): $(OPS_SOURCES) | $(CMAKE)
	@$(CMAKE) -S runtime_ops -B build/ops -DGRAPHOPT_CUDA=$(CUDA)
	@$(CMAKE) --build build/ops -j $(JOBS)
	@cp build/ops/libgraphopt_ops.so $@.new && mv $@.new $@ && touch $@

# Machine code for every architecture, warnings as errors; it loads and registers where there is no driver.
build-cuda: $(VENV)/.ready-dev | $(CMAKE)
	@$(CMAKE) -S runtime_ops -B build/cuda -DGRAPHOPT_CUDA=ON -DGRAPHOPT_WERROR=ON
	@$(CMAKE) --build build/cuda -j $(JOBS)
	GRAPHOPT_OPS_LIBRARY=$(CURDIR)/build/cuda/libgraphopt_ops.so $(BIN)/python -m pytest -q tests/runtime_ops/test_register.py

# Python is not built with sanitizers, so their libraries are loaded before it. Leaks are Python's and not looked for.
# What they find ends the process while pytest holds its output back, so it goes into a file and is shown at the end.
# ThreadSanitizer wants addresses where it expects them (setarch -R), two threads, and shapes of any size shared out.
PRELOAD   = $(shell $(CXX) -print-file-name=lib$(1).so) $(shell $(CXX) -print-file-name=libstdc++.so)
SANITIZED = tests/runtime_ops --ignore tests/runtime_ops/test_install.py --ignore-glob '*_cuda.py' -p no:cacheprovider --timeout 1800
REPORT    = log_path=$(CURDIR)/build/sanitizer
SETARCH  := $(shell command -v setarch >/dev/null && setarch -R true 2>/dev/null && echo setarch -R)

test-ops-sanitized: $(VENV)/.ready-dev | $(CMAKE)
	@$(CMAKE) -S runtime_ops -B build/address -DGRAPHOPT_CUDA=OFF -DGRAPHOPT_SANITIZE=address,undefined
	@$(CMAKE) --build build/address -j $(JOBS)
	@rm -f build/sanitizer.*
	LD_PRELOAD="$(call PRELOAD,asan)" ASAN_OPTIONS=detect_leaks=0:$(REPORT) UBSAN_OPTIONS=print_stacktrace=1:$(REPORT) \
	  GRAPHOPT_OPS_LIBRARY=$(CURDIR)/build/address/libgraphopt_ops.so $(BIN)/python -m pytest -v $(SANITIZED) \
	  || { cat build/sanitizer.* 2>/dev/null; exit 1; }
	@$(CMAKE) -S runtime_ops -B build/thread -DGRAPHOPT_CUDA=OFF -DGRAPHOPT_SANITIZE=thread
	@$(CMAKE) --build build/thread -j $(JOBS)
	LD_PRELOAD="$(call PRELOAD,tsan)" TSAN_OPTIONS=halt_on_error=1:ignore_noninstrumented_modules=1:$(REPORT) \
	  GRAPHOPT_TEST_THREADS=2 GRAPHOPT_OPS_LIBRARY=$(CURDIR)/build/thread/libgraphopt_ops.so \
	  $(SETARCH) $(BIN)/python -m pytest -v $(SANITIZED) || { cat build/sanitizer.* 2>/dev/null; exit 1; }

bench-ops: $(VENV)/.ready-dev ops
	$(BIN)/python -m tests.bench.ops

# On a machine with a GPU: GPU_PYTHON has what tests/bench/ops/gpu_needs.py names, which is looked at before anything is
# compiled; GPU_PYTHONPATH holds an unpacked onnxruntime-gpu. A bundle that was made for this tree stands for both, and
# for the library.
GPU_PYTHON     ?= python3
GPU_PYTHONPATH ?=
GPU_BUNDLE     ?= build/gpu-bundle
GPU_OUT        ?= runtime_ops/RESULTS.md
GPU_BUILD       = $(CMAKE) -S runtime_ops -B build/gpu -DGRAPHOPT_CUDA=ON $(if $(GPU_ARCH),-DCMAKE_CUDA_ARCHITECTURES=$(GPU_ARCH)) \
	  && $(CMAKE) --build build/gpu -j $(shell nproc 2>/dev/null || echo 2)
GPU_CHECK       = $(GPU_PYTHON) -m tests.bench.ops.gpu --write $(GPU_OUT) $(GPU_ARGS)

gpu-check:
ifneq ($(wildcard $(GPU_BUNDLE)/about.json),)
	PYTHONPATH="$(GPU_PYTHONPATH)" $(GPU_CHECK) --bundle $(GPU_BUNDLE)
else
	@PYTHONPATH="$(GPU_PYTHONPATH)" $(GPU_PYTHON) -m tests.bench.ops.gpu_needs
	@$(GPU_BUILD)
	PYTHONPATH="$(GPU_PYTHONPATH)" GRAPHOPT_OPS_LIBRARY=$(CURDIR)/build/gpu/libgraphopt_ops.so $(GPU_CHECK)
endif

# Here, for a machine that one visits: GPU_ARCH names its architecture, GPU_ORT an archive of onnxruntime-gpu for its
# Python, GPU_PYTHON_VERSION.
GPU_ORT            ?=
GPU_PYTHON_VERSION ?= 3.12

gpu-bundle: $(VENV)/.ready-dev | $(CMAKE)
	@$(GPU_BUILD)
	$(BIN)/python -m tests.bench.ops.gpu_bundle $(GPU_BUNDLE) --library build/gpu/libgraphopt_ops.so \
	  --python $(GPU_PYTHON_VERSION) $(if $(GPU_ORT),--onnxruntime $(GPU_ORT))

$(BIN)/cmake: | $(VENV)/bin/python
	@$(PIP) install -q cmake

# --- environment ---------------------------------------------------------------------------------------------------

$(VENV)/bin/python:
	@if [ -z "$(PYTHON)" ]; then \
	  echo "graphopt needs Python 3.11 or newer, and none was found as python3, python3.13, python3.12 or python3.11."; \
	  echo "Install one, or name it: make $(MAKECMDGOALS) PYTHON=/path/to/python"; exit 1; fi
	@"$(PYTHON)" -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
	  || { echo "graphopt needs Python 3.11 or newer, and $(PYTHON) is older or does not run."; exit 1; }
	@echo "Setting up $(VENV) with $(PYTHON); this is done once and takes a minute or more."
	@"$(PYTHON)" -m venv $(VENV) || { rm -rf $(VENV); \
	  echo "Python's venv module does not work here (on Debian and Ubuntu: apt install python3-venv)."; exit 1; }

# torch comes first and in its CPU build: the newest plain build would bring several gigabytes of CUDA libraries.
# Where no CPU build is at hand, and on systems that have only one build, the plain one is taken. A torch that is
# already in the environment is kept.
$(VENV)/.ready-torch: | $(VENV)/bin/python
	@echo "torch $(TORCH)"
	@$(BIN)/python -c 'import torch' 2>/dev/null \
	  || { [ "$$(uname)" = Linux ] && $(PIP) install -q 'torch==$(TORCH)+cpu' 2>/dev/null; } \
	  || { [ "$$(uname)" = Linux ] && $(PIP) install -q 'torch==$(TORCH)' --index-url $(TORCH_CPU) 2>/dev/null; } \
	  || $(PIP) install 'torch==$(TORCH)'
	@touch $@

$(VENV)/.ready-demo: pyproject.toml $(VENV)/.ready-torch
	@echo "graphopt and what the demo needs"
	@$(PIP) install -q -e '.[train,export]' -C wheel.cmake=false
	@touch $@

$(VENV)/.ready-dev: pyproject.toml $(VENV)/.ready-torch
	@echo "graphopt and what its tests need"
	@$(PIP) install -q -e '.[dev,train,export]' -C wheel.cmake=false
	@touch $@ $(VENV)/.ready-demo

$(VENV)/.ready-docs: pyproject.toml | $(VENV)/bin/python
	@echo "mkdocs"
	@$(PIP) install -q 'mkdocs>=1.6'
	@touch $@

# The peers' environment sees the project's, which stays as it is: each is installed to go with what is there. One that
# cannot be installed is left out, and the table says so.
$(PEERS)/.ready: pyproject.toml $(VENV)/.ready-dev
	@echo "what graphopt is compared with"
	@$(BIN)/python -m venv $(PEERS)
	@$(BIN)/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))' \
	  > "$$($(PEERS)/bin/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')/project.pth"
	@$(PIP) freeze --exclude-editable > $(PEERS)/constraints.txt
	@$(BIN)/python -c 'import tomllib; print(*tomllib.load(open("pyproject.toml", "rb"))["project"]["optional-dependencies"]["peers"])' \
	  | tr ' ' '\n' | while read -r peer; do \
	    $(PEERS)/bin/python -m pip --disable-pip-version-check install -q -c $(PEERS)/constraints.txt "$$peer" \
	      || echo "$$peer cannot be installed here"; done
	@touch $@
