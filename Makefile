# The tasks of development. CONTRIBUTING.md describes them.
#
#   make check ARGS="tests/unit -x"    ARGS is passed on to pytest

PYTHON ?= .venv/bin/python
ARGS ?=

.PHONY: check test bench dev

check: .venv/installed  ## linters, types, contracts, language, tests
	$(PYTHON) -m tests $(ARGS)

test: .venv/installed  ## pytest alone
	$(PYTHON) -m pytest $(ARGS)

bench: .venv/installed  ## the benchmarks, which take a quiet machine
	$(PYTHON) -m tests.benchmarks $(ARGS)

dev: .venv/installed  ## everything on this machine; ARGS="--port 8001"
	$(PYTHON) -m service dev $(ARGS)

.venv/installed: pyproject.toml
	python3 -m venv .venv && .venv/bin/pip install -q -e '.[test]'
	touch $@
