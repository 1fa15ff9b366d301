"""The public names: they import, are in the API page, are typed, are explained, and their examples run.

A check is a function that returns what is wrong; each has a test that it can fail.
"""

import doctest
import inspect
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import kwarmup

API = Path(__file__).parents[1] / "docs" / "api.md"
NAMES = sorted(kwarmup.__all__)
# The module through which floor 1 is extended is public as a whole.
SHAPES = [
    f"shapes.{name}" for name in ("Shape", "cosine_part", "damped", "inverse_sqrt", "polynomial", "radam")
]
SHAPES += ["shapes.register", "shapes.untuned"]


def thing(name: str) -> Any:
    found: Any = kwarmup
    for part in name.split("."):
        found = getattr(found, part)
    return found


EXPLAINED = [
    name for name in [*NAMES, *SHAPES] if inspect.isroutine(thing(name)) or inspect.isclass(thing(name))
]


def test_every_name_imports():
    assert len(NAMES) == len(set(NAMES)) and NAMES
    for name in NAMES:
        assert getattr(kwarmup, name) is not None
    assert set(NAMES) <= set(dir(kwarmup))
    everything: dict[str, Any] = {}
    exec("from kwarmup import *", everything)
    assert set(NAMES) <= set(everything)


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="warmdown"):
        kwarmup.warmdown  # noqa: B018


def api_faults(page: str, names: list[str]) -> list[str]:
    """Return the names that the API page lacks, has twice or should not have, and sections without prose."""
    listed = re.findall(r"^::: kwarmup\.(\S+)$", page, flags=re.MULTILINE)
    found = [f"{name}: missing" for name in names if name not in listed]
    found += [f"{name}: no public name" for name in listed if name not in names]
    found += [f"{name}: listed twice" for name in dict.fromkeys(listed) if listed.count(name) > 1]
    for section in re.split(r"^## ", page, flags=re.MULTILINE)[1:]:
        title, *lines = section.splitlines()
        prose = next((line for line in lines if line.strip()), "")
        if not prose[:1].isalnum() and not prose.startswith(("`", "*", "[")):
            found.append(f"{title}: no line of prose")
        if not any(line.startswith(":::") for line in lines):
            found.append(f"{title}: no name")
    return found


def test_the_api_page_lists_every_name():
    assert api_faults(API.read_text(), NAMES) == []


@pytest.mark.parametrize(
    ("page", "said"),
    [
        ("## A\nWords.\n\n::: kwarmup.a\n", "b: missing"),
        ("## A\nWords.\n\n::: kwarmup.a\n::: kwarmup.b\n::: kwarmup.c\n", "c: no public name"),
        ("## A\nWords.\n\n::: kwarmup.a\n::: kwarmup.b\n::: kwarmup.a\n", "a: listed twice"),
        ("## A\n\n::: kwarmup.a\n::: kwarmup.b\n", "A: no line of prose"),
        ("## A\nWords.\n\n::: kwarmup.a\n::: kwarmup.b\n## B\nWords.\n", "B: no name"),
    ],
)
def test_a_fault_of_the_api_page_is_found(page, said):
    assert api_faults(page, ["a", "b"]) == [said]


def functions(thing: Any) -> Iterator[tuple[str, Callable[..., Any]]]:
    """Yield what can be called on a public thing: itself or, of a class, how it is made and its methods.

    A method that a library's base class already has is documented there.
    """
    if not inspect.isclass(thing):
        yield thing.__name__, thing
        return
    for name, member in vars(thing).items():
        member = member.__func__ if isinstance(member, classmethod | staticmethod) else member
        inherited = any(hasattr(base, name) for base in thing.__mro__[1:])
        public = name == "__init__" or not (name.startswith("_") or inherited)
        if public and inspect.isfunction(member):
            yield f"{thing.__name__}.{name}", member


def parameters(function: Callable[..., Any]) -> list[inspect.Parameter]:
    found = list(inspect.signature(function).parameters.values())
    found = found[1:] if found and found[0].name in ("self", "cls") else found
    # `*bare` only catches a length without its unit.
    return [p for p in found if p.kind is not p.VAR_POSITIONAL]


def doc_faults(name: str, thing: Any, refer: Callable[[str], Any] = lambda name: None) -> list[str]:
    """Return what a docstring lacks: a summary, an example, the meaning of a parameter."""
    # A class inherits the docstring of its base, which is about another class.
    text = inspect.getdoc(thing) if vars(thing).get("__doc__") or not inspect.isclass(thing) else None
    if not text:
        return [f"{name}: no docstring"]
    found = []
    if not re.match(r"\S.*[.:]$", text.split("\n\n")[0].replace("\n", " ")):
        found.append(f"{name}: the first paragraph is no sentence")
    if not doctest.DocTestParser().get_examples(text):
        found.append(f"{name}: no example")
    made = vars(thing).get("__init__") if inspect.isclass(thing) else thing
    wanted = parameters(made) if made else []
    found += [f"{name}: {p} is not explained" for p in _unexplained(wanted, text, refer)]
    for inner, method in functions(thing):
        if inspect.isclass(thing) and method is not made and not inspect.getdoc(method):
            found.append(f"{inner}: no docstring")
    return found


