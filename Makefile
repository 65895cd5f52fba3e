# make demo    set up .venv (no torch) and run the demo: play a recording through the real nodes, into demo_output/
# make quick   set up .venv (with torch), run the linters and the tests that are not slow
# make test    run the linters and all tests, and report what they do not reach
# make docs    build the documentation's site into site/; open site/index.html
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# The site keeps to MkDocs 1: the theme's notice about MkDocs 2 does not concern it.
MKDOCS := NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs
# Two tests at a time; a process that has none left takes over some of the other's.
PYTEST := $(BIN)/python -m pytest --numprocesses 2 --dist worksteal

# make demo BAG=path [TOPIC=name], or VIDEO=path, plays another recording; MODEL=path runs another student.
DEMO_ARGS = $(BAG) $(VIDEO) $(if $(TOPIC),--topic $(TOPIC)) $(if $(MODEL),--model $(MODEL))

.PHONY: demo quick test docs docs-serve lint clean

demo: $(VENV)/.runtime
	$(BIN)/dino-ros demo $(DEMO_ARGS)

quick: $(VENV)/.development lint
	$(PYTEST) -m "not slow"

test: $(VENV)/.development lint
	$(PYTEST) --cov

docs: $(VENV)/.docs
	$(MKDOCS) build --strict

docs-serve: $(VENV)/.docs
	$(MKDOCS) serve --strict

lint: $(VENV)/.development
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

$(VENV)/.runtime: setup.py
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check --editable '.[ros,openvino]'
	touch $@

$(VENV)/.development: setup.py $(VENV)/.runtime
	$(BIN)/pip install --quiet --disable-pip-version-check --editable '.[ros,train,dev]'
	touch $@

$(VENV)/.docs: setup.py $(VENV)/.runtime
	$(BIN)/pip install --quiet --disable-pip-version-check --editable '.[ros,docs]'
	touch $@

clean:
	rm -rf $(VENV) build install log demo_output site *.egg-info
