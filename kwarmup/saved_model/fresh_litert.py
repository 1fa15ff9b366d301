"""What the fresh process runs for LiteRT. It is handed over as text, so it may import LiteRT and numpy alone."""

import os
import sys
from typing import Any


def _main() -> None:
    # Where it is served they may be missing, so here they are.
    sys.modules.update(dict.fromkeys(("keras", "kwarmup", "tensorflow")))  # type: ignore[arg-type]
    import numpy as np
    from ai_edge_litert.interpreter import Interpreter

    file, exchange = sys.argv[1:]
    interpreter = Interpreter(file)
    run = interpreter.get_signature_runner()
    tensors = run.get_input_details()
    with np.load(os.path.join(exchange, "asked.npz")) as asked:
        given = [str(name) for name in asked["names"]]
        arrays = [asked[f"input_{index}"] for index in range(len(given))]
    answers: dict[str, Any] = {}
    names = given if set(given) == set(tensors) else sorted(tensors, key=_order)
    for name, part in (("whole", arrays), ("first", [array[:1] for array in arrays])):
        feed = {
            tensor: array.astype(tensors[tensor]["dtype"]) for tensor, array in zip(names, part, strict=True)
        }
        outputs = run(**feed)
        for index, key in enumerate(sorted(outputs, key=_order)):
            answers[f"{name}_{index}"] = np.asarray(outputs[key], "float64")
    np.savez(os.path.join(exchange, "answers.npz"), **answers)


def _order(name: str) -> tuple[str, int]:
    """Names in alphabetical order, but output_10 behind output_9: as a flattened structure has them."""
    head, _, number = name.rpartition("_")
    return (head, int(number)) if number.isdecimal() else (name, -1)
