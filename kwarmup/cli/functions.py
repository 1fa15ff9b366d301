"""Find and call `module:function` of the user."""

from __future__ import annotations

import functools
import importlib
import inspect
import os
import sys
from collections.abc import Callable
from typing import Any

from kwarmup.cli.errors import UserError


def call(option: str, source: str, hp: Any = None) -> Any:
    """Call the function that `module:function` names, without arguments, or with `hp` where it takes that.

    Modules are also looked for in the working directory. What the function itself raises is not caught: its
    traceback is what its author needs.

    Args:
        option: what the source was given to.
        source: module and function.
        hp: the hyperparameters of keras-tuner in a search; `None` elsewhere.

    Raises:
        UserError: if there is no such module or function, or it takes what nobody gives it.
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
    called = _ready(function, hp)
    if called is None:
        searched = "hp, which is of a search, or nothing" if hp is not None else "nothing"
        raise UserError(
            f"{option} {source}: {name!r} takes {inspect.signature(function)}, and nobody gives it that here. Name a "
            f"function that takes {searched}."
        )
    return called()


def _ready(function: Callable[..., Any], hp: Any) -> Callable[[], Any] | None:
    """Return a function with the arguments that it is to be called with, `None` where it takes others."""
    try:
        signature = inspect.signature(function)
    except (TypeError, ValueError):  # one in C does not always say
        return function
    ways: list[functools.partial[Any]] = [functools.partial(function)]
    if hp is not None:
        # As for `kw.search`: one that can do without hp gets it all the same, if it is called that.
        ways.insert(0 if "hp" in signature.parameters else 1, functools.partial(function, hp=hp))
        ways.append(functools.partial(function, hp))
    for way in ways:
        try:
            signature.bind(*way.args, **way.keywords)
        except TypeError:
            continue
        return way
    return None
