# Every target makes what it needs first; nothing but Python >= 3.11 and make is expected.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
STAMP  := $(VENV)/.installed
SMOKE  ?=
# A worker per processor, each with one thread: the models of the tests are tiny.
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n logical --maxprocesses 4 --dist loadfile

export HF_HUB_DISABLE_TELEMETRY = 1
export TOKENIZERS_PARALLELISM = false

.DEFAULT_GOAL := help
.PHONY: help setup book pdf test slow check bench lock clean

help:  ## List the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## /{printf "  make %-8s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: $(STAMP)  ## Create .venv and install the locked packages and the project

$(STAMP): requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(0 if sys.version_info >= (3, 11) else "Python 3.11 or newer is needed, this is " + sys.version.split()[0] + "; name another one with: make PYTHON=python3.12 ...")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements.lock
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --editable .
	@touch $@

book: $(STAMP)  ## Run the experiments on the embedded default and render the book (SMOKE=1: tiny sizes)
	$(BIN)/purify book $(if $(SMOKE),--smoke)

pdf: $(STAMP)  ## The same, and print the book to _build/purify.pdf; needs Chromium and chromedriver (SMOKE=1: tiny sizes)
	$(BIN)/purify book --pdf $(if $(SMOKE),--smoke)

test: $(STAMP)  ## Run the tests
	$(PYTEST)

slow: $(STAMP)  ## Run the tests that take minutes each; they use all processors themselves
	$(BIN)/python -m pytest -m slow

check: $(STAMP)  ## Lint, format check, type check, spelling, and the form of the workflows
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/codespell
	$(BIN)/check-jsonschema --builtin-schema vendor.github-workflows .github/workflows/*.yml

bench: $(STAMP)  ## Run the benchmarks and write their tables to results/benchmarks (about two hours, on a quiet machine)
	$(BIN)/python benchmarks/grid.py
	$(BIN)/python benchmarks/fisher.py
	$(BIN)/python benchmarks/purifying.py
	$(BIN)/python benchmarks/training.py --task docstrings --train 1000
	$(BIN)/python benchmarks/scan.py
	$(BIN)/python benchmarks/fuzz.py

lock: $(STAMP)  ## Rewrite requirements.lock from the ranges of pyproject.toml
	$(BIN)/pip-compile --quiet --upgrade --extra book --extra cluster --extra dev --strip-extras --no-emit-index-url --no-emit-find-links \
	  --output-file requirements.lock pyproject.toml
	sed -i.bak -E 's/^([a-z0-9-]+==[0-9.]+)\+cpu$$/\1/' requirements.lock && rm requirements.lock.bak

clean:  ## Remove the rendered book and the caches of the tools (the environment and the stored runs stay)
	rm -rf _build .pytest_cache .mypy_cache .ruff_cache
