"""The floors of the house: every import points down, and Keras is used from floor 2 upwards.

The imports are read from the source, those inside functions too. Each rule has a test that it can fail.
"""

import ast
import functools
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import kwarmup

PACKAGE = Path(kwarmup.__file__).parent

# A file, or a folder with all files in it. A new file belongs into this table.
TABLE = """
0 errors length shapes
1 capacity clock curve descent following footprint goodput growth layout max_batch noise pieces places process_memory
1 profile recipes/ sizes speed step_time tradeoff verbs
2 applied as_trained batch_trials batches checkpoint device_memory distribute/ equal_batches execution finite fit
2 gained gradient gradient_batches guard identity memory micro_batches/ noise_growth noise_scale_monitor optimizers/
2 pace parts peaks per_example pipeline plan plateau plot plot_sweep private replan resume saved_model/ scaled
2 schedule sources state supply sweep trial untouched
3 callbacks/ export load measure/
4 searches/ studies/
5 __init__ __main__ cli/
"""
ROWS = [line.split() for line in TABLE.strip().splitlines()]
FLOORS = [[entry for number, *row in ROWS if int(number) == floor for entry in row] for floor in range(6)]
KERAS, VERBS, ROOF = 2, 3, 5

# What lies below the Keras floor needs nothing else.
LIGHT = {*sys.stdlib_module_names, "numpy", "typing_extensions"}
# Private by their spelling only: the documented methods of a named tuple.
NAMED_TUPLE = {"_asdict", "_fields", "_make", "_replace"}


def faults(package: Path) -> list[str]:
    """Return what breaks the rules of the house, a line each."""
    files = {path.relative_to(package).with_suffix("").as_posix(): path for path in package.rglob("*.py")}
    entries = [entry for floor in FLOORS for entry in floor]
    found = [
        f"{entry}: on a floor, but no such file" for entry in entries if not any(_in(f, entry) for f in files)
    ]
    for name, path in sorted(files.items()):
        floors = [number for number, floor in enumerate(FLOORS) for entry in floor if _in(name, entry)]
        if len(floors) != 1:
            found.append(f"{name}: on {len(floors)} floors, expected one; TABLE in this test says where")
            continue
        tree = parse(path.read_text())
        for line, target in imports(tree, name, set(files)):
            fault = _fault(name, floors[0], target)
            if fault:
                found.append(f"{name}:{line}: {fault}")
        if name != "private":
            found += [
                f"{name}:{line}: {what} is private; private.py is the place" for line, what in private(tree)
            ]
    return found


# A planted fault changes one file; the others need not be read again.
parse = functools.cache(ast.parse)


def _in(name: str, entry: str) -> bool:
    return name.startswith(entry) if entry.endswith("/") else name == entry


def _fault(name: str, floor: int, target: str) -> str | None:
    top = target.split(".")[0]
    if top != "kwarmup":
        if floor < KERAS and top not in LIGHT:
            return f"imports {target}, which floor {floor} must do without"
        return None
    file = target.removeprefix("kwarmup.").replace(".", "/")
    to = next((n for n, level in enumerate(FLOORS) for e in level if _in(file, e) or f"{file}/" == e), ROOF)
    if to > floor:
        return f"floor {floor} imports {target} of floor {to}"
    if to == floor == VERBS and file != name:
        return f"imports {target}, its sibling on floor {floor}"
    return None


def imports(tree: ast.AST, name: str, files: set[str]) -> Iterator[tuple[int, str]]:
    """Yield line and module of each import, wherever it stands; `kwarmup` itself is the roof."""
    package = ["kwarmup", *name.split("/")[:-1]]
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield node.lineno, alias.name
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) + 1 - node.level] if node.level else []
            module = ".".join([*base, *([node.module] if node.module else [])])
            for alias in node.names:
                # `from kwarmup import plan` is the file where there is one, and else a name of the roof.
                inner = f"{module}.{alias.name}"
                file = inner.removeprefix("kwarmup.").replace(".", "/")
                yield node.lineno, inner if {file, f"{file}/__init__"} & files else module
        elif isinstance(node, ast.Call) and _called(node) in ("import_module", "__import__"):
            literal = node.args and isinstance(node.args[0], ast.Constant)
            # What cannot be read here counts as anything, which only the roof may import.
            yield node.lineno, str(node.args[0].value) if literal else "kwarmup.<computed>"  # type: ignore[attr-defined]


