# `make demo` runs the main job, `make test` the tests. Each makes .venv when it is absent or out of date.

.DEFAULT_GOAL := help
SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
DEMO ?= demo
PEERS ?= .venv-peers
PEERS_ARGS ?=
STUDY_ARGS ?=
NODULES ?= out/study-nodules
SEGMENT ?= out/study-segment
ISBI2012 ?= isbi2012
DSB2018 ?= dsb2018
HIPPOCAMPUS ?= hippocampus
FAULTS ?= out/faults.md
WORKERS ?= 2
PYTEST := $(BIN)/python -m pytest -n $(WORKERS) --dist loadfile

# No tool reports home.
export DO_NOT_TRACK := 1
export NO_MKDOCS_2_WARNING := 1

.PHONY: help demo test test-all test-faults lint format docs bench bench-check bench-growth bench-peers study study-nodules study-segment rank-segment install clean

help: ## show this list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-12s %s\n", $$1, $$2}'

demo: $(STAMP) ## make four slides, analyse them, and print where the reports are
	$(BIN)/medvision demo --out $(DEMO)

# One thread per test process: the processes share the cores.
test test-all test-faults: export OMP_NUM_THREADS := 1

test: $(STAMP) lint ## style, types, layers, and all tests but the slow ones
	$(PYTEST) -m "not slow"

test-all: $(STAMP) lint ## the slow tests too
	$(PYTEST)

test-faults: $(STAMP) ## damage slides, models and runs in every known way, and print how each case ended; an hour
	$(BIN)/python -m pytest -n $(WORKERS) tests/faults --fault-table $(FAULTS)

lint: $(STAMP) ## style, types and layers
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/lint-imports

format: $(STAMP) ## rewrite the sources in the project's style
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

docs: $(STAMP) ## build the documentation into site/; a warning is an error
	$(BIN)/mkdocs build --strict

bench: $(STAMP) ## measure speed, start-up and memory against their aims, as in docs/results.md
	$(BIN)/medvision benchmark

bench-check: $(STAMP) ## compare a quick benchmark's ratios with the committed ones; fails where one fell
	$(BIN)/medvision benchmark --quick --against tests/benchmarks/baseline.json

bench-growth: $(STAMP) ## how time and memory grow with tissue, slides and processes; some ten minutes
	$(BIN)/medvision benchmark --growth

bench-peers: $(STAMP) ## beside other tools from PyPI, in environments of their own: 8 GB, up to an hour
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt openvino
	$(BIN)/python tests/benchmarks/peers/compare.py --environments $(PEERS) $(PEERS_ARGS)

study: $(STAMP) ## train and score every pathology method on one synthetic cohort; within an hour
	$(BIN)/python tests/benchmarks/cohort_study.py --out out/study $(STUDY_ARGS)

study-nodules: $(STAMP) ## train and score a nodule detector and its reduction on synthetic chest CT; half an hour
	$(BIN)/medvision synthesize chest --out $(NODULES)/chest --scans 48 --seed 7 --nodules 2 6 --spacing 1.5 0.9 --folds 8
	$(BIN)/medvision train nodules --config configs/train-nodules.yaml --data $(NODULES)/chest --out $(NODULES)/detector
	$(BIN)/medvision train nodule-fpr --config configs/train-nodule-fpr.yaml --data $(NODULES)/chest \
	  --candidates $(NODULES)/detector/candidates-all.csv --out $(NODULES)/reduction
	for step in detector reduction; do \
	  $(BIN)/medvision evaluate luna16 --candidates $(NODULES)/$$step/candidates.csv \
	    --seriesuids $(NODULES)/$$step/seriesuids.csv --annotations $(NODULES)/chest/annotations.csv \
	    --excluded $(NODULES)/chest/annotations_excluded.csv --out $(NODULES)/scores-$$step; \
	done
	$(BIN)/python tests/benchmarks/nodule_difference.py $(NODULES)/chest $(NODULES)/detector/candidates.csv \
	  $(NODULES)/reduction/candidates.csv --seriesuids $(NODULES)/detector/seriesuids.csv

