# Every target makes its own environment in .venv first. Only Python 3.11+, git and make are needed.
PYTHON ?= python3
# Edge boxes and laptops: `make demo TORCH_INDEX=https://download.pytorch.org/whl/cpu` keeps CUDA out (200 MB, not 5 GB).
TORCH_INDEX ?=
# The versions this tree was tested with; `make CONSTRAINTS= ...` takes the newest that fit.
CONSTRAINTS ?= constraints.txt
DATA ?=
MINUTES ?= 60

VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check
PIP += $(if $(TORCH_INDEX),--extra-index-url $(TORCH_INDEX)) $(if $(CONSTRAINTS),--constraint $(CONSTRAINTS))
# A folder's time changes when a module comes or goes, which the strict editable install must hear of.
PACKAGES := $(shell find models common client server -type d ! -name __pycache__)

.PHONY: help demo test matrix containers accuracy airgap wheelhouse lint format docs site wire fuzz audit clean
.DEFAULT_GOAL := help

help:  ## Show the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*##/\t/'

$(BIN)/python:
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "fedwon needs Python 3.11 or newer: make PYTHON=python3.11 ...")'
	$(PYTHON) -m venv $(VENV)

$(VENV)/.demo: pyproject.toml $(CONSTRAINTS) $(PACKAGES) | $(BIN)/python
	@echo "installing into $(VENV) (torch is large: some minutes the first time)"
	$(PIP) --editable '.[digits]' --config-settings editable_mode=strict
	@touch $@

$(VENV)/.dev: pyproject.toml $(CONSTRAINTS) $(PACKAGES) | $(BIN)/python
	@echo "installing into $(VENV) (torch is large: some minutes the first time)"
	$(PIP) --editable '.[dev]' --config-settings editable_mode=strict
	@touch $@ $(VENV)/.demo

demo: $(VENV)/.demo  ## A federation of one server and four sites on this machine; DATA=<folder of domains> for your own images
	$(BIN)/fedwon-server demo $(if $(DATA),--data "$(DATA)")

test: $(VENV)/.dev  ## All tests but the long accuracy ones
	$(BIN)/pytest -m "not accuracy and not airgap and not containers and not matrix" -n 4 --dist worksteal --durations=25

matrix: $(VENV)/.dev  ## Further faults of the kinds that `make test` injects
	$(BIN)/pytest -m matrix -n 4 --dist worksteal --durations=25

containers: $(VENV)/.dev  ## Build the images, run deploy/compose.yaml and break it (needs Docker and root)
	$(BIN)/pytest -m containers tests/deploy

accuracy: $(VENV)/.dev  ## Tests that train for minutes and hold a threshold (need FEDWON_DATA)
	$(BIN)/pytest -m accuracy

airgap: $(VENV)/.dev  ## Collect all wheels, install them without a network and run a round (minutes, 10 GB of disk)
	$(BIN)/pytest -m airgap -s

wheelhouse: $(BIN)/python  ## Collect all wheels for machines without a network in wheels/
	$(BIN)/python deploy/wheelhouse.py --out wheels $(if $(TORCH_INDEX),--torch-index $(TORCH_INDEX))

lint: $(VENV)/.dev  ## ruff, mypy --strict
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(VENV)/.dev  ## Let ruff put the code in order
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

site: $(VENV)/.dev  ## Make a site of docs/ in site/, which needs nothing from anywhere
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

docs: $(VENV)/.dev  ## Write docs/configuration.md anew from the configuration's classes
	$(BIN)/python docs/generate.py > docs/configuration.md

fuzz: $(VENV)/.dev  ## Fuzz every decoder for MINUTES (60) in all with atheris; what it finds lies in .fuzz/
	$(PIP) --editable '.[dev,fuzz]' --config-settings editable_mode=strict
	$(BIN)/python -m tests.fuzz run --minutes $(MINUTES)

audit: $(VENV)/.dev  ## Write sbom.json, and ask PyPI's advisories about every pinned package
	$(BIN)/python deploy/audit.py --sbom sbom.json

wire: $(VENV)/.dev  ## Write the protobuf stubs anew
	PATH="$(CURDIR)/$(BIN):$$PATH" $(BIN)/python -m fedwon.common.wire.generate

clean:  ## Remove the environment and everything made
	rm -rf $(VENV) build dist site *.egg-info .demo .mypy_cache .ruff_cache .pytest_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
