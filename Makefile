# make demo    set up .venv (no torch) and run the demo: play a recording through the real nodes, into demo_output/
# make quick   set up .venv (with torch), run the linters and the tests that are not slow
# make test    run the linters and all tests
# make coverage run all tests, and report the lines that they do not reach: half as long again
# make docs    build the documentation's site into site/; open site/index.html
# Each with ROS=kilted: in .venv-kilted, with that release of ROS 2; quick, test and coverage leave out torch, what needs
# it and the linters, to which the release makes no difference.
PYTHON ?= python3
ROS ?= jazzy
MACHINE := $(shell uname -m)
# Two tests at a time; a process that has none left takes over some of the other's.
PYTEST = $(BIN)/python -m pytest --numprocesses 2 --dist worksteal

ifeq ($(ROS),jazzy)
VENV := .venv
ROS_EXTRA := ros,
DEVELOPMENT := train,dev
LINTERS := lint
else ifeq ($(ROS),kilted)
VENV := .venv-kilted
ROS_EXTRA := ros-kilted,
DEVELOPMENT := dev
WITHOUT_TORCH := 'av>=17' 'jsonargparse[signatures]>=4.49' 'onnx>=1.16' pillow scipy
PYTEST += --allow-skips
else
$(error ROS=$(ROS) is not on PyPI: say ROS=jazzy or ROS=kilted, or see docs/ros_versions.md for an installed ROS)
endif
BIN := $(VENV)/bin
# The site keeps to MkDocs 1: the theme's notice about MkDocs 2 does not concern it.
MKDOCS := NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs

# A ROS that was sourced is taken: a second one beside it would be mixed with it. PyPI has rclpy for x86-64 alone.
ifneq ($(AMENT_PREFIX_PATH)$(filter-out x86_64,$(MACHINE)),)
ROS_EXTRA :=
SYSTEM := --system-site-packages
NEED_ROS := $(PYTHON) -c "import rclpy" 2>/dev/null || { \
	echo "$(PYTHON) finds no rclpy: source the setup.bash of an installed ROS 2 and say PYTHON=, the Python it was built for." \
		"On x86-64 a shell without a sourced ROS takes the one on PyPI."; exit 1; }
endif

# make demo BAG=path [TOPIC=name], or VIDEO=path, plays another recording; MODEL=path runs another student.
DEMO_ARGS = $(BAG) $(VIDEO) $(if $(TOPIC),--topic $(TOPIC)) $(if $(MODEL),--model $(MODEL))

.PHONY: demo quick test coverage docs docs-serve lint clean

demo: $(VENV)/.runtime
	$(BIN)/dino-ros demo $(DEMO_ARGS)

quick: $(VENV)/.development $(LINTERS)
	$(PYTEST) -m "not slow"

test: $(VENV)/.development $(LINTERS)
	$(PYTEST)

coverage: $(VENV)/.development
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
	$(NEED_ROS)
	@echo "Setting up $(VENV), which takes a minute."
	$(PYTHON) -m venv $(SYSTEM) $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check --editable '.[$(ROS_EXTRA)openvino]'
	touch $@

$(VENV)/.development: setup.py $(VENV)/.runtime
	@echo "Adding what the tests need to $(VENV): several GB with torch, which takes minutes."
	$(BIN)/pip install --quiet --disable-pip-version-check --editable '.[$(ROS_EXTRA)$(DEVELOPMENT)]' $(WITHOUT_TORCH)
	touch $@

$(VENV)/.docs: setup.py $(VENV)/.runtime
	$(BIN)/pip install --quiet --disable-pip-version-check --editable '.[$(ROS_EXTRA)docs]'
	touch $@

clean:
	rm -rf .venv .venv-kilted build install log demo_output site *.egg-info
