"""Import Keras, and TensorFlow where it is the backend, without what they write to the terminal."""

from __future__ import annotations

import contextlib
import os
import sys
import tempfile
from collections.abc import Iterator

from kwarmup.cli.errors import UserError


def import_quietly() -> None:
    """Import Keras with its backend; what they write meanwhile is shown only if that fails.

    Raises:
        UserError: if the backend is not installed.
        ImportError: if it cannot be loaded.
    """
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    with _held_back():
        try:
            import keras

            if keras.backend.backend() == "tensorflow":
                import tensorflow  # noqa: F401
        except ModuleNotFoundError as error:
            if error.name not in ("tensorflow", "jax", "torch"):
                raise
            raise UserError(
                f"{error.name}, the backend of Keras, is not installed. Try: pip install {error.name}, or "
                f"KERAS_BACKEND={'jax' if error.name == 'tensorflow' else 'tensorflow'}"
            ) from error


@contextlib.contextmanager
def _held_back() -> Iterator[None]:
    """Keep what is written to standard error, by C++ too, and write it only after an exception."""
    sys.stderr.flush()
    before = os.dup(2)
    with tempfile.TemporaryFile() as kept:
        os.dup2(kept.fileno(), 2)
        try:
            yield
        except BaseException:
            os.dup2(before, 2)
            kept.seek(0)
            os.write(2, kept.read())
            raise
        finally:
            sys.stderr.flush()
            os.dup2(before, 2)
            os.close(before)