def _called(node: ast.Call) -> str:
    return getattr(node.func, "attr", None) or getattr(node.func, "id", "")


def private(tree: ast.AST) -> Iterator[tuple[int, str]]:
    """Yield line and name of everything private that belongs to another file or library."""
    own = {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.ClassDef)}
    own |= {
        node.id for node in ast.walk(tree) if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store) and _owner(node) == "self":
            own.add(node.attr)
    own |= NAMED_TUPLE
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and _private(node.attr) and node.attr not in own:
            yield node.lineno, f"{_owner(node)}.{node.attr}"
        elif isinstance(node, ast.Call) and _called(node) in ("getattr", "hasattr", "setattr", "delattr"):
            word = node.args[1] if len(node.args) > 1 else None
            if isinstance(word, ast.Constant) and _private(str(word.value)) and word.value not in own:
                yield node.lineno, f"{ast.unparse(node.args[0])}.{word.value}"
        elif isinstance(node, ast.Import):
            yield from ((node.lineno, a.name) for a in node.names if _inner(a.name))
        elif isinstance(node, ast.ImportFrom):
            names = [f"{node.module or ''}.{alias.name}" for alias in node.names]
            yield from ((node.lineno, name) for name in names if _inner(name))
        elif isinstance(node, ast.Attribute) and _inner(ast.unparse(node)):
            yield node.lineno, ast.unparse(node)


def _owner(node: ast.Attribute) -> str:
    return ast.unparse(node.value)


def _private(name: str) -> bool:
    return name.startswith("_") and not name.startswith("__")


def _inner(dotted: str) -> bool:
    top, *rest = dotted.split(".")
    if top in ("keras", "keras_tuner", "tensorflow", "tf"):
        return any(part == "src" or _private(part) for part in rest)
    return top == "kwarmup" and any(_private(part) for part in rest)


def test_every_import_points_down():
    assert faults(PACKAGE) == []


PLANTED = [
    ("length", "import kwarmup.profile", "length:1: floor 0 imports kwarmup.profile of floor 1"),
    ("shapes", "from kwarmup.clock import Clock", "shapes:1: floor 0 imports kwarmup.clock of floor 1"),
    ("clock", "from kwarmup import plan", "clock:1: floor 1 imports kwarmup.plan of floor 2"),
    ("clock", "from . import plan", "clock:1: floor 1 imports kwarmup.plan of floor 2"),
    ("recipes/noam", "from ..plan import Plan", "recipes/noam:1: floor 1 imports kwarmup.plan of floor 2"),
    (
        "recipes/noam",
        "from .. import recipes, plan",
        "recipes/noam:1: floor 1 imports kwarmup.plan of floor 2",
    ),
    ("plan", "from kwarmup import Clock", "plan:1: floor 2 imports kwarmup of floor 5"),
    ("plan", "def late():\n    import kwarmup.export", "plan:2: floor 2 imports kwarmup.export of floor 3"),
    (
        "clock",
        "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from kwarmup.plan import Plan",
        "clock:3: floor 1 imports kwarmup.plan of floor 2",
    ),
    ("clock", "importlib.import_module('kwarmup.plan')", "clock:1: floor 1 imports kwarmup.plan of floor 2"),
    ("plan", "importlib.import_module(name)", "plan:1: floor 2 imports kwarmup.<computed> of floor 5"),
    (
        "callbacks/record",
        "from kwarmup.callbacks.warmup_decay import WarmupDecay",
        "callbacks/record:1: imports kwarmup.callbacks.warmup_decay, its sibling on floor 3",
    ),
    (
        "callbacks/record",
        "from kwarmup import export",
        "callbacks/record:1: imports kwarmup.export, its sibling on floor 3",
    ),
    (
        "export",
        "from .callbacks import record",
        "export:1: imports kwarmup.callbacks.record, its sibling on floor 3",
    ),
    ("export", "import kwarmup.cli", "export:1: floor 3 imports kwarmup.cli of floor 5"),
    ("curve", "import keras", "curve:1: imports keras, which floor 1 must do without"),
    ("curve", "def f():\n    from keras import ops", "curve:2: imports keras, which floor 1 must do without"),
    ("errors", "import tensorflow as tf", "errors:1: imports tensorflow, which floor 0 must do without"),
    (
        "profile",
        "import matplotlib.pyplot",
        "profile:1: imports matplotlib.pyplot, which floor 1 must do without",
    ),
    (
        "plan",
        "from keras.src import backend",
        "plan:1: keras.src.backend is private; private.py is the place",
    ),
    ("plan", "import keras.src.backend", "plan:1: keras.src.backend is private; private.py is the place"),
    ("plan", "keras.src.backend.name()", "plan:1: keras.src.backend is private; private.py is the place"),
    (
        "plan",
        "from keras.ops import _hidden",
        "plan:1: keras.ops._hidden is private; private.py is the place",
    ),
    (
        "plan",
        "optimizer._learning_rate",
        "plan:1: optimizer._learning_rate is private; private.py is the place",
    ),
    ("plan", "getattr(model, '_hook')", "plan:1: model._hook is private; private.py is the place"),
    (
        "plan",
        "from kwarmup.clock import _count",
        "plan:1: kwarmup.clock._count is private; private.py is the place",
    ),
]


