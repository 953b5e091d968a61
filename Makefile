# Two commands matter: `make run` and `make test`. Each sets up what is missing first; a second call repeats none of it.
#
#   PYTHON=python3.12          another interpreter for the virtual environment, 3.11 or newer
#   TORCH_INDEX=<address>      where to take torch from, when pip's default would bring its CUDA build
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check
BUILD := build/dev
CONFIGURE = $(BIN)/cmake -S . -G Ninja -DCMAKE_MAKE_PROGRAM="$(CURDIR)/$(BIN)/ninja" -DPython_EXECUTABLE="$(CURDIR)/$(BIN)/python"
NATIVE := CMakeLists.txt $(shell find cpp cmake -type f ! -name '*.py' 2>/dev/null)
CXX_FILES := $(filter %.cpp %.hpp %.h,$(NATIVE))

.DELETE_ON_ERROR:
.PHONY: run test sanitize test-cluster wheel test-wheel test-image lint format bench ui docs lock peers clean distclean
.DEFAULT_GOAL := run

run: $(VENV)/op.stamp
	$(BIN)/python -m harness +experiment=quickstart

test: $(VENV)/op.stamp
	$(BIN)/ctest --test-dir $(BUILD) --output-on-failure --no-tests=error
	$(BIN)/python -m pytest

# Slurm, PostgreSQL and an MLflow server on this machine, and sweeps through them; as root it installs what is missing.
test-cluster: $(VENV)/op.stamp
	$(PIP) install --quiet -c constraints.txt hydra-submitit-launcher psycopg2-binary
	PYTHON=$(BIN)/python tests/cluster/run.sh

# The C++ tests, and the operators' Python tests, under AddressSanitizer and UndefinedBehaviorSanitizer; then the C++ tests
# under ThreadSanitizer. Python and torch are not instrumented: they leak on exit by design (so no leak check), and what a
# test asks of torch must fail as it does without (so allocations that are too large return null).
SANITIZE_CMAKE = $(CONFIGURE) -DBERT_OP_TESTS=ON
SANITIZED_TESTS := $(addprefix tests/test_op_,$(addsuffix .py,fuzz arguments threads encoder packing calibrate profile))
sanitize: $(VENV)/op.stamp
	$(SANITIZE_CMAKE) -B build/sanitize-address -DBERT_OP_SANITIZE=address,undefined
	$(BIN)/cmake --build build/sanitize-address
	$(BIN)/ctest --test-dir build/sanitize-address --output-on-failure --no-tests=error
	LD_PRELOAD="$$($(CXX) -print-file-name=libasan.so) $$($(CXX) -print-file-name=libstdc++.so)" \
		ASAN_OPTIONS=detect_leaks=0:allocator_may_return_null=1 UBSAN_OPTIONS=print_stacktrace=1 \
		BERT_OP_PT_LIB="$(CURDIR)/build/sanitize-address/libBertOpPT.so" $(BIN)/python -m pytest $(SANITIZED_TESTS)
	$(SANITIZE_CMAKE) -B build/sanitize-thread -DBERT_OP_SANITIZE=thread
	$(BIN)/cmake --build build/sanitize-thread
	$(BIN)/ctest --test-dir build/sanitize-thread --output-on-failure --no-tests=error

# An sdist and one wheel for every torch and Python, in dist/. Compiled without isolation, against the torch of .venv.
# auditwheel tells which libraries and symbols the wheel asks of a machine; torch's libraries come with torch.
wheel: $(VENV)/dev.stamp
	rm -rf dist build/unrepaired
	$(BIN)/python -m build --no-isolation --sdist --outdir dist
	$(BIN)/python -m build --no-isolation --wheel --outdir build/unrepaired
	PATH="$(CURDIR)/$(BIN):$$PATH" $(BIN)/auditwheel repair --plat manylinux_2_28_x86_64 --only-plat \
		--exclude 'libtorch*' --exclude 'libc10*' --wheel-dir dist build/unrepaired/*.whl
	$(BIN)/twine check --strict dist/*

# The wheel in fresh environments without a compiler, torch:transformers each; 6 GB for torch with CUDA, one at a time.
WHEEL_JOBS ?= 2.13.0:5.23.0 2.13.0:4.57.3 2.14.1:5.5.4 harness sdist
test-wheel: wheel
	PYTHON=$(BIN)/python tests/wheel/run.sh $(WHEEL_JOBS)

# The container image on Debian's and Python's packages alone, built, run and removed again. Needs root, and room in TMPDIR.
test-image:
	PYTHON=$(PYTHON) TORCH_INDEX=$(TORCH_INDEX) tests/image/run.sh

# Kernels on one thread, then the workloads that count, the op and Hugging Face's encoder call by call in turn.
bench: $(VENV)/op.stamp
	$(BUILD)/kernels_bench
	$(BIN)/python cpp/bench/speed_table.py

ui: $(VENV)/op.stamp
	$(BIN)/mlflow ui --backend-store-uri sqlite:///outputs/mlflow.db

lint: $(VENV)/op.stamp
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/mypy --python-version 3.10 --package bert_op
	$(BIN)/clang-format --dry-run --Werror $(CXX_FILES)

format: $(VENV)/op.stamp
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .
	$(BIN)/clang-format -i $(CXX_FILES)

# Environments of the peers that +experiment=shootout also measures, each beside the others because their pins
# contradict: opt-in, since torch is in each of them. PEERS="openvino onnxruntime" chooses. With pip's default
# index torch brings its CUDA build; TORCH_INDEX=<address of a CPU index> avoids it.
PEERS ?= onnxruntime openvino ipex
SIZE_onnxruntime := 1.5 GB, or 6 GB with the CUDA build of torch
SIZE_openvino := 1.8 GB, or 6.5 GB with the CUDA build of torch
SIZE_ipex := 2 GB, or 7 GB with the CUDA build of torch 2.8

peers: $(PEERS:%=.venv-peers/%/installed.txt)

.venv-peers/%/installed.txt: peers/%.txt
	@echo "$*: a virtual environment of about $(SIZE_$*), in .venv-peers/$*"
	$(PYTHON) -m venv --clear .venv-peers/$*
	.venv-peers/$*/bin/python -m pip --disable-pip-version-check install --quiet \
		$(if $(TORCH_INDEX),--no-deps --index-url $(TORCH_INDEX)) -c $< "$$(grep '^torch==' $<)"
	.venv-peers/$*/bin/python -m pip --disable-pip-version-check install --quiet --no-deps -r $<
	cp $< $@

