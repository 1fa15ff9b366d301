"""Find and call `module:function` of the user."""

from __future__ import annotations

import importlib
import os
import sys
from typing import Any

from kwarmup.cli.errors import UserError


def call(option: str, source: str) -> Any:
    """Call the function that `module:function` names, without arguments.

    Modules are also looked for in the working directory. What the function itself raises is not caught: its
    traceback is what its author needs.

    Raises:
        UserError: if there is no such module or function.
    """
    module_name, _, name = source.partition(":")
    if os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())
    try:
        module = importlib.import_module(module_name)
    except (ModuleNotFoundError, ValueError, TypeError) as error:
        missing = getattr(error, "name", None)
        if missing is not None and missing != module_name and not module_name.startswith(f"{missing}."):
            raise  # a module that the user's module imports
        raise UserError(
            f"{option} {source}: there is no module {module_name!r} here or among the installed ones."
        ) from error
    function = getattr(module, name, None)
    if not callable(function):
        what = "is no function" if hasattr(module, name) else "does not exist"
        raise UserError(f"{option} {source}: {name or 'the function'!r} {what} in {module.__file__}.")
    return function()
