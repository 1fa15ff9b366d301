"""Read a profile as it is written in Python, without ever running it as code."""

from __future__ import annotations

import ast
import difflib
import inspect
import operator
from collections.abc import Callable
from typing import Any, NoReturn

from kwarmup import recipes, shapes, verbs
from kwarmup.curve import as_profile
from kwarmup.profile import Profile
from kwarmup.shapes import Shape

_TOO_DEEP = "This is not an expression: it is nested too deeply."
_EXAMPLE = "0.1 * (warmup(epochs=5) >> cosine())"
#: The functions of `kwarmup.shapes` that make a shape; no other one of it can be called.
_FACTORIES = ("polynomial", "inverse_sqrt", "cosine_part", "damped", "untuned", "radam")


class ExpressionError(ValueError):
    """An expression that is not a profile; the message shows where."""


def parse(text: str) -> Profile:
    """Return the profile that an expression describes; a number stands for a constant.

    An expression is made of the public functions of `kwarmup.verbs` and `kwarmup.recipes`,
    `shapes.…`, numbers, strings, `True`, `False`, `None`, lists, `>>`, `*`, `-` and parentheses. It is
    read as a syntax tree; nothing else can be called, whatever the text says.

    Raises:
        ExpressionError: if it holds anything else, or a function refuses its arguments; the message
            points at the place.

    Example:

    >>> parse("0.1 * (warmup(epochs=5) >> cosine())")
    0.1 * (warmup(epochs=5) >> cosine())
    """
    text = " ".join(text.splitlines()).strip()
    if not text:
        raise ExpressionError(f"The expression is empty. Write: {_EXAMPLE}")
    reader = _Reader(text)
    try:
        tree = ast.parse(text, mode="eval").body
    except SyntaxError as error:
        column = max(0, (error.offset or 1) - 1)
        why = f"This is not an expression: {error.msg}."
        raise ExpressionError(_at(text, column, column + 1, why)) from None
    except ValueError as error:  # a null byte
        raise ExpressionError(f"This is not an expression: {error}.") from None
    except (RecursionError, MemoryError):
        raise ExpressionError(_TOO_DEEP) from None
    try:
        value = reader.read(tree)
    except RecursionError:
        raise ExpressionError(_TOO_DEEP) from None
    if isinstance(value, bool) or not isinstance(value, Profile | int | float):
        reader.refuse(tree, f"Expected a profile or a number, and this is {_kind(value)}. Write: {_EXAMPLE}")
    try:
        return as_profile(value)
    except (TypeError, ValueError) as error:
        reader.refuse(tree, str(error))


def functions() -> dict[str, Callable[..., Any]]:
    """Return what an expression may call: the public verbs and recipes, by name."""
    own = {
        name: function
        for name, function in inspect.getmembers(verbs, inspect.isfunction)
        if function.__module__ == verbs.__name__ and not name.startswith("_")
    }
    return own | {name: getattr(recipes, name) for name in recipes.__all__}