def _unexplained(wanted: list[inspect.Parameter], text: str, refer: Callable[[str], Any]) -> list[str]:
    missing = [
        p.name for p in wanted if not re.search(rf"^ +(\*\*)?{p.name}: \S", _section("Args", text), re.M)
    ]
    other = re.search(r"see `(\w+)`", text)
    if missing and other and refer(other[1]) is not None:
        text = inspect.getdoc(refer(other[1])) or ""
        return _unexplained([p for p in wanted if p.name in missing], text, lambda name: None)
    return missing


def _section(title: str, text: str) -> str:
    found = re.search(rf"^{title}:\n((?: .*\n|\n)*)", text + "\n", re.M)
    return found[1] if found else ""


@pytest.mark.parametrize("name", EXPLAINED)
def test_every_name_is_explained(name):
    assert doc_faults(name, thing(name), lambda other: getattr(kwarmup, other, None)) == []


def complete(size):
    """Do it.

    Args:
        size: how much.

    >>> complete(1)
    """


def bare(size): ...


def without_example(size):
    """Do it.

    Args:
        size: how much.
    """


def without_argument(size, shape):
    """Do it.

    Args:
        size: how much.

    >>> without_argument(1, 2)
    """


def refers(size):
    """Do it; see `complete`.

    >>> refers(1)
    """


def refers_in_vain(shape):
    """Do it; see `complete`.

    >>> refers_in_vain(1)
    """


class WithBareMethod:
    """A thing.

    >>> thing = WithBareMethod()
    """

    def method(self): ...


class Heir(WithBareMethod):
    pass


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (complete, []),
        (refers, []),
        (bare, ["bare: no docstring"]),
        (Heir, ["Heir: no docstring"]),
        (without_example, ["without_example: no example"]),
        (without_argument, ["without_argument: shape is not explained"]),
        (refers_in_vain, ["refers_in_vain: shape is not explained"]),
        (WithBareMethod, ["WithBareMethod.method: no docstring"]),
    ],
)
def test_a_fault_of_a_docstring_is_found(given, said):
    assert doc_faults(given.__name__, given, globals().get) == said


def type_faults(thing: Any) -> list[str]:
    """Return the parameters and results that have no type."""
    found = []
    for name, function in functions(thing):
        signature = inspect.signature(function)
        wanted = list(signature.parameters.values())
        wanted = wanted[1:] if wanted and wanted[0].name in ("self", "cls") else wanted
        found += [f"{name}: {p.name} has no type" for p in wanted if p.annotation is p.empty]
        if signature.return_annotation is signature.empty and not name.endswith("__init__"):
            found.append(f"{name}: the result has no type")
    return found


@pytest.mark.parametrize("name", EXPLAINED)
def test_every_name_is_typed(name):
    assert type_faults(thing(name)) == []


class Untyped:
    def __init__(self, size): ...

    def method(self, x: int, y) -> None: ...

    @classmethod
    def make(cls, x: int): ...


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (bare, ["bare: size has no type", "bare: the result has no type"]),
        (
            Untyped,
            [
                "Untyped.__init__: size has no type",
                "Untyped.method: y has no type",
                "Untyped.make: the result has no type",
            ],
        ),
    ],
)
def test_a_missing_type_is_found(given, said):
    assert type_faults(given) == said


def example_faults(name: str, text: str) -> str:
    """Run an example as a reader would, with the public names imported and nothing else."""
    space: dict[str, Any] = {public: getattr(kwarmup, public) for public in NAMES}
    if name.startswith("shapes."):
        space |= vars(kwarmup.shapes)
    test = doctest.DocTestParser().get_doctest(text, space, name, None, 0)
    said: list[str] = []
    doctest.DocTestRunner(verbose=False).run(test, out=said.append)
    return "".join(said)


@pytest.mark.parametrize("name", EXPLAINED)
def test_every_example_runs_for_a_reader(name, monkeypatch):
    # The shapes that an example registers end with it.
    monkeypatch.setattr(kwarmup.shapes, "_NAMED", dict(kwarmup.shapes._NAMED))
    assert example_faults(name, inspect.getdoc(thing(name)) or "") == ""


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (">>> Clock(examples=10, epochs=2, batch_size=5).steps\n4", ""),
        (">>> Clock(examples=10, epochs=2, batch_size=5).steps\n5", "Expected:\n    5\nGot:\n    4"),
        (">>> as_profile(1)", "NameError: name 'as_profile' is not defined"),
    ],
)
def test_a_fault_of_an_example_is_found(text, said):
    found = example_faults("planted", text)
    assert said in found and bool(found) == bool(said)
