"""For all tests: how hypothesis looks for examples, how many threads compute, a stack to share."""

from __future__ import annotations

import os
from collections.abc import Iterator

import httpx
import pytest
from hypothesis import HealthCheck, settings

from hostctl.local_stack import LocalStack
from testkit.stacks import DEMO_CHANGES, running
from workers.backend import blas

# How fast examples come depends on what else the machine does, and says nothing about the code.
settings.register_profile("vision", suppress_health_check=[HealthCheck.too_slow], deadline=None)
settings.load_profile("vision")

# Of the BLAS, here and in child processes. The demo models are small: a second thread waits for the
# first, at full load, and the tests run on all cores as it is.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
blas.enable()  # before any test module imports MLX: a drawing takes a fifth of the time


@pytest.fixture(scope="session")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalStack]:
    """One stack of real processes and real demo models for the tests that do not harm it.

    A stack with its models costs ten seconds of CPU. Whoever uses this one leaves it serving, with any
    of its models loaded or not.
    """
    with running(tmp_path_factory.mktemp("stack"), DEMO_CHANGES) as stack:
        yield stack


@pytest.fixture(scope="session")
def http(stack: LocalStack) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=stack.url, timeout=120) as client:
        yield client
