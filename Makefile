# The commands of the project. `make demo` shows it, `make test` tests it, `make serve` runs it.

PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV := .venv
LABEL_STUDIO_VENV ?= .venv-label-studio
BIN := $(VENV)/bin
# What is tested is what the image gets: a release of yesterday changes nothing by itself.
CONSTRAINTS := docker/constraints.txt
CLUSTER_CONSTRAINTS := docker/constraints-cluster.txt
LOCK_VENV := .venv-lock

.PHONY: help demo serve join test-cluster wheel up image version compat check-weights check test lint format screenshot clean secrets audit rehearse-image lock fuzz load soak gpu

help:
	@echo "make demo    Label Studio with sample photos and this backend, on this machine"
	@echo "make serve   the backend alone; settings from .env and the environment (python -m backend settings)"
	@echo "make join HEAD=host:6379    give this machine to the cluster of another (docs/operating.md)"
	@echo "make wheel   dist/label_studio_sam2-<version>-py3-none-any.whl"
	@echo "make check   the quick look before every commit, under 4 minutes on two cores: lint, types,"
	@echo "             and all tests but the slow ones, those against the sam2 package, and end to end"
	@echo "make test    everything: lint, types, unit, parity, contract and end-to-end tests"
	@echo "make secrets audit rehearse-image fuzz load soak gpu    for operators, see docs/operating.md"

demo: $(VENV)/.run $(LABEL_STUDIO_VENV)/.installed
	@LABEL_STUDIO_VENV=$(LABEL_STUDIO_VENV) $(BIN)/python -m demo.run

serve: $(VENV)/.run $(if $(CLUSTER_ADDRESS),$(VENV)/.cluster)
	@$(BIN)/python -m backend serve

join: $(VENV)/.run $(VENV)/.cluster
	@$(BIN)/python -m backend join $(HEAD)

wheel: $(VENV)/.run
	$(BIN)/python -m pip wheel --quiet --disable-pip-version-check --no-deps --no-build-isolation \
		--wheel-dir dist .

# One thread for each of the two test processes; the end-to-end tests share one process.
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadgroup

check: lint
	$(PYTEST) -m "not slow and not parity and not e2e and not cluster"

# The second run sees what only CPUs without AVX-512 show, wherever it runs.
test: lint $(LABEL_STUDIO_VENV)/.installed
	@sh tests/e2e/ensure_chromium.sh
	LABEL_STUDIO_VENV=$(LABEL_STUDIO_VENV) $(PYTEST) -m "not cluster" --durations 15
	ONEDNN_MAX_CPU_ISA=AVX2 ATEN_CPU_CAPABILITY=avx2 $(PYTEST) -m instruction_set \
		tests/sam2model tests/benchmarks

# Minutes with a cluster on this machine, of which parts are killed while it works.
test-cluster: $(VENV)/.test
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m cluster --durations 15

lint: $(VENV)/.test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(VENV)/.test
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# --- for operators; see docs/operating.md

secrets:
	@$(PYTHON) deploy/make_secrets.py

# The one place where the version stands.
VERSION := $(shell sed -n 's/^__version__ = "\(.*\)"/\1/p' backend/__init__.py)

version:
	@echo $(VERSION)

# Published weights beside the official package; takes a network the first time.
VARIANT ?= sam2.1_hiera_tiny
check-weights: $(VENV)/.test
	@$(BIN)/python -m benchmarks.quality.official_weights $(VARIANT)

# The contract and one browser test against the oldest and the newest Label Studio that is
# supported, each in a virtual environment of its own.
compat: $(VENV)/.test
	@sh tests/e2e/ensure_chromium.sh
	@$(BIN)/python -m tests.e2e.compat

image:
	docker build -f docker/Dockerfile --build-arg VERSION=$(VERSION) -t label-studio-sam2:$(VERSION) .

# Label Studio, backend, store, Prometheus and Grafana in containers, connected.
# TEXT=1: with a detector that finds what it is told in words.
PROFILE ?= cpu
TEXT ?=
up: secrets
	VERSION=$(VERSION) DETECTOR_URL=$(if $(TEXT),http://detector:9091) docker compose \
		-f docker/docker-compose.yml --profile $(PROFILE) $(if $(TEXT),--profile text) up -d --build
	@echo "Label Studio: http://localhost:8080 admin@example.com, password in docker/secrets/label_studio_password"

# Known weaknesses of the pinned versions.
audit: $(VENV)/.test
	@$(BIN)/python deploy/audit.py

# The Dockerfile's steps and entry point, without Docker; BUILD_ARGS="--build-arg NAME=VALUE ...".
rehearse-image: $(VENV)/.run
	@$(BIN)/python -m deploy.rehearse $(BUILD_ARGS)

# After a change of requirements.txt, or to take what was released since: test it before it is kept.
lock:
	rm -rf $(LOCK_VENV)
	$(PYTHON) -m venv $(LOCK_VENV)
	$(LOCK_VENV)/bin/python -m pip install --quiet --disable-pip-version-check \
		-r requirements-cluster.txt
	$(LOCK_VENV)/bin/python deploy/lock.py
	rm -rf $(LOCK_VENV)

# Load limits: bodies that nobody should send; many requests at once; for long, and killed.
fuzz: $(VENV)/.test
	@$(BIN)/python -m benchmarks.load.fuzz

load: $(VENV)/.test
	@$(BIN)/python -m benchmarks.load.concurrent
	@$(BIN)/python -m benchmarks.load.owners
	@$(BIN)/python -m benchmarks.load.stored
	@$(BIN)/python -m benchmarks.load.log_lines

soak: $(VENV)/.test
	@$(BIN)/python -m benchmarks.load.soak

# Does a GPU compute what the CPU does, how fast, and in service; docs/measurements/gpu.md.
gpu: $(VENV)/.test
	@$(BIN)/python -m benchmarks.gpu --out .gpu

screenshot: $(VENV)/.test $(LABEL_STUDIO_VENV)/.installed
	E2E_DOCS_SCREENSHOT=1 LABEL_STUDIO_VENV=$(LABEL_STUDIO_VENV) \
		$(BIN)/python -m pytest tests/e2e -m e2e

$(VENV)/.run: requirements.txt $(CONSTRAINTS)
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c $(CONSTRAINTS) \
		-r requirements.txt
	@touch $@

$(VENV)/.cluster: requirements-cluster.txt $(CLUSTER_CONSTRAINTS) $(VENV)/.run
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c $(CONSTRAINTS) \
		-c $(CLUSTER_CONSTRAINTS) -r requirements-cluster.txt
	@touch $@

# References for the tests, installed without what their metadata asks for: torchvision, which
# nothing here needs, and an OpenCV that crashes on some PNGs. sam2's build wants torch present
# and no isolation.
$(VENV)/.test: requirements-test.txt requirements-train.txt $(VENV)/.cluster
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c $(CONSTRAINTS) \
		-c $(CLUSTER_CONSTRAINTS) -r requirements-test.txt
	SAM2_BUILD_CUDA=0 $(BIN)/python -m pip install --quiet --disable-pip-version-check \
		--no-build-isolation --no-deps sam2==1.1.0 timm==1.0.31 label-studio-sdk==2.1.2
	@touch $@

$(LABEL_STUDIO_VENV)/.installed: requirements-label-studio.txt
	@test -x $(LABEL_STUDIO_VENV)/bin/python || $(PYTHON) -m venv $(LABEL_STUDIO_VENV)
	$(LABEL_STUDIO_VENV)/bin/python -m pip install --quiet --disable-pip-version-check \
		-r requirements-label-studio.txt
	@touch $@

clean:
	rm -rf .demo .e2e .pytest_cache .mypy_cache .ruff_cache .hypothesis
