# Each target does all its own set-up in .venv. Set-up that was interrupted is repaired by running make again: the
# stamp is written only after pip has finished, and it is older than any file that says what to install.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
export TOKENIZERS_PARALLELISM ?= false

.PHONY: demo test lint types perf troubleshooting clean help

help:
	@echo "make demo   install, run the main job on the embedded defaults, show the leaderboard"
	@echo "make test   install, run the tests"
	@echo "make lint   ruff;  make types  mypy;  make perf  our path against plain references;  make clean  remove $(VENV)"

$(VENV)/.demo: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "prunebench needs Python 3.11 or newer; run e.g. make PYTHON=python3.12 $(MAKECMDGOALS)"; exit 2; }
	@$(BIN)/python -m pip --version >/dev/null 2>&1 || $(PYTHON) -m venv --clear $(VENV)
	$(BIN)/python -m pip install --quiet -c constraints.txt -e '.[offline]'
	@touch $@

$(VENV)/.test: $(VENV)/.demo
	$(BIN)/python -m pip install --quiet -c constraints.txt -e '.[offline,test]'
	@touch $@

$(VENV)/.dev: $(VENV)/.test
	$(BIN)/python -m pip install --quiet -c constraints.txt -e '.[dev]'
	@touch $@

demo: $(VENV)/.demo
	$(BIN)/bench demo

test: $(VENV)/.test
	$(BIN)/python -m pytest

lint: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(VENV)/.dev
	$(BIN)/mypy

troubleshooting: $(VENV)/.test
	$(BIN)/python tests/mistakes.py > TROUBLESHOOTING.md.new
	mv TROUBLESHOOTING.md.new TROUBLESHOOTING.md

perf: $(VENV)/.demo
	$(BIN)/bench perf

clean:
	rm -rf $(VENV)
