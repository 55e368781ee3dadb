# The front door. `make` alone lists every target.

PYTHON  ?= python3
VENV    := .venv
BIN     := $(VENV)/bin
RECIPE  ?= recipes/large.yaml
CORPORA ?=
OUT     ?= shards
RANKS   ?= 2
EXTRA   ?=
KILLS   ?= 200
WORKERS ?= 3
# cpu, cuda, or empty: cuda where there is an NVIDIA GPU or pip finds no CPU build of torch, else cpu (requirements/install.py)
HARDWARE ?=

# Open MPI refuses root unless told; inside a container root is the usual user.
MPIRUN  := $(BIN)/mpirun --oversubscribe $(shell [ "$$(id -u)" = 0 ] && echo --allow-run-as-root)

.DEFAULT_GOAL := help
.PHONY: help setup setup-dev lock demo test test-long lint docs shards verify bench chaos chaos-preprocess clean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  %-16s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

$(BIN)/.installed: pyproject.toml requirements/cpu.lock requirements/cuda.lock requirements/install.py
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] < (3, 13))' || { echo 'Python 3.11 or 3.12 is needed: make PYTHON=python3.11' >&2; exit 1; }
	@$(PYTHON) -m venv $(VENV)
	@$(BIN)/python requirements/install.py $(HARDWARE)
	@touch $@

$(BIN)/.installed-dev: $(BIN)/.installed requirements/cpu-dev.lock requirements/cuda-dev.lock
	@$(BIN)/python requirements/install.py --dev
	@touch $@

setup: $(BIN)/.installed ## make .venv and install the project with the locked packages; HARDWARE=cpu or cuda picks the lock

setup-dev: $(BIN)/.installed-dev ## setup, and the tools for tests, lint and benchmarks

lock: ## resolve the five lock files in requirements/ again from pyproject.toml (needs a place with torch's CPU build)
	$(PYTHON) -m venv build/lock
	build/lock/bin/pip install --quiet --upgrade pip packaging
	build/lock/bin/python requirements/lock.py

demo: setup ## the whole path on a generated corpus, from text to a model that fills masks (3 minutes)
	@:$(check_ranks)
	$(BIN)/python -m jadeberta.demo --ranks $(RANKS)

# The order in which groups of tests start is tests/conftest.py's, heaviest first.
PYTEST  := $(BIN)/python -m pytest -n $(WORKERS) --dist loadscope --no-loadscope-reorder --durations=10

test: setup-dev ## every test that is not long and can run here, in WORKERS processes (3); those that cannot say why
	$(PYTEST)

test-long: setup-dev ## the long tests: real time limits, launchers under Slurm, many kills, benchmarks (30 minutes)
	$(PYTEST) -m long

lint: setup-dev ## ruff, mypy, shellcheck
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	shellcheck launch/*.sh slurm/*.sh tests/cluster/*.sh .ci/run

SITE := build/docs
$(SITE)/.installed: requirements/docs.lock
	@$(PYTHON) -m venv $(SITE)
	@$(SITE)/bin/pip install --quiet --disable-pip-version-check --require-hashes --requirement $<
	@touch $@

docs: $(SITE)/.installed ## build the site of the pages into build/site, with tools of its own in build/docs
	@NO_MKDOCS_2_WARNING=1 $(SITE)/bin/mkdocs build --strict --quiet

# make's own line about a failed recipe would hide why it failed: the recipe leaves the sentence in a file, and make ends with it.
SENTENCE := $(VENV)/.sentence-$(shell echo $$PPID)
end_with_sentence = $(if $(wildcard $(SENTENCE)),$(error $(shell sed 's/[.]$$//' $(SENTENCE); rm $(SENTENCE))))
# mpirun -n 0 would start as many processes as there are cores.
check_ranks = $(if $(shell echo '$(RANKS)' | grep -x '[1-9][0-9]*'),,$(error RANKS=$(RANKS): give a whole number of processes, at least 1))
DRY_RUN := $(findstring --dry-run,$(EXTRA))

_make-shards: setup
	@:$(check_ranks)
	@if [ -t 1 ]; then export COLUMNS=$$(tput cols); fi; export JADEBERTA_SENTENCE_FILE=$(SENTENCE); \
	$(BIN)/python -m jadeberta.jobs.launcher_output -- \
	    $(MPIRUN) --stream-buffering 0 -n $(RANKS) $(BIN)/python -m preprocess all --config "$(RECIPE)" --out "$(OUT)" \
	    $(if $(CORPORA),--corpora "$(CORPORA)") $(strip $(EXTRA)) || [ -s $(SENTENCE) ]
	$(if $(DRY_RUN),,@[ -s $(SENTENCE) ] || $(BIN)/python -m preprocess verify "$(OUT)")

shards: _make-shards ## corpora to shards: make shards CORPORA=dir OUT=dir RECIPE=file RANKS=n [EXTRA='--preprocess.key value']
	@:$(end_with_sentence)

verify: setup ## check a directory of shards: make verify OUT=dir
	@$(BIN)/python -m preprocess verify "$(OUT)"

bench: setup-dev ## every benchmark in bench/
	for file in bench/*.py; do $(BIN)/python "$$file"; done

chaos: setup-dev ## kill a small run KILLS times (200; about 40 minutes) and compare it with one that nobody touched
	$(BIN)/python -m tests.chaos.kills --kills $(KILLS) --output bench/results/chaos-kills.json

chaos-preprocess: setup-dev ## kill small preprocessing jobs 120 times in all stages (3 minutes) and compare them with one that nobody touched
	$(BIN)/python -m tests.chaos.preprocess_kills --kills 120 --output bench/results/chaos-preprocess.json

clean: ## remove what the demo made
	rm -rf demo
