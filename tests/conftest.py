"""Set before any library is imported: TensorFlow and matplotlib read these once."""

import gc
import os
import re
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("MPLBACKEND", "agg")
# TensorFlow decides by the processor otherwise, and has other pools of memory with it than without.
os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")
# Set by pytest-xdist. What the commands print depends on it.
os.environ.pop("COLUMNS", None)

import pytest

# Programs, which act when they are imported, as it is done to look for examples in docstrings.
collect_ignore = ["serve.py", "distribute/faulty.py", "distribute/on_jax.py"]
collect_ignore += ["distribute/edges.py", "distribute/program.py"]


@pytest.fixture(scope="session")
def fresh():
    """The process in which exports are checked, for all tests of this one: TensorFlow takes seconds to import."""
    from fresh_process import FreshProcess

    process = FreshProcess()
    yield process
    process.close()


def pytest_collection_modifyitems(config, items):
    """The examples of public names are run as a reader would, by `test_public.py`; twice they say no more."""
    names = (Path(__file__).parents[1] / "kwarmup" / "__init__.pyi").read_text()
    public = {
        f"kwarmup.{module}.{name}"
        for module, name in re.findall(r"^from \.(\S+) import (\w+) as", names, re.M)
    }
    asked = any("::" in argument or ".py" in argument for argument in config.args)
    twice = [
        item for item in items if isinstance(item, pytest.DoctestItem) and item.name in public and not asked
    ]
    items[:] = [item for item in items if item not in twice]
    config.hook.pytest_deselected(items=twice)


def pytest_collection_finish():
    """Leave what was imported out of the searches for garbage: with TensorFlow in it, each takes half a second."""
    gc.collect()
    gc.freeze()
