"""Write down what torch's schedulers give, for machines without torch.

Run it where torch is installed, after a change of `torch_cases.py`: python tests/parity/write_torch_values.py
"""

import json
from pathlib import Path

from torch_cases import CASES, values

PATH = Path(__file__).with_name("torch_values.json")


def main() -> None:
    import torch

    rows = {case.name: values(torch, case.make, case.steps, case.quantity) for case in CASES}
    short = {name: [float(f"{value:.12g}") for value in row] for name, row in rows.items()}
    lines = [f"{json.dumps(name)}: {json.dumps(row, separators=(',', ':'))}" for name, row in short.items()]
    PATH.write_text("{\n" + ",\n".join(lines) + "\n}\n")
    print(f"{PATH.name}: {len(CASES)} cases, torch {torch.__version__}")


if __name__ == "__main__":
    main()
