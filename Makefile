# For developers. Users need pip alone: see README.md.
PYTHON ?= python3
VENV ?= .venv
BIN = $(VENV)/bin

.PHONY: dev check lint test slow clean

dev: $(BIN)/ruff
	$(BIN)/pre-commit install

$(BIN)/ruff: pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install -e '.[dev]'
	touch $@

check: lint test

lint: $(BIN)/ruff
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright --pythonpath $(BIN)/python

test: $(BIN)/ruff
	$(BIN)/python -m pytest -m "not slow" --cov

slow: $(BIN)/ruff
	$(BIN)/python -m pytest -m slow

clean:
	rm -rf $(VENV) .pytest_cache .ruff_cache .coverage
