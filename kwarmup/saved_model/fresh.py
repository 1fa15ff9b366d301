"""What the fresh process runs. It is handed over as text, so it may import TensorFlow and numpy alone."""

import json
import os
import sys
from typing import Any


def _main() -> None:
    # Where it is served they may be missing, so here they are.
    sys.modules["keras"] = sys.modules["kwarmup"] = None  # type: ignore[assignment]
    import numpy as np
    import tensorflow as tf

    folder, exchange = sys.argv[1:]
    loaded = tf.saved_model.load(folder)  # its variables live as long as it does
    with np.load(os.path.join(exchange, "asked.npz")) as asked:
        given = dict(asked)
    signature = loaded.serve.input_signature
    inputs = _arrays(tf, given, "input", signature)
    answers: dict[str, Any] = {}
    for name, part in (("whole", inputs), ("first", [array[:1] for array in inputs])):
        outputs = loaded.serve(*tf.nest.pack_sequence_as(signature, part))
        for index, output in enumerate(tf.nest.flatten(outputs)):
            answers[f"{name}_{index}"] = tf.cast(output, tf.float64).numpy()
    if "steps" in given:
        answers["rates"] = loaded.learning_rate(given["steps"]).numpy()
    if "target_0" in given:
        signature = loaded.train_step.input_signature
        before = int(loaded.iterations.numpy())
        targets = _arrays(tf, given, "target", signature[1])
        first = _arrays(tf, given, "input", signature[0])
        loaded.train_step(*tf.nest.pack_sequence_as(signature, [*first, *targets]))
        answers["updates"] = np.array([before, int(loaded.iterations.numpy())])
    np.savez(os.path.join(exchange, "answers.npz"), **answers)
    signatures = {
        name: {
            "inputs": _described(function.structured_input_signature[1]),
            "outputs": _described(function.structured_outputs),
        }
        for name, function in sorted(loaded.signatures.items())
    }
    with open(os.path.join(exchange, "signatures.json"), "w", encoding="utf-8") as file:
        json.dump(signatures, file)


def _arrays(tf: Any, given: dict[str, Any], name: str, signature: Any) -> list[Any]:
    specs = tf.nest.flatten(signature)
    return [given[f"{name}_{i}"].astype(spec.dtype.as_numpy_dtype) for i, spec in enumerate(specs)]


def _described(specs: Any) -> dict[str, Any]:
    return {
        name: {
            "dtype": spec.dtype.name,
            "shape": spec.shape.as_list() if spec.shape.rank is not None else None,
        }
        for name, spec in sorted(specs.items())
    }
