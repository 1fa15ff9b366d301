"""The tables of docs/coming_from.md, and what the libraries in their first columns give.

`python tests/parity/elsewhere.py` writes the latter down, for machines without these libraries.
"""

import functools
import importlib
import importlib.util
import json
import re
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any, NamedTuple

PAGE = Path(__file__).parents[2] / "docs" / "coming_from.md"
RECORD = Path(__file__).with_name("elsewhere.json")
STEPS, PER_EPOCH, RATE = 1_000, 100, 0.1
# Around every place where something happens in one of the rows, and on the way.
PROBES = [0, 1, 2, 49, 50, 51, 98, 99, 100, 101, 150, 199, 200, 201, 249, 250, 251, 298, 299, 300, 301, 450]
PROBES += [499, 500, 501, 550, 700, 750, 798, 799, 800, 801, 900, 901, 998, 999]


class Row(NamedTuple):
    """One row: code of theirs and of ours, and the edges as (update, their value, our value), as printed."""

    library: str
    theirs: str
    ours: str
    edges: tuple[tuple[int, str, str], ...]


def rows(page: str) -> list[Row]:
    """Return all rows with two columns of code."""
    found = []
    for section in re.split(r"^## ", page, flags=re.M)[1:]:
        for theirs, ours, edge in re.findall(r"^\| `([^`]+)` \| `([^`]+)` \| ?(.*?) ?\|$", section, re.M):
            places = re.findall(r"at update ([\d,]+) (?:it is )?(an error|\S+), here (\S+)", edge)
            edges = tuple((int(update.replace(",", "")), value, here) for update, value, here in places)
            found.append(Row(section.splitlines()[0].strip(), theirs, ours, edges))
    return found


