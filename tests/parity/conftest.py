"""Other libraries, as fixtures: skipped where they are missing, unless they are required."""

import importlib
import os
from types import ModuleType

import pytest


def _peer(name: str) -> ModuleType:
    try:
        return importlib.import_module(name)
    except ImportError as error:
        if os.environ.get("KWARMUP_REQUIRE_PEERS"):
            pytest.fail(f"KWARMUP_REQUIRE_PEERS is set, but {name} cannot be imported: {error}")
        pytest.skip(f"{name} is not installed; set KWARMUP_REQUIRE_PEERS=1 to have this fail")


@pytest.fixture(scope="session")
def torch() -> ModuleType:
    return _peer("torch")


@pytest.fixture(scope="session")
def optax() -> ModuleType:
    return _peer("optax")
