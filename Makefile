# Everything runs in the virtual environment VENV, made by the interpreter PYTHON:
#   make quickstart VENV=/somewhere/else PYTHON=python3.12
# A prebuilt wheel of mmcv spares its compilation: MMCV_WHEELS=URL_OR_FOLDER
VENV ?= .venv
VENV_UPSTREAM ?= .venv-upstream
PYTHON ?= python3
ARGS ?=

export MMCV_WHEELS
PY = $(abspath $(VENV))/bin/python

.DEFAULT_GOAL := help
.PHONY: help setup quickstart sam-demo sam-demo-setup test check-upstream lint docs clean

help:  ## list the targets
	@echo 'usage: make TARGET [VENV=.venv] [PYTHON=python3] [MMCV_WHEELS=URL_OR_FOLDER] [ARGS=...]'
	@sed -n 's/^\([a-z-]*\):.*## /\1	/p' $(firstword $(MAKEFILE_LIST)) | expand -t 18 | sed 's/^/  /'

setup:  ## make the environment, or bring it up to date
	@command -v '$(PYTHON)' >/dev/null || { \
	  echo 'error: there is no $(PYTHON): install Python 3.10 to 3.12, or name yours with PYTHON=' >&2; exit 1; }
	@'$(PYTHON)' install/setup_env.py --venv '$(VENV)'

quickstart: setup  ## train, evaluate and fuse a small Mask R-CNN on a data set drawn on the spot
	@'$(PY)' tools/quickstart.py $(ARGS)

sam-demo: sam-demo-setup  ## serve a web page to segment pictures on; ARGS="--checkpoint repvit://sam" takes the published weights
	@'$(PY)' tools/sam_web.py $(ARGS)

sam-demo-setup: setup  ## install what the web page needs; where Chromium is too, the tests open it
	@'$(PY)' -m pip install --quiet -c requirements.txt -r requirements-sam-demo.txt

# One process for each core, as most tests keep only one busy; a file's tests share what they prepare.
PYTEST = OMP_NUM_THREADS=1 '$(abspath $1)/bin/python' -m pytest -n logical --maxprocesses 4 --dist loadfile

test: setup  ## run all tests; ARGS="-m 'not slow'" leaves out the long ones
	@$(call PYTEST,$(VENV)) $(ARGS)

# What runs without the packages of the export: the network, its checkpoints and configs, and projects of others.
UPSTREAM_TESTS = tests/test_archs.py tests/test_layers.py tests/test_backbone.py tests/test_fusion.py \
  tests/test_registry.py tests/test_packaging.py tests/checkpoints tests/engine tests/test_detection_configs.py \
  tests/test_segmentation_configs.py tests/test_classification_configs.py tests/test_external_projects.py \
  tests/test_main.py

check-upstream:  ## test with upstream OpenMMLab, in the environment VENV_UPSTREAM (Python 3.10 or 3.11)
	@'$(PYTHON)' install/setup_env.py --stack upstream --venv '$(VENV_UPSTREAM)'
	@$(call PYTEST,$(VENV_UPSTREAM)) $(UPSTREAM_TESTS) $(ARGS)

lint: setup  ## check the style
	@'$(PY)' -m ruff check .

docs: setup  ## build the pages of docs/, with the API, as a site in build/site
	@'$(PY)' -m pip install --quiet -c requirements.txt -r requirements-docs.txt
	@'$(PY)' -m mkdocs build --quiet

clean:  ## remove what builds and tests leave behind; keeps VENV, work_dirs and the cached mmcv wheel
	@rm -rf build dist *.egg-info .pytest_cache .ruff_cache
	@find repvit_mm configs tools tests install -name __pycache__ -prune -exec rm -rf {} +
