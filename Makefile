# One command each. They need Python 3.11 or newer, make and PyPI; everything else is put into .venv.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed
LOWEST := .venv-lowest

.DEFAULT_GOAL := help
.PHONY: help demo test check format lint types coverage lowest bench clean

help:  ## show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "make %-10s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

$(INSTALLED): pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade 'pip>=25.1'
	$(BIN)/python -m pip install --quiet --group dev --editable '.[cli]'
	@touch $@

demo: $(INSTALLED)  ## the main job: messages survive a bad network, ends in a verdict
	$(BIN)/reliable-emit demo

test: $(INSTALLED)  ## all tests
	$(BIN)/python -m pytest

check: format lint types coverage lowest  ## format, lint, types, tests with branch coverage, and the lowest versions

format: $(INSTALLED)
	$(BIN)/ruff format --check .

lint: $(INSTALLED)
	$(BIN)/ruff check .

types: $(INSTALLED)
	$(BIN)/mypy

coverage: $(INSTALLED)
	$(BIN)/coverage erase
	$(BIN)/coverage run -m pytest
	$(BIN)/coverage combine --quiet
	$(BIN)/coverage report

$(LOWEST)/.installed: pyproject.toml tests/lowest.txt
	$(PYTHON) -m venv $(LOWEST)
	$(LOWEST)/bin/python -m pip install --quiet --upgrade 'pip>=25.1'
	$(LOWEST)/bin/python -m pip install --quiet --group dev --editable '.[cli]' --constraint tests/lowest.txt
	@touch $@

lowest: $(LOWEST)/.installed  ## the tests against the lowest versions that pyproject.toml allows
	$(LOWEST)/bin/python -m pytest

bench: $(INSTALLED)  ## the benchmarks; ratios measured in one run
	$(BIN)/python benchmarks/overhead.py
	$(BIN)/python benchmarks/memory.py
	$(BIN)/python benchmarks/queue_length.py
	$(BIN)/python benchmarks/outbox.py
	$(BIN)/python benchmarks/faults.py

clean:  ## remove everything that make has made
	rm -rf $(VENV) $(LOWEST) .coverage* .mypy_cache .ruff_cache .pytest_cache .hypothesis
