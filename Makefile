PYTHON ?= python
.DEFAULT_GOAL := help
.PHONY: help install test coverage lint types docs demo ci

help:  ## Show the targets
	@awk -F ':.*## ' '/^[a-z]+:.*## / {printf "%-8s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

install:  ## Install hwpass for work on it, with the tools the other targets need
	$(PYTHON) -m pip install -e '.[dev]'

test:  ## Run the tests and doctests
	$(PYTHON) -m pytest

coverage:  ## Run the tests, and fail where they reach too few of the lines and branches
	$(PYTHON) -m pytest -n auto --cov --cov-report=term:skip-covered

lint:  ## Check the style, and that the derived pages of docs/ are current
	$(PYTHON) -m ruff check .
	$(PYTHON) -m ruff format --check .
	$(PYTHON) docs/generate.py --check

types:  ## Check the types
	$(PYTHON) -m mypy

docs:  ## Write the pages of docs/ that are derived from the code
	$(PYTHON) docs/generate.py

demo:  ## Run the README's first command in a fresh copy of the tree
	.ci/run demo

ci:  ## Everything that continuous integration checks
	.ci/run
