# Vision Insight API. Needs python3 (3.11-3.14) and make; everything else is installed into .venv.
# `make help` lists the targets. Settings of this machine: .env (docs/install.md).
# NATIVE=1: the gateway as a service, NATIVE=0: in Docker. DRY_RUN=1: tell, and do nothing. PURGE=1: keep nothing.
# BOOT=1: on a Mac, services start at boot without a login (docs/install.md).

# Where it is set, each process of hundreds would compile all that it imports.
unexport PYTHONDONTWRITEBYTECODE

PYTHON ?= python3
ARGS ?=
MODEL ?=
RUN := .venv/bin/python
# Before there is a .venv: any Python that will do.
HOST := $(PYTHON) scripts/setup.py run -m hostctl

.DEFAULT_GOAL := help
MINUTES ?= 60
# A file stays in one process; tests/conftest.py puts those of the shared stack into one.
TESTS = $(RUN) -m pytest -q -n 2 --dist loadgroup
CORE = smoke or not (process or mlx)
LIVE = $(RUN) -m pytest -q --dist loadfile
# With ARGS, all that was chosen may be in the other run; that is pytest's status 5.
OR_NONE = $(if $(ARGS),|| [ $$? = 5 ])
# They mostly wait; a file goes to one process, and no long one shall be left over at the end.
LONGEST_FIRST := tests/live/test_docker.py tests/live/test_systemd.py tests/live/test_mac_service_check.py tests/live/containers
COMPOSE_FILES := docker-compose.yml docker-compose.dev.yml tests/live/containers/homelab/docker-compose.yml
.PHONY: a-venv install uninstall upgrade start stop restart status doctor logs logs-manager logs-workers pull
.PHONY: help setup setup-dev demo up test tests test-live test-clients check lint format grade faults rehearsal soak fuzz audit bench bench-gpu bench-image train-demo page-shots openapi lock clean

help:  ## list the targets
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /  make \1\t/' | expand -t 22

install:  ## check, install the services, start, wait until it answers (NATIVE=1, BOOT=1, DRY_RUN=1)
	@$(HOST) install

uninstall:  ## remove all of it but settings and weights (PURGE=1: those too)
	@$(HOST) uninstall

upgrade:  ## fetch and install the newest version; settings and what was learned stay
	@$(HOST) upgrade

start:  ## start the gateway
	@$(HOST) start

stop:  ## stop the gateway; manager and workers stay
	@$(HOST) stop

restart:  ## restart manager and gateway: applies changed settings
	@$(HOST) restart

status: a-venv  ## the stack on one screen; ARGS=--json; status 1 when something is wrong
	@$(RUN) -m hostctl status $(ARGS)

doctor: a-venv  ## find out what is wrong, and its cure; ARGS=--online asks the hub as well
	@$(RUN) -m hostctl doctor $(ARGS)

logs: a-venv  ## follow the gateway's log
	@$(RUN) -m hostctl logs gateway $(ARGS)

logs-manager: a-venv  ## follow the manager's log
	@$(RUN) -m hostctl logs manager $(ARGS)

logs-workers: a-venv  ## follow the logs of all models
	@$(RUN) -m hostctl logs workers $(ARGS)

pull: a-venv  ## download the models' weights now; MODEL=alias for one
	@$(RUN) -m cli pull $(MODEL)

# Homebrew removes old Pythons, which leaves a broken link in .venv.
a-venv:
	@[ -x .venv/bin/python ] || { echo ".venv is missing or broken: make install (or make setup) repairs it" >&2; exit 1; }

setup:  ## install what the stack needs into .venv
	@$(PYTHON) scripts/setup.py host

setup-dev:  ## the same, and what tests and checks need
	@$(PYTHON) scripts/setup.py dev

demo: setup  ## the whole stack on small trained models, with a tour; ARGS=--once leaves after it
	@$(RUN) -m demo $(ARGS)

up: setup  ## the whole stack on the models of config.yaml, without Docker
	@$(RUN) -m hostctl.up $(ARGS)

