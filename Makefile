# Everything here sets itself up: the first target needs Python >= 3.11 with venv, make and git, nothing else.
#
#   make demo [DATA=path]   two daemons, an encrypted offsite copy of real data, a change, a restore, a comparison
#   make demo-reverse       the same between two sites that accept no connection, through a proxy host
#   make demo-recovery      the node burnt down, the password forgotten: recovered by a keyset
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

# Demos and tests start hundreds of processes. Where this is set each of them compiles every module anew: 0.4 s more.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: help venv demo demo-reverse demo-recovery test test-tools lint format types imports unit bench bench-wan bench-keys
.PHONY: bench-search bench-mount bench-copy bench-repository bench-chain bench-restore bench-scrub fuzz
.PHONY: campaign-kill campaign-kill-copy campaign-kill-transform campaign-model campaign-properties
.PHONY: campaign-kill-keys campaign-bitflip campaign-cuts campaign-year campaign-slow clean
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

demo-recovery: $(STAMP)
	@$(BIN)/python tests/endtoend/demo_recovery.py $(if $(DATA),--data '$(DATA)')

test: lint unit

# What some tests start or mount with; installed where that can be done, else those tests are skipped.
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

# With contenders, then all of bench-copy, -scrub, -repository, -mount and -restore; BENCH_ARGS=--quick for a short look.
bench: $(BENCH)
	$(BIN)/python -m loadtest $(BENCH_ARGS)

bench-wan: $(BENCH)
	$(BIN)/python -m loadtest wan $(BENCH_WAN_ARGS)

bench-keys: $(BENCH)
	$(BIN)/python -m loadtest keys $(BENCH_KEYS_ARGS)

bench-search: $(BENCH)
	$(BIN)/python -m loadtest search $(BENCH_SEARCH_ARGS)

# Needs fuse3 and pyfuse3 (the extra `mount`): make test-tools, as root on Debian.
bench-mount: $(BENCH)
	$(BIN)/python -m loadtest mount $(BENCH_MOUNT_ARGS)

bench-copy: $(BENCH)
	$(BIN)/python -m loadtest copy $(BENCH_COPY_ARGS)

bench-repository: $(BENCH)
	$(BIN)/python -m loadtest repository $(BENCH_REPOSITORY_ARGS)

bench-chain: $(STAMP)
	$(BIN)/python -m loadtest chain $(BENCH_CHAIN_ARGS)

bench-restore: $(BENCH)
	$(BIN)/python -m loadtest restore $(BENCH_RESTORE_ARGS)

bench-scrub: $(BENCH)
	$(BIN)/python -m loadtest scrub $(BENCH_SCRUB_ARGS)

fuzz: $(STAMP)
	$(BIN)/python tests/fuzz/fuzz_protocol.py --count $(or $(FUZZ_COUNT),1000000)

campaign-kill: $(STAMP)
	$(BIN)/python tests/crash/campaign_kill.py $(KILL_ARGS)

campaign-kill-copy: $(STAMP)
	$(BIN)/python tests/crash/copy_kill.py

campaign-kill-transform: $(STAMP)
	for job in docs target none; do $(BIN)/python tests/crash/transform_kill.py --job $$job || exit 1; done
	$(BIN)/python tests/crash/transform_kill.py --full-disk

campaign-model: $(STAMP)
	$(BIN)/python tests/crash/campaign_model.py $(MODEL_ARGS)

# Every property of the unit tests, with other examples than `make test` has, and more of them.
campaign-properties: $(STAMP)
	PROPERTIES=others $(BIN)/python -m pytest -q $(PROCESSES) -m hypothesis $(PROPERTIES_ARGS)

campaign-bitflip: $(STAMP)
	$(BIN)/python tests/crash/campaign_bitflip.py $(BITFLIP_ARGS)

campaign-kill-keys: $(STAMP)
	$(BIN)/python tests/crash/campaign_kill_keys.py

campaign-cuts: $(STAMP)
	$(BIN)/python tests/crash/campaign_cuts.py $(CUTS_ARGS)

# Ten minutes and more: a year of two providers, with kills on the way.
campaign-year: $(STAMP)
	$(BIN)/python tests/crash/campaign_year.py $(YEAR_ARGS)

# Half an hour: every test, where any process may stand still for a second, and then where calls take their time.
campaign-slow: $(STAMP)
	$(BIN)/python tests/crash/campaign_slow.py --freeze 1
	$(BIN)/python tests/crash/campaign_slow.py --delay 0.4

clean:
	rm -rf $(VENV) build *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
