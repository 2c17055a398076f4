# Two commands for a newcomer: `make demo` (set up, then the main job) and `make test` (set up, then every check).
PYTHON ?= python3.11
VENV   ?= .venv
BIN    := $(VENV)/bin
READY  := $(VENV)/.ready
OUT    ?= out/demo
# A file's tests stay in one process, which makes their models once.
WORKERS ?= -n auto --maxprocesses=4 --dist loadfile --no-loadscope-reorder
# The processes share the cores: threads of OpenMP that wait for each other would take the others' time (measured: 11 %).
PYTEST  := OMP_NUM_THREADS=1 $(BIN)/pytest -q

.PHONY: demo test test-fast test-emulated test-aarch64 test-stress lint wheels clean
.DEFAULT_GOAL := demo

demo: $(READY)
	$(BIN)/aigc-export demo -o $(OUT)

test: $(READY) lint
	$(PYTEST) --durations=10 $(WORKERS)

test-fast: $(READY)
	$(PYTEST) -m "not slow and not emulated and not stress" $(WORKERS)

test-emulated: $(READY)
	$(BIN)/pytest -q -m emulated --durations=10 $(WORKERS)

# A bare aarch64 machine in .cache/: Debian's packages and wheels, unpacked there and run by qemu-user.
test-aarch64: $(READY)
	$(BIN)/pytest -q -m emulated -k "arm" --durations=10 tests/emulation

test-stress: $(READY)
	$(BIN)/pytest -q -m stress --durations=10 $(WORKERS)

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/codespell

wheels: $(READY)
	$(BIN)/python -m build --wheel --outdir dist runtime
	$(BIN)/python -m build --wheel --outdir dist .

$(READY): pyproject.toml runtime/pyproject.toml constraints.txt
	@command -v $(PYTHON) >/dev/null || { echo "Python 3.11 is needed: install it, or run 'make PYTHON=/path/to/python3.11 $(MAKECMDGOALS)'" >&2; exit 1; }
	@echo "Setting up $(VENV) (once; about two minutes) ..."
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check --constraint constraints.txt torch --editable 'runtime[ort]' --editable '.[dev,rtx]'
	@touch $@

clean:
	rm -rf $(VENV) build dist out .mypy_cache .ruff_cache .pytest_cache
