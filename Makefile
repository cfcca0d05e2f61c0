# `make figures` and `make test` do everything on a fresh machine with Python >= 3.11, make and git.

PYTHON ?= python3
VENV ?= .venv
# Processes for tests and figures, with one torch thread each on two cores: the fastest setting there.
WORKERS ?= 2
# Which model the figures are made of, and how large the runs are (quick or full).
MODEL ?= mini
PROFILE ?= quick
# Recipes of mini that differ in what made it refuse or see: two findings compare them.
CONTROLS ?= $(if $(filter mini,$(MODEL)),mini:unaligned mini:grounded mini:lm_loss)
# Where `make mini` trains and measures, and carries on; the shipped weights stay as they are, and `make clean` leaves it alone.
MINI ?= mini-training
# How it trains and is measured. On a GPU with 16 cores, eleven minutes:
#   make mini MINI_TRAIN="--scale wide --device cuda --budget 525 --jobs 4 --workers 12" MINI_EVALUATE="--device cuda --jobs 4"
MINI_TRAIN ?= --budget 6300 --jobs $(WORKERS)
MINI_EVALUATE ?= --jobs $(WORKERS)

BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
# TransformerLens tries to install torchvision when a processor fails to load; these make that attempt fail harmlessly.
OFFLINE := PIP_NO_INDEX=1 UV_OFFLINE=1 HF_HUB_OFFLINE=1 HF_HUB_DISABLE_TELEMETRY=1 TOKENIZERS_PARALLELISM=false
ONE_THREAD := OMP_NUM_THREADS=1 MKL_NUM_THREADS=1

.DEFAULT_GOAL := help
.PHONY: help setup docs figures test test-slow test-long test-simulation test-speed test-gpu lint format notebooks mini clean

help:  ## show this list
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-11s %s\n", $$1, $$2}'

setup: $(STAMP)  ## create .venv with everything installed (nothing to do the second time)

# torch first and by exact version, so that a CPU build on disk is taken; never torchvision.
$(STAMP): pyproject.toml constraints.txt requirements-mini.txt
	$(PYTHON) -c 'import sys; sys.exit(0 if sys.version_info >= (3, 11) else "Python 3.11 or newer is needed; set PYTHON=python3.11")'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet "$$(grep '^torch==' constraints.txt)"
	$(BIN)/python -m pip install --quiet -c constraints.txt -e '.[dev,docs,fonts,notebooks,train]'
	$(BIN)/python -m pip install --quiet --no-deps --require-hashes -r requirements-mini.txt
	touch $@

figures: setup  ## every figure, table and claim on MODEL, then the gallery figures/index.html
	$(OFFLINE) $(BIN)/safesteer run --all --model $(MODEL) --profile $(PROFILE) --jobs $(WORKERS)
	for control in $(CONTROLS); do \
	  $(OFFLINE) $(BIN)/safesteer run probe_training refusal_lens --model $$control --profile $(PROFILE) --jobs $(WORKERS) || exit; \
	done
	$(OFFLINE) $(BIN)/safesteer report --readme README.md

test: setup  ## the test suite, but for what takes longer (make test-slow, make test-long)
	$(OFFLINE) $(ONE_THREAD) $(BIN)/python -m pytest -n $(WORKERS) --dist loadgroup --no-loadscope-reorder

test-slow: setup  ## tests that take longer: training scaled down, the wheel, a few notebooks, fuzz
	$(OFFLINE) $(ONE_THREAD) $(BIN)/python -m pytest -m "slow and not long and not gpu" -n $(WORKERS) --dist loadgroup --no-loadscope-reorder

test-long: setup  ## the tests that take longest: every notebook, kills, clusters, further families; before a release
	$(OFFLINE) $(ONE_THREAD) $(BIN)/python -m pytest -m "long and not gpu" -n $(WORKERS) --dist loadgroup --no-loadscope-reorder

test-simulation: setup  ## coverage of intervals, level and power of every claim of every committed finding, by simulation (long)
	$(OFFLINE) $(ONE_THREAD) $(BIN)/python -m pytest -m simulation -n $(WORKERS)

test-speed: setup  ## the tests that assert times, on a quiet machine
	$(OFFLINE) $(ONE_THREAD) $(BIN)/python -m pytest -m speed -n 0

test-gpu: setup  ## the tests that need an accelerator
	$(OFFLINE) $(BIN)/python -m pytest -m gpu

lint: setup  ## style, types and import rules
	$(BIN)/ruff check .
	$(BIN)/mypy safesteer_interp analyses $(wildcard benchmarks/*.py)
	$(BIN)/lint-imports

format: setup  ## let ruff format the code
	$(BIN)/ruff format safesteer_interp analyses benchmarks tests

docs: setup  ## the documentation site in site/, every link and reference checked
	$(OFFLINE) $(BIN)/mkdocs build --strict --quiet

notebooks: setup  ## execute the notebooks, written as .py, into .ipynb with their outputs
	$(OFFLINE) $(BIN)/python notebooks/execute.py

mini: setup  ## retrain the embedded model in MINI and measure it there: less than three hours on two cores
	$(OFFLINE) $(BIN)/safesteer mini train --folder $(MINI) $(MINI_TRAIN)
	$(OFFLINE) $(BIN)/safesteer mini evaluate --weights $(MINI)/weights --output $(MINI)/mini-card.json $(MINI_EVALUATE)

clean:  ## remove the environment and build products (figures and the user cache stay)
	rm -rf $(VENV) build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
