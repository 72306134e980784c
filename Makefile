# `make demo` and `make test` need Python 3.11 or newer, pip and make, and set up the rest in this folder.
# The text behind `##` is what `make help` prints.

PYTHON ?= python3
VENV := .venv
RUN := $(VENV)/bin/python
UV := PYTHON=$(PYTHON) .ci/uv
SERVICES := $(wildcard services/*/pyproject.toml)
READY := $(VENV)/.ready
# Half of all that there is to compile, and nothing would be gained: charts, which no test draws, mypy, which comes
# compiled, and tests, which pytest compiles.
UNCOMPILED := site-packages/(matplotlib|mpl_toolkits|numpy|fontTools|PIL|mypy|mypyc)/|/tests/
STATES = $(wildcard .covey examples/*/.covey) $(patsubst %/home.json,%,$(wildcard .covey-*/home.json .covey-*/*/home.json))

# Tests make and remove hundreds of databases, and ext4 looks at every file that was removed in the last minute before
# it makes another: with memory to spare, theirs are in memory. `make test TMPDIR=/tmp` keeps them on the disk.
SPARE := $(shell awk '/^MemAvailable/ && $$2 > 8e6' /proc/meminfo 2>/dev/null)
MEMORY := $(shell df -Pk /dev/shm 2>/dev/null | awk 'NR == 2 && $$4 > 6e6 {print $$6}')
ifneq ($(and $(SPARE),$(MEMORY)),)
test crash-test safeguards: export TMPDIR ?= $(MEMORY)
endif

.DEFAULT_GOAL := help
.PHONY: help setup demo up test lint format drill crash-test crash-points safeguards bench proto lock clean

help: ## What there is
	@sed -n 's/^\([a-z-]*\):[^#]*## \(.*\)/  make \1\t\2/p' $(MAKEFILE_LIST) | expand -t 22

demo: $(READY) ## The whole shop with its engines, orders of every outcome, a kill; EXIT=1 ends after the check
	EXIT=$(EXIT) $(RUN) -m shop.demo

up: $(READY) ## The whole shop, to try it by hand: as `.venv/bin/covey up`
	$(RUN) -m covey.cli up

test: $(READY) ## Every test that is quick; ARGS="tests/local -k restart" for some
	$(RUN) -m pytest -n 3 --dist worksteal -m "not slow and not bench" $(ARGS)

lint: $(READY) ## Formatting, lint, types and layers
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/ruff check .
	$(VENV)/bin/mypy
	$(VENV)/bin/lint-imports

format: $(READY) ## Format the code and mend what lint can mend
	$(VENV)/bin/ruff format .
	$(VENV)/bin/ruff check --fix .

drill: $(READY) ## Load on the shop while everything is broken, and an audit; ARGS="--seed 7 --minutes 10"
	$(RUN) -m covey.cli drill $(ARGS)

crash-test: $(READY) ## Kill a process at every point of an order, and audit; takes long
	$(RUN) -m tests.crash $(ARGS)

crash-points: $(READY) ## List the points at which `make crash-test` kills
	$(RUN) -m tests.crash --list

safeguards: $(READY) ## Remove one safeguard at a time and see the test that it names fail
	$(RUN) -m tests.safeguards

bench: $(READY) ## Measure against the bars, write bench/RESULTS.md; an hour, 40 GB and a quiet machine
	$(RUN) -m bench

proto: $(READY) ## Write the Python of the protobuf contracts
	$(RUN) -m covey.tools.proto

lock: ## Resolve the dependencies anew and write requirements.lock
	rm -f uv.lock # local wheels, as pip may prefer them here, have the hashes of one platform only
	UV_FIND_LINKS= UV_INDEX= $(UV) lock
	UV_FIND_LINKS= UV_INDEX= $(UV) export --quiet --all-packages --all-extras --group dev --no-emit-workspace --no-header --no-annotate \
		--format requirements-txt --output-file requirements.lock

setup: $(READY) ## Only the environment in .venv

$(READY): requirements.lock pyproject.toml $(SERVICES) .ci/uv
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "covey needs Python 3.11 or newer; this is "\
		+ sys.version.split()[0] + ". Say which one to use: make PYTHON=python3.12")'
	$(UV) venv --quiet --allow-existing --python "$$(command -v $(PYTHON))" $(VENV)
	$(UV) pip install --quiet --python $(VENV) --require-hashes -r requirements.lock
	$(UV) pip install --quiet --python $(VENV) --no-deps --editable . $(SERVICES:%/pyproject.toml=--editable %)
	$(RUN) -m compileall -q -j 0 -x '$(UNCOMPILED)' $(VENV)/lib src services shop
	@touch $@

clean: ## Remove what was made here: environment, state, caches
	@for state in $(STATES); do if [ -x $(VENV)/bin/covey ]; then (cd $$state/.. && COVEY_STATE=$(CURDIR)/$$state $(CURDIR)/$(VENV)/bin/covey down); fi; done
	rm -rf .venv .tools $(STATES) .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
