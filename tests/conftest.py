"""Set before any library is imported: TensorFlow and matplotlib read these once."""

import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("MPLBACKEND", "agg")
# Set by pytest-xdist. What the commands print depends on it.
os.environ.pop("COLUMNS", None)
