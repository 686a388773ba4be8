# make demo    train a binarized recommender on the built-in sample, nothing else needed
# make test    install what the tests need, then run every check
# make check   every check again, without installing
# make slow    the longer tests on real data (PPT_TEST_DATA names its folder)

PYTHON ?= python3
BIN = .venv/bin
INSTALL = $(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt

.PHONY: demo test check slow

demo: .venv/installed
	$(BIN)/ppt-ncf train --split 0.5

test: .venv/installed-test
	@$(MAKE) --no-print-directory check

check:
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/python -m pytest -n 2 --dist loadfile

slow: .venv/installed-test
	$(BIN)/python -m pytest -m slow

.venv/bin/python:
	$(PYTHON) -m venv .venv

.venv/installed: .venv/bin/python pyproject.toml constraints.txt
	$(INSTALL) -e .
	@touch $@

.venv/installed-test: .venv/installed
	$(INSTALL) -e '.[test]'
	@touch $@
