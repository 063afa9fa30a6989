# `make` lists the targets. Everything is installed into .venv, from the lock in constraints.txt.
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# Newer than what it was installed from, or the install runs again.
STAMP := $(VENV)/.installed
# Test processes. One thread each: more processes than cores, or more threads, only wait for each other.
JOBS ?= 2
# Of `make chaos`, as in CHAOS_ARGS='--seed 11 --json table.json'; --help lists them.
CHAOS_ARGS ?=
# Of `make bench-doctor`: parts and options, as in BENCH_ARGS='rivals table --seeds 0'; --help lists them.
BENCH_ARGS ?=
# The other tools that the data doctor is compared with, beside the libraries of .venv; nothing else uses them.
RIVALS := .venv-rivals
PYTEST := OMP_NUM_THREADS=1 scripts/with_memory_tmp.sh $(BIN)/python -m pytest

.PHONY: help install demo test coverage test-slow check chaos bench-doctor test-compose test-all format lock clean

help: ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-14s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

install: $(STAMP) ## .venv with everything that running, testing and checking need

$(STAMP): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' 2>/dev/null || { \
	  found=$$($(PYTHON) --version 2>&1) || found="not a Python that runs"; \
	  echo "$(PYTHON) is $$found, but hpo needs Python 3.11, 3.12 or 3.13;" \
	       "install one and name it: make install PYTHON=python3.12" >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	@touch $@

demo: install ## the main job on generated cells, in ./demo, with the embedded PostgreSQL; under 3 minutes
	@PATH="$(CURDIR)/$(BIN):$$PATH" scripts/demo.sh

test: install ## all default tests; under 8 minutes on 2 cores
	$(PYTEST) -n $(JOBS)

coverage: install ## the same tests, and which lines they reach; half as long again
	$(PYTEST) -n $(JOBS) --cov

test-slow: install ## the tests that take longer than ten seconds each: whole searches, chaos, interleavings
	$(PYTEST) -n $(JOBS) --maxschedchunk 1 -m 'slow and not gpu and not data and not compose'

check: install ## lint, format and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

chaos: install ## kill, stop, cut and fill everything, and count what is lost: 8 workers, 2 of them isolated, 200 trials, 300 faults
	$(BIN)/python -m tests.chaos $(CHAOS_ARGS)

bench-doctor: install $(RIVALS)/.installed ## the data doctor beside other tools on planted faults; the images of ../shared, an hour
	$(BIN)/python -m benchmarks.doctor --rivals-python $(RIVALS)/bin/python $(BENCH_ARGS)

$(RIVALS)/.installed: $(STAMP)
	$(BIN)/python -m venv $(RIVALS)
	$(BIN)/python -c 'import sys; print(*[path for path in sys.path if path.endswith("site-packages")], sep="\n")' \
	  > "$$($(RIVALS)/bin/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')/hpo-libraries.pth"
	$(RIVALS)/bin/python -m pip install --quiet --disable-pip-version-check \
	  'cleanvision>=0.3.7,<0.4' 'imagededup>=0.3.3,<0.4' 'cleanlab[datalab]>=2.9,<3' 'dataeval>=1.1,<2'
	@touch $@

test-compose: install ## the image and docker-compose.yml in a real container engine
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m compose -rs tests/test_compose.py

test-all: install ## every test that this machine can run, each skipped one with its reason
	$(PYTEST) -m '' -rs

format: install ## put the code into the form that `make check` wants
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

lock: install ## resolve the dependencies anew and write constraints.txt; needs Python 3.11
	$(BIN)/python scripts/lock.py

clean: ## remove what was built, cached and demonstrated; .venv and the studies in .hpo stay
	rm -rf build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis .coverage coverage.xml demo
	find $(wildcard hpo search_spaces storage tests benchmarks scripts) -name __pycache__ -type d -prune -exec rm -rf {} +
