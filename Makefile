# Vision Insight API. Needs python3 (3.11-3.13) and make; everything else is installed into .venv.
# `make help` lists the targets.

PYTHON ?= python3
ARGS ?=
RUN := .venv/bin/python

.DEFAULT_GOAL := help
MINUTES ?= 60
.PHONY: help setup setup-dev demo up test check format grade faults soak bench bench-gpu bench-image train-demo openapi lock clean

help:  ## list the targets
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /  make \1\t/' | expand -t 22

setup:  ## install what the stack needs into .venv
	@$(PYTHON) scripts/setup.py host

setup-dev:  ## the same, and what tests and checks need
	@$(PYTHON) scripts/setup.py dev

demo: setup  ## the whole stack on small trained models, with a tour; ARGS=--once leaves after it
	@$(RUN) -m demo $(ARGS)

up: setup  ## the whole stack on the models of config.yaml, without Docker
	@$(RUN) -m scripts.up $(ARGS)

test: setup-dev  ## all tests, on two cores
	@$(RUN) -m pytest -q -n 2 --dist loadfile $(ARGS)

check: setup-dev  ## format, lint, types, tests
	@$(RUN) -m ruff format --check .
	@$(RUN) -m ruff check .
	@$(RUN) -m mypy
	@$(RUN) -m pytest -q -n 2 --dist loadfile $(ARGS)

format: setup-dev  ## format the code
	@$(RUN) -m ruff format .
	@$(RUN) -m ruff check --fix .

grade: setup  ## judge the demo models through the whole stack; status 1 below the marks
	@$(RUN) -m demo.grade $(ARGS)

faults: setup-dev  ## break things under load, and check that nothing is lost
	@$(RUN) -m pytest -q tests/faults $(ARGS)

soak: setup-dev  ## mixed load with random faults for MINUTES=60; prints a report
	@$(RUN) -m tests.faults.soak --minutes $(MINUTES) $(ARGS)

bench: setup-dev  ## overhead, both engines and cold starts beside peers
	@$(RUN) -m bench.overhead $(ARGS)
	@$(RUN) -m bench.vlm
	@$(RUN) -m bench.image
	@$(RUN) -m bench.cold

bench-gpu: setup  ## the real sizes with random weights, on a GPU (docs/gpu.md)
	@$(RUN) -m bench.gpu_vlm $(ARGS)
	@$(RUN) -m bench.gpu_image

bench-image: setup-dev  ## the image engine beside mflux; ARGS=--write puts the table into docs/images.md
	@$(RUN) -m bench.image $(ARGS)

train-demo: setup  ## train the demo models again: wants a GPU (demo/models/README.md)
	@$(RUN) -m pip install --quiet -r requirements/train.txt
	@$(RUN) -m demo.train_vlm vlm-best --out demo/out/trained/vlm-best $(ARGS)
	@$(RUN) -m demo.train_vlm vlm-fast --out demo/out/trained/vlm-fast $(ARGS)
	@$(RUN) -m demo.train_flux --out demo/out/trained/image-gen $(ARGS)

openapi: setup-dev  ## write openapi.yaml from the routes and models
	@$(RUN) -m scripts.openapi

lock: setup-dev  ## resolve the dependencies again into requirements/*.lock
	@sh scripts/lock.sh

clean:  ## remove .venv, logs and what the demo wrote
	rm -rf .venv logs demo/out .pytest_cache .mypy_cache .ruff_cache .hypothesis
