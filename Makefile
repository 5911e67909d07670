# Everything here sets itself up: the first target needs Python >= 3.11 with venv, make and git, nothing else.
#
#   make demo [DATA=path]   two daemons, an encrypted offsite copy of real data, a change, a restore, a comparison
#   make demo-reverse       the same between two sites that accept no connection, through a proxy host
#   make test               everything CI runs

PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
STAMP  := $(VENV)/.installed
BENCH  := $(VENV)/.installed-bench
CODE   := protocol pipeline transporter loadtest tests
DATA   ?=
# Most tests wait more than they work. Empty: all in one process.
PROCESSES ?= -n 4 --dist worksteal
PIP    := $(BIN)/python -m pip --disable-pip-version-check --no-input --quiet

.PHONY: help venv demo demo-reverse test test-tools lint format types imports unit bench bench-wan bench-keys fuzz
.PHONY: campaign-kill campaign-bitflip campaign-cuts clean
.DEFAULT_GOAL := help

help:
	@sed -n 's/^#   //p' Makefile

venv: $(STAMP)

$(STAMP): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
		|| { echo "transporter needs Python 3.11 or newer; run: make PYTHON=/path/to/python3.11 ..." >&2; exit 1; }
	@test -x $(BIN)/pip || { echo "creating $(VENV)"; rm -rf $(VENV); $(PYTHON) -m venv $(VENV); } \
		|| { rm -rf $(VENV); echo "python's venv is missing; on Debian: apt-get install python3-venv" >&2; exit 1; }
	@echo "installing into $(VENV)"
	@$(PIP) install -c constraints.txt --config-settings editable_mode=compat -e '.[dev]' </dev/null
	@touch $(STAMP)

$(BENCH): $(STAMP)
	@$(PIP) install -c constraints.txt --config-settings editable_mode=compat -e '.[dev,bench]' </dev/null
	@touch $(BENCH)

demo: $(STAMP)
	@$(BIN)/python tests/endtoend/demo.py $(if $(DATA),--data '$(DATA)')

demo-reverse: $(STAMP)
	@$(BIN)/python tests/endtoend/demo_reverse.py $(if $(DATA),--data '$(DATA)')

test: lint unit

# Proxies and front ends that some tests start; installed where that can be done, else those tests are skipped.
test-tools:
	@sh .ci/test-tools

lint: $(STAMP)
	$(BIN)/ruff check $(CODE)
	$(BIN)/ruff format --check $(CODE)
	$(BIN)/mypy
	$(BIN)/lint-imports --no-cache

format: $(STAMP)
	$(BIN)/ruff check --fix $(CODE)
	$(BIN)/ruff format $(CODE)

unit: $(STAMP)
	$(BIN)/python -m pytest -q $(PROCESSES) $(PYTEST)

bench: $(BENCH)
	$(BIN)/python -m loadtest $(BENCH_ARGS)

bench-wan: $(BENCH)
	$(BIN)/python -m loadtest wan $(BENCH_WAN_ARGS)

bench-keys: $(BENCH)
	$(BIN)/python -m loadtest keys $(BENCH_KEYS_ARGS)

fuzz: $(STAMP)
	$(BIN)/python tests/fuzz/fuzz_protocol.py --count $(or $(FUZZ_COUNT),1000000)

campaign-kill: $(STAMP)
	$(BIN)/python tests/crash/campaign_kill.py $(KILL_ARGS)

campaign-bitflip: $(STAMP)
	$(BIN)/python tests/crash/campaign_bitflip.py $(BITFLIP_ARGS)

campaign-cuts: $(STAMP)
	$(BIN)/python tests/crash/campaign_cuts.py $(CUTS_ARGS)

clean:
	rm -rf $(VENV) build *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
