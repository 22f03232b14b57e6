# Everything runs in .venv, made by the first Python >= 3.11 on PATH; another one: make test PYTHON=python3.12
VENV ?= .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
PINS := requirements/test.txt requirements/tools.txt

# More workers than most machines have cores: many tests wait for a server or a process.
SPREAD := -n 3 --dist worksteal

# Each candidate is run, as a name on PATH may be a shim with nothing behind it.
OLD_ENOUGH := import sys; sys.exit(sys.version_info < (3, 11))
PYTHON ?= $(shell for name in python3.13 python3.12 python3.11 python3 python3.14 python; do \
	$$name -c '$(OLD_ENOUGH)' >/dev/null 2>&1 && echo $$name && break; done)

.DEFAULT_GOAL := help
.PHONY: help setup demo test test-long test-minima test-newest check bench docs dist clean

help: ## show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## /{printf "  make %-11s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: $(READY) ## make .venv with all that follows needs

demo: $(READY) ## a cluster of four processes over NATS, with a crash
	$(BIN)/python -m catga.cli.demo

test: $(READY) ## the tests, without the long ones; ARGS="-k name" is passed on
	$(BIN)/python -m pytest $(SPREAD) $(ARGS)

test-long: $(READY) ## the long tests: splits, failovers, mass deaths, refusals, histories; the properties with many examples
	$(BIN)/python -m pytest -n 2 -m "long or hypothesis" --hypothesis-profile=many $(ARGS)

# With other releases than the pinned ones, in a virtual environment that is made anew.
BOUNDS_TESTS := tests/unit tests/contract tests/meaning tests/e2e

test-minima: ## the tests with the lowest releases that pyproject.toml takes, in .venv-minima
	$(PYTHON) -m venv --clear .venv-minima
	.venv-minima/bin/python -m pip install --quiet --disable-pip-version-check -r requirements/minima.txt -r requirements/suite.txt
	.venv-minima/bin/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
	.venv-minima/bin/python -m pytest $(SPREAD) $(BOUNDS_TESTS) $(ARGS)

test-newest: ## the tests with the newest releases of everything, in .venv-newest
	$(PYTHON) -m venv --clear .venv-newest
	.venv-newest/bin/python -m pip install --quiet --disable-pip-version-check -r requirements/suite.txt
	.venv-newest/bin/python -m pip install --quiet --disable-pip-version-check --no-build-isolation -e '.[all]'
	.venv-newest/bin/python -m pytest $(SPREAD) $(BOUNDS_TESTS) $(ARGS)

check: $(READY) ## lint, format, types, layers
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/pyright --pythonpath $(BIN)/python
	$(BIN)/lint-imports

bench: $(READY) ## the benchmarks
	PATH="$(CURDIR)/$(BIN):$$PATH" $(BIN)/python -m bench $(ARGS)

docs: $(READY) ## the documentation, in site/
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

dist: $(READY) ## wheel and source archive in dist/
	rm -rf dist
	$(BIN)/python -m build --no-isolation

clean: ## remove what was made
	rm -rf .venv .venv-* dist build site bench/.envs .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
	find src tests examples bench -name __pycache__ -type d -prune -exec rm -rf {} + 2>/dev/null || true

$(READY): $(PINS) pyproject.toml
	@test -n "$(PYTHON)" || { echo "no Python >= 3.11 on PATH: install one, or say make PYTHON=/path/to/python"; exit 1; }
	@$(PYTHON) -c '$(OLD_ENOUGH)' || { echo "$(PYTHON) is older than 3.11"; exit 1; }
	$(PYTHON) -m venv --clear $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check $(PINS:%=-r %)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
	@touch $@
