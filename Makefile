# Two commands matter: `make run` and `make test`. Each sets up what is missing first; a second call repeats none of it.
#
#   PYTHON=python3.12          another interpreter for the virtual environment
#   TORCH_INDEX=<address>      where to take torch from, when pip's default would bring its CUDA build
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check
NATIVE := CMakeLists.txt $(shell find cpp cmake -type f ! -name '*.py')
CXX_FILES := $(filter %.cpp %.hpp %.h,$(NATIVE))

.DELETE_ON_ERROR:
.PHONY: run test sanitize test-cluster lint format bench ui docs lock peers clean
.DEFAULT_GOAL := run

run: $(VENV)/op.stamp
	$(BIN)/python -m harness +experiment=quickstart

test: $(VENV)/op.stamp
	$(BIN)/ctest --test-dir build/editable --output-on-failure --no-tests=error
	$(BIN)/python -m pytest

# Slurm, PostgreSQL and an MLflow server on this machine, and sweeps through them; as root it installs what is missing.
test-cluster: $(VENV)/op.stamp
	$(PIP) install --quiet -c constraints.txt hydra-submitit-launcher psycopg2-binary
	PYTHON=$(BIN)/python tests/cluster/run.sh

# The C++ tests, and the operators' Python tests, under AddressSanitizer and UndefinedBehaviorSanitizer; then the C++ tests
# under ThreadSanitizer. Python and torch are not instrumented: they leak on exit by design (so no leak check), and what a
# test asks of torch must fail as it does without (so allocations that are too large return null).
SANITIZE_CMAKE := $(BIN)/cmake -S . -G Ninja -DPython_EXECUTABLE=$(CURDIR)/$(BIN)/python
SANITIZED_TESTS := $(addprefix tests/test_op_,$(addsuffix .py,fuzz arguments threads encoder packing calibrate profile))
sanitize: $(VENV)/op.stamp
	$(SANITIZE_CMAKE) -B build/sanitize-address -DBERT_OP_SANITIZE=address,undefined
	$(BIN)/cmake --build build/sanitize-address
	$(BIN)/ctest --test-dir build/sanitize-address --output-on-failure --no-tests=error
	LD_PRELOAD="$$($(CXX) -print-file-name=libasan.so) $$($(CXX) -print-file-name=libstdc++.so)" \
		ASAN_OPTIONS=detect_leaks=0:allocator_may_return_null=1 UBSAN_OPTIONS=print_stacktrace=1 \
		BERT_OP_PT_LIB=$(CURDIR)/build/sanitize-address/libBertOpPT.so $(BIN)/python -m pytest $(SANITIZED_TESTS)
	$(SANITIZE_CMAKE) -B build/sanitize-thread -DBERT_OP_SANITIZE=thread
	$(BIN)/cmake --build build/sanitize-thread
	$(BIN)/ctest --test-dir build/sanitize-thread --output-on-failure --no-tests=error

# Kernels on one thread, then the workloads that count, the op and Hugging Face's encoder call by call in turn.
bench: $(VENV)/op.stamp
	build/editable/kernels_bench
	$(BIN)/python cpp/bench/speed_table.py

ui: $(VENV)/op.stamp
	$(BIN)/mlflow ui --backend-store-uri sqlite:///outputs/mlflow.db

lint: $(VENV)/op.stamp
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
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

docs: $(VENV)/torch.stamp
	$(PIP) install --quiet -c constraints.txt mkdocs
	$(BIN)/mkdocs build --strict

# Editable: a changed .py needs no rebuild. build/editable is kept, so a changed .cpp recompiles only itself.
$(VENV)/op.stamp: $(VENV)/torch.stamp $(NATIVE)
	$(PIP) install --quiet --no-build-isolation -c constraints.txt \
		-C cmake.define.BERT_OP_TESTS=ON -e '.[dev]'
	touch $@

# torch and the build tools come before the op, which is compiled against exactly this torch.
$(VENV)/torch.stamp: pyproject.toml constraints.txt | $(BIN)/python
	$(PIP) install --quiet $(if $(TORCH_INDEX),--no-deps --index-url $(TORCH_INDEX)) -c constraints.txt torch
	$(PIP) install --quiet -c constraints.txt scikit-build-core pybind11 cmake ninja
	touch $@

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)

# After a change of pyproject.toml's ranges: take what they now allow, and write down what that was.
lock: $(VENV)/op.stamp
	$(PIP) install --no-build-isolation --upgrade -e '.[dev,docs,slurm,joblib,postgres]'
	{ grep '^#' constraints.txt; $(PIP) freeze --exclude bert-op | sed 's/^\(torch==[^+]*\)+.*/\1/'; } > constraints.new
	mv constraints.new constraints.txt

clean:
	rm -rf build site .mypy_cache .pytest_cache .ruff_cache $(VENV)/op.stamp
