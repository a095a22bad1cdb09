# Plain make; needs Python 3.11 or newer and nothing else. `make help` lists the targets.

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help

# The first Python on the path that is new enough; `make PYTHON=… setup` takes another.
PYTHON ?= $(shell for python in python3 python3.13 python3.12 python3.11 python3.14; do \
	"$$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null \
	&& echo "$$python" && break; done)

BIN := .venv/bin
READY := .venv/.ready
PYTEST := $(BIN)/pytest
# Tests that measure are marked `serial` and run alone afterwards.
PARALLEL := -n 2 --dist worksteal -m "not serial and not container"
# `make chaos MINUTES=30 SEED=1 NODES=3`; without a seed a new one is drawn and told, without nodes
# it runs on one, then on three.
MINUTES ?= 30
SEED ?=
NODES ?=
BENCHES := baseline schedule dispatch lateness recovery failover isolation

# The image and what it is built from; each may be given on the command line.
export SCHEDULER_IMAGE ?= streamsched:latest
BUILD_ARGS := PYTHON_IMAGE PIP_INDEX_URL PIP_NO_INDEX
export COMPOSE_PROJECT_NAME ?= streamsched
export COMPOSE_FILE ?= docker/compose.yaml

.PHONY: help setup test demo lint format types kafka test-unit test-broker sim chaos bench wheel \
	image up down test-containers clean

help: ## list the targets
	@sed -nE 's/^([a-z-]+):.*## (.*)/\1\t\2/p' $(MAKEFILE_LIST) | expand -t 14

setup: $(READY) ## make .venv with everything in it

$(READY): pyproject.toml
	@if [ -z "$(PYTHON)" ]; then \
		echo "Python 3.11 or newer is needed and was not found; name one with PYTHON=" >&2; \
		exit 1; \
	fi
	[ -x $(BIN)/python ] || $(PYTHON) -m venv .venv
	@# The pip of older Pythons does not know dependency groups.
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --upgrade 'pip>=25.1'
	$(BIN)/python -m pip install --quiet --editable . --group dev
	@touch $@

demo: $(READY) ## Kafka, a scheduler and traffic of 20 tenants, with a live table
	$(BIN)/streamsched demo

test: lint types kafka ## lint, types and all tests
	$(PYTEST) $(PARALLEL)
	$(PYTEST) -m serial || [ $$? -eq 5 ]

lint: $(READY) ## check style and formatting
	$(BIN)/ruff check
	$(BIN)/ruff format --check --quiet --diff

format: $(READY) ## put the code into the house's format
	$(BIN)/ruff check --fix-only --quiet
	$(BIN)/ruff format

types: $(READY) ## check types
	$(BIN)/mypy

kafka: $(READY) ## download Kafka, where the cache lacks it
	$(BIN)/python -m streamsched.kafka.jars

test-unit: $(READY) ## the tests that need no Kafka
	$(PYTEST) -n 2 --dist worksteal tests/unit tests/property tests/sim

test-broker: kafka ## the tests on a real Kafka
	$(PYTEST) $(PARALLEL) tests/broker tests/chaos
	$(PYTEST) -m serial tests/broker tests/chaos || [ $$? -eq 5 ]

# `make sim SEEDS=10000` for many, `make sim SEED=17` for one with its trace.
SEEDS ?= 2000
sim: $(READY) ## the protocol in SEEDS simulated worlds, or in the one of SEED
	@$(BIN)/python -m tests.sim $(if $(SEED),--seed $(SEED),--seeds $(SEEDS))

chaos: kafka ## kill, hang and rob schedulers and brokers for MINUTES=30, from SEED, on NODES=1 or 3
	$(BIN)/python -m tests.chaos --minutes $(MINUTES) $(if $(SEED),--seed $(SEED)) \
		$(if $(NODES),--nodes $(NODES))

bench: $(READY) ## the benchmarks, each beside its baseline, as JSON
	@for bench in $(BENCHES); do $(BIN)/streamsched bench $$bench -o json; done

wheel: $(READY) ## build the wheel into dist/
	$(BIN)/python -m pip wheel --quiet --no-deps --wheel-dir dist .

image: ## build the scheduler's image, SCHEDULER_IMAGE=streamsched:latest
	docker build --file docker/Dockerfile --tag $(SCHEDULER_IMAGE) \
		$(foreach name,$(BUILD_ARGS),$(if $($(name)),--build-arg $(name)=$($(name)))) \
		--build-arg VERSION=$$(sed -nE 's/^version = "(.*)"/\1/p' pyproject.toml) \
		--build-arg REVISION=$$(git rev-parse HEAD) .

up: ## start Kafka and two schedulers in containers; with PROFILE=demo some load too
	docker compose $(if $(PROFILE),--profile $(PROFILE)) up --detach

down: ## end what `make up` started; its data stays
	docker compose --profile demo down

test-containers: kafka ## the tests on a container engine, with one of its own where none runs
	$(BIN)/python -m tests.container

clean: ## remove what was built or cached here, .venv included
	rm -rf .venv build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis docker/wheels/*.whl
	find streamsched topologies tests -name __pycache__ -prune -exec rm -rf {} +
