# Each target sets up all that it needs in .venv; only Python 3.11 or later must be there.

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
.PHONY: help venv demo demo-data test lint bench docs

VENV := .venv
BIN := $(VENV)/bin
PLUGINS := $(patsubst %/pyproject.toml,%,$(wildcard plugins/*/pyproject.toml))
# Another Python to try first: make test PYTHON=python3.13
PYTHON ?=
# Scripts import what lies beside them.
MYPY := MYPYPATH=examples:benchmarks $(BIN)/mypy

help:
	@echo 'make demo    run the census of the standard library twice: computed, then reused (about a minute)'
	@echo 'make demo-data  pull files over HTTP, process them where workers are, push the results by rsync'
	@echo 'make test    lint, then the tests of the core and of each plugin'
	@echo 'make lint    ruff and mypy'
	@echo 'make bench   measure throughput (ARGS="...") and the kernel (KERNEL_ARGS="...") beside the peers'
	@echo 'make docs    check the links in the Markdown files'

# --- set-up. A stamp in .venv says what has been installed; it is done again when what it depends on changes.

define install
	@for attempt in 1 2 3; do \
	    echo "Installing into $(VENV): $(1)"; \
	    $(BIN)/python -m pip install --quiet --disable-pip-version-check --retries 5 $(1) && break; \
	    if [ $$attempt = 3 ]; then echo 'pip failed three times; is the network there?' >&2; exit 1; fi; \
	    sleep $$((5 * attempt)); \
	done
	@touch $@
endef

venv: $(VENV)/.created

$(VENV)/.created:
	@for python in $(PYTHON) python3.11 python3 python3.12 python3.13 python3.14; do \
	    $$python -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || continue; \
	    found=$$python; \
	    $$python -c 'import ensurepip, venv' 2>/dev/null || continue; \
	    $$python -m venv --clear $(VENV); \
	    touch $@; \
	    exit 0; \
	done; \
	if [ -n "$${found:-}" ]; then \
	    echo "$$found cannot make virtual environments: apt-get install python3-venv" >&2; \
	else \
	    echo 'Python 3.11 or later is missing: apt-get install python3 python3-venv' >&2; \
	fi; \
	exit 1

$(VENV)/.core: pyproject.toml $(PLUGINS:%=%/pyproject.toml) | $(VENV)/.created
	$(call install,-e . $(PLUGINS:%=-e %))

$(VENV)/.dev: requirements-dev.txt $(VENV)/.core
	$(call install,-r $<)

$(VENV)/.bench: requirements-bench.txt $(VENV)/.core
	$(call install,-r $<)

# --- what there is to do

demo: $(VENV)/.core
	@$(BIN)/python examples/stdlib_census.py
	@echo
	@echo 'Once more. Files that have not changed are not parsed again:'
	@$(BIN)/python examples/stdlib_census.py --no-check
	@echo
	@echo 'To go on: $(BIN)/python examples/stdlib_census.py --help; to forget the results: rm -r census-output'

demo-data: $(VENV)/.core
	@tests/servers/install rsync
	@$(BIN)/python examples/data_pipeline.py

lint: $(VENV)/.dev
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(MYPY)

# Every step is run, also after one has failed; the summary comes last.
test: $(VENV)/.dev
	@failed=0; summary=; \
	step() { \
	    name=$$1; shift; \
	    printf '\n=== %s\n' "$$name"; \
	    if "$$@"; then result=passed; else result=FAILED; failed=1; fi; \
	    summary+="$$(printf '%-7s %s' "$$result" "$$name")"$$'\n'; \
	}; \
	step 'programs that tests need' tests/servers/install; \
	step 'ruff' $(BIN)/ruff check .; \
	step 'ruff format' $(BIN)/ruff format --check .; \
	step 'mypy --strict' env $(MYPY); \
	step 'tests of the core' $(BIN)/python -m pytest tests; \
	for plugin in $(PLUGINS); do \
	    if [ -n "$$(find $$plugin/tests -name 'test_*.py' -print -quit 2>/dev/null)" ]; then \
	        step "tests of $$plugin" $(BIN)/python -m pytest $$plugin/tests; \
	    else \
	        step "tests of $$plugin: there are none" false; \
	    fi; \
	done; \
	printf '\n=== Summary\n%s' "$$summary"; \
	exit $$failed

bench: $(VENV)/.bench
	@$(BIN)/python benchmarks/throughput.py $(ARGS)
	@echo
	@$(BIN)/python benchmarks/kernel.py $(KERNEL_ARGS)

docs: $(VENV)/.created
	@$(BIN)/python docs/check_links.py
