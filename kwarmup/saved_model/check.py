"""A SavedModel is checked where it will be used: in a fresh process, which has neither Keras nor kwarmup."""

from __future__ import annotations

import inspect
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import keras
import numpy as np

from kwarmup.saved_model import fresh
from kwarmup.saved_model.versions import ExportError

_NAME = "The SavedModel"
_PROGRAM = f"{inspect.getsource(fresh)}\n_main()\n"


@dataclass(frozen=True)
class Expected:
    """What a SavedModel must answer.

    Args:
        batch: inputs.
        outputs: those of the model for them.
        tolerance: how far an answer may be off, as a part of the largest output.
        endpoints: their names.
        steps: updates to ask the learning rate at.
        rates: the learning rates there.
        targets: a batch of targets to train on for an update.
    """

    batch: Any
    outputs: Any
    tolerance: float
    endpoints: Sequence[str] = ("serve",)
    steps: Any = None
    rates: Any = None
    targets: Any = None


def check(folder: Path, expected: Expected) -> dict[str, Any]:
    """Load a SavedModel in a fresh process and compare what it answers.

    It is asked for the whole batch and for its first example, since a SavedModel may have frozen the
    batch size that it was traced with.

    Returns:
        Its signatures as that process saw them: inputs and outputs by name, with type and shape.

    Raises:
        ExportError: if it cannot be loaded or called, an endpoint is missing, or an answer is off.
    """
    asked = inputs(expected.batch)
    if expected.targets is not None:
        parts = keras.tree.flatten(expected.targets)
        asked |= {f"target_{i}": np.asarray(part) for i, part in enumerate(parts)}
    if expected.steps is not None:
        asked["steps"] = np.asarray(expected.steps, "int64")
    answers, signatures = ask(_PROGRAM, folder, asked, _NAME)
    missing = [name for name in expected.endpoints if name not in signatures]
    if missing:
        raise ExportError(
            f"The SavedModel lacks the signature {', '.join(missing)}; it has {list(signatures)}."
        )
    compare_outputs(expected, answers, _NAME)
    if expected.steps is not None:
        _compare_rates(expected, answers["rates"])
    if expected.targets is not None and answers["updates"][1] != answers["updates"][0] + 1:
        raise ExportError(
            "One call of train_step moved the SavedModel's count of updates from {} to {}.".format(
                *answers["updates"]
            )
        )
    return signatures


def inputs(batch: Any) -> dict[str, Any]:
    """Return the parts of a batch under the names by which a fresh process is told them."""
    return {f"input_{i}": np.asarray(part) for i, part in enumerate(keras.tree.flatten(batch))}


def ask(
    program: str, target: Path, asked: dict[str, Any], name: str
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Run a program in a fresh process.

    Args:
        program: its text.
        target: what it is to load.
        asked: arrays that it is told.
        name: what is asked, for the message.

    Returns:
        The arrays that it answers, and what it says of signatures.

    Raises:
        ExportError: if it fails.
    """
    with tempfile.TemporaryDirectory() as exchange:
        np.savez(os.path.join(exchange, "asked.npz"), **asked)
        run = subprocess.run(
            [sys.executable, "-c", program, str(target.absolute()), exchange],
            cwd=exchange,
            # On the CPU: this process may hold all memory of the accelerators.
            env={**os.environ, "CUDA_VISIBLE_DEVICES": "-1", "TF_CPP_MIN_LOG_LEVEL": "3"},
            capture_output=True,
            text=True,
            errors="replace",
        )
        if run.returncode:
            said = "\n".join(run.stderr.strip().splitlines()[-5:])
            raise ExportError(f"{name} cannot be served in a fresh process:\n{said}")
        listed = Path(exchange, "signatures.json")
        signatures = json.loads(listed.read_text(encoding="utf-8")) if listed.exists() else {}
        with np.load(os.path.join(exchange, "answers.npz")) as answers:
            return dict(answers), signatures


def compare_outputs(expected: Expected, answers: dict[str, Any], name: str) -> None:
    """Compare the outputs of a whole batch and of its first example with the model's.

    Raises:
        ExportError: if one is off.
    """
    outputs = [np.asarray(part, "float64") for part in keras.tree.flatten(expected.outputs)]
    for key, wanted in (("whole", outputs), ("first", [output[:1] for output in outputs])):
        for index, output in enumerate(wanted):
            answer = answers[f"{key}_{index}"]
            finite = np.abs(output[np.isfinite(output)])
            allowed = expected.tolerance * max(1e-30, finite.max(initial=0.0))
            if output.shape != answer.shape:
                difference = f"shape {answer.shape} in place of {output.shape}"
            elif np.allclose(answer, output, rtol=0, atol=allowed, equal_nan=True):
                continue
            else:
                difference = f"largest difference {np.abs(answer - output).max():.3g}, allowed {allowed:.3g}"
            raise ExportError(f"{name} gives other outputs than model.predict: {difference}.")


def _compare_rates(expected: Expected, answer: Any) -> None:
    rates = np.asarray(expected.rates, "float64")
    # What the schedule promises: a millionth of the peak; and what float32 rounds once more.
    allowed = 2e-6 * np.abs(rates).max()
    off = np.abs(np.asarray(answer, "float64") - rates)
    if not (off <= allowed).all():  # a NaN is off too
        worst = int(np.nanargmax(np.where(np.isnan(off), np.inf, off)))
        raise ExportError(
            f"The SavedModel gives another learning rate than the plan: {answer[worst]:.9g} at update "
            f"{expected.steps[worst]:,} in place of {rates[worst]:.9g}."
        )
