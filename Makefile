# make run [ARGS='decoder=mmtad task=code']    sets up .venv if needed and runs the main job
# make test [TESTS='tests/test_house.py']      sets up .venv if needed, then linters, types and tests
# make test-slow                               the long tests: all but those of make test, or one marker: make test-slurm
# make lint, make clean                        PYTHON=python3.12 picks another interpreter (3.11 or newer)

PYTHON ?= python3
WORKERS ?= 2
ARGS ?=
TESTS ?=

VENV := .venv
IN_VENV := $(VENV)/bin/python
INSTALL := $(IN_VENV) -m pip install --disable-pip-version-check --constraint constraints.txt
READY := $(VENV)/.ready
READY_DEV := $(VENV)/.ready-dev

# Tests of these markers may take five minutes each; all others together take less than ten.
SLOW := attacks browser kills parallel platform runs slurm
empty :=
NOT_SLOW := not ($(subst $(empty) $(empty), or ,$(SLOW)))

.PHONY: run test test-slow $(SLOW:%=test-%) lint clean
.DELETE_ON_ERROR:

run: $(READY)
	@$(IN_VENV) run.py $(ARGS)

# One thread a worker, or the workers would take the cores from each other. Tests need no model hub.
test $(SLOW:%=test-%): export OMP_NUM_THREADS := 1
test $(SLOW:%=test-%): export HF_HUB_OFFLINE := 1
test: lint
	$(IN_VENV) -m pytest -n $(WORKERS) -m '$(NOT_SLOW)' $(TESTS)

# The tests of a file share what is costly, such as a Slurm, and so stay on one worker.
test-slow: $(SLOW:%=test-%)
$(SLOW:%=test-%): test-%: $(READY_DEV)
	$(IN_VENV) -m pytest -n $(WORKERS) --dist loadfile -m $* --durations 5 $(TESTS)

lint: $(READY_DEV)
	$(IN_VENV) -m ruff check
	$(IN_VENV) -m ruff format --check
	$(IN_VENV) -m mypy

clean:
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .hypothesis *.egg-info

$(READY): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed: make PYTHON=python3.12 ...")'
	@echo 'Setting up $(VENV) (once; a minute or two, mostly PyTorch)'
	$(PYTHON) -m venv $(VENV)
	$(INSTALL) --editable .
	@touch $@

$(READY_DEV): $(READY)
	$(INSTALL) --editable '.[dev]'
	@touch $@
