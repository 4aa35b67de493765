# Each target sets up what it needs: in a new clone, `make demo` or `make test` is all there is to type.
PYTHON = python3
VENV = .venv
# Files of tests that run at a time; each takes 1 to 2 GB.
TEST_PROCESSES = 2

BIN = $(VENV)/bin
# -qq: errors only
PIP = $(BIN)/python -m pip --disable-pip-version-check
# Both of the installed package, so in a folder without one: `trainers`, `plans` and `dataset_conversion` are in it only
# there.
FLOORS = cd tests && $(abspath $(BIN))/lint-imports --no-cache --no-logo ../pyproject.toml
TYPES = cd tests && $(abspath $(BIN))/python -m mypy --config-file ../pyproject.toml
LINT = $(BIN)/ruff check . && $(BIN)/ruff format --check . && ($(FLOORS)) && ($(TYPES))
SOURCES = nnunet_ext dataset_conversion trainers plans
# With the folders themselves, so that a deleted file counts as a change.
SOURCE_FILES = $(shell find $(SOURCES) -name __pycache__ -prune -o \( -type d -o -type f \) -print)

.PHONY: help demo test long check install clean

help:
	@echo "make demo     synthetic cases through convert, plan, train, predict and evaluate, into demo/"
	@echo "make test     lint, floors of imports, types and all tests, against the installed package"
	@echo "make long     the tests that take minutes: trainings that must learn, the study's guide"
	@echo "make check    the same without the slow tests, for every small step"
	@echo "make install  only set up $(VENV)"
	@echo "make clean    remove $(VENV), demo/ and what building leaves behind"
	@echo "Variables: PYTHON=$(PYTHON) (3.10 or newer), VENV=$(VENV), TEST_PROCESSES=$(TEST_PROCESSES), PYTEST_ARGS=..."

demo: install
	$(BIN)/nnunet_ext demo demo

# The test processes share the cores: one thread each where nobody asks for more, and none that spins while it waits. (Not
# OMP_THREAD_LIMIT: nnU-Net's commands ask for all cores, and a convolution that gets fewer waits for ever.)
test: export OMP_NUM_THREADS := $(or $(OMP_NUM_THREADS),1)
test: export OMP_WAIT_POLICY := $(or $(OMP_WAIT_POLICY),passive)
test: install
	$(LINT)
	$(BIN)/pytest -q --durations=15 -m "not long" -n $(TEST_PROCESSES) --dist loadfile --no-loadscope-reorder $(PYTEST_ARGS)

long: export OMP_NUM_THREADS := $(or $(OMP_NUM_THREADS),1)
long: export OMP_WAIT_POLICY := $(or $(OMP_WAIT_POLICY),passive)
long: install
	$(BIN)/pytest -q --durations=5 -m long -n $(TEST_PROCESSES) --dist loadfile --no-loadscope-reorder $(PYTEST_ARGS)

# Lint, the floors of imports, types, and the tests without `slow`.
check: export OMP_NUM_THREADS := $(or $(OMP_NUM_THREADS),1)
check: export OMP_WAIT_POLICY := $(or $(OMP_WAIT_POLICY),passive)
check: install
	$(LINT)
	$(BIN)/pytest -q -n $(TEST_PROCESSES) --dist loadfile -m "not slow and not long" $(PYTEST_ARGS)

install: $(VENV)/installed

# Dependencies: again only when what we declare changes. The package itself: whenever a source changes.
$(VENV)/dependencies: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' || { echo "$(PYTHON) is older than 3.10"; exit 1; }
	@echo "Setting up $(VENV): nnU-Net and torch, a few minutes"
	@$(PYTHON) -m venv $(VENV) || { echo "no venv module: install python3-venv, or set PYTHON=..."; exit 1; }
	@rm -rf build
	@$(PIP) install -qq -c constraints.txt torch torchvision ".[test]"
	@touch $@

# `build` would carry deleted files into the package; setuptools is there, torch needs it.
$(VENV)/installed: $(VENV)/dependencies README.md $(SOURCE_FILES)
	@echo "Installing nnunet_ext into $(VENV)"
	@rm -rf build
	@$(PIP) install -qq --no-deps --no-build-isolation --force-reinstall .
	@rm -rf build
	@touch $@

clean:
	rm -rf $(VENV) demo build dist *.egg-info .pytest_cache .ruff_cache .hypothesis tests/.mypy_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