test: setup-dev  ## the pure core and one smoke of the whole stack, on two cores in minutes
	@$(TESTS) -m "$(CORE)" $(ARGS)

tests: setup-dev  ## all tests but live, faults and clients; VISION_SEEDS=all for a night
	@$(TESTS) $(ARGS)

test-clients: setup-dev  ## OpenAI's SDKs, LiteLLM, LangChain and others; needs Node; ARGS=--write for docs/dev/clients.md
	@$(RUN) -m tests.clients.environments
	@$(RUN) -m pytest -q tests/clients $(ARGS)

check: lint  ## format, lint, types, and all tests but live, faults and clients
	@$(RUN) -m mypy
	@$(TESTS) $(ARGS)

lint: setup-dev  ## Python, shell scripts, Dockerfile, compose files and workflows
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

grade: setup  ## judge the demo models through the whole stack; status 1 below the marks
	@$(RUN) -m demo.grade $(ARGS)

test-live: setup-dev  ## containers and services, with a real engine and a real systemd; ARGS as pytest has them
	@$(LIVE) -n 4 --no-loadscope-reorder $(LONGEST_FIRST) tests/live --ignore=tests/live/page $(ARGS) $(OR_NONE)
	@$(LIVE) -n 3 tests/live/page $(ARGS) $(OR_NONE)  # Chromium breaks off when a network of containers comes

faults: setup-dev  ## break things under load, and check that nothing is lost
	@$(RUN) -m pytest -q tests/faults $(ARGS)

rehearsal: setup-dev  ## the shipped settings on checkpoints of the real layouts; half an hour; ARGS=--list
	@$(RUN) -m tests.rehearsal $(ARGS)

soak: setup-dev  ## mixed load with random faults for MINUTES=60; prints a report
	@$(RUN) -m tests.faults.soak --minutes $(MINUTES) $(ARGS)

fuzz: MINUTES := $(if $(filter file,$(origin MINUTES)),10,$(MINUTES))
fuzz: setup-dev  ## feed what reads others' bytes with wrong ones for MINUTES=10; status 1 for a finding
	@$(RUN) -m tests.fuzz --minutes $(MINUTES) $(ARGS)

audit: setup-dev  ## licences, known faults and Mac wheels of all locked packages; ARGS=--offline-ok without network
	@$(RUN) -m scripts.audit $(ARGS)

bench: setup-dev  ## all beside peers, then docs/dev/performance.md anew; ARGS=--quick leaves it as it is
	@$(RUN) -m bench $(ARGS)

bench-gpu: setup  ## the real sizes with random weights, on a GPU (docs/dev/gpu.md)
	@$(RUN) -m bench.gpu_vlm $(ARGS)
	@$(RUN) -m bench.gpu_image

bench-image: setup-dev  ## the image engine beside mflux, alone; ARGS=--quick for a short run
	@$(RUN) -m bench.image $(ARGS)

train-demo: setup  ## train the demo models again: wants a GPU (demo/models/README.md)
	@$(RUN) -m pip install --quiet -r requirements/train.txt
	@$(RUN) -m demo.train_vlm vlm-best --out demo/out/trained/vlm-best $(ARGS)
	@$(RUN) -m demo.train_vlm vlm-fast --out demo/out/trained/vlm-fast $(ARGS)
	@$(RUN) -m demo.train_flux --out demo/out/trained/image-gen $(ARGS)

page-shots: setup-dev  ## write the screenshots of the page in docs/assets/ (wants Chromium)
	@$(RUN) -m tests.live.page.shots

openapi: setup-dev  ## write openapi.yaml from the routes and models
	@$(RUN) -m scripts.openapi

lock: setup-dev  ## resolve the dependencies again into requirements/*.lock
	@sh scripts/lock.sh

clean:  ## remove .venv, .python, logs and what the demo wrote
	rm -rf .venv .python tests/clients/node_modules logs demo/out bench/out .rehearsal .pytest_cache .mypy_cache .ruff_cache .hypothesis .cache