@pytest.mark.parametrize(("file", "planted", "said"), PLANTED, ids=[f"{f}: {p}" for f, p, _ in PLANTED])
def test_a_planted_fault_is_found(tmp_path, file, planted, said):
    package = shutil.copytree(PACKAGE, tmp_path / "kwarmup", ignore=shutil.ignore_patterns("__pycache__"))
    (package / f"{file}.py").write_text(planted)
    assert said in faults(package)


def test_a_file_without_a_floor_is_found(tmp_path):
    package = shutil.copytree(PACKAGE, tmp_path / "kwarmup", ignore=shutil.ignore_patterns("__pycache__"))
    (package / "attic.py").write_text("")
    assert faults(package) == ["attic: on 0 floors, expected one; TABLE in this test says where"]


def test_a_floor_without_its_file_is_found(tmp_path):
    package = shutil.copytree(PACKAGE, tmp_path / "kwarmup", ignore=shutil.ignore_patterns("__pycache__"))
    (package / "sizes.py").unlink()
    assert "sizes: on a floor, but no such file" in faults(package)


def test_what_is_allowed_is_not_a_fault(tmp_path):
    package = shutil.copytree(PACKAGE, tmp_path / "kwarmup", ignore=shutil.ignore_patterns("__pycache__"))
    (package / "private.py").write_text("import keras.src\noptimizer._learning_rate\n")
    (package / "plan.py").write_text(
        "import keras\nimport kwarmup.clock\nfrom . import private, curve\n"
        "class A:\n    def _b(self): return self._c\n    def d(self, other): self._c = other._b()\n"
        "piece._replace(tick=1)\n"
    )
    assert faults(package) == []


LOWER = [entry for floor in FLOORS[:KERAS] for entry in floor]
HEAVY = ("keras", "keras_tuner", "tensorflow", "matplotlib", "rich", "sklearn")


def loaded(code: str) -> set[str]:
    """Return which of the heavy libraries a fresh Python has imported after `code`."""
    code += f"\nimport sys; print(*[name for name in {HEAVY} if name in sys.modules])"
    run = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=True
    )
    return set(run.stdout.split())


def test_profiles_do_not_wait_for_keras():
    modules = [f"kwarmup.{entry.rstrip('/').replace('/', '.')}" for entry in LOWER]
    code = "".join(f"import {module}\n" for module in modules)
    code += "import kwarmup as kw, numpy as np\n"
    code += "assert kw.Curve(0.1 * (kw.warmup(steps=5) >> kw.cosine(steps=5)))(np.arange(10)).max() == 0.1"
    assert loaded(code) == set()


def test_an_import_of_keras_would_be_seen():
    assert "keras" in loaded("import kwarmup as kw\nkw.Schedule")