study-segment: $(STAMP) ## train and score U-Net on ISBI2012=, DSB2018= and HIPPOCAMPUS= folders, and V-Net; an hour or two
	$(BIN)/medvision train segment --config configs/train-segment-hippocampus.yaml --data $(HIPPOCAMPUS) --out $(SEGMENT)/hippocampus
	$(BIN)/medvision evaluate segment --predictions $(SEGMENT)/hippocampus/predictions --truth $(HIPPOCAMPUS)/labels \
	  --classes 1=anterior --classes 2=posterior --regions whole=1,2 --cases $(SEGMENT)/hippocampus/held-out.txt --out $(SEGMENT)/scores-hippocampus
	$(BIN)/medvision train segment --config configs/train-segment-hippocampus-vnet.yaml --data $(HIPPOCAMPUS) --out $(SEGMENT)/hippocampus-vnet
	$(BIN)/medvision evaluate segment --predictions $(SEGMENT)/hippocampus-vnet/predictions --truth $(HIPPOCAMPUS)/labels \
	  --classes 1=anterior --classes 2=posterior --regions whole=1,2 --cases $(SEGMENT)/hippocampus-vnet/held-out.txt --out $(SEGMENT)/scores-hippocampus-vnet
	$(BIN)/medvision train segment --config configs/train-segment-isbi2012.yaml --data $(ISBI2012) --out $(SEGMENT)/isbi2012
	$(BIN)/medvision evaluate segment --task membranes --predictions $(SEGMENT)/isbi2012/probabilities/cell \
	  --truth $(ISBI2012)/label --thresholds 0.3 --thresholds 0.5 --thresholds 0.7 --out $(SEGMENT)/scores-isbi2012
	$(BIN)/medvision train segment --config configs/train-segment-dsb2018.yaml --data $(DSB2018) --out $(SEGMENT)/dsb2018
	for task in semantic instances; do \
	  $(BIN)/medvision evaluate segment --task $$task --predictions $(SEGMENT)/dsb2018/predictions --truth $(DSB2018) \
	    --out $(SEGMENT)/scores-dsb2018-$$task; \
	done
	$(BIN)/medvision segment $(SEGMENT)/dsb2018/predictions/*.png --method otsu:smooth=0,background=dark --clean-up fill-holes \
	  --clean-up drop-small --instances --out $(SEGMENT)/split-dsb2018
	$(BIN)/medvision evaluate segment --task instances --predictions $(SEGMENT)/split-dsb2018 --truth $(DSB2018) \
	  --out $(SEGMENT)/scores-split-dsb2018
	$(BIN)/medvision segment $(DSB2018)/*/images/*.png --method otsu-watershed --out $(SEGMENT)/otsu-dsb2018
	for task in semantic instances; do \
	  $(BIN)/medvision evaluate segment --task $$task --predictions $(SEGMENT)/otsu-dsb2018 --truth $(DSB2018) \
	    --out $(SEGMENT)/scores-otsu-dsb2018-$$task; \
	done
	$(BIN)/medvision segment $(ISBI2012)/image/*.png --method otsu:smooth=2,background=dark --out $(SEGMENT)/otsu-isbi2012
	$(BIN)/medvision evaluate segment --task membranes --predictions $(SEGMENT)/otsu-isbi2012 --truth $(ISBI2012)/label \
	  --out $(SEGMENT)/scores-otsu-isbi2012

rank-segment: $(STAMP) ## train and score each segmentation network on ISBI2012= in one shared setting; hours
	$(BIN)/python tests/benchmarks/segment_ranking.py --data $(ISBI2012) --out $(SEGMENT)/ranking --folds 5 \
	  --networks unet fcn8s-vgg16 deeplab-v3-plus nnunet
	$(BIN)/python tests/benchmarks/segment_ranking.py --data $(ISBI2012) --out $(SEGMENT)/ranking

install: $(STAMP) ## make .venv and nothing else

clean: ## remove .venv and everything that can be made again
	rm -rf $(VENV) build dist site *.egg-info $(DEMO) .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(STAMP): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	  echo "medvision needs Python 3.11 or later; $(PYTHON) is $$($(PYTHON) -V 2>&1)." >&2; \
	  echo "Name another one: make $(or $(MAKECMDGOALS),test) PYTHON=python3.12" >&2; exit 1; }
	@if [ -x $(BIN)/python ] && $(BIN)/python -m pip --version >/dev/null 2>&1; then \
	  echo "updating $(VENV)"; \
	else \
	  rm -rf $(VENV); \
	  if $(PYTHON) -c 'import ensurepip, venv' 2>/dev/null; then \
	    $(PYTHON) -m venv $(VENV); \
	  elif $(PYTHON) -m virtualenv --version >/dev/null 2>&1; then \
	    $(PYTHON) -m virtualenv --quiet $(VENV); \
	  elif $(PYTHON) -c 'import venv, pip' 2>/dev/null; then \
	    $(PYTHON) -m venv --without-pip $(VENV); \
	    $(PYTHON) -m pip --quiet --python $(BIN)/python install pip; \
	  elif [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
	    echo "this Python cannot make virtual environments: installing the Debian package python3-venv"; \
	    apt-get update -qq; \
	    DEBIAN_FRONTEND=noninteractive apt-get install -y -qq python3-venv; \
	    $(PYTHON) -m venv $(VENV); \
	  else \
	    echo "$(PYTHON) cannot make virtual environments. On Debian or Ubuntu: sudo apt-get install python3-venv" >&2; \
	    exit 1; \
	  fi; \
	fi
	@echo "installing into $(VENV) what constraints.txt names: some 6 GB, a few minutes"
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[dev]'
	@touch $@
