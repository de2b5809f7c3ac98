# On a fresh machine with Python 3.11 or newer, `make quickstart` and `make test` do everything.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
PIP := $(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt

.PHONY: quickstart test docs clean

quickstart: $(VENV)/.installed  ## train steering vectors of the model that ships with the package
	$(BIN)/steer-lightning fit --config configs/quickstart.yaml

test: $(VENV)/.installed-test  ## run ruff, mypy and the tests
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/pytest -n 2 --dist worksteal

docs: $(VENV)/.installed-docs  ## build the documentation site in build/docs; warnings are errors
	$(BIN)/sphinx-build --quiet --fail-on-warning --keep-going docs build/docs
	@echo "open build/docs/index.html"

$(VENV)/bin/python:
	$(PYTHON) -m venv $(VENV)

$(VENV)/.installed: $(VENV)/bin/python pyproject.toml constraints.txt
	@echo "installing steer-lightning into $(VENV) (a minute or two) ..."
	$(PIP) -e ".[report]"
	@touch $@

$(VENV)/.installed-test: $(VENV)/.installed
	@echo "installing the packages for the tests ..."
	$(PIP) -e ".[dev]"
	@touch $@

$(VENV)/.installed-docs: $(VENV)/.installed
	@echo "installing the packages for the documentation ..."
	$(PIP) -e ".[docs]"
	@touch $@

clean:
	rm -rf $(VENV) build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache
