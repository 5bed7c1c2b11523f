# Needs python3 (3.10 or newer), make and pip; the rest is installed into .venv. Every target is safe to repeat.
#   make quickstart [DATA_DIR=folder] [ARGS='--epochs 1']     make test [ARGS='-k flatten']     make test-all
#   make test-mm: backbones inside of mmdet and mmsegmentation, in an environment of its own
#   make test-page: what `zoo page` writes, in a browser (chromium with chromedriver, by apt or another package manager)
#   make docs: the site, into build/docs/html     make coverage: the quick tests, with the share of lines that they run
SHELL := /bin/bash
PYTHON ?= python3
VENV ?= .venv
OLDEST_VENV ?= .venv-oldest
MM_VENV ?= .venv-mm
DOCS_VENV ?= .venv-docs
ARGS ?=
# The lower bounds of pyproject.toml, and what fits to them: its torchvision, a numpy that triton 3.6 interprets with,
# and data sets as that timm opens them.
OLDEST := 'torch==2.11.*' 'torchvision==0.26.*' 'timm==1.0.27' 'numpy<2.4' 'datasets<4'
# Others that take the models as backbones: tested in that environment too.
MM_BESIDE := transformers segmentation-models-pytorch
# What an installation depends on: pip copies the console command even where it links the rest.
INSTALLED := pyproject.toml tools/console/zoo_cli.py
# Byte code is kept even where the environment says otherwise: the tests start many processes, which would compile all
# of the package.
export PYTHONDONTWRITEBYTECODE :=
QUICK := -m 'not slow and not full'
PYTEST := -m pytest --numprocesses auto --maxprocesses 8 --dist worksteal
PIP := -m pip install --quiet --disable-pip-version-check

.PHONY: help quickstart test test-oldest test-mm test-page test-all coverage lint docs site wheel dist check-release \
  clean
.DEFAULT_GOAL := help

help:
	@sed -n 's/^#   //p' Makefile
	@echo "make lint     make test-oldest     make site     make dist     make wheel     make clean"

quickstart: $(VENV)/.train
	$(VENV)/bin/python -m zoo train --config quickstart $(if $(DATA_DIR),--data-dir '$(DATA_DIR)') $(ARGS)

test: lint
	$(VENV)/bin/python $(PYTEST) $(QUICK) $(ARGS)

test-oldest: $(OLDEST_VENV)/.dev
	$(OLDEST_VENV)/bin/python $(PYTEST) $(QUICK) $(ARGS)

test-mm: $(MM_VENV)/.mm
	$(MM_VENV)/bin/python $(PYTEST) $(QUICK) $(ARGS) tests/dense

test-page: $(VENV)/.page
	$(VENV)/bin/python -m pytest $(ARGS) tests/page

# Every model and every slow test on the newest torch and timm and in mmdet and mmsegmentation, then the quick tests on
# the oldest.
test-all: lint $(VENV)/.runtimes $(VENV)/.page $(OLDEST_VENV)/.dev $(MM_VENV)/.mm
	@echo '== every test, newest versions' && time $(VENV)/bin/python $(PYTEST) $(ARGS)
	@echo '== mmdet and mmsegmentation' && time $(MM_VENV)/bin/python $(PYTEST) $(ARGS) tests/dense
	@echo '== quick tests, oldest versions' && time $(OLDEST_VENV)/bin/python $(PYTEST) $(QUICK) $(ARGS)

# The share of lines that the quick tests run; most of zoo/dense needs test-mm, tests marked slow or full are left out.
coverage: $(VENV)/.dev
	$(VENV)/bin/python $(PYTEST) $(QUICK) $(ARGS) --cov=zoo --cov=zoo_kernels --cov-report=term:skip-covered \
	  --cov-report=xml:build/coverage.xml

lint: $(VENV)/.dev
	$(VENV)/bin/ruff check .
	$(VENV)/bin/python tools/check_types.py

docs: $(DOCS_VENV)/.docs
	$(DOCS_VENV)/bin/python -m sphinx --builder html --fresh-env --fail-on-warning --keep-going --quiet docs build/docs/html
	@echo 'open build/docs/html/index.html'

# What GitHub Pages show: the docs, and the page to choose a model from at models/
site: docs $(VENV)/.dev
	rm -rf build/site
	cp -R build/docs/html build/site
	$(VENV)/bin/python -m zoo page --output build/site/models

wheel: $(VENV)/.dev
	$(VENV)/bin/python -m build --wheel --no-isolation --outdir dist .

dist: $(VENV)/.dev
	$(VENV)/bin/python -m build --no-isolation --outdir dist .

# TAG=v0.1.0: whether version, citation and changelog fit to it
check-release:
	$(PYTHON) tools/check_release.py '$(TAG)'

clean:
	rm -rf '$(VENV)' '$(OLDEST_VENV)' '$(MM_VENV)' '$(DOCS_VENV)' .cache build dist .pytest_cache .ruff_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# An environment is marked as made by a file in it that only the last step writes: after an interruption it is redone.
%/.made:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10) and "$(PYTHON) is too old: 3.10 or newer is needed")'
	@$(PYTHON) -m venv --clear '$*' >/dev/null 2>&1 || $(PYTHON) -m venv --clear --without-pip '$*'
	@test -e '$*/bin/pip' || $(PYTHON) -m pip --python '$*/bin/python' install --quiet pip  # Debian without python3-venv
	@touch '$@'

$(VENV)/.train: $(INSTALLED) | $(VENV)/.made
	@echo 'installing into $(VENV) (PyTorch is large: minutes on a slow line)'
	@$(VENV)/bin/python $(PIP) --editable '.[train]'
	@touch '$@'

$(VENV)/.dev: $(INSTALLED) | $(VENV)/.made
	@echo 'installing into $(VENV) (PyTorch is large: minutes on a slow line)'
	@$(VENV)/bin/python $(PIP) --editable '.[dev]'
	@touch '$@' '$(VENV)/.train'

$(VENV)/.runtimes: $(VENV)/.dev
	@echo 'installing the runtimes that models are exported to into $(VENV)'
	@$(VENV)/bin/python $(PIP) --editable '.[dev,runtimes]'
	@touch '$@'

$(VENV)/.page: $(VENV)/.dev
	@echo 'installing what drives a browser into $(VENV)'
	@$(VENV)/bin/python $(PIP) --editable '.[dev,page-test]'
	@touch '$@'

$(OLDEST_VENV)/.dev: $(INSTALLED) | $(OLDEST_VENV)/.made
	@echo 'installing the oldest versions into $(OLDEST_VENV)'
	@$(OLDEST_VENV)/bin/python $(PIP) --editable '.[dev]' $(OLDEST)
	@touch '$@'

$(MM_VENV)/.mm: $(INSTALLED) | $(MM_VENV)/.made
	@echo 'installing mmdet and mmsegmentation into $(MM_VENV)'
	@$(MM_VENV)/bin/python $(PIP) --editable '.[mm,test]' $(MM_BESIDE)
	@touch '$@'

$(DOCS_VENV)/.docs: $(INSTALLED) | $(DOCS_VENV)/.made
	@echo 'installing Sphinx into $(DOCS_VENV)'
	@$(DOCS_VENV)/bin/python $(PIP) --editable '.[docs]'
	@touch '$@'
