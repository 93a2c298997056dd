# The two commands of the README. Everything they make lies in .venv and data, both ignored by git.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
DATA ?= data
ARGS ?=

.PHONY: run agent test lint types clean

# The agent beside an example backend under load. ARGS are for the demo (--rate 100, --port 8051, ...).
run: $(VENV)/.installed
	@PYTHONPATH=examples $(BIN)/python -m oht50_backend.demo --data $(DATA) $(ARGS)

# The agent alone. ARGS are for `tachograph run`.
agent: $(VENV)/.installed
	@echo "Tachograph serves http://127.0.0.1:19797 (metrics: /metrics, stream: /ws/metrics); Ctrl-C stops it"
	@$(BIN)/tachograph run --data $(DATA) $(ARGS)

test: $(VENV)/.installed-dev
	$(BIN)/pytest -q -n auto $(ARGS)

lint: $(VENV)/.installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(VENV)/.installed-dev
	$(BIN)/mypy

$(VENV)/bin/python:
	$(PYTHON) -c 'import sys; sys.exit("Python 3.11 or newer is needed; set PYTHON=...") if sys.version_info < (3, 11) else None'
	$(PYTHON) -m venv $(VENV)

$(VENV)/.installed: $(VENV)/bin/python setup.cfg pyproject.toml
	@echo "Installing into $(VENV); this is done once and takes half a minute"
	$(BIN)/pip install --quiet --disable-pip-version-check --editable '.[example]'
	@touch $@

$(VENV)/.installed-dev: $(VENV)/bin/python setup.cfg pyproject.toml
	$(BIN)/pip install --quiet --disable-pip-version-check --editable '.[dev]'
	@touch $@ $(VENV)/.installed

clean:
	rm -rf $(VENV) build dist *.egg-info .mypy_cache .pytest_cache .ruff_cache .hypothesis
