# make fast     each commit: lint, types, tests of the fast tier (64 s of tests on two cores; wanted: under a minute)
# make test     lint, types, tests          make demo   the main job, end to end
# make board    an emulated ARM board: U-Boot, kernel, flash
# make torture  what takes hours: more seeds, longer fuzzing, oldest and newest dependencies, other Pythons
# make oldest, make newest   tests with the oldest and newest dependencies that setup.py allows, in venvs of their own
# make coverage lines and branches, with limits   make mutate  do the tests notice faults in the core modules?
# make bench    figures for docs/benchmarks.md     make fuzz   coverage-guided, every parser
# make pin      constraints/newest.txt from what is newest now
# make clean    what these made
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
STAMP  := $(VENV)/.installed
PEERS  := .venv-peers
PIP    := pip install --quiet --disable-pip-version-check
FREEZE := pip freeze --exclude-editable --disable-pip-version-check

# Where a machine forbids bytecode, each worker rewrites the assertions of 230 files anew, 7 s of CPU time, and each
# program that a test starts compiles its package.
unexport PYTHONDONTWRITEBYTECODE

# Tests run on all cores; those of one `xdist_group` share a worker. WORKERS=0 runs all in one process.
WORKERS ?= auto
PYTEST  := -n $(WORKERS) --dist loadgroup
# Tests of the board, one at a time, each of some minutes.
BOARD   := tests/board -m board -o faulthandler_timeout=0

.PHONY: demo fast test lint types tests board bench fuzz coverage mutate oldest newest torture seeds worlds kills alerts pin clean

