"""The same plan, seed and data come to the same weights on one device, several, and several workers.

One process trains over one, two and four devices, and two more as workers: each start of TensorFlow takes seconds, so
all that is asked of them is asked at once.
"""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

PROGRAM = Path(__file__).parent / "program.py"
LAUNCH = [sys.executable, "-m", "kwarmup", "launch", "--workers", "2", "--"]

#: What is refused over two devices, and what is said then.
REFUSED = {
    "jit_compile": "`jit_compile`: expected False",
    "train_step": "a OwnStep with a train_step of its own",
    "max_device_batch": "`max_device_batch`: expected a model on one device",
    "no validation": "a tuple without any examples",
    "validation of no batches": "TakeDataset without any examples",
    "nothing, plainly": "`x`: expected at least one example, in validation_data too",
    "metrics": "error, a MeanAbsoluteError made outside of the scope",
    "metrics, plainly": "expected metrics made within strategy.scope()",
}


def run(result, before=()):
    command = [*before, sys.executable, str(PROGRAM), str(result)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=500)
    assert done.returncode == 0, done.stdout + done.stderr


def differences(one, other):
    """The largest difference of each array, relative to the largest number in it."""
    assert set(other) <= set(one)
    return {
        name: float(np.abs(one[name].astype("float64") - array).max() / np.abs(one[name]).max())
        for name, array in other.items()
        if name != "own_loss/collectives" and np.abs(one[name]).max() > 0
    }


def alike(one, other):
    found = differences(one, other)
    assert found and max(found.values()) < 2e-5, {n: d for n, d in found.items() if d >= 2e-5}


@pytest.mark.slow
def test_devices_and_workers_are_as_one(tmp_path):
    run(tmp_path / "devices.npz")
    with np.load(tmp_path / "devices.npz") as arrays:
        on = {
            count: {name[2:]: arrays[name] for name in arrays.files if name.startswith(f"{count}/")}
            for count in (1, 2, 4)
        }
        edges = json.loads(str(arrays["edges"]))
    for count in (2, 4):
        alike(on[1], on[count])
    # What Keras sends too, once for each device: nothing is asked for beside the gradient.
    assert on[4]["own_loss/collectives"].tolist() == [4]
    a_difference_is_seen(on[1])
    these_are_refused(edges)
    whole_numbers_are_counted(*edges["whole numbers"])
    for losses in edges["words"]:
        assert losses == pytest.approx(edges["words"][0], rel=1e-5)
    going_on_over_other_devices_is_said(edges["resumed"])
    assert len(edges["rolled back"]["said"]) == 1 and edges["rolled back"]["loss"][-1] < 10

    run(tmp_path / "{}.npz", LAUNCH)
    workers = []
    for number in range(2):
        with np.load(tmp_path / f"{number}.npz") as arrays:
            workers.append(json.loads(str(arrays["edges"])))
            alike(on[1], {name: arrays[name] for name in arrays.files if name != "edges"})
    workers_notice(workers)
    whole_numbers_are_counted(edges["whole numbers"][0], *(found["whole numbers"] for found in workers))
    each_example_is_seen_once(workers)


def a_difference_is_seen(alone):
    changed = {name: array * (1 + 1e-4 * (name == "ramp/0")) for name, array in alone.items()}
    assert {name for name, d in differences(alone, changed).items() if d > 2e-5} == {"ramp/0"}


def these_are_refused(edges):
    for name, said in REFUSED.items():
        assert said in edges[name] and "Write: " in edges[name], (name, edges[name])


def whole_numbers_are_counted(alone, *others):
    assert alone["seen"] == [44.0] * 3 and alone["val_seen"] == [9.0] * 3
    for found in others:
        assert found == {name: pytest.approx(values, rel=1e-5) for name, values in alone.items()}


def going_on_over_other_devices_is_said(resumed):
    assert [text.partition(":")[0] for text in resumed["said"]] == [
        "Training goes on over 1 replicas, and was begun over 2",
        "Training goes on over 4 replicas, and was begun over 1",
    ]
    assert resumed["apart"] < 1e-5


def workers_notice(workers):
    for found in workers:
        assert "`roll_back`: expected None with several workers" in found["roll_back"]
        for name in ("order", "arrays", "plain"):
            assert "the same batches in all workers" in found[name], (name, found[name])
        for name, updates in (("lost", 6), ("lost, plainly", 2)):
            assert f"Another worker was lost behind update {updates}: connection reset" in found[name]


def each_example_is_seen_once(workers):
    orders = []
    for mine, theirs in zip(*(found["examples"] for found in workers), strict=True):
        assert not set(mine) & set(theirs)
        assert sorted(mine + theirs) == list(range(44))
        orders.append(mine)
    assert orders[0] != orders[1], "shuffled anew in each pass"
