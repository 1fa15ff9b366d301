"""A recommended plan as a program to paste."""

from __future__ import annotations

import ast
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from kwarmup.plan import Plan
    from kwarmup.studies.result import Study


def code(study: Study, plan: Plan) -> str:
    """Return a short program that trains by a plan; model and data are the reader's.

    Args:
        study: its optimizer is the one to write.
        plan: what to train by.
    """
    tree = ast.parse(repr(plan), mode="eval").body
    assert isinstance(tree, ast.Call)
    names = sorted({node.id for node in ast.walk(tree) if isinstance(node, ast.Name)})
    written = repr(plan)
    arguments = [
        f"    {keyword.arg}={ast.get_source_segment(written, keyword.value)}," for keyword in tree.keywords
    ]
    optimizer = study.facts.get("optimizer", "SGD")
    return "\n".join(
        [
            "import keras",
            f"from kwarmup import {', '.join(names)}",
            "",
            "plan = Plan(",
            *arguments,
            ")",
            f"model.compile(keras.optimizers.{optimizer}(plan.learning_rate), loss=loss, metrics=metrics)",
            "plan.fit(model, x, y, validation_data=validation_data)",
        ]
    )
