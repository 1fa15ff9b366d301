"""What several devices cost and gain: time per update over replicas and workers, and what the link between them takes.

    python benchmarks/scale.py            # some ten minutes
    python benchmarks/scale.py --quick    # two minutes, to see that it runs

Each setting is a process of its own, since TensorFlow counts its devices once. Within it `plan.fit` runs beside Keras's
own `fit` under the same MirroredStrategy, round by round, on batches that divide (where they do not, Keras's
is wrong). Target, on a machine that does nothing else: the interval of the ratio up to 1.03. A second model of
Keras's beside the first is the control: what its ratio is away from 1 is the machine's. Weak scaling keeps
the batch of each device, strong scaling that of the update. Keras's `fit` raises over several workers, so there
is nothing to compare with.

The model of a link: an update sends `2 (n - 1) / n` times the bytes of the gradient through each of n workers (a ring),
which takes `latency + sent / bandwidth`; the link is the bottleneck below the batch size whose computation
takes as long. Latency and bandwidth of loopback are fitted to all-reduces of other sizes between two workers; what they
say of the gradient's is shown beside what is measured.
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
from timing import Ratio, console, measure, ratio, where

BATCH, WIDTH, INPUTS = 256, 256, 64
#: Bytes a second of links that there are.
SIZES = (0.125, 0.5, 2.0, 8.0)  # of the all-reduces that the model is fitted to, in gradients
LINKS = {
    "1 Gbit/s Ethernet": 125e6,
    "10 Gbit/s Ethernet": 1.25e9,
    "100 Gbit/s InfiniBand": 12.5e9,
    "NVLink": 300e9,
}


def gradient_bytes(shapes: list[tuple[int, ...]], size: int = 4) -> int:
    """Bytes of a gradient.

    >>> gradient_bytes([(64, 256), (256,)])
    66560
    """
    return size * sum(int(np.prod(shape)) for shape in shapes)


def link_seconds(count: int, workers: int, bandwidth: float, latency: float = 0.0) -> float:
    """Seconds of a ring all-reduce of so many bytes.

    >>> link_seconds(1_000_000, workers=2, bandwidth=1e6, latency=0.25)
    1.25
    """
    return latency + 2 * (workers - 1) / workers * count / bandwidth


def fitted(seconds: dict[int, float], workers: int) -> tuple[float, float]:
    """Bandwidth and latency of a link, from the seconds of all-reduces of some bytes.

    >>> fitted({count: link_seconds(count, 2, 1e6, 0.25) for count in (1_000, 10_000, 100_000)}, workers=2)
    (1000000.0, 0.25)
    """
    sent = [2 * (workers - 1) / workers * count for count in seconds]
    # In relative terms, or the largest would decide alone.
    slope, latency = np.polyfit(sent, list(seconds.values()), 1, w=[1 / value for value in seconds.values()])
    return round(float(1 / slope), 3), round(float(latency), 9)


def bottleneck_below(count: int, workers: int, bandwidth: float, seconds_per_example: float) -> float:
    """The batch size of a worker below which the link takes longer than the computation.

    >>> bottleneck_below(1_000_000, workers=2, bandwidth=1e6, seconds_per_example=0.01)
    100.0
    """
    return link_seconds(count, workers, bandwidth) / seconds_per_example


def setting(result: Path, replicas: int, weak: bool, rounds: int, steps: int) -> None:
    """Time one setting, in this process, and write what was found."""
    import keras
    import tensorflow as tf

    import kwarmup as kw

    if replicas > 1:
        cpu = tf.config.list_physical_devices("CPU")[0]
        tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * replicas)
    strategy = kw.distribute.strategy()
    count = strategy.num_replicas_in_sync
    workers = count > replicas
    batch = BATCH * count if weak else BATCH
    random = np.random.default_rng(0)
    x = random.normal(size=(batch * steps, INPUTS)).astype("float32")
    y = random.integers(0, 10, len(x))

    def model():
        keras.utils.set_random_seed(0)
        with strategy.scope():
            dense = [keras.layers.Dense(WIDTH, "relu") for _ in range(2)]
            made = keras.Sequential([keras.Input((INPUTS,)), *dense, keras.layers.Dense(10)])
            loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
            made.compile(keras.optimizers.SGD(0.01, momentum=0.9), loss, jit_compile=False)
        return made

    class Stopwatch(keras.callbacks.Callback):
        def on_epoch_begin(self, epoch, logs=None):
            self.began = None

        def on_train_batch_end(self, batch, logs=None):
            self.ended = time.perf_counter()
            if self.began is None:
                self.began, self.first = self.ended, batch
            self.last = batch

        @property
        def seconds(self):
            return (self.ended - self.began) / (self.last - self.first)

    # All rounds of one plan are passes of one training: what is compiled once is compiled once, as in Keras's.
    dataset = tf.data.Dataset.from_tensor_slices((x, y)).batch(batch, drop_remainder=True).cache().repeat()
    plain, again, planned, watch = model(), model(), model(), Stopwatch()
    once = kw.Plan(learning_rate=0.01, batch_size=batch, examples=len(x), epochs=2).on(strategy)

    def keras_fit(made):
        made.fit(dataset, steps_per_epoch=steps, epochs=2, shuffle=False, verbose=0, callbacks=[watch])
        return watch.seconds

    def plan_fit():
        planned.optimizer.iterations.assign(0)
        once.fit(planned, x, y, seed=None, verbose=0, callbacks=[watch])
        return watch.seconds

    found = {
        "replicas": count,
        "batch": batch,
        "bytes": gradient_bytes([w.shape for w in plain.trainable_weights]),
    }
    if workers:
        times = [plan_fit() for _ in range(rounds + 1)][1:]
        counts = [int(size * found["bytes"]) for size in (1.0, *SIZES)]
        link = {count: _all_reduce(strategy, count, rounds * 10) for count in counts}
        found |= {"plan": times, "keras": [], "link": link}
        if not kw.distribute.is_chief(strategy):
            return
    else:
        variants = {
            "plan": plan_fit, "again": lambda: keras_fit(again), "keras": lambda: keras_fit(plain),
        }  # fmt: skip
        pairs = measure(variants, {"plan": "keras", "again": "keras"}, rounds, warm_up=1)
        found |= {"plan": pairs["plan"].variant.tolist(), "keras": pairs["plan"].base.tolist()}
        found["control"] = [times.tolist() for times in pairs["again"]]
    result.write_text(json.dumps(found))


def _all_reduce(strategy, count: int, rounds: int) -> list[float]:
    import tensorflow as tf

    device = strategy.extended.worker_devices[0]
    with tf.device(device):
        values = tf.zeros(count // 4)

    @tf.function
    def once():
        def replica():
            with tf.device(device):
                return tf.distribute.get_replica_context().all_reduce("SUM", tf.identity(values))

        return strategy.run(replica)

    once()
    found = []
    for _ in range(rounds):
        began = time.perf_counter()
        strategy.experimental_local_results(once())[0].numpy()
        found.append(time.perf_counter() - began)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--quick", action="store_true", help="few and short rounds: shows that it runs, no more"
    )
    parser.add_argument(
        "--replicas", type=int, nargs="*", default=[1, 2], help="logical devices (default: 1 2)"
    )
    parser.add_argument("--setting", nargs=5, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.setting:
        result, *numbers = arguments.setting
        replicas, weak, rounds, steps = map(int, numbers)
        setting(Path(result), replicas, bool(weak), rounds, steps)
        return
    rounds, steps = (3, 10) if arguments.quick else (30, 50)
    workers = [sys.executable, "-m", "kwarmup", "launch", "--workers", "2", "--"]
    asked = [
        (f"{n} replicas" if n > 1 else "1 device", n, weak, []) for n in arguments.replicas for weak in (1, 0)
    ]
    asked += [("2 workers", 1, weak, workers) for weak in (1, 0)]
    table = Table(title="Time of an update", caption=where(), caption_justify="left", title_justify="left")
    for column in (
        "setting",
        "scaling",
        "batch",
        "plan.fit, ms",
        "Keras fit, ms",
        "ratio  [95 % interval]",
        "Keras beside itself",
        "examples/s",
    ):
        table.add_column(column, justify="left" if column in ("setting", "scaling") else "right")
    found = {}
    with tempfile.TemporaryDirectory() as folder:
        for name, replicas, weak, before in asked:
            if (replicas, weak) == (1, 0) and not before:
                continue  # one device has the same batch in both
            result = Path(folder) / f"{len(found)}.json"
            numbers = map(str, (replicas, weak, rounds, steps))
            subprocess.run(
                [*before, sys.executable, __file__, "--setting", str(result), *numbers], check=True
            )
            found[name, weak] = one = json.loads(result.read_text())
            plan, base = np.median(one["plan"]), np.median(one["keras"]) if one["keras"] else float("nan")
            shown: Ratio | str = ratio(one["plan"], one["keras"]) if one["keras"] else "raises (keras#20585)"
            cells = [
                f"{one['batch']}",
                f"{1e3 * plan:.2f}",
                f"{1e3 * base:.2f}",
                str(shown),
                str(ratio(*one["control"])) if "control" in one else "",
                f"{one['batch'] / plan:,.0f}",
            ]
            table.add_row(name, "weak" if weak else "strong", *cells)
    console().print(table)
    _link(found)


def _link(found) -> None:
    alone = next((one for (name, _), one in found.items() if name == "1 device"), None)
    two = found["2 workers", 1]
    if alone is None:
        return
    per_example = float(np.median(alone["plan"])) / alone["batch"]
    link = {int(count): float(np.median(times)) for count, times in two["link"].items()}
    measured = link.pop(two["bytes"])
    loopback, latency = fitted(link, 2)
    predicted = link_seconds(two["bytes"], 2, loopback, latency)
    table = Table(
        title=f"A link between two workers, {two['bytes']:,} bytes of gradient", title_justify="left"
    )
    for column in ("link", "bytes/s", "ms an update", "bottleneck below a batch per worker of"):
        table.add_column(column, justify="left" if column == "link" else "right")
    for name, bandwidth in {"loopback, fitted": loopback, **LINKS}.items():
        seconds = link_seconds(two["bytes"], 2, bandwidth)
        least = bottleneck_below(two["bytes"], 2, bandwidth, per_example)
        table.add_row(name, f"{bandwidth:.3g}", f"{1e3 * seconds:.3f}", f"{least:,.0f}")
    console().print(table)
    added = np.median(two["plan"]) - np.median(alone["plan"])
    console().print(
        f"All-reduce of the gradient over loopback: the model, fitted to other sizes, says {1e3 * predicted:.2f} ms "
        f"({1e3 * latency:.2f} ms of it latency), measured are {1e3 * measured:.2f} ms: {measured / predicted:.2f} "
        f"of the model.\nAn update of two workers takes {1e3 * added:.2f} ms more than one of a device with the batch "
        "of a worker, which holds what two processes take of each other's cores."
    )


if __name__ == "__main__":
    main()
