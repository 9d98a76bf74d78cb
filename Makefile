# Everything starts here: `make demo` runs the main job on synthetic photographs, `make test` passes the tests.
# Needs git, make and Python 3.11 to 3.14; all else goes into .venv/.

PYTHON ?= python3
UV_VERSION := 0.13.8
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed
PYTEST := $(BIN)/python -m pytest

# Nothing phones home, and Ray's authentication is always chosen, never inherited from an earlier Ray on this machine
# (a local Ray turns token mode on for all later ones). The demo's own Ray sets its own mode.
export RAY_USAGE_STATS_ENABLED := 0
export RAY_AUTH_MODE := disabled
export NO_ALBUMENTATIONS_UPDATE := 1
# Thread counts are set in the configs; results on a CPU depend on them.
unexport OMP_NUM_THREADS
# uv trusts the certificates that the machine trusts, as pip does, and takes a mirror chosen for pip.
export UV_SYSTEM_CERTS ?= true
ifdef PIP_INDEX_URL
export UV_DEFAULT_INDEX ?= $(PIP_INDEX_URL)
endif

.DEFAULT_GOAL := help
.PHONY: help setup demo check test acceptance bench lock clean

help:  ## this list
	@sed -n 's/^\([a-z]*\):.*## \(.*\)/  make \1|\2/p' Makefile | awk -F'|' '{printf "%-18s %s\n", $$1, $$2}'

setup: $(INSTALLED)  ## make .venv with all dependencies (nothing to do when it is up to date)

$(INSTALLED): pyproject.toml requirements.lock
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 14))' || { \
	  echo "$(PYTHON) is $$($(PYTHON) --version 2>&1), want Python 3.11 to 3.14; try: make setup PYTHON=python3.11" >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check uv==$(UV_VERSION)
	VIRTUAL_ENV=$(VENV) $(BIN)/uv pip install --quiet --require-hashes --no-build -r requirements.lock
	VIRTUAL_ENV=$(VENV) $(BIN)/uv pip install --quiet --offline --no-deps --no-build-isolation --editable .
	@touch $@

demo: $(INSTALLED)  ## the main job end to end; RAW=DIR takes a Carvana folder instead of synthetic cars
	$(BIN)/python cluster/demo.py $(if $(RAW),--raw '$(RAW)')

check: $(INSTALLED)  ## lint, types, layers, unit tests (two minutes)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(PYTEST) tests/unit

test: check  ## check, then the integration tests (a quarter of an hour)
	$(PYTEST) tests/integration

acceptance: check  ## check, integration tests, whole demos, real data
	$(PYTEST) tests/integration tests/acceptance

bench: $(INSTALLED)  ## every benchmark in turn, one JSON line a figure
	@set -e; for script in benchmarks/*.py; do echo "# $$script" >&2; $(BIN)/python "$$script"; done

lock: $(INSTALLED)  ## compile requirements.lock again from pyproject.toml
	$(BIN)/uv pip compile pyproject.toml --all-extras --universal --python-version 3.11 --generate-hashes \
	  --no-emit-index-url --custom-compile-command "make lock" --quiet --output-file requirements.lock

clean:  ## remove .venv and all caches, keep results
	rm -rf $(VENV) .mypy_cache .pytest_cache .ruff_cache .hypothesis build dist
	find src tests jobs benchmarks cluster -name __pycache__ -type d -prune -exec rm -rf {} +
