"""Set before any library is imported: TensorFlow and matplotlib read these once."""

import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("MPLBACKEND", "agg")
# Set by pytest-xdist. What the commands print depends on it.
os.environ.pop("COLUMNS", None)

import pytest

# Programs, which act when they are imported, as it is done to look for examples in docstrings.
collect_ignore = ["serve.py", "distribute/faulty.py", "distribute/on_jax.py", "distribute/program.py"]


@pytest.fixture(scope="session")
def fresh():
    """The process in which exports are checked, for all tests of this one: TensorFlow takes seconds to import."""
    from fresh_process import FreshProcess

    process = FreshProcess()
    yield process
    process.close()
