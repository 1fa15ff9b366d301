"""A slow link between two hosts: what it adds to an update, beside what the model of `scale.py` says.

    python benchmarks/link.py            # two minutes; as root, on Linux with iproute2
    python benchmarks/link.py --quick    # to see that it runs

Two workers on hosts of this machine, network namespaces with a link of their own, train the network of `scale.py`. In
each pass the link has another bandwidth, drawn anew in each round, by a token bucket on both ends; one of them is none,
and what an update takes more than there is the link's. The model says: as many bytes as the gradient has (two workers,
a ring), whatever the batch, so that the link takes longer than the computation below some batch size.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np
from rich.table import Table
from scale import INPUTS, WIDTH, bottleneck_below, gradient_bytes, link_seconds
from timing import console, where

sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "distribute"))
from hosts import Hosts

from kwarmup.distribute.cluster import Cluster

#: Bits a second.
BANDWIDTHS = {"100 Mbit/s": 100e6, "300 Mbit/s": 300e6, "1 Gbit/s": 1e9}
FREE = "none"
#: Examples of a worker in an update.
BATCHES = (64, 256, 1024, 4096)


def worker(number: int, result: Path, rounds: int, steps: int) -> None:
    """Train at each batch size, over all links in turn; the chief writes the seconds of an update of each pass."""
    import keras

    import kwarmup as kw

    strategy = kw.distribute.strategy(timeout=120)
    random = np.random.default_rng(0)
    passes = [link for _ in range(rounds) for link in random.permutation([FREE, *BANDWIDTHS]).tolist()]

    class Links(keras.callbacks.Callback):
        """Gives each pass its link, and times all updates of it but the first."""

        def __init__(self):
            super().__init__()
            self.seconds: dict[str, list[float]] = {name: [] for name in (FREE, *BANDWIDTHS)}

        def on_epoch_begin(self, epoch, logs=None):
            Hosts.slow_down(number, BANDWIDTHS.get(passes[epoch]))
            self.began = None

        def on_train_batch_end(self, batch, logs=None):
            now = time.perf_counter()
            if self.began is None:
                self.began = now
            elif batch == steps - 1:
                self.seconds[passes[self.epoch]].append((now - self.began) / batch)

        def on_train_batch_begin(self, batch, logs=None):
            self.epoch = int(keras.ops.convert_to_numpy(self.model.optimizer.iterations)) // steps

    found = {}
    for size in BATCHES:
        batch = 2 * size
        plan = kw.Plan(learning_rate=0.01, batch_size=batch, examples=batch * steps, epochs=len(passes)).on(
            strategy
        )
        with strategy.scope():
            layers = [keras.layers.Dense(WIDTH, "relu") for _ in range(2)]
            model = keras.Sequential([keras.Input((INPUTS,)), *layers, keras.layers.Dense(10)])
            loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
            model.compile(keras.optimizers.SGD(0.01, momentum=0.9), loss, jit_compile=False)
        x = random.normal(size=(batch * steps, INPUTS)).astype("float32")
        links = Links()
        plan.fit(model, x, random.integers(0, 10, len(x)), seed=None, verbose=0, callbacks=[links])
        found[size] = links.seconds
    Hosts.slow_down(number, None)
    if kw.distribute.is_chief(strategy):
        count = gradient_bytes([weight.shape for weight in model.trainable_weights])
        result.write_text(json.dumps({"bytes": count, "seconds": found}))


def report(found: dict) -> None:
    """Print what a link adds to an update, and below which batch size it takes longer than the computation."""
    count = found["bytes"]
    seconds = {int(size): {n: np.array(v) for n, v in by.items()} for size, by in found["seconds"].items()}
    free = [float(np.median(by[FREE])) for by in seconds.values()]
    per_example = float(np.polyfit(list(seconds), free, 1, w=[1 / value for value in free])[0])
    table = Table(
        title=f"A link between two hosts, {count:,} bytes of gradient", caption=where(), caption_justify="left",
        title_justify="left",
    )  # fmt: skip
    columns = [
        *(f"batch {size}" for size in seconds),
        "by the model",
        "ratio",
        "bottleneck below",
        "by the model",
    ]
    table.add_column("link")
    for column in columns:
        table.add_column(column, justify="right")
    table.add_row("none: an update", *(f"{1e3 * value:.2f} ms" for value in free))
    for name, bits in BANDWIDTHS.items():
        added = [float(np.median(by[name] - by[FREE])) for by in seconds.values()]
        predicted = link_seconds(count, 2, bits / 8)
        table.add_row(
            name,
            *(f"{1e3 * value:+.2f} ms" for value in added),
            f"{1e3 * predicted:.2f} ms",
            f"{np.median(added) / predicted:.2f}",
            _crossing(list(seconds), added, per_example),
            f"{bottleneck_below(count, 2, bits / 8, per_example):,.0f}",
        )
    console().print(table)


def _crossing(sizes: list[int], added: list[float], per_example: float) -> str:
    """Where the link takes as long as the computation, on a line between the batch sizes measured."""
    apart = np.array(added) - per_example * np.array(sizes)
    if (apart < 0).all() or (apart > 0).all():
        return f"< {sizes[0]}" if apart[0] < 0 else f"> {sizes[-1]}"
    last = int(np.flatnonzero(apart > 0)[-1])
    return f"{np.interp(0, [apart[last + 1], apart[last]], [sizes[last + 1], sizes[last]]):,.0f}"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="one short round: shows that it runs, no more")
    parser.add_argument("--worker", nargs=4, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.worker:
        number, result, rounds, steps = arguments.worker
        worker(int(number), Path(result), int(rounds), int(steps))
        return
    rounds, steps = (1, 4) if arguments.quick else (9, 12)
    with tempfile.TemporaryDirectory() as folder, Hosts() as hosts:
        result = Path(folder) / "link.json"
        addresses = tuple(f"{address}:21214" for address in hosts.addresses)
        workers = [
            subprocess.Popen(
                hosts.on(number, sys.executable, __file__, "--worker", *map(str, (number, result, rounds, steps))),
                env={**os.environ, "TF_CONFIG": Cluster(addresses, number).to_json()},
            )
            for number in range(2)
        ]  # fmt: skip
        try:
            if any([process.wait() for process in workers]):
                sys.exit("A worker has failed.")
        finally:
            for process in workers:
                process.kill()
        report(json.loads(result.read_text()))


if __name__ == "__main__":
    main()
