# One command each: see `make help`. The first run creates .venv; later runs reuse it until
# pyproject.toml or constraints.txt change. PYTHON chooses the interpreter, ARGS is passed on.
# On a Linux machine without a GPU, PIP_EXTRA_INDEX_URL=https://download.pytorch.org/whl/cpu
# gives the small CPU build of torch.

PYTHON ?= python3
ARGS ?=
JOBS ?= 2
COMMA := ,
BIN := .venv/bin
HASH := $(shell cat pyproject.toml constraints.txt | cksum | cut -d' ' -f1)
RUN := .venv/.installed-run-$(HASH)
# CI also runs what needs the heavy packages.
EXTRAS := torch,mlx,dev$(if $(filter true,$(CI)),$(COMMA)ci)
DEV := .venv/.installed-$(subst $(COMMA),-,$(EXTRAS))-$(HASH)
INSTALL := $(BIN)/python -m pip install --quiet --constraint constraints.txt
SELECT := $(if $(filter true,$(CI)),-m "slow or not slow")
# Clips of a page keep in step only on a machine that is not busy with other tests: after them.
ALONE := $(if $(filter true,$(CI)),$(if $(ARGS),,--ignore=tests/browser))
# One thread per test process: two processes with a thread per core each would slow each other.
TEST_ENV := OMP_NUM_THREADS=1

.DEFAULT_GOAL := help
.PHONY: help demo test lint format bench parity setup setup-dev

help:
	@echo "make demo     generate a clip with the built-in tiny model (ARGS: Hydra overrides)"
	@echo "make test     run the tests; CI=true includes the slow ones (ARGS: pytest options)"
	@echo "make lint     ruff check, ruff format --check, mypy"
	@echo "make format   apply ruff's fixes and formatting"
	@echo "make bench    time ours against diffusers (ARGS: options of the benchmarks)"
	@echo "make parity   compare both backends with the golden cases (ARGS: --case GLOB ...)"
	@echo "make setup    only create .venv; setup-dev also installs the test tools"

demo: $(RUN)
	$(BIN)/python launch.py $(ARGS)

test: $(DEV)
	$(TEST_ENV) $(BIN)/python -m pytest -n $(JOBS) $(SELECT) $(ALONE) $(ARGS)
	$(if $(ALONE),$(TEST_ENV) $(BIN)/python -m pytest $(SELECT) tests/browser)

lint: $(DEV)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(DEV)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: $(DEV)
	@set -e; for file in $(sort $(wildcard benchmarks/*.py)); do \
		echo "== $$file"; $(BIN)/python "$$file" $(ARGS); done

parity: $(RUN)
	$(BIN)/python -m ltx2.parity tests/golden --backend all $(ARGS)

setup: $(RUN)

setup-dev: $(DEV)

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "$(PYTHON) is older than 3.11; choose another with make PYTHON=python3.12 ..." >&2; exit 1; }
	$(PYTHON) -m venv .venv

# torch first and alone, at the version of constraints.txt (the CPU wheel where the index gives that
# one), so that what follows finds it and asks for no other build.
$(RUN): | $(BIN)/python
	$(INSTALL) torch
	$(INSTALL) --editable ".[torch,mlx]"
	@rm -f .venv/.installed-run-*
	@touch $@

$(DEV): $(RUN)
	$(INSTALL) --editable ".[$(EXTRAS)]"
	@rm -f .venv/.installed-torch-*
	@touch $@
