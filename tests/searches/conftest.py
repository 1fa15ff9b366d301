"""What the tests of searches share."""

import gc
from pathlib import Path

import pytest
from forks import Forks


@pytest.fixture(scope="session")
def forks():
    """A process that forks others, for searches that end in ways of their own."""
    with Forks(Path(__file__).parent / "program.py") as server:
        yield server


@pytest.fixture(scope="package", autouse=True)
def _little_to_collect():
    """keras-tuner collects garbage before each trial: in what the libraries have loaded there is none."""
    gc.collect()
    gc.freeze()
    yield
    gc.unfreeze()
