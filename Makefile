# Everything runs in the virtual environment VENV, made by the interpreter PYTHON:
#   make quickstart VENV=/somewhere/else PYTHON=python3.12
VENV ?= .venv
VENV_UPSTREAM ?= .venv-upstream
VENV_NEWEST ?= .venv-newest
VENV_OPERATORS ?= .venv-operators
VENV_DEVICES ?= .venv-devices
PYTHON ?= python3
ARGS ?=
DEVICE ?= cuda
CPU ?=

PY = $(abspath $(VENV))/bin/python
INSTALL = @install/environment.sh '$(VENV)' '$(PYTHON)' --quiet
# CPU=1: torch for the CPU, from download.pytorch.org, and none of the packages of CUDA.
PINNED = { grep -vE '$(if $(CPU),^(cuda|nvidia|triton),^#)' requirements.txt; echo '-e .'; }
BACKEND = $(if $(CPU),--torch-backend cpu)
# The day whose packages go with those of requirements-upstream.txt.
UPSTREAM_DAY = 2026-11-25

.DEFAULT_GOAL := help
.PHONY: help setup quickstart sam-demo sam-demo-setup test check-slow check-upstream check-newest check-operators check-devices check-web check-trust check-peers check-gpu lint docs lock clean

help:  ## list the targets
	@echo 'usage: make TARGET [VENV=.venv] [PYTHON=python3] [ARGS=...]'
	@sed -n 's/^\([a-z-]*\):.*## /\1	/p' $(firstword $(MAKEFILE_LIST)) | expand -t 18 | sed 's/^/  /'

setup:  ## make the environment, or bring it up to date; CPU=1 leaves out CUDA, 4 GB
	@$(PINNED) | install/environment.sh '$(VENV)' '$(PYTHON)' $(BACKEND) --no-deps -r -

quickstart: setup  ## train, evaluate and fuse a small Mask R-CNN on a data set drawn on the spot
	@'$(PY)' tools/quickstart.py $(ARGS)

sam-demo: sam-demo-setup  ## serve a web page to segment images on; ARGS="--checkpoint repvit://sam" takes the published weights
	@'$(PY)' tools/sam_demo.py $(ARGS)

sam-demo-setup: setup  ## install the packages of the web page
	$(INSTALL) -c requirements.txt -r requirements-sam-demo.txt

# One process for each core, as most tests keep only one busy; a file's tests share what they prepare.
PYTEST = OMP_NUM_THREADS=1 '$(abspath $1)/bin/python' -m pytest -n logical --maxprocesses 4 --dist loadfile --no-loadscope-reorder

test: setup  ## run the tests, but for the slow ones (8 minutes on two cores)
	@$(call PYTEST,$(VENV)) -m 'not slow' $(ARGS)

check-slow: setup  ## run the tests that train, export or install from end to end
	@$(call PYTEST,$(VENV)) -m slow $(ARGS)

# What runs without the packages of the export: the network, its checkpoints and configs, and projects of others.
UPSTREAM_TESTS = tests/test_archs.py tests/network tests/test_registry.py tests/test_packaging.py tests/checkpoints tests/engine tests/test_detection_configs.py \
  tests/test_segmentation_configs.py tests/test_classification_configs.py tests/test_external_projects.py \
  tests/test_main.py tests/models

check-upstream:  ## test with upstream OpenMMLab and the oldest torch (Python 3.10 or 3.11), in VENV_UPSTREAM
	@install/environment.sh '$(VENV_UPSTREAM)' '$(PYTHON)' --exclude-newer $(UPSTREAM_DAY) -r requirements-upstream.txt
	@$(call PYTEST,$(VENV_UPSTREAM)) $(UPSTREAM_TESTS) $(ARGS)

check-newest:  ## run the fast tests with the newest release of every package, in VENV_NEWEST
	@install/environment.sh '$(VENV_NEWEST)' '$(PYTHON)' --upgrade -r requirements.in
	@$(call PYTEST,$(VENV_NEWEST)) -m 'not slow' --ignore tests/test_install.py $(ARGS)

# mmcv's sources do not compile with every torch: an environment of its own. MMCV_WITH_OPS=1 compiles them.
INTO_OPERATORS = install/environment.sh '$(VENV_OPERATORS)' '$(PYTHON)'
check-operators:  ## compare torchvision's operators with mmcv's, which VENV_OPERATORS gets compiled (10 minutes, once)
	@$(INTO_OPERATORS) -r requirements-operators.txt
	@MMCV_WITH_OPS=1 CFLAGS='-O2 -g0' CUDA_VISIBLE_DEVICES= $(INTO_OPERATORS) --no-build-isolation --no-cache \
	  --no-deps "$$(grep '^onedl-mmcv==' requirements.txt)"
	@'$(abspath $(VENV_OPERATORS))/bin/python' -m pytest -s tests/ops $(ARGS)

# They bring along much that nothing else needs, and are not for every Python: an environment of their own.
INTO_DEVICES = install/environment.sh '$(VENV_DEVICES)' '$(PYTHON)' --quiet
check-devices:  ## test the exports to all formats, ExecuTorch and LiteRT too (Python 3.11 or later), in VENV_DEVICES
	@$(PINNED) | $(INTO_DEVICES) $(BACKEND) --no-deps -r -
	@$(INTO_DEVICES) -c requirements.txt executorch
	@$(INTO_DEVICES) --no-deps -r requirements-litert.txt
	@$(call PYTEST,$(VENV_DEVICES)) tests/export $(ARGS)

check-web: setup  ## test examples/web in a headless Chromium; needs npm and chromium (a minute)
	@npm install --prefix examples/web --no-audit --no-fund --silent
	@$(call PYTEST,$(VENV)) tests/export/test_web.py $(ARGS)

check-trust: setup  ## kill trainings, fuzz what reads files, and try a table of bad inputs (up to 45 minutes)
	@$(call PYTEST,$(VENV)) tests/trust --trust $(ARGS)

check-peers: setup  ## train and predict with RepViT in a config of every folder of the toolboxes' zoos (10 minutes)
	@OMP_NUM_THREADS=1 '$(PY)' -m pytest -s -m peers tests/peers --peers $(ARGS)

check-gpu: setup  ## test on a GPU, within ten minutes; DEVICE=cpu rehearses on a CPU
	@'$(PY)' -m pytest tests/gpu --device '$(DEVICE)' $(ARGS)

lint: setup  ## check the style
	@'$(PY)' -m ruff check .

docs: setup  ## build the pages of docs/, with the API, as a site in build/site
	$(INSTALL) -c requirements.txt -r requirements-docs.txt
	@'$(PY)' -m mkdocs build --quiet

lock: setup  ## pin the newest release of every package in requirements.txt
	@VIRTUAL_ENV='$(abspath $(VENV))' '$(abspath $(VENV))/bin/uv' pip compile --quiet --upgrade --universal \
	  --python-version 3.10 --no-annotate --no-emit-package repvit-mm --custom-compile-command 'make lock' -o requirements.txt requirements.in

clean:  ## remove what builds and tests leave behind; keeps VENV and work_dirs
	@rm -rf build dist *.egg-info .pytest_cache .ruff_cache
	@find repvit_mm configs tools tests -name __pycache__ -prune -exec rm -rf {} +