docs: $(VENV)/harness.stamp
	$(PIP) install --quiet -c constraints.txt mkdocs
	$(BIN)/mkdocs build --strict

# The checkout is used where it lies: a changed .py needs no rebuild, and of C++ only what changed is compiled. CMake puts the
# libraries beside the Python sources, so that whoever finds bert_op there runs this checkout's operators and no other's.
$(VENV)/op.stamp: $(VENV)/dev.stamp $(NATIVE)
	$(CONFIGURE) -B $(BUILD) -DBERT_OP_TESTS=ON
	$(BIN)/cmake --build $(BUILD)
	$(BIN)/cmake --install $(BUILD) --prefix op
	touch $@

# Requirements are read from pyproject.toml. `pip install -e .` would install them too, but also map bert_op to this checkout
# in a way that goes before PYTHONPATH and the current folder, in every checkout that the environment is used with.
requirements = $(BIN)/python -c 'import sys, tomllib; project = tomllib.load(open("pyproject.toml", "rb"))["project"]; \
	print(*project["dependencies"], *(line for name in sys.argv[1:] \
	for line in project["optional-dependencies"][name]), sep="\n")'

$(VENV)/dev.stamp: $(VENV)/harness.stamp
	$(requirements) dev wheel >$(VENV)/dev.txt
	$(PIP) install --quiet -c constraints.txt -r $(VENV)/dev.txt
	touch $@

$(VENV)/harness.stamp: $(VENV)/torch.stamp
	$(requirements) harness >$(VENV)/harness.txt
	$(PIP) install --quiet -c constraints.txt -r $(VENV)/harness.txt
	$(PIP) uninstall --quiet --yes bert-op 2>/dev/null
	printf '%s\n' "$(CURDIR)/op" "$(CURDIR)" >"$$($(BIN)/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')/$(PATHS)"
	touch $@

# torch comes first and alone: it may have an index of its own.
$(VENV)/torch.stamp: pyproject.toml constraints.txt | $(BIN)/python
	$(PIP) install --quiet $(if $(TORCH_INDEX),--no-deps --index-url $(TORCH_INDEX)) -c constraints.txt torch
	touch $@

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "error: PYTHON=$(PYTHON) is" \
		"$$($(PYTHON) -V 2>&1), and the harness needs 3.11 or newer: make run PYTHON=python3.11" >&2; exit 2; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || { echo "error: PYTHON=$(PYTHON) cannot make virtual" \
		"environments: apt-get install python3-venv" >&2; exit 2; }
	$(PYTHON) -m venv $(VENV)

# The folders that the environment finds bert_op and the harness in. They are this checkout's, unless it was copied or moved
# together with its environment, which would then run the code of the place that it came from.
PATHS := bert_op_checkout.pth
MADE_FOR := $(shell tail -n 1 $(VENV)/lib/python3*/site-packages/$(PATHS) 2>/dev/null)
ifneq ($(MAKECMDGOALS),distclean)
ifneq ($(MADE_FOR),$(and $(MADE_FOR),$(CURDIR)))
$(error .venv was made for the checkout in $(MADE_FOR), and this one is in $(CURDIR): make distclean, then again)
endif
endif

# After a change of pyproject.toml's ranges: take what they now allow, and write down what that was.
lock: $(VENV)/op.stamp
	$(requirements) harness dev wheel docs slurm joblib postgres >$(VENV)/lock.txt
	$(PIP) install --upgrade "$$(grep '^torch==' constraints.txt)" -r $(VENV)/lock.txt
	{ grep '^#' constraints.txt; $(PIP) freeze | sed 's/^\(torch==[^+]*\)+.*/\1/'; } > constraints.new
	mv constraints.new constraints.txt

clean:
	rm -rf build dist site .mypy_cache .pytest_cache .ruff_cache op/bert_op/*.so $(VENV)/op.stamp

distclean: clean
	rm -rf $(VENV)
