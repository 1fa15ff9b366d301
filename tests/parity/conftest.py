"""Other libraries, as fixtures: skipped where they are missing, unless they are required."""

import importlib
import importlib.util
import os
from collections.abc import Callable
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


@pytest.fixture(scope="session")
def peer() -> Callable[[str], None]:
    """Skip, or fail, where a library is not installed; it is not imported as a whole."""

    def there(name: str) -> None:
        if importlib.util.find_spec(name) is None:
            _peer(name)

    return there
