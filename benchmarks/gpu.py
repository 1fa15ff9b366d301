"""Schedules, measurements and trainings on an accelerator, under JAX or torch, with the figures; without TensorFlow.

    KERAS_BACKEND=jax python benchmarks/gpu.py                  # within nine minutes
    KERAS_BACKEND=torch python benchmarks/gpu.py --seconds 300 --parts schedule noise range speed
    KERAS_BACKEND=jax python benchmarks/gpu.py --quick          # small, for a try on a CPU

- `schedule`: schedules on the device beside their curves in float64; the rates and batches of `plan.fit`; and the
  weights behind a training by a ramp, beside those of the same training on the CPU.
- `noise`: `noise_scale` on linear least squares beside the exact value of the data, and beside the closed form.
- `range`: `find_lr` on quadratics, which diverge at 2 / lambda_max; and on the network, with the time that it takes.
- `speed`: `throughput` from batch 8 on, the knee; `max_batch_size` by the device's own memory.
- `sweep`: updates, examples and seconds to a target at each batch size, at the best of three rates, several seeds.
- `rows`: a warmup of the batch beside warmups of the learning rate, and a growing batch beside a decay.

Each part has a process of its own and a share of the seconds; what it comes to is in the results file at once, so that
the same command goes on where an earlier one ended. The first use of the device is timed apart.

Data is there without a network: scikit-learn's digits, drawn anew, or a folder of IDX files with `--data`. A machine
that has JAX or torch but neither Keras nor a network takes a folder of wheels, made for its Python and system:

    pip download --no-deps --only-binary=:all: --python-version 3.12 --platform manylinux2014_x86_64 \\
        -d wheels keras namex optree lazy-loader
    python -m pip install --no-index --no-deps --target site wheels/*.whl      # there
    PYTHONPATH=site:. KERAS_BACKEND=jax python benchmarks/gpu.py               # there, in this folder

and likewise what it lacks of numpy, scikit-learn, rich, click, h5py, ml-dtypes, absl-py and packaging.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import math
import os
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

os.environ.setdefault("KERAS_BACKEND", "jax")
# So that the memory in use is that of the program.
os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")


class Scale(NamedTuple):
    """How much is done."""

    network: str
    examples: int
    held: int
    target: float
    most: int
    sizes: tuple[int, ...]
    #: Learning rate at batch size 128, by the linear rule elsewhere, but no further than to `flat`.
    rate: float
    flat: int
    seeds: int
    #: Of the noise scale.
    repeats: int
    #: Small and large batch of the rows, and the peak for the large one.
    small: int
    large: int
    peak: float
    #: A folder of IDX files; `None` for digits drawn anew.
    data: Path | None = None


FULL = Scale(
    network="wide", examples=50_000, held=10_000, target=0.93, most=400_000, sizes=(128, 512, 2_048, 8_192, 32_768),
    rate=0.05, flat=2_048, seeds=3, repeats=20, small=128, large=8_192, peak=0.8,
)  # fmt: skip
QUICK = Scale(
    network="dense", examples=4_000, held=1_000, target=0.75, most=60_000, sizes=(32, 128, 512),
    rate=0.05, flat=512, seeds=2, repeats=3, small=32, large=512, peak=0.4,
)  # fmt: skip
FACTORS = (0.5, 1.0, 2.0)
#: Shares of the seconds; a part leaves what it does not need to those behind it.
PARTS = {"schedule": 0.12, "noise": 0.12, "range": 0.12, "speed": 0.22, "sweep": 0.26, "rows": 0.16}


class OutOfTime(Exception):
    """The seconds of a part are over."""


class Results:
    """What was measured, by name; each is written to the file as soon as it is there."""

    def __init__(self, path: Path, seconds: float = math.inf):
        self.path, self._end = path, time.monotonic() + seconds
        self.found: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {}

    def get(self, name: str, measure: Callable[[], Any]) -> Any:
        """Return what is known by this name, or measure it now.

        Raises:
            OutOfTime: if there is no time left to.
        """
        if name not in self.found:
            if time.monotonic() > self._end:
                raise OutOfTime
            self.found[name] = measure()
            beside = self.path.with_suffix(".new")
            beside.write_text(json.dumps(self.found, indent=1))
            beside.replace(self.path)
            print(f"  {name}: {json.dumps(self.found[name])[:150]}", flush=True)
        return self.found[name]


def schedule(results: Results, scale: Scale) -> None:
    exactly()
    import keras
    import numpy as np

    import kwarmup as kw

    ramp = kw.Clock(examples=50_000, epochs=90, batch_size=64 * kw.linear(to=16), multiple_of=8)
    for name, profile, clock, end in (
        ("warmup, cosine", kw.warmup(steps=10**9) >> kw.cosine(steps=10**9), None, 2**31 - 2),
        ("exponential", kw.exponential(start=1e-4, to=1, steps=10**6), None, 2 * 10**6),
        ("a batch that grows", kw.warmup(epochs=2) >> kw.cosine(), ramp, ramp.steps),
    ):

        def off(profile: Any = profile, clock: Any = clock, end: int = end) -> dict[str, float]:
            made = kw.Schedule(profile, clock, scaling=1)
            steps = np.unique(np.linspace(0, end, 20_000).astype("int64"))
            found = keras.ops.convert_to_numpy(made(steps.astype("int32")))
            exact = made.curve(steps)
            return {"off by, of the peak": float(np.abs(found - exact).max() / np.abs(exact).max())}

        results.get(f"schedule | {name}", off)

    plan = kw.Plan(
        learning_rate=0.1 * (kw.warmup(epochs=1) >> kw.cosine()),
        batch_size=32 * (kw.hold(epochs=1) >> kw.hold(2, epochs=1) >> kw.hold(4)),
        examples=1_000, epochs=4, scaling=1,
    )  # fmt: skip

    def rates() -> dict[str, float]:
        """A weight whose gradient is 1 falls at each update by the learning rate: it tells the rates that were used."""
        model = keras.Sequential([keras.Input((1,)), keras.layers.Dense(1, use_bias=False)])
        model.set_weights([np.zeros((1, 1))])
        model.compile(keras.optimizers.SGD(plan.learning_rate), lambda y, p: keras.ops.mean(p))
        fallen, sizes = [], []

        class Watch(keras.callbacks.Callback):
            def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
                fallen.append(-float(self.model.get_weights()[0][0, 0]))

        x = np.ones((1_000, 1), "float32")
        history = plan.fit(model, x, x, verbose=0, callbacks=[Watch(), kw.Record()])
        sizes = history.history["batch_size"]
        exact = plan.curve(np.arange(plan.clock.steps))
        if len(fallen) != len(exact):
            raise AssertionError(f"{len(fallen)} updates, and the plan has {len(exact)}")
        return {"off by, of the peak": float(np.abs(np.diff(fallen, prepend=0) - exact).max() / exact.max()),
                "updates": len(fallen), "batch sizes": sizes}  # fmt: skip

    results.get("schedule | rates that plan.fit trained with", rates)

    def train(device: str | None) -> tuple[list[float], list[np.ndarray]]:
        draw = np.random.default_rng(0)
        x = draw.normal(size=(1_000, 16)).astype("float32")
        y = np.tanh(x @ draw.normal(size=(16, 1))).astype("float32")
        with keras.device(device) if device else contextlib.nullcontext():
            layers = [keras.layers.Dense(32, "tanh"), keras.layers.Dense(1)]
            model = keras.Sequential([keras.Input((16,)), *layers])
            model.set_weights([draw.normal(size=w.shape) * len(w) ** -0.5 for w in model.get_weights()])
            model.compile(keras.optimizers.SGD(plan.learning_rate, momentum=0.9), "mse")
            history = plan.fit(model, x, y, verbose=0)
            return history.history["loss"], model.get_weights()

    def beside_cpu() -> dict[str, float]:
        (losses, weights), (on_cpu, weights_on_cpu) = train(None), train("cpu:0" if _jax() else "cpu")
        pairs = list(zip(weights, weights_on_cpu, strict=True))
        return {
            "weights off by, of the largest": max(float(np.abs(a - b).max()) for a, b in pairs)
            / max(float(np.abs(b).max()) for _, b in pairs),
            "loss off by, relative": float(np.max(np.abs(np.divide(losses, on_cpu) - 1))),
            "last loss": losses[-1],
        }

    results.get("schedule | a ramp on the device, beside the CPU", beside_cpu)


def noise(results: Results, scale: Scale) -> None:
    exactly()
    import keras
    import numpy as np

    import kwarmup as kw

    features, away, sigma = 16, 0.25, 1.0
    distance = features * away**2
    closed = ((features + 1) * distance + features * sigma**2) / distance
    for seed in range(scale.repeats):
        for micro_batch in (1, 32):

            def one(seed: int = seed, micro_batch: int = micro_batch) -> dict[str, Any]:
                draw = np.random.default_rng(seed)
                x = draw.normal(size=(16_384, features))
                y = x.sum(1, keepdims=True) + sigma * draw.normal(size=(16_384, 1))
                weights = np.full((features, 1), 1 + away)
                gradients = 2 * x * (x @ weights - y)
                exact = gradients.var(0, ddof=1).sum() / (gradients.mean(0) ** 2).sum()
                model = keras.Sequential([keras.Input((features,)), keras.layers.Dense(1, use_bias=False)])
                model.set_weights([weights])
                model.compile("sgd", "mse")
                begun = time.perf_counter()
                found = kw.noise_scale(
                    model, x.astype("float32"), y.astype("float32"), precision=0.1, micro_batch_size=micro_batch,
                    seed=seed,
                )  # fmt: skip
                return {"value": found.value, "interval": found.interval, "exact": exact, "closed form": closed,
                        "examples": found.examples, "seconds": time.perf_counter() - begun}  # fmt: skip

            results.get(f"noise | {micro_batch} | {seed}", one)


def range_test(results: Results, scale: Scale) -> None:
    exactly()
    import keras
    import numpy as np
    from gpu_tasks import compiled, images

    import kwarmup as kw

    for seed in range(3):

        def quadratic(seed: int = seed) -> dict[str, float]:
            draw = np.random.default_rng(seed)
            x = (draw.normal(size=(256, 8)) * np.linspace(0.3, 2, 8)).astype("float32")
            curvatures, axes = np.linalg.eigh(2 * x.T.astype("float64") @ x / len(x))
            model = keras.Sequential([keras.Input((8,)), keras.layers.Dense(1, use_bias=False)])
            model.set_weights([axes[:, -1:]])
            model.compile("sgd", "mse")
            sweep = kw.find_lr(
                model, x, np.zeros((256, 1)), low=1e-3, high=10, steps=80, batch_size=256, repeats=1
            )
            return {"diverges at": sweep.divergence().learning_rate, "2 / lambda_max": 2 / curvatures[-1],
                    "grid step": sweep.learning_rates[1] / sweep.learning_rates[0]}  # fmt: skip

        results.get(f"range | quadratic | {seed}", quadratic)

    data = images(scale.data, scale.examples, scale.held)
    model = compiled(scale.network)
    for call in ("first", "second"):

        def network() -> dict[str, Any]:
            begun = time.perf_counter()
            found = kw.find_lr(model, data.x, data.y, batch_size=scale.small, steps=100, repeats=3).suggest()
            return {"learning rate": found.learning_rate, "low": found.low, "high": found.high,
                    "seconds": time.perf_counter() - begun}  # fmt: skip

        results.get(f"range | {scale.network} | {call} call", network)


def speed(results: Results, scale: Scale) -> None:
    from gpu_tasks import compiled, images

    import kwarmup as kw

    data = images(scale.data, scale.examples, scale.held)
    sizes = [2**k for k in range(3, 16) if 2**k <= min(len(data.x), scale.sizes[-1])]

    def throughput() -> dict[str, Any]:
        return kw.throughput(compiled(scale.network), data.x, data.y, batch_sizes=sizes).to_dict()

    def largest() -> dict[str, Any]:
        return kw.max_batch_size(compiled(scale.network), data.x, data.y).to_dict()

    results.get("speed | throughput", throughput)
    results.get("speed | largest batch", largest)


def sweep(results: Results, scale: Scale) -> None:
    from gpu_tasks import Runner, images

    data = images(scale.data, scale.examples, scale.held)
    runners: dict[int, Runner] = {}
    for seed in range(scale.seeds):
        for size in scale.sizes:
            if size > len(data.x):
                continue
            for factor in FACTORS:
                rate = scale.rate * factor * min(size, scale.flat) / 128

                def one(size: int = size, rate: float = rate, seed: int = seed) -> dict[str, Any]:
                    if size not in runners:
                        runners[size] = Runner(scale.network, size, data, scale.target, scale.most)
                    return runners[size].train(rate, seed) | {"first": runners[size].first}

                results.get(f"sweep | {size} | {rate:g} | {seed}", one)


def rows(results: Results, scale: Scale) -> None:
    from gpu_tasks import images, train_by
    from gpu_tasks import rows as plans

    data = images(scale.data, scale.examples, scale.held)
    for seed in range(scale.seeds):
        for name, plan in plans(scale.small, scale.large, scale.peak, len(data.x)).items():
            results.get(f"rows | {name} | {seed}", lambda p=plan, s=seed: train_by(p, scale.network, data, s))


RUNS: dict[str, Callable[[Results, Scale], None]] = {
    "schedule": schedule, "noise": noise, "range": range_test, "speed": speed, "sweep": sweep, "rows": rows,
}  # fmt: skip


def exactly() -> None:
    """Let products of matrices be those of single precision, where an accelerator would round their factors."""
    if _jax():
        import jax

        jax.config.update("jax_default_matmul_precision", "highest")


def _jax() -> bool:
    return os.environ["KERAS_BACKEND"] == "jax"


def first_use() -> dict[str, Any]:
    """Use the device for the first time; return what it is, and the seconds that this and the imports took."""
    begun = time.perf_counter()
    import keras
    import numpy as np

    imported = time.perf_counter()
    square = keras.ops.ones((256, 256))
    keras.ops.convert_to_numpy(keras.ops.matmul(square, square))
    used = time.perf_counter()
    if keras.backend.backend() == "jax":
        import jax

        device, version = jax.devices()[0].device_kind, jax.__version__
        limit = (jax.devices()[0].memory_stats() or {}).get("bytes_limit")
    else:
        import torch

        there = torch.cuda.is_available()
        device, version = torch.cuda.get_device_name() if there else "cpu", torch.__version__
        limit = torch.cuda.mem_get_info()[1] if there else None
    return {
        "device": device, "memory": limit, "backend": f"{keras.backend.backend()} {version}",
        "keras": keras.__version__, "numpy": np.__version__, "imports": imported - begun, "first use": used - imported,
    }  # fmt: skip


def part(name: str, results: Results, scale: Scale) -> None:
    warnings.simplefilter("ignore")
    results.get("machine", first_use)
    import keras

    keras.utils.disable_interactive_logging()
    try:
        RUNS[name](results, scale)
    except OutOfTime:
        print(f"  {name}: its seconds are over; the same command goes on from here", flush=True)


def _missing(found: dict[str, Any], parts: list[str], scale: Scale) -> None:
    """Say which parts have come to nothing, or were cut short."""
    whole = {"schedule": 5, "noise": 2 * scale.repeats, "range": 5, "speed": 2, "rows": 8 * scale.seeds,
             "sweep": scale.seeds * len(FACTORS) * sum(size <= scale.examples for size in scale.sizes)}  # fmt: skip
    for name in parts:
        there = sum(each.startswith(f"{name} | ") for each in found)
        if there < whole[name]:
            print(f"{name}: {there} of {whole[name]} measured; the same command goes on")


def run(options: argparse.Namespace, path: Path) -> None:
    """Run each part in a process of its own, within the seconds."""
    end = time.monotonic() + options.seconds
    with tempfile.TemporaryDirectory() as kept:
        # What one seed or part has compiled the next one takes from there.
        environment = {"JAX_COMPILATION_CACHE_DIR": kept, **os.environ}
        for index, name in enumerate(options.parts):
            share = PARTS[name] / sum(PARTS[each] for each in options.parts[index:])
            seconds = max(0.0, end - time.monotonic()) * share
            print(f"{name}: at most {seconds:.0f} s", flush=True)
            # It begins nothing new behind three quarters of its seconds, and is ended behind all of them.
            command = [sys.executable, __file__, "--part", name, "--seconds", f"{0.75 * seconds}"]
            command += ["--results", str(path), *["--quick"] * options.quick]
            command += [] if options.data is None else ["--data", str(options.data)]
            try:
                subprocess.run(command, env=environment, timeout=seconds)
            except subprocess.TimeoutExpired:
                print(f"  {name}: ended, as its seconds are over", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=540, help="for all parts together")
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--results", type=Path)
    parser.add_argument("--data", type=Path, help="a folder of IDX files; without it, digits drawn anew")
    parser.add_argument("--quick", action="store_true", help="a small network and few seeds, for a try")
    parser.add_argument("--report", action="store_true", help="only print what was measured so far")
    parser.add_argument("--part", choices=PARTS, help=argparse.SUPPRESS)
    options = parser.parse_args()
    scale = (QUICK if options.quick else FULL)._replace(data=options.data)
    path = options.results or Path(f"gpu-{os.environ['KERAS_BACKEND']}{'-quick' * options.quick}.json")
    if options.part:
        part(options.part, Results(path, options.seconds), scale)
        return
    if not options.report:
        run(options, path)
    from gpu_report import Report

    found = Results(path).found
    Report(found, scale.network, scale.target).print()
    _missing(found, options.parts, scale)


if __name__ == "__main__":
    main()
