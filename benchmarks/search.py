"""`kw.search` beside plain keras-tuner: how many trials until batch size and learning rate are found.

    python benchmarks/search.py --quick     # half a minute, to see that it runs
    python benchmarks/search.py             # random search and Bayesian, from a table of outcomes
    python benchmarks/search.py --train 3   # and trained anew in each trial, by Keras, with 3 seeds

Every training is kept in the results file at once, so that a benchmark that was ended goes on where it stood.

Searched are a batch size of 16 to 512 and a learning rate of 1e-4 to 10, by the same kind of tuner with as many
trials. All trainings see as many examples. What differs is the space, who searches it, and the schedule:

- plain, constant: batch size and learning rate independent, a constant learning rate, as keras-tuner's guides have it;
- plain, cosine: the same with a cosine down to 0;
- plain space, our search: the same, but the oracle is that of `kw.search`;
- our space, keras-tuner's search: the learning rate at batch size 64, carried by the linear rule, the cosine, and the
  oracle of keras-tuner;
- ours, without warmup: our space and our oracle, with the cosine;
- ours: the same with a tenth of warmup before the cosine;
- ours, from find_lr: the same with what `kwarmup tune` does where nobody says a range: from a third of what a range
  test suggests, which comes first, to where the test diverges. What the test costs is said beside it, in trials.

The outcomes of the table are those of a network of one hidden layer, trained by SGD with momentum 0.9 on scikit-learn's
digits, and on 4,000 images of Fashion-MNIST where Debian's package is installed: validation accuracy, the mean over
five trainings, at 23 learning rates for each batch size and schedule, and along a line between them. So a search is
repeated with many seeds, and none is drowned in the noise of trainings.

Reported are the best validation accuracy after 5, 10 and 20 trials, the median over the seeds, and the trials until it
is within 0.5 points of the best of the whole table; "-" where that takes more than all trials. Target: half as
many as plain.
"""

from __future__ import annotations

import argparse
import gzip
import json
import os
import tempfile
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import keras_tuner
import numpy as np
from rich.progress import track
from rich.table import Table
from sklearn.datasets import load_digits
from timing import console as make_console
from timing import where

import kwarmup as kw
from kwarmup.searches.space import peak_range

SIZES = (16, 32, 64, 128, 256, 512)
LOW, HIGH, REFERENCE = 1e-4, 10.0, 64
RATES = np.geomspace(LOW * min(SIZES) / REFERENCE, HIGH * max(SIZES) / REFERENCE, 23)
HIDDEN, MOMENTUM, EPOCHS, TRIALS, WITHIN = 64, 0.9, 10, 20, 0.005
console = make_console()
FASHION = Path("/usr/share/datasets/fashion-mnist")
T = TypeVar("T")


class Kept:
    """What was measured, in a file; measured only where it is not there."""

    def __init__(self, path: Path | None):
        self.path = path
        self.found = json.loads(path.read_text()) if path is not None and path.exists() else {}

    def once(self, key: str, measure: Callable[[], T]) -> T:
        """Return what is kept under a key, or measure it and keep it."""
        if key not in self.found:
            self.found[key] = measure()
            if self.path is not None:
                beside = self.path.with_suffix(".new")
                beside.write_text(json.dumps(self.found, indent=0))
                beside.replace(self.path)
        found: T = self.found[key]
        return found


class Data(NamedTuple):
    """Training and validation examples."""

    x: np.ndarray
    y: np.ndarray
    x_validation: np.ndarray
    y_validation: np.ndarray


class Arm(NamedTuple):
    """A way to search: the schedule, whether the rule carries the learning rate, whose oracle, after a range test."""

    schedule: str
    carried: bool
    our_search: bool
    after_test: bool = False


SCHEDULES = {
    "constant": kw.hold(), "cosine": kw.cosine(), "warmup, cosine": kw.warmup(fraction=0.1) >> kw.cosine()
}  # fmt: skip
ARMS = {
    "plain, constant": Arm("constant", False, False),
    "plain, cosine": Arm("cosine", False, False),
    "plain space, our search": Arm("cosine", False, True),
    "our space, keras-tuner's search": Arm("cosine", True, False),
    "ours, without warmup": Arm("cosine", True, True),
    "ours": Arm("warmup, cosine", True, True),
    "ours, from find_lr": Arm("warmup, cosine", True, True, True),
}
#: Those that are trained in each trial too, where that is asked for.
TRAINED = ("plain, cosine", "ours, from find_lr")