# The newest versions that are known to pass, and the developer's tools, all pinned.
$(STAMP): setup.py pyproject.toml constraints/newest.txt
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' \
	  || { echo "Python 3.11 to 3.13 is needed; name one with: make PYTHON=python3.12"; exit 1; }
	@$(PYTHON) -c 'import ensurepip' 2>/dev/null \
	  || { echo "Python's venv module is incomplete here. On Debian: apt-get install \$$(cat apt-packages.txt)"; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/$(PIP) -c constraints/newest.txt -e '.[dev]'
	@touch $(STAMP)

# Stacks that are not ours, to talk to in tests and to be measured beside: they run as programs of their own.
$(PEERS)/.installed: tests/dlms/peers/requirements.txt
	$(PYTHON) -m venv $(PEERS)
	$(PEERS)/bin/$(PIP) -r $<
	@touch $@

demo: $(STAMP)
	@$(BIN)/python -m tests.demo

fast: lint types
	$(BIN)/pytest -m fast $(PYTEST)

test: lint types tests

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	@mkdir -p build
	$(BIN)/lint-imports --no-cache >build/contracts || { cat build/contracts; exit 1; }
	$(BIN)/python -m tests.architecture.granted

types: $(STAMP)
	$(BIN)/mypy

tests: $(STAMP) $(PEERS)/.installed
	$(BIN)/pytest -m "not board" $(PYTEST)

# Needs root and the packages of apt-packages-board.txt; without them its tests are skipped, and say why.
board: $(STAMP)
	$(BIN)/pytest $(BOARD)

# Lines and branches of our packages, also those that run in programs which tests start; everything but the board, and
# but the 200 worlds: under the tracer they take an hour, and reach no line that no other test does.
WORLDS_OF_CI := tests/sim/world/test_world.py::test_every_interval_is_in_the_head_end_once_and_right_or_listed
COVERAGE_LINES ?= 97
COVERAGE_BRANCHES ?= 93
coverage: $(STAMP) $(PEERS)/.installed
	rm -rf build/coverage && mkdir -p build/coverage
	$(BIN)/coverage run -m pytest -m "not board" --deselect $(WORLDS_OF_CI) $(PYTEST)
	$(BIN)/coverage combine --quiet
	$(BIN)/coverage report --skip-covered --sort=miss
	$(BIN)/coverage json --quiet -o build/coverage/coverage.json
	$(BIN)/python -m tests.coverage_limits build/coverage/coverage.json $(COVERAGE_LINES) $(COVERAGE_BRANCHES)

# Mutations of core modules: tests/mutate/modules.toml says which, and which tests look at them. Not part of CI.
MUTATE ?= all
mutate: $(STAMP)
	$(BIN)/python -m tests.mutate $(MUTATE)

# The oldest versions that setup.py allows, all pinned; the newest that it allows, as the index has them now.
# TESTS="-m fast" takes the fast tier only.
TESTS ?= -m "not board"
.venv-oldest/.installed: setup.py pyproject.toml constraints/oldest.txt
	rm -rf .venv-oldest && $(PYTHON) -m venv .venv-oldest
	.venv-oldest/bin/$(PIP) -c constraints/oldest.txt -e '.[dev]'
	@touch $@

# The oldest type checker looks at the newest libraries, as the newest one does: code for both has branches that the
# types of the old ones do not know.
oldest: .venv-oldest/.installed $(STAMP) $(PEERS)/.installed
	.venv-oldest/bin/ruff check .
	.venv-oldest/bin/mypy --python-executable $(BIN)/python --cache-dir .mypy_cache/oldest
	.venv-oldest/bin/pytest $(TESTS) $(PYTEST)

# Fails with the index of the day, so CI reports what it says and does not fail with it (.ci/run).
newest: $(PEERS)/.installed
	@mkdir -p build && rm -f build/newer
	rm -rf .venv-newest && $(PYTHON) -m venv .venv-newest
	.venv-newest/bin/$(PIP) -e '.[dev]'
	@.venv-newest/bin/$(FREEZE) | grep -vxF -f constraints/newest.txt >build/newer || echo nothing >build/newer
	@echo "newer than what is pinned:"; sed 's/^/  /' build/newer
	.venv-newest/bin/ruff check . && .venv-newest/bin/mypy
	.venv-newest/bin/pytest $(TESTS) $(PYTEST)

# Another Python: `make python-3.12`. One that is not on this machine is named and passed over.
python-%: $(PEERS)/.installed
	@interpreter=$$(.ci/python $*) || { echo "Python $* is not on this machine: not tested"; exit 0; }; \
	  set -ex; rm -rf .venv-$*; $$interpreter -m venv .venv-$*; \
	  .venv-$*/bin/$(PIP) -c constraints/newest.txt -e '.[dev]'; \
	  .venv-$*/bin/pytest $(TESTS) $(PYTEST)

bench: $(STAMP) $(PEERS)/.installed
	$(BIN)/python -m tests.bench

# Coverage-guided, each target for FUZZ_SECONDS; with FUZZ=--atheris by atheris, if it is installed.
FUZZ_SECONDS ?= 60
FUZZ ?=
fuzz: $(STAMP)
	$(BIN)/python -m tests.fuzz all --seconds $(FUZZ_SECONDS) $(FUZZ)

# The enumerations of power cuts, and everything random beside them, with other losses for each seed, in other orders.
SEEDS ?= 1 2 3 4 5 6 7 8
seeds: $(STAMP)
	set -e; for seed in $(SEEDS); do \
	  TORTURE_SEED=$$seed $(BIN)/pytest -m "fast or slow" --shuffle $$seed $(PYTEST); done

# Collection in virtual time, from meters to head-end; the slow tier runs the first 200.
WORLDS ?= 10000
ORDER_WORLDS ?= 1000
worlds: $(STAMP)
	$(BIN)/python -m tests.sim.world --seeds $(WORLDS)
	$(BIN)/python -m tests.sim.world.orders --seeds $(ORDER_WORLDS)

# Real processes, killed at any moment: a quarter of an hour. The process tier kills a few times.
KILLS ?= 200
kills: $(STAMP)
	$(BIN)/python -m tests.sim.world.kills --kills $(KILLS)

# Real processes again, killed between an order and its report; the process tier kills a few times.
RUNS ?= 120
alerts: $(STAMP)
	$(BIN)/python -m tests.sim.world.alerts --runs $(RUNS)

TORTURE_PYTHONS ?= 3.11 3.12 3.13
torture: seeds worlds kills alerts
	$(MAKE) fuzz FUZZ_SECONDS=600
	$(MAKE) oldest newest
	$(MAKE) $(TORTURE_PYTHONS:%=python-%)
	$(MAKE) coverage mutate

# What `make newest` passed with becomes the pinned set.
pin: newest
	@mkdir -p build
	(sed '/^$$/q' constraints/newest.txt; .venv-newest/bin/$(FREEZE)) > build/newest.txt
	mv build/newest.txt constraints/newest.txt

clean:
	rm -rf $(VENV) $(PEERS) .venv-* build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis
