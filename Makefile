# Vision Insight API. Requires python3 (3.11-3.14) and make; everything else is installed into .venv.
# `make help` lists the targets. Settings of this machine: .env (docs/install.md).
# NATIVE=1: the gateway as a service; NATIVE=0: in Docker. DRY_RUN=1: only print the steps. PURGE=1: remove all.
# BOOT=1: on a Mac, services start at boot without a login (docs/install.md).

# If it were set, each of hundreds of processes would compile everything that it imports.
unexport PYTHONDONTWRITEBYTECODE

PYTHON ?= python3
ARGS ?=
MODEL ?=
RUN := .venv/bin/python
# Works before .venv exists, with any suitable Python.
HOST := $(PYTHON) scripts/setup.py run -m hostctl

.DEFAULT_GOAL := help
MINUTES ?= 60
# Each file runs in one process; tests/conftest.py runs all tests of the shared stack in one.
TESTS = $(RUN) -m pytest -q -n 2 --dist loadgroup
CORE = smoke or not (process or mlx)
LIVE = $(RUN) -m pytest -q --dist loadfile
# With ARGS, all selected tests may be in the other run; pytest exits with 5 then.
OR_NONE = $(if $(ARGS),|| [ $$? = 5 ])
# These tests mostly wait. Each file runs in one process, so the longest files start first.
LONGEST_FIRST := tests/live/test_docker.py tests/live/test_systemd.py tests/live/test_mac_service_check.py tests/live/containers
COMPOSE_FILES := docker-compose.yml docker-compose.dev.yml tests/live/containers/homelab/docker-compose.yml
.PHONY: a-venv install uninstall upgrade start stop restart status doctor logs logs-manager logs-workers pull
.PHONY: help setup setup-dev demo up test tests test-live test-clients check lint format grade faults rehearsal soak fuzz audit bench bench-gpu bench-image train-demo page-shots openapi lock clean

help:  ## list the targets
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /  make \1\t/' | expand -t 22

install:  ## check, install and start the services, wait until they respond (NATIVE=1, BOOT=1, DRY_RUN=1)
	@$(HOST) install

uninstall:  ## remove everything but settings and weights (PURGE=1: those too)
	@$(HOST) uninstall

upgrade:  ## fetch and install the latest version; keeps settings and learned peaks
	@$(HOST) upgrade

start:  ## start the gateway
	@$(HOST) start

stop:  ## stop the gateway; manager and workers keep running
	@$(HOST) stop

restart:  ## restart manager and gateway to apply changed settings
	@$(HOST) restart

status: a-venv  ## show the stack on one screen; ARGS=--json; status 1 if something is wrong
	@$(RUN) -m hostctl status $(ARGS)

doctor: a-venv  ## find problems and print their fixes; ARGS=--online also checks the models on the Hub
	@$(RUN) -m hostctl doctor $(ARGS)

logs: a-venv  ## follow the gateway's log
	@$(RUN) -m hostctl logs gateway $(ARGS)

logs-manager: a-venv  ## follow the manager's log
	@$(RUN) -m hostctl logs manager $(ARGS)

logs-workers: a-venv  ## follow the logs of all workers
	@$(RUN) -m hostctl logs workers $(ARGS)

pull: a-venv  ## download the weights of all models now; MODEL=alias for one
	@$(RUN) -m cli pull $(MODEL)

# Homebrew removes old Pythons, which leaves a broken link in .venv.
a-venv:
	@[ -x .venv/bin/python ] || { echo ".venv is missing or broken: make install (or make setup) repairs it" >&2; exit 1; }

setup:  ## install the stack's packages into .venv
	@$(PYTHON) scripts/setup.py host

setup-dev:  ## install the packages for tests and checks too
	@$(PYTHON) scripts/setup.py dev

demo: setup  ## run the whole stack with small trained models and a tour; ARGS=--once exits after it
	@$(RUN) -m demo $(ARGS)

up: setup  ## run the whole stack with the models of config.yaml, without Docker
	@$(RUN) -m hostctl.up $(ARGS)

test: setup-dev  ## run the pure core and one smoke test of the whole stack; minutes on two cores
	@$(TESTS) -m "$(CORE)" $(ARGS)

tests: setup-dev  ## run all tests but live, faults and clients; VISION_SEEDS=all for a nightly run
	@$(TESTS) $(ARGS)

test-clients: setup-dev  ## test OpenAI's SDKs, LiteLLM, LangChain and others; needs Node; ARGS=--write for docs/dev/clients.md
	@$(RUN) -m tests.clients.environments
	@$(RUN) -m pytest -q tests/clients $(ARGS)

check: lint  ## check format, lint and types, and run all tests but live, faults and clients
	@$(RUN) -m mypy
	@$(TESTS) $(ARGS)

lint: setup-dev  ## lint Python, shell scripts, Dockerfile, compose files and workflows
	@$(RUN) -m ruff format --check .
	@$(RUN) -m ruff check .
	@.venv/bin/shellcheck .ci/run bin/vision scripts/*.sh tests/tools/*.sh tests/tools/mac/*.sh
	@.venv/bin/hadolint Dockerfile
	@.venv/bin/check-jsonschema --quiet --builtin-schema vendor.compose-spec $(COMPOSE_FILES)
	@.venv/bin/check-jsonschema --quiet --builtin-schema vendor.github-workflows .github/workflows/*.yml
	@.venv/bin/check-jsonschema --quiet --builtin-schema vendor.dependabot .github/dependabot.yml
	@.venv/bin/zizmor --offline --quiet .github

format: setup-dev  ## format the code
	@$(RUN) -m ruff format .
	@$(RUN) -m ruff check --fix .

grade: setup  ## grade the demo models through the whole stack; status 1 below the thresholds
	@$(RUN) -m demo.grade $(ARGS)

test-live: setup-dev  ## test containers and services with real Docker and systemd; ARGS for pytest
	@$(LIVE) -n 4 --no-loadscope-reorder $(LONGEST_FIRST) tests/live --ignore=tests/live/page $(ARGS) $(OR_NONE)
	@$(LIVE) -n 3 tests/live/page $(ARGS) $(OR_NONE)  # Chromium aborts requests when Docker adds a network

faults: setup-dev  ## inject faults under load, and check that nothing is lost
	@$(RUN) -m pytest -q tests/faults $(ARGS)

rehearsal: setup-dev  ## run the shipped settings with synthetic checkpoints of the real layouts; half an hour; ARGS=--list
	@$(RUN) -m tests.rehearsal $(ARGS)

soak: setup-dev  ## run mixed load with random faults for MINUTES=60; prints a report
	@$(RUN) -m tests.faults.soak --minutes $(MINUTES) $(ARGS)

fuzz: MINUTES := $(if $(filter file,$(origin MINUTES)),10,$(MINUTES))
fuzz: setup-dev  ## fuzz all parsers of external input for MINUTES=10; status 1 for a finding
	@$(RUN) -m tests.fuzz --minutes $(MINUTES) $(ARGS)

audit: setup-dev  ## check licenses, vulnerabilities and Mac wheels of all locked packages; ARGS=--offline-ok
	@$(RUN) -m scripts.audit $(ARGS)

bench: setup-dev  ## compare with peers, and rewrite docs/dev/performance.md; ARGS=--quick does not rewrite it
	@$(RUN) -m bench $(ARGS)

bench-gpu: setup  ## benchmark models of real sizes with random weights on a GPU (docs/dev/gpu.md)
	@$(RUN) -m bench.gpu_vlm $(ARGS)
	@$(RUN) -m bench.gpu_image

bench-image: setup-dev  ## compare the image engine with mflux; ARGS=--quick for a short run
	@$(RUN) -m bench.image $(ARGS)

train-demo: setup  ## train the demo models again; needs a GPU (demo/models/README.md)
	@$(RUN) -m pip install --quiet -r requirements/train.txt
	@$(RUN) -m demo.train_vlm vlm-best --out demo/out/trained/vlm-best $(ARGS)
	@$(RUN) -m demo.train_vlm vlm-fast --out demo/out/trained/vlm-fast $(ARGS)
	@$(RUN) -m demo.train_flux --out demo/out/trained/image-gen $(ARGS)

page-shots: setup-dev  ## write the screenshots of the page in docs/assets/; needs Chromium
	@$(RUN) -m tests.live.page.shots

openapi: setup-dev  ## write openapi.yaml from the routes and models
	@$(RUN) -m scripts.openapi

lock: setup-dev  ## resolve the dependencies into requirements/*.lock
	@sh scripts/lock.sh

clean:  ## remove .venv, .python, logs, caches and demo output
	rm -rf .venv .python tests/clients/node_modules logs demo/out bench/out .rehearsal .pytest_cache .mypy_cache .ruff_cache .hypothesis .cache
