# make repro   everything: environment, images, scores, labels, training, evaluation, report
# make test    environment and every test
# make check   lint and the quick tests of the rooms that load no model
# make lint    ruff, pydoclint, imports between rooms, mypy
# make world   build the embedded world's checkpoints again
# make faults  damaged files and killed stages; TRIES=100000 KILLS=100 for the long form (docs/reliability.md)
# make claims  every claim of the paper on the world: docs/claims.md; DEVICE=cuda WORKERS=16 on a GPU
# make rehearsal   all stages of SD 1.5 at its real size with random weights; 24 GB of memory, 20 of disk
# make verify-real   published weights against published numbers; needs the network and a GPU
# make docs    the pages of docs/ as a site in build/site; a broken link is an error
# make sbom    bill of materials of .venv in reports/sbom.json     make audit   known vulnerabilities
# make lock    resolve requirements.lock anew from pyproject.toml, keeping the versions that fit

# Python 3.11 or 3.12, whichever is there
PYTHON ?= $(shell for p in python3 python3.11 python3.12; do \
  $$p -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 13))' 2>/dev/null \
  && { echo $$p; break; }; done)
BIN := .venv/bin
export PATH := $(CURDIR)/$(BIN):$(PATH)
# where mypy and import-linter find tgo.pipeline and so on
SOURCE := .venv/source
# PRESET=ci fills params.yaml from presets/ci.yaml before the run
PRESET ?=
# rooms whose tests load no model: two minutes of one core
QUICK := $(addprefix tests/pipeline/,config labelling sources training_log) tests/trainer/test_objectives.py
# damaged files that `make faults` tries, and stops of `dvc repro`
TRIES ?= 2000
KILLS ?= 5
# one thread a worker: the models of tests are too small for more
PYTEST := OMP_NUM_THREADS=1 pytest --numprocesses logical --maxprocesses 4 --dist loadfile --no-loadscope-reorder --durations 15

.PHONY: rehearsal verify-real claims setup repro test check lint faults docs sbom audit world lock

setup: .venv/ready

# the scripts of a .venv name its folder: that of a copied or moved project would run the old
# folder's code, so it is made anew
COPIED := $(shell test -e $(BIN)/pip && ! grep -qF '$(CURDIR)/$(BIN)/' $(BIN)/pip && echo --clear)
ifneq ($(COPIED),)
.PHONY: .venv/ready
endif

# uv installs the lock in a quarter of pip's time; it reads no pip configuration, so it is told
# pip's package indexes, and where it fails pip goes on; compiled once, every start is faster
.venv/ready: requirements.lock pyproject.toml setup.py
	@test -n "$(PYTHON)" || { echo "make: needs Python 3.11 or 3.12; name it: make PYTHON=/path/to/python3.12"; exit 2; }
	$(PYTHON) -m venv $(COPIED) .venv
	$(BIN)/python -m pip install --quiet "$$(grep '^uv==' requirements.lock)" || true
	@pip() { $(BIN)/python -m pip config get "global.$$1" 2>/dev/null || true; }; \
	export UV_DEFAULT_INDEX="$${UV_DEFAULT_INDEX:-$${PIP_INDEX_URL:-$$(pip index-url)}}"; \
	export UV_INDEX="$${UV_INDEX:-$${PIP_EXTRA_INDEX_URL:-$$(pip extra-index-url)}}"; \
	export UV_FIND_LINKS="$${UV_FIND_LINKS:-$$(echo $${PIP_FIND_LINKS:-$$(pip find-links)} | tr ' ' ',')}"; \
	test -n "$$UV_DEFAULT_INDEX" || unset UV_DEFAULT_INDEX; \
	install() { "$$@" --quiet --no-deps -r requirements.lock && "$$@" --quiet --no-deps --no-build-isolation -e .; }; \
	echo "installing requirements.lock ..."; \
	install $(BIN)/uv pip install --python $(BIN)/python --index-strategy unsafe-best-match --compile-bytecode \
	|| { echo "make: uv failed, pip installs instead"; install $(BIN)/python -m pip install; }
	@touch $@

repro: setup
	@$(if $(PRESET),tgo preset $(PRESET),true)
	dvc repro
	@echo "report: $(CURDIR)/reports/index.html"

test: setup
	$(PYTEST)

check: lint
	$(PYTEST) -m "not slow" $(QUICK)

faults: setup
	OMP_NUM_THREADS=1 python -m tests.faults.damage --tries $(TRIES)
	OMP_NUM_THREADS=1 python -m tests.faults.kill_repro --kills $(KILLS)
	$(PYTEST) tests/faults tests/trainer/test_kill.py

lint: setup
	ruff check
	ruff format --check
	pydoclint --quiet pipeline trainer rewards data/world
	@mkdir -p $(SOURCE) && ln -sfn ../.. $(SOURCE)/tgo
	PYTHONPATH=$(SOURCE) lint-imports
	mypy

docs: setup
	NO_MKDOCS_2_WARNING=1 mkdocs build --strict --quiet
	@echo "site: $(CURDIR)/build/site/index.html"

sbom: setup
	@mkdir -p reports
	cyclonedx-py environment $(BIN)/python --pyproject pyproject.toml --output-reproducible -o reports/sbom.json
	@echo "bill of materials: $(CURDIR)/reports/sbom.json"

audit: setup   # asks a public database; the torch wheels of other indexes are unknown to it
	pip-audit --requirement requirements.lock --no-deps --disable-pip --progress-spinner off

world: setup
	python -m tgo.data.world.build prompts
	torchrun --standalone --nproc-per-node 2 -m tgo.data.world.build --threads 1 diffusion masked
	python -m tgo.data.world.build rewards

# the authors' packages of three reward models pin what nothing current can satisfy (pyproject.toml)
lock: setup
	uv pip compile --quiet --universal --python-version 3.11 --no-annotate --no-header \
	  --extra all --extra dev --extra docs --extra audit --extra loggers --extra ray --extra 8bit --extra ocr pyproject.toml -o requirements.lock
	printf 'clip-anytorch==2.6.0\nhpsv2==1.2.0\nimage-reward==1.5\n' >> requirements.lock

# SIZE=sdxl for that model
SIZE ?= sd15
rehearsal: setup
	python -m benchmarks.rehearsal build/rehearsal-$(SIZE) --size $(SIZE)

verify-real: setup
	python -m benchmarks.verify_real data/verified

DEVICE ?= cpu
WORKERS ?= 2
claims: setup
	python -m benchmarks.claims claims --device $(DEVICE) --workers $(WORKERS)
	python -m benchmarks.claims page
