"""What the fresh process runs for ONNX. It is handed over as text, so it may import onnxruntime and numpy alone."""

import os
import sys
from typing import Any


def _main() -> None:
    # Where it is served they may be missing, so here they are.
    sys.modules.update(dict.fromkeys(("keras", "kwarmup", "tensorflow")))  # type: ignore[arg-type]
    import numpy as np
    import onnxruntime

    file, exchange = sys.argv[1:]
    session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])
    with np.load(os.path.join(exchange, "asked.npz")) as asked:
        given = [str(name) for name in asked["names"]]
        arrays = [asked[f"input_{index}"] for index in range(len(given))]
    tensors = {tensor.name: tensor for tensor in session.get_inputs()}
    names = given if set(given) == set(tensors) else list(tensors)
    numbers = {
        "tensor(float)": "float32", "tensor(float16)": "float16", "tensor(double)": "float64",
        "tensor(int32)": "int32", "tensor(int64)": "int64", "tensor(uint8)": "uint8", "tensor(bool)": "bool",
    }  # fmt: skip
    answers: dict[str, Any] = {}
    for name, part in (("whole", arrays), ("first", [array[:1] for array in arrays])):
        feed = {
            tensor: array.astype(numbers[tensors[tensor].type])
            for tensor, array in zip(names, part, strict=True)
        }
        for index, output in enumerate(session.run(None, feed)):
            answers[f"{name}_{index}"] = np.asarray(output, "float64")
    np.savez(os.path.join(exchange, "answers.npz"), **answers)