class _Reader:
    """Turns a syntax tree into values, and says where it cannot."""

    def __init__(self, text: str):
        self.text = text
        self.functions = functions()

    def read(self, node: ast.expr) -> Any:
        """Return the value of a node.

        Raises:
            ExpressionError: if it is none of those that an expression may hold.
        """
        if isinstance(node, ast.Constant):
            if isinstance(node.value, int | float | str | None):
                return node.value
            self.refuse(node, f"{node.value!r} is neither a number nor a string.")
        if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
            value = self.read(node.operand)
            if not _is_number(value):
                self.refuse(node, f"`-` stands before a number, and this is {_kind(value)}.")
            return -value
        if isinstance(node, ast.BinOp):
            return self._operation(node)
        if isinstance(node, ast.List | ast.Tuple):
            return [self.read(item) for item in node.elts]
        if isinstance(node, ast.Call):
            return self._call(node)
        if isinstance(node, ast.Attribute | ast.Name):
            return self._shape(node)
        self.refuse(node, f"A profile has no {_CONSTRUCTS.get(type(node), 'such thing')}. Write: {_EXAMPLE}")

    def _operation(self, node: ast.BinOp) -> Any:
        left, right = self.read(node.left), self.read(node.right)
        if isinstance(node.op, ast.RShift):
            for side, value in ((node.left, left), (node.right, right)):
                if not isinstance(value, Profile):
                    why = f"`>>` joins profiles, and this is {_kind(value)}. Write: hold(0.1, epochs=5)"
                    self.refuse(side, why)
            return self._run(node, operator.rshift, left, right)
        if isinstance(node.op, ast.Mult):
            for side, value in ((node.left, left), (node.right, right)):
                if not _is_number(value) and not isinstance(value, Profile):
                    self.refuse(side, f"`*` multiplies a profile by a number, and this is {_kind(value)}.")
            if isinstance(left, Profile) and isinstance(right, Profile):
                self.refuse(node, "`*` multiplies a profile by a number, and here are two profiles.")
            return self._run(node, operator.mul, left, right)
        self.refuse(node, f"The only operators are `>>` and `*`. Write: {_EXAMPLE}")

    def _call(self, node: ast.Call) -> Any:
        function = self._function(node.func)
        for argument in node.args:
            if isinstance(argument, ast.Starred):
                self.refuse(argument, "Arguments are written out, without `*`.")
        given: set[str] = set()
        for keyword in node.keywords:
            if keyword.arg is None:
                self.refuse(keyword.value, "Arguments are written out, without `**`.")
            if keyword.arg in given:
                self.refuse(keyword.value, f"`{keyword.arg}` is given twice.")
            given.add(keyword.arg)
        arguments = [self.read(argument) for argument in node.args]
        keywords = {str(keyword.arg): self.read(keyword.value) for keyword in node.keywords}
        return self._run(node, function, *arguments, **keywords)

    def _function(self, node: ast.expr) -> Callable[..., Any]:
        name = _dotted(node)
        plain = name.removeprefix("kwarmup.").removeprefix("kw.")
        if plain in self.functions:
            return self.functions[plain]
        factory = _shape_named(plain)
        if factory is not None and not isinstance(factory, Shape):
            return factory
        shown = f"`{name}`" if name else "This"
        known = [*self.functions, *(f"shapes.{name}" for name in _FACTORIES)]
        near = difflib.get_close_matches(plain, known, 1)
        hint = f"did you mean `{near[0]}`?" if near else f"what can: {', '.join(known)}."
        self.refuse(node, f"{shown} cannot be called here; {hint}")

    def _shape(self, node: ast.Attribute | ast.Name) -> Shape:
        name = _dotted(node)
        plain = name.removeprefix("kwarmup.").removeprefix("kw.")
        shape = _shape_named(plain)
        if isinstance(shape, Shape):
            return shape
        if plain in self.functions or shape is not None:
            self.refuse(node, f"`{name}` is a function: write {name}(...) with its arguments.")
        shown = f"`{name}` means" if name else "This means"
        self.refuse(node, f"{shown} nothing here. Names stand for functions, or for shapes: shapes.cosine.")

    def _run(self, node: ast.expr, function: Callable[..., Any], *arguments: Any, **keywords: Any) -> Any:
        try:
            return function(*arguments, **keywords)
        except (TypeError, ValueError, ArithmeticError) as error:
            self.refuse(node, str(error))

    def refuse(self, node: ast.expr, why: str) -> NoReturn:
        """Raise the error that shows `node` and says why."""
        # The syntax tree counts bytes of UTF-8, the reader of the message counts characters.
        encoded = self.text.encode()
        begin = len(encoded[: node.col_offset].decode())
        end = len(encoded[: node.end_col_offset].decode())
        raise ExpressionError(_at(self.text, begin, end, why)) from None


_CONSTRUCTS: dict[type[ast.expr], str] = {
    ast.Lambda: "functions of your own on the command line (in Python it may)",
    ast.IfExp: "conditions",
    ast.Compare: "comparisons",
    ast.BoolOp: "`and` or `or`",
    ast.UnaryOp: "operators but `>>`, `*` and `-` before a number",
    ast.Subscript: "subscripts",
    ast.ListComp: "comprehensions",
    ast.GeneratorExp: "comprehensions",
    ast.SetComp: "comprehensions",
    ast.DictComp: "comprehensions",
    ast.Dict: "dictionaries",
    ast.Set: "sets",
    ast.JoinedStr: "formatted strings",
    ast.NamedExpr: "assignments",
}


def _dotted(node: ast.expr) -> str:
    """Return `a.b.c` for names with dots between them, and nothing for all else."""
    if isinstance(node, ast.Name):
        return node.id
    if isinstance(node, ast.Attribute):
        before = _dotted(node.value)
        return f"{before}.{node.attr}" if before else ""
    return ""


def _shape_named(name: str) -> Shape | Callable[..., Shape] | None:
    word = name.removeprefix("shapes.")
    if word == name:
        return None
    found = getattr(shapes, word, None)
    return found if isinstance(found, Shape) or word in _FACTORIES else None


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _kind(value: Any) -> str:
    if isinstance(value, Profile):
        return "a profile"
    if isinstance(value, Shape):
        return "a shape"
    return "a list" if isinstance(value, list) else repr(value)


def _at(text: str, begin: int, end: int, why: str) -> str:
    """Return `why`, and below it the text with marks under the characters from `begin` to `end`."""
    width = 72
    end = min(end, begin + width)
    first = max(0, min(begin - 8, len(text) - width))
    shown = text[first : max(end, first + width)]
    return f"{why}\n  {shown}\n  {' ' * (begin - first)}{'^' * max(1, end - begin)}"
