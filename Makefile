# make repro   everything: environment, images, scores, labels, training, evaluation, report
# make test    environment and every test
# make lint    ruff and mypy          make world   build the embedded world's checkpoints again

# Python 3.11 or 3.12, whichever is there
PYTHON ?= $(shell for p in python3 python3.11 python3.12; do \
  $$p -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 13))' 2>/dev/null \
  && { echo $$p; break; }; done)
BIN := .venv/bin
export PATH := $(CURDIR)/$(BIN):$(PATH)
# PRESET=ci fills params.yaml from presets/ci.yaml before the run
PRESET ?=

.PHONY: setup repro test lint world

setup: .venv/ready

.venv/ready: requirements.lock pyproject.toml
	@test -n "$(PYTHON)" || { echo "make: needs Python 3.11 or 3.12; name it: make PYTHON=/path/to/python3.12"; exit 2; }
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --no-deps -r requirements.lock
	$(BIN)/python -m pip install --quiet --no-deps --no-build-isolation -e .
	@touch $@

repro: setup
	@$(if $(PRESET),tgo preset $(PRESET),true)
	dvc repro
	@echo "report: $(CURDIR)/reports/index.html"

# one thread a worker: the models of tests are too small for more
test: setup
	OMP_NUM_THREADS=1 pytest --numprocesses logical --maxprocesses 4 --dist loadfile --no-loadscope-reorder

lint: setup
	ruff check
	ruff format --check
	@mkdir -p .venv/source && ln -sfn ../.. .venv/source/tgo   # where mypy finds tgo.pipeline and so on
	mypy

world: setup
	python -m tgo.data.world.build prompts
	torchrun --standalone --nproc-per-node 2 -m tgo.data.world.build --threads 1 diffusion masked
	python -m tgo.data.world.build rewards