def digits() -> Data:
    x, y = load_digits(return_X_y=True)
    order = np.random.default_rng(0).permutation(len(x))
    x, y = (x[order] / 16).astype("float32"), y[order]
    return Data(x[400:], y[400:], x[:400], y[:400])


def fashion() -> Data:
    images = np.frombuffer(
        gzip.decompress((FASHION / "train-images-idx3-ubyte.gz").read_bytes()), "uint8", offset=16
    )
    labels = np.frombuffer(
        gzip.decompress((FASHION / "train-labels-idx1-ubyte.gz").read_bytes()), "uint8", offset=8
    )
    x, y = (images.reshape(-1, 784)[:5_000] / 255).astype("float32"), labels[:5_000].astype("int64")
    return Data(x[1_000:], y[1_000:], x[:1_000], y[:1_000])


def trained(data: Data, size: int, profile: Any, seed: int) -> np.ndarray:
    """Validation accuracy behind a training at each of RATES, all of them side by side on the same batches."""
    random = np.random.default_rng(seed)
    count, features, classes = len(RATES), data.x.shape[1], 10
    one = [
        random.normal(0, np.sqrt(2 / features), (features, HIDDEN)), np.zeros(HIDDEN),
        random.normal(0, np.sqrt(1 / HIDDEN), (HIDDEN, classes)), np.zeros(classes),
    ]  # fmt: skip
    weights = [np.repeat(part[np.newaxis], count, 0).astype("float32") for part in one]
    velocity = [np.zeros_like(part) for part in weights]
    steps = -(-len(data.x) // size)
    clock = kw.Clock(examples=len(data.x), epochs=EPOCHS, batch_size=size)
    scale = kw.Curve(profile, clock)(np.arange(EPOCHS * steps))
    with np.errstate(all="ignore"):  # what diverges is one of the outcomes
        for step, factor in enumerate(scale):
            if step % steps == 0:
                order = random.permutation(len(data.x))
            rows = order[step % steps * size : (step % steps + 1) * size]
            x, y = data.x[rows], data.y[rows]
            hidden = np.maximum(x @ weights[0] + weights[1][:, np.newaxis], 0)
            error = _softmax(hidden @ weights[2] + weights[3][:, np.newaxis])
            error[:, np.arange(len(y)), y] -= 1
            error /= len(y)
            back = (error @ weights[2].transpose(0, 2, 1)) * (hidden > 0)
            gradients = [x.T @ back, back.sum(1), hidden.transpose(0, 2, 1) @ error, error.sum(1)]
            for part, speed, gradient in zip(weights, velocity, gradients, strict=True):
                rate = (RATES * factor).astype("float32").reshape(-1, *[1] * (part.ndim - 1))
                speed *= MOMENTUM
                speed -= rate * gradient
                part += speed
        hidden = np.maximum(data.x_validation @ weights[0] + weights[1][:, np.newaxis], 0)
        outputs = hidden @ weights[2] + weights[3][:, np.newaxis]
    right = (outputs.argmax(-1) == data.y_validation).mean(-1)
    return np.where(np.isfinite(outputs).all((1, 2)), right, 0.0)


def _softmax(z: np.ndarray) -> np.ndarray:
    e = np.exp(z - z.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


def table(data: Data, seeds: int, name: str, kept: Kept) -> dict[str, dict[int, np.ndarray]]:
    """Outcomes by schedule and batch size, at each of RATES."""
    jobs = [(schedule, size) for schedule in SCHEDULES for size in SIZES]
    found: dict[str, dict[int, np.ndarray]] = {schedule: {} for schedule in SCHEDULES}
    for schedule, size in track(jobs, f"outcomes of {name}", console=console):
        profile = SCHEDULES[schedule]
        rows = []
        for seed in range(seeds):

            def measure(size: int = size, profile: Any = profile, seed: int = seed) -> list[float]:
                return [round(float(value), 6) for value in trained(data, size, profile, seed)]

            rows.append(kept.once(f"table of {name}, {schedule}, {size}, seed {seed}", measure))
        found[schedule][size] = np.mean(rows, axis=0)
    return found


def range_test(data: Data, name: str, kept: Kept) -> kw.Sweep:
    """What `find_lr` measures on the network, at the batch size that peaks are told at."""

    def measure() -> str:
        keras.utils.set_random_seed(0)
        return kw.find_lr(_network(data, 0.01), data.x, data.y, batch_size=REFERENCE, seed=0).to_json()

    return kw.Sweep.from_json(kept.once(f"range test on {name}", measure))


def searched(
    arm: str, tuner: str, seed: int, judge: Callable[[int, float], float], folder: str, sweep: kw.Sweep
) -> list[float]:
    """The outcome of each trial of a search; `judge` tells it from batch size and learning rate."""
    if ARMS[arm].our_search:
        oracle = _ours(ARMS[arm], tuner, seed, folder, sweep)
    else:
        oracle = _plain(tuner, seed, folder)
    scores = []
    while (trial := oracle.create_trial("tuner0")).status == "RUNNING":
        values = trial.hyperparameters.values
        size = values["batch_size"]
        rate = values["peak"] * (size / REFERENCE if ARMS[arm].carried else 1)
        scores.append(judge(size, rate))
        oracle.update_trial(trial.trial_id, {"val_accuracy": scores[-1]})
        trial.status = "COMPLETED"
        oracle.end_trial(trial)
    return scores


def _plain(tuner: str, seed: int, folder: str) -> Any:
    hp = keras_tuner.HyperParameters()
    hp.Float("peak", LOW, HIGH, sampling="log")
    hp.Choice("batch_size", list(SIZES))
    kind = {"random": keras_tuner.RandomSearch, "bayesian": keras_tuner.BayesianOptimization}[tuner]
    made = kind(
        _build, objective=keras_tuner.Objective("val_accuracy", "max"), max_trials=TRIALS, seed=_apart(seed),
        hyperparameters=hp, directory=folder, project_name="plain",
    )  # fmt: skip
    made.oracle.verbose = 0
    return made.oracle


def _ours(arm: Arm, tuner: str, seed: int, folder: str, sweep: kw.Sweep) -> Any:
    plan = kw.Plan(learning_rate=kw.cosine(), batch_size=REFERENCE, examples=1_000, epochs=EPOCHS)
    made = kw.search(
        _build, plan, peak=peak_range(sweep) if arm.after_test else (LOW, HIGH), batch_size=SIZES,
        scaling=1 if arm.carried else 0, sweep=sweep if arm.after_test else None, tuner=tuner, max_trials=TRIALS,
        objective=keras_tuner.Objective("val_accuracy", "max"), directory=Path(folder) / "ours", seed=seed,
    )  # fmt: skip
    made.oracle.verbose = 0
    return made.oracle


def _apart(seed: int) -> int:
    # keras-tuner counts its seed up with each value that it draws, so that seeds in a row share their trials.
    return 1 + 10_000 * seed


def _build(hp: Any = None) -> keras.Model:
    model = keras.Sequential([keras.Input((1,)), keras.layers.Dense(1)])
    model.compile("sgd", "mse")
    return model


def from_table(name: str, data: Data, tuners: dict[str, int], repeats: int, kept: Kept) -> None:
    """Search the table of outcomes with each tuner and so many seeds, and print what came of it."""
    outcomes = table(data, repeats, name, kept)
    sweep = range_test(data, name, kept)
    best = max(rows.max() for by_size in outcomes.values() for rows in by_size.values())
    console.print(f"{name}: the best of the whole table is {100 * best:.2f} % validation accuracy.")
    cost = REFERENCE * sum(map(len, sweep.losses)) / (len(data.x) * EPOCHS)
    console.print(
        f"  find_lr: {sweep.suggest()}, diverges at {sweep.divergence()}, batch size {REFERENCE}, the examples of "
        f"{cost:.1f} trials"
    )
    for schedule, by_size in outcomes.items():
        peaks = ", ".join(f"{size}: {RATES[rows.argmax()]:.2g}" for size, rows in by_size.items())
        console.print(f"  {schedule}: best learning rates {peaks}")
    for tuner, seeds in tuners.items():
        rows = {}
        for arm in ARMS:

            def judge(size: int, rate: float, arm: str = arm) -> float:
                return float(np.interp(np.log(rate), np.log(RATES), outcomes[ARMS[arm].schedule][size]))

            found = []
            for seed in track(range(seeds), f"{tuner}, {arm}", console=console, transient=True):
                with tempfile.TemporaryDirectory() as folder:
                    found.append(searched(arm, tuner, seed, judge, folder, sweep))
            rows[arm] = np.maximum.accumulate(np.array(found), axis=1)
        _print(f"{name}, {tuner}, {seeds} seeds", rows, best)


def _print(title: str, rows: dict[str, np.ndarray], best: float) -> None:
    shown = Table(title=title)
    for column in (
        "search",
        "after 5",
        "after 10",
        "after 20",
        "trials to 0.5 points",
        "quartiles",
        "came there",
    ):
        shown.add_column(column, justify="left" if column == "search" else "right")
    needed = {}
    for arm, found in rows.items():
        there = found >= best - WITHIN
        needed[arm] = np.where(there.any(1), there.argmax(1) + 1, TRIALS + 1)
        low, middle, high = np.quantile(needed[arm], (0.25, 0.5, 0.75))
        shown.add_row(
            arm, *(f"{100 * np.median(found[:, n - 1]):.2f} %" for n in (5, 10, 20)), _trials(middle),
            f"{_trials(low)} to {_trials(high)}", f"{there.any(1).sum()} of {len(found)}",
        )  # fmt: skip
    console.print(shown)
    plain = np.median(needed["plain, cosine"])
    for arm in (arm for arm in rows if ARMS[arm].our_search):
        ratio = plain / np.median(needed[arm])
        least = "at least " if plain > TRIALS else ""
        console.print(f"  plain, cosine needs {least}{ratio:.2f} times the trials of: {arm}")


def _trials(number: float) -> str:
    return "-" if number > TRIALS else f"{number:g}"


def by_training(sets: dict[str, Data], seeds: int, kept: Kept) -> None:
    """The same with each trial trained by Keras, for as many seeds as one has the patience for."""
    sweeps = {name: range_test(data, name, kept) for name, data in sets.items()}
    rows: dict[str, dict[str, list[list[float]]]] = {name: {arm: [] for arm in TRAINED} for name in sets}
    jobs = [(seed, name, arm) for seed in range(seeds) for name in sets for arm in TRAINED]
    for seed, name, arm in track(jobs, "searches by training", console=console):

        def judge(size: int, rate: float, arm: str = arm, seed: int = seed, name: str = name) -> float:
            peak, schedule = float(f"{rate:.4g}"), ARMS[arm].schedule
            return kept.once(
                f"trained on {name}, {schedule}, {size}, {peak}, seed {seed}",
                lambda: _keras(sets[name], size, peak * SCHEDULES[schedule], seed),
            )

        with tempfile.TemporaryDirectory() as folder:
            rows[name][arm].append(searched(arm, "bayesian", seed, judge, folder, sweeps[name]))
    for name, by_arm in rows.items():
        found = {arm: np.maximum.accumulate(np.array(scores), axis=1) for arm, scores in by_arm.items()}
        best = max(one.max() for one in found.values())
        console.print(f"{name}: the best of all trainings has {100 * best:.2f} % validation accuracy.")
        _print(f"{name}, trained, bayesian, {seeds} seeds", found, best)


def _keras(data: Data, size: int, profile: Any, seed: int) -> float:
    keras.utils.set_random_seed(seed)
    plan = kw.Plan(learning_rate=profile, batch_size=size, examples=len(data.x), epochs=EPOCHS)
    model = _network(data, plan.learning_rate)
    try:
        plan.fit(model, data.x, data.y, seed=seed, verbose=0)
    except kw.LossNotFinite:
        return 0.0
    score = model.evaluate(data.x_validation, data.y_validation, verbose=0, return_dict=True)["accuracy"]
    keras.backend.clear_session()
    return score


def _network(data: Data, learning_rate: Any) -> keras.Model:
    layers = [
        keras.Input(data.x.shape[1:]),
        keras.layers.Dense(HIDDEN, "relu"),
        keras.layers.Dense(10, "softmax"),
    ]
    model = keras.Sequential(layers)
    optimizer = keras.optimizers.SGD(learning_rate, momentum=MOMENTUM)
    model.compile(optimizer, "sparse_categorical_crossentropy", metrics=["accuracy"])
    return model


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="digits and random search alone")
    parser.add_argument(
        "--train",
        type=int,
        default=0,
        metavar="SEEDS",
        help="also train anew in each trial of so many searches",
    )
    warnings.filterwarnings(
        "ignore", module="sklearn"
    )  # of keras-tuner's process, which few points do not settle
    parser.add_argument("--results", type=Path, default=Path("search.json"))
    arguments = parser.parse_args()
    kept = Kept(None if arguments.quick else arguments.results)
    console.print(where())
    sets = {"digits": digits()}
    if FASHION.exists() and not arguments.quick:
        sets["Fashion-MNIST, 4,000"] = fashion()
    for name, data in sets.items():
        tuners = {"random": 20} if arguments.quick else {"random": 100, "bayesian": 20}
        from_table(name, data, tuners, 1 if arguments.quick else 5, kept)
    if arguments.train:
        by_training(sets, arguments.train, kept)


if __name__ == "__main__":
    main()
