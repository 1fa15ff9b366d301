"""Tell an error that says there is no memory left from any other."""

from __future__ import annotations

_WORDS = (
    "resource_exhausted",
    "out of memory",
    "oom when allocating",
    "failed to allocate",
    "unable to allocate",
    "cannot allocate memory",
)
_NAMES = ("ResourceExhaustedError", "OutOfMemoryError")


def is_out_of_memory(error: BaseException) -> bool:
    """Return whether an error of TensorFlow, JAX, torch or Python says that an allocation has failed.

    Told by names and words: none of these need be installed, and JAX has one error for everything.

    Args:
        error: what was raised.

    >>> is_out_of_memory(MemoryError()), is_out_of_memory(RuntimeError("RESOURCE_EXHAUSTED: Out of memory"))
    (True, True)
    >>> is_out_of_memory(ValueError("shapes do not match"))
    False
    """
    if isinstance(error, MemoryError) or any(c.__name__ in _NAMES for c in type(error).__mro__):
        return True
    text = str(error).lower()
    return isinstance(error, RuntimeError) and any(word in text for word in _WORDS)
