# make demo   the main job, end to end           make test   lint, types, tests
# make board  an emulated ARM board: U-Boot, kernel, flash
# make bench  figures for docs/benchmarks.md     make fuzz   coverage-guided, every parser
# make clean  what these made
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
STAMP  := $(VENV)/.installed
PEERS  := .venv-peers

.PHONY: demo test lint types tests board bench fuzz clean

$(STAMP): setup.py pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' \
	  || { echo "Python 3.11 to 3.13 is needed; name one with: make PYTHON=python3.12"; exit 1; }
	@$(PYTHON) -c 'import ensurepip' 2>/dev/null \
	  || { echo "Python's venv module is incomplete here. On Debian: apt-get install \$$(cat apt-packages.txt)"; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check -e '.[dev]'
	@touch $(STAMP)

# Stacks that are not ours, to talk to in tests and to be measured beside: they run as programs of their own.
$(PEERS)/.installed: tests/dlms/peers/requirements.txt
	$(PYTHON) -m venv $(PEERS)
	$(PEERS)/bin/pip install --quiet --disable-pip-version-check -r $<
	@touch $@

demo: $(STAMP)
	@$(BIN)/python -m tests.demo

test: lint types tests

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(STAMP)
	$(BIN)/mypy

tests: $(STAMP) $(PEERS)/.installed
	$(BIN)/pytest -m "not board"

# Needs root and the packages of apt-packages-board.txt; without them its tests are skipped, and say why.
board: $(STAMP)
	$(BIN)/pytest tests/board -m board -rs

bench: $(STAMP) $(PEERS)/.installed
	$(BIN)/python -m tests.bench

# Coverage-guided, each target for FUZZ_SECONDS; with FUZZ=--atheris by atheris, if it is installed.
FUZZ_SECONDS ?= 60
FUZZ ?=
fuzz: $(STAMP)
	$(BIN)/python -m tests.fuzz all --seconds $(FUZZ_SECONDS) $(FUZZ)

clean:
	rm -rf $(VENV) $(PEERS) build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis
