# Every target first makes sure that .venv is as the lock files say (nothing to do when they have not changed).
SHELL := /bin/bash
PY := $(or $(PYTHON),.venv/bin/python)
NODES ?= 2
BACKEND ?= tiny
JOBS ?= 1000
ENGINE ?= process
SEED ?= 1
TARGET ?= full
GPU_BENCH ?=
CHECKOUT := $(CURDIR):$(CURDIR)/proto$(if $(PYTHONPATH),:$(PYTHONPATH))

.PHONY: demo pool image test check bench soak proto openapi configuration runner-pages metrics format lock gpu-test gpu-bench clean

demo: ## The main job on tiny models (no Docker, no GPU); FULL=1: every pipeline; ENGINE=docker: in containers
	@scripts/bootstrap full
	@$(PY) scripts/demo.py --engine $(ENGINE) $(if $(FULL),--full)

pool: ## A pool to try: make pool NODES=2 BACKEND=tiny|synthetic
	@scripts/bootstrap $(if $(filter synthetic,$(BACKEND)),base,full)
	@$(PY) scripts/pool.py --nodes $(NODES) --backend $(BACKEND)

image: ## The runner's image: make image TARGET=full|synthetic
	@scripts/image $(TARGET)

test: ## All tests but gpu and load; where it is root with apt-get, it installs what they call
	@scripts/packages || true
	@scripts/bootstrap full
	@scripts/bootstrap clients
	@PYTHON=$(PY) scripts/test

check: ## Format, lint, types, import contracts, drift of generated files
	@scripts/bootstrap full
	@scripts/bootstrap codegen
	@scripts/bootstrap redocly
	@scripts/check

bench: ## What the control plane costs, beside two floors; a soak under faults; whether a node's ETAs are true; what media costs; fuzzers; what hostile peers cost
	@scripts/bootstrap full
	@$(PY) -m benchmark.overhead --profile
	@$(PY) -m benchmark.soak
	@$(PY) -m benchmark.eta
	@$(PY) -m runner.bench
	@$(PY) -m tests.fuzz --seconds 20
	@$(PY) -m tests.hostile

soak: ## 1,000 jobs under faults: make soak JOBS=1000 ENGINE=process|docker SEED=1
	@scripts/bootstrap full
	@$(PY) -m benchmark.soak --jobs $(JOBS) --engine $(ENGINE) --seed $(SEED)

gpu-test: ## Tests that need a CUDA device; PYTHON=… takes that interpreter as it is
	@scripts/bootstrap full
	@PYTHONPATH="$(CHECKOUT)" $(PY) -m pytest -m gpu tests/gpu

gpu-bench: ## Full-size models on a card: make gpu-bench GPU_BENCH="--only sd15 --runs 20"
	@scripts/bootstrap full
	@PYTHONPATH="$(CHECKOUT)" $(PY) -m benchmark.gpu $(GPU_BENCH)

proto: ## Generate the protobuf modules from proto/reelnet/v1/*.proto
	@scripts/bootstrap codegen
	@PATH="$(CURDIR)/.venv-codegen/bin:$$PATH" .venv-codegen/bin/python proto/generate.py

openapi: ## Write docs/openapi/*.json from the code
	@scripts/bootstrap full
	@$(PY) scripts/openapi.py

configuration: ## Write docs/configuration.md from the settings
	@scripts/bootstrap full
	@$(PY) scripts/configuration.py

runner-pages: ## Write the parameters in docs/runner.md from the pipelines
	@scripts/bootstrap full
	@$(PY) scripts/runner_pages.py

metrics: ## Write docs/metrics.md from the definitions of the metrics
	@scripts/bootstrap full
	@$(PY) scripts/metrics.py

format: ## Format the code
	@scripts/bootstrap full
	@.venv/bin/ruff format . && .venv/bin/ruff check --fix .

lock: ## Write the lock files from pyproject.toml
	@scripts/bootstrap full
	@scripts/lock

clean:
	rm -rf .venv .venv-codegen out .bootstrap-*.lock .mypy_cache .ruff_cache .pytest_cache