def values(row: Row, updates: list[int]) -> list[float | str]:
    """Return what the library gives at these updates, in ascending order; "an error" where it raises."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return VALUES[row.library](row.theirs, updates)


def _stepped(code: str, updates: list[int], space: dict[str, Any], every: int) -> list[float | str]:
    """Return the rates of a torch optimizer whose scheduler is stepped behind each `every` updates."""
    import torch

    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=RATE, momentum=0.9)
    made = eval(code, {**space, "optimizer": optimizer})
    if isinstance(made, dict):
        every, made = {"step": 1, "epoch": every}[made["interval"]], made["scheduler"]
    found: dict[int, float | str] = {}
    for update in range(updates[-1] + 1):
        found[update] = float(optimizer.param_groups[0]["lr"])
        optimizer.step()
        if (update + 1) % every == 0:
            try:
                made.step()
            except ValueError:
                found[update + 1] = "an error"
                break
    return [found.get(update, "an error") for update in updates]


def _torch(code: str, updates: list[int], every: int = 1) -> list[float | str]:
    import torch

    return _stepped(code, updates, vars(torch.optim.lr_scheduler), every)


def _lightning(code: str, updates: list[int]) -> list[float | str]:
    # The rule of its Trainer: "interval" is "epoch" unless it is said.
    return _torch(code, updates, every=PER_EPOCH)


def _transformers(code: str, updates: list[int]) -> list[float | str]:
    return _stepped(code, updates, vars(importlib.import_module("transformers.optimization")), 1)


def _timm(code: str, updates: list[int]) -> list[float | str]:
    import torch

    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=RATE)
    (module,) = _without_the_rest("timm", "timm.scheduler")
    scheduler = eval(code, {**vars(module), "optimizer": optimizer})
    found: list[float | str] = []
    for update in updates:
        # As its training loop does, behind each epoch and behind each update.
        if update >= PER_EPOCH:
            scheduler.step(update // PER_EPOCH)
        if update:
            scheduler.step_update(num_updates=update)
        found.append(float(optimizer.param_groups[0]["lr"]))
    return found


def _composer(code: str, updates: list[int]) -> list[float | str]:
    scheduler_module, core = _without_the_rest("composer", "composer.optim.scheduler", "composer.core.time")
    scheduler = eval(code, vars(scheduler_module))
    found: list[float | str] = []
    for update in updates:
        epoch, batch = divmod(update, PER_EPOCH)
        state = SimpleNamespace(
            max_duration=core.Time.from_timestring(f"{STEPS // PER_EPOCH}ep"),
            dataloader_len=PER_EPOCH,
            timestamp=core.Timestamp(epoch=epoch, batch=update, batch_in_epoch=batch, sample=100 * update),
        )
        found.append(RATE * float(scheduler(state, 1.0)))
    return found


PACKAGES = {
    "timm": ["timm"],
    "composer": ["composer", "composer.core", "composer.utils", "composer.optim"],
}


@functools.cache
def _without_the_rest(package: str, *modules: str) -> list[ModuleType]:
    """Import modules of a package whose other modules need libraries of gigabytes.

    The packages above them are empty ones in the same place, with the few names that these modules ask for. None
    is left behind.
    """
    (folder,) = importlib.util.find_spec(package).submodule_search_locations  # type: ignore[union-attr,misc]
    try:
        for name in PACKAGES[package]:
            sys.modules[name] = ModuleType(name)
            sys.modules[name].__path__ = [str(Path(folder, *name.split(".")[1:]))]
        if package == "composer":
            utils, core = (importlib.import_module(f"composer.{name}") for name in ("utils", "core"))
            utils.StringEnum = importlib.import_module("composer.utils.string_enum").StringEnum
            time = importlib.import_module("composer.core.time")
            core.Time, core.TimeUnit, core.State = time.Time, time.TimeUnit, object
        return [importlib.import_module(module) for module in modules]
    finally:
        for name in [name for name in sys.modules if name.split(".")[0] == package]:
            del sys.modules[name]


def _optax(code: str, updates: list[int]) -> list[float | str]:
    import jax  # optax brings it
    import numpy as np

    schedule = eval(code, dict(vars(importlib.import_module("optax"))))
    return np.asarray(jax.vmap(schedule)(np.array(updates)), "float64").tolist()


def _keras(code: str, updates: list[int]) -> list[float | str]:
    import keras
    import tensorflow as tf

    # One update at a time, which is what the warmup form of CosineDecay takes; in a graph that is quick.
    schedule = tf.function(eval(code, dict(vars(keras.optimizers.schedules))))
    return [float(schedule(tf.constant(update))) for update in updates]


VALUES: dict[str, Callable[[str, list[int]], list[float | str]]] = {
    "PyTorch": _torch,
    "Lightning": _lightning,
    "transformers": _transformers,
    "timm": _timm,
    "optax": _optax,
    "Composer": _composer,
    "Keras": _keras,
}
# What must be there for it: Lightning's rule needs torch alone.
NEEDS = {"PyTorch": ["torch"], "Lightning": ["torch"], "transformers": ["torch", "transformers"]}
NEEDS |= {"timm": ["torch", "timm"], "optax": ["optax"], "Composer": ["torch", "composer"], "Keras": []}


def main() -> None:
    record: dict[str, dict[str, list[float | str]]] = {}
    for row in rows(PAGE.read_text()):
        updates = [*PROBES, *(update for update, _, _ in row.edges)]
        found = [v if isinstance(v, str) else float(f"{v:.9g}") for v in values(row, updates)]
        record.setdefault(row.library, {})[row.theirs] = found
    lines = [
        f"{json.dumps(library)}: {{\n"
        + ",\n".join(
            f"{json.dumps(code)}: {json.dumps(found, separators=(',', ':'))}" for code, found in table.items()
        )
        + "\n}"
        for library, table in record.items()
    ]
    RECORD.write_text("{\n" + ",\n".join(lines) + "\n}\n")
    print(f"{RECORD.name}: {sum(map(len, record.values()))} rows")


if __name__ == "__main__":
    main()
