# make demo           both phases on real digits and on one function, figures under runs/demo
# make check          lint, types and the fast tests: 2 minutes, while you work
# make test           lint, types, docs, tests, NNX graph and tree mode: half an hour on 2 cores
# make docs           the documentation, in site/index.html
# make test-versions  the tests on every Python from 3.11 to 3.14 found
# make test-oldest    quick tests with the oldest versions that are declared; test-newest; all by
#                     TESTS=all
# make wheel          builds wheel and sdist, and tries them in a new environment: minutes
# make import-time    import smartmixed_jax beside flax.nnx alone: 2 minutes
# make notebooks      runs the notebooks and keeps their outputs, 2 minutes; one by NOTEBOOK=PATH
# make clean          removes the environments; runs stay

SHELL := /bin/bash
VENV ?= .venv
BIN := $(VENV)/bin
VERSIONS := 3.11 3.12 3.13 3.14
PYENV = $(wildcard $(HOME)/.pyenv/versions/$(1).*/bin/python$(1))
CANDIDATES := $(PYTHON) python3 $(VERSIONS:%=python%) $(foreach v,$(VERSIONS),$(call PYENV,$(v)))
SUPPORTED := import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 15))
# The first interpreter that starts and is supported: a name on the path may be a broken shim.
FOUND = $(firstword $(foreach p,$(CANDIDATES),$(shell $(p) -c "$(SUPPORTED)" 2>/dev/null && command -v $(p))))

.PHONY: demo test check lint types docs tests tests-tree test-versions test-oldest test-newest \
  wheel import-time notebooks clean

demo: $(VENV)/.demo
	$(BIN)/python -m experiments.demo

test: lint types docs tests tests-tree

lint: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(VENV)/.dev
	$(BIN)/mypy
	$(BIN)/python docs/snippets.py

docs: $(VENV)/.dev
	$(BIN)/python docs/build.py

# For two cores, one more than they are, so that none waits; more, on many cores, by WORKERS=.
WORKERS ?= 3
# After the end of a worker that was restarted, pytest-xdist would wait for ever.
PYTEST := $(BIN)/python $(PYTHON_OPTIONS) -m pytest -n $(WORKERS) --max-worker-restart 0 \
  --dist loadfile --no-loadscope-reorder
QUICK := XLA_FLAGS="$(XLA_FLAGS) $$($(BIN)/python tests/quick_flags.py)"

# What one worker or mode compiled serves the others.
tests tests-tree: export JAX_COMPILATION_CACHE_DIR = $(abspath $(VENV))/jax-cache
tests tests-tree: export JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS = 0.1

# The longest files first, so that no worker is left alone with one of them.
tests: $(VENV)/.dev
	$(PYTEST) -m optimized tests/test_notebooks.py tests
	$(QUICK) $(PYTEST) -m "not optimized" tests/test_devices.py tests/test_parallel.py \
	  tests/test_your_data.py tests

# Again what knows of NNX, in the mode that Flax announces as its future default.
KNOWS_NNX := networks conversion nnx granularity flax_state summary conversion_places \
  conversion_start users_models release_and_labels consistency
tests-tree: $(VENV)/.dev
	$(QUICK) NNX_GRAPH_MODE=false NNX_GRAPH_UPDATES=false $(PYTEST) -m "not optimized" \
	  $(KNOWS_NNX:%=tests/test_%.py)

# Without those that train, draw, or compile for long.
FAST := arrays choice_map command_line config config_file conversion_places conversion_start copies \
  docs estimators flax_state guard names nnx objective packaging pools readme release_and_labels report \
  run_folder statistics summary table tables
check: lint types
	$(QUICK) $(PYTEST) -m "not optimized" $(FAST:%=tests/test_%.py)

test-versions:
	@set -e; for version in $(VERSIONS); do \
	  python=""; \
	  for p in python$$version $(HOME)/.pyenv/versions/$$version.*/bin/python$$version; do \
	    if $$p -c "" 2>/dev/null; then python=$$p; break; fi; \
	  done; \
	  if [ -z "$$python" ]; then echo "Python $$version: not found, skipped"; continue; fi; \
	  echo "Python $$version: $$python"; \
	  $(MAKE) --no-print-directory VENV=.venv-$$version PYTHON=$$python tests tests-tree; \
	done

# uv, which is in the environment, takes the lowest versions too; pip does not.
test-oldest test-newest: test-%: $(VENV)/.dev
	PATH="$(abspath $(BIN)):$$PATH" .ci/versions $* $(TESTS)

wheel: $(VENV)/.dev
	PATH="$(abspath $(BIN)):$$PATH" .ci/wheel

import-time: $(VENV)/.dev
	$(BIN)/python -m experiments.benchmarks.import_time

notebooks: $(VENV)/.dev
	$(BIN)/python -m notebooks.execute $(NOTEBOOK)

$(VENV)/.demo: requirements.txt pyproject.toml | $(BIN)/python
	$(call install,-r requirements.txt -e .)
	@touch $@

$(VENV)/.dev: $(wildcard requirements*.txt) pyproject.toml | $(BIN)/python
	$(call install,-r requirements-dev.txt -e .)
	@touch $@ $(VENV)/.demo

$(BIN)/python:
	@if [ -z "$(FOUND)" ]; then \
	  echo "No Python from 3.11 to 3.14 found. On Debian or Ubuntu: sudo apt install python3 python3-venv;"; \
	  echo "or name one: make $(MAKECMDGOALS) PYTHON=/path/to/python3.13"; exit 1; fi
	@$(FOUND) -m venv $(VENV) || { rm -rf $(VENV); \
	  echo "$(FOUND) cannot make a virtual environment. On Debian or Ubuntu: sudo apt install python3-venv"; \
	  exit 1; }

# uv installs in seconds; plain pip does the same slowly where uv is not to be had.
define install
@echo "Installing into $(VENV) ..."
@if $(BIN)/python -m pip install -q uv; \
	then $(BIN)/python -m uv pip install -q --python $(BIN)/python $(1); \
	else $(BIN)/python -m pip install -q $(1); fi
endef

clean:
	rm -rf .venv .venv-* dist
