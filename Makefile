# Every target sets itself up: Python 3.11 to 3.13 and a package index are enough.
# Nothing is written outside this folder but pip's and uv's download caches.

PYTHON ?= python3.11
VENV := .venv
BIN := $(VENV)/bin
CACHE := .feedloop-cache

export PIP_DISABLE_PIP_VERSION_CHECK := 1
export MPLCONFIGDIR := $(CURDIR)/$(CACHE)/matplotlib
export SODA_CORE_TELEMETRY_ENABLED := false

.DEFAULT_GOAL := help
.PHONY: help setup demo test test-all torture lint bench docs lock clean
.DELETE_ON_ERROR:
MAKEFLAGS += --no-builtin-rules

help: ## This list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "make %-9s %s\n", $$1, $$2}' \
		$(MAKEFILE_LIST)

# -- what there is to do ----------------------------------------------------

setup: $(VENV)/$(or $(EXTRA),core).stamp ## What feedloop and dbt need, in .venv (EXTRA=report, test)

demo: $(VENV)/core.stamp ## The whole loop on this machine (KEEP=1 leaves it up)
	$(BIN)/feedloop demo $(if $(KEEP),--keep)

test: $(VENV)/test.stamp ## Every test but the slow ones
	$(BIN)/python -m pytest -m "not slow"

test-all: $(VENV)/test.stamp ## Every test
	$(BIN)/python -m pytest

torture: $(VENV)/test.stamp ## Everything goes wrong for minutes (MINUTES=5 SEED=n)
	$(BIN)/python -m tests.torture --minutes $(or $(MINUTES),5) \
		$(if $(SEED),--seed $(SEED)) --report docs/reliability.md

lint: $(VENV)/test.stamp ## Style, types, import rules and SQL
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/lint-imports
	FEEDLOOP_HOME=$(CACHE)/lint $(BIN)/sqlfluff lint --disable-progress-bar \
		models snapshots tests/dbt

bench: $(VENV)/test.stamp ## Every benchmark, into benchmarks/results (ONLY="load …")
	$(BIN)/python -m benchmarks $(ONLY)

# Without data nothing can be compiled: the page then has all but SQL and types.
DATA := $(FEEDLOOP_CATALOG_URI) \
	$(wildcard $(or $(FEEDLOOP_HOME),.feedloop)/*/iceberg/*/events)

docs: $(VENV)/core.stamp ## The dbt docs site as one page: site/index.html
	$(if $(strip $(DATA)),,$(BIN)/dbt parse)
	$(BIN)/dbt docs generate --static \
		$(if $(strip $(DATA)),,--no-compile --empty-catalog)
	mkdir -p site
	cp target/static_index.html site/index.html

clean: ## Remove everything made here but data (.feedloop)
	rm -rf $(VENV) $(CACHE) .feedloop-demo build site target logs *.egg-info \
		.hypothesis .import_linter_cache .mypy_cache .pytest_cache .ruff_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# -- the environment --------------------------------------------------------

# One environment: the tests' requirements are the demo's and more, with the
# same pins, so that neither installs over the other. The files name everything,
# and pip would look for hashes of `name[extra]` where they have `name`.
# uv compiles only when told to, and where Python may not write what it compiled
# every process would compile anew what it imports: seconds, each time.
install = $(BIN)/uv pip install --compile-bytecode --python $(BIN)/python \
	--require-hashes -r $(1) \
	|| $(BIN)/python -m pip install --no-deps --require-hashes -r $(1)

$(VENV)/%.stamp: requirements/%.txt $(VENV)/ready.stamp pyproject.toml
	$(call install,$<)
	$(BIN)/python -m pip install --quiet --no-deps --no-build-isolation --editable .
	@touch $@

# uv installs in seconds what takes pip a minute, and pip serves without it.
$(VENV)/ready.stamp: requirements/setup.txt requirements/uv.txt
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 14))' \
		2>/dev/null || { echo "Feedloop needs Python 3.11, 3.12 or 3.13, and" \
		"$(PYTHON) is none: install one, or name it: make PYTHON=python3.12." >&2; \
		exit 1; }
	@$(PYTHON) -c 'import venv, ensurepip' 2>/dev/null || { echo "$(PYTHON) can't" \
		"make virtual environments: install its venv module (on Debian and" \
		"Ubuntu: apt install python3.11-venv)." >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --require-hashes -r requirements/setup.txt
	$(BIN)/python -m pip install --quiet --require-hashes -r requirements/uv.txt \
		|| echo "uv is not to be had here; pip takes over, more slowly."
	@touch $@

# Universal, with hashes and without index addresses. UPGRADE=--upgrade takes
# newer versions; without it only what pyproject.toml asks for changes.
COMPILE = $(BIN)/uv pip compile --quiet --universal --python-version 3.11 \
	--generate-hashes --no-emit-index-url --no-header $(UPGRADE)

lock: $(VENV)/ready.stamp ## Write requirements/ anew from pyproject.toml
	$(COMPILE) pyproject.toml --extra test -o requirements/test.txt
	$(COMPILE) pyproject.toml -c requirements/test.txt -o requirements/core.txt
	$(COMPILE) pyproject.toml --extra report -c requirements/test.txt \
		-o requirements/report.txt
	echo 'setuptools>=77' | $(COMPILE) - -c requirements/test.txt \
		-o requirements/setup.txt
	echo 'uv' | $(COMPILE) - -o requirements/uv.txt
	echo 'pyspark==4.1.1' | $(COMPILE) - -o requirements/bench-spark.txt
