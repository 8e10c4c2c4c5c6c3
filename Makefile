# One command each. They need Python 3.11 or newer, make and PyPI; everything else is put into .venv.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed
LOWEST := .venv-lowest
# As many as CI has cores: some tests have bounds in seconds. Those with close deadlines run by themselves.
WORKERS ?= 2
TOGETHER := -n $(WORKERS) --dist worksteal -m 'not alone'
ALONE := -m alone

.DEFAULT_GOAL := help
NODE := tests/node
WEB := src/reliable_emit/server/web
# Node's headers where Debian puts them; elsewhere node-gyp finds or fetches them itself.
NODEDIR := $(if $(wildcard /usr/include/node/node_api.h),--nodedir=/usr)

.PHONY: help demo test check format lint types coverage lowest bench web node clean

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
	$(BIN)/python -m pytest $(TOGETHER)
	$(BIN)/python -m pytest $(ALONE)

check: format lint types coverage lowest  ## format, lint, types, tests with branch coverage, and the lowest versions

format: $(INSTALLED)
	$(BIN)/ruff format --check .

lint: $(INSTALLED)
	$(BIN)/ruff check .

types: $(INSTALLED)
	$(BIN)/mypy

coverage: $(INSTALLED)
	$(BIN)/coverage erase
	$(BIN)/coverage run -m pytest $(TOGETHER)
	$(BIN)/coverage run -m pytest $(ALONE)
	$(BIN)/coverage combine --quiet
	$(BIN)/coverage report

# What npm packages run at their installation is left out: it would fetch binaries that somebody else has built.
$(NODE)/node_modules/.installed: $(NODE)/package.json $(NODE)/package-lock.json
	cd $(NODE) && npm ci --ignore-scripts --loglevel=error
	@touch $@

$(WEB)/socket.io.min.js: $(NODE)/node_modules/.installed
	cp $(NODE)/node_modules/socket.io-client/LICENSE $(WEB)/socket.io.LICENSE
	cp $(NODE)/node_modules/socket.io-client/dist/socket.io.min.js $@

web: $(WEB)/socket.io.min.js  ## put the Socket.IO client where the chat page and the wheel find it (needs npm)

$(NODE)/node_modules/.built: $(NODE)/node_modules/.installed
	cd $(NODE)/node_modules/sqlite3 && CFLAGS=-w ../.bin/node-gyp rebuild --loglevel=error $(NODEDIR) >/dev/null
	@touch $@

node: web $(NODE)/node_modules/.built  ## the same, and what the tests with Node need (and a C++ compiler)

$(LOWEST)/.installed: pyproject.toml tests/lowest.txt
	$(PYTHON) -m venv $(LOWEST)
	$(LOWEST)/bin/python -m pip install --quiet --upgrade 'pip>=25.1'
	$(LOWEST)/bin/python -m pip install --quiet --group dev --editable '.[cli]' --constraint tests/lowest.txt
	@touch $@

lowest: $(LOWEST)/.installed  ## the tests against the lowest versions that pyproject.toml allows
	$(LOWEST)/bin/python -m pytest $(TOGETHER)
	$(LOWEST)/bin/python -m pytest $(ALONE)

bench: $(INSTALLED) node  ## the benchmarks; ratios measured in one run
	$(BIN)/python benchmarks/overhead.py
	$(BIN)/python benchmarks/memory.py
	$(BIN)/python benchmarks/queue_length.py
	$(BIN)/python benchmarks/outbox.py
	$(BIN)/python benchmarks/inbox.py
	$(BIN)/python benchmarks/tutorial.py
	$(BIN)/python benchmarks/faults.py

clean:  ## remove everything that make has made
	rm -rf $(VENV) $(LOWEST) $(NODE)/node_modules $(WEB)/socket.io.* .coverage* .mypy_cache .ruff_cache .pytest_cache .hypothesis
