"""A training that can be killed anywhere and started again; run by `test_resume.py` as a program.

    python resume_program.py CHECKPOINTS RESULT [--kill MOMENT] [--follow | --gain]

writes all weights and the history to RESULT. MOMENT is `batch:N`, `fsync:N` or `rename:N`: at the N-th of
those the process kills itself, as `kill -9` would; `fsync` and `rename` lie within the writing of a
checkpoint. `seconds:S` kills it that long behind the first batch, wherever it is then. `term:N` sends
itself SIGTERM at the N-th batch. With `--follow` the batch size is not planned but follows the noise scale; with
`--gain` it is four times that of a plan, at the pace of AdaScale.
"""

import argparse
import json
import os
import signal
import sys
import threading
import warnings
from collections.abc import Callable
from pathlib import Path

import keras
import numpy as np

from kwarmup import SGD, AdaScale, Plan, PlateauDecay, Profile, cosine, follow_noise, hold, linear, warmup
from kwarmup.scaled import factor_of

EXAMPLES, EPOCHS, SAVE_EVERY = 240, 4, 2


def data(seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(seed)
    x = random.normal(size=(EXAMPLES, 6)).astype("float32")
    return x, (x[:, :1] * x[:, 1:2] + random.normal(0, 0.1, size=(EXAMPLES, 1))).astype("float32")


def plan(follow: bool = False, gain: bool = False) -> Plan:
    if gain:
        return Plan(
            learning_rate=0.01 * (warmup(epochs=0.5) >> cosine()), batch_size=6, examples=EXAMPLES, epochs=2
        )
    # JAX compiles each batch size anew.
    ramp = hold(2, epochs=1) >> hold(4) if keras.backend.backend() == "jax" else linear(to=4, epochs=2)
    return Plan(
        learning_rate=0.02 * (warmup(epochs=1, start=0.1) >> cosine(to=0.1)),
        batch_size=follow_noise(start=6, max=48) if follow else 12 * (hold(epochs=1) >> ramp),
        examples=EXAMPLES,
        epochs=EPOCHS,
        scaling=0.5,
    )


def model(plan: Plan, momentum: Profile | float) -> keras.Model:
    """Not built, with dropout and batch statistics."""
    made = keras.Sequential(
        [
            keras.layers.Dense(16, activation="relu"),
            keras.layers.BatchNormalization(),
            keras.layers.Dropout(0.3),
            keras.layers.Dense(1),
        ]
    )
    made.compile(SGD(plan.learning_rate, momentum=momentum), "mse", metrics=["mae"])
    return made


class At(keras.callbacks.Callback):
    """Acts at the n-th batch of this process."""

    batches = 0  # counted in the class: what is counted in the callback would go on in the next process

    def __init__(self, number: int, act: Callable[[], None]):
        super().__init__()
        self.number, self.act = number, act

    def on_train_batch_end(self, batch, logs=None):
        At.batches += 1
        if At.batches == self.number:
            self.act()


def kill() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def kill_at_call(name: str, number: int) -> None:
    """Let the n-th call of a function of `os` kill the process, in front of it or, for even n, behind it."""
    real, calls = getattr(os, name), [0]

    def counted(*arguments):
        calls[0] += 1
        if calls[0] == number and number % 2:
            kill()
        result = real(*arguments)
        if calls[0] == number:
            kill()
        return result

    setattr(os, name, counted)


def run(given: list[str]) -> None:
    """Train, in a process that has computed nothing yet."""
    warnings.simplefilter("error")
    warnings.filterwarnings("ignore", "__array__ implementation", DeprecationWarning)
    if keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        tf.config.experimental.enable_op_determinism()
    parser = argparse.ArgumentParser()
    parser.add_argument("checkpoints")
    parser.add_argument("result", type=Path)
    parser.add_argument("--kill", default="never:0")
    parser.add_argument("--follow", action="store_true")
    parser.add_argument("--gain", action="store_true")
    arguments = parser.parse_args(given)
    where, number = arguments.kill.split(":")
    at = At(-1, kill)
    if where == "batch":
        at = At(int(number), kill)
    elif where == "term":
        at = At(int(number), lambda: os.kill(os.getpid(), signal.SIGTERM))
    elif where == "seconds":
        at = At(1, threading.Timer(float(number), kill).start)
    elif where != "never":
        kill_at_call(where, int(number))
    x, y = data()
    stop = keras.callbacks.EarlyStopping("val_loss", patience=2, min_delta=1e-4, restore_best_weights=True)
    # Demanding, so that it fires several times.
    plateau = PlateauDecay("loss", factor=0.8, patience=2, min_delta=0.1, steps=5)
    today = plan(arguments.follow, arguments.gain)
    gain = AdaScale(scale=4)
    momentum = 0.95 * (linear(to=0.85, epochs=1) >> cosine(to=1))
    # What is restored must not lean on a seed: behind a kill the model starts with other weights.
    begun = list(Path(arguments.checkpoints).glob("step-*"))
    keras.utils.set_random_seed(int.from_bytes(os.urandom(4), "little") if begun else 0)
    trained = model(today, 0.9 if arguments.gain else momentum)
    history = today.fit(
        trained,
        x,
        y,
        validation_data=data(1),
        callbacks=[gain, plateau, at] if arguments.gain else [plateau, stop, at],
        verbose=0,
        checkpoint_dir=arguments.checkpoints,
        save_every=SAVE_EVERY,
    )
    result = {
        "weights": [
            keras.ops.convert_to_numpy(v).tobytes().hex()
            for v in [*trained.variables, *trained.optimizer.variables]
        ],
        "history": history.history,
        "epoch": history.epoch,
        "best": None if arguments.gain else [stop.best, stop.best_epoch, stop.wait],
        "plateau": [plateau.best, plateau.bad_checks, factor_of(trained)],
        "decisions": history.growth.decisions if arguments.follow else [],
    }
    arguments.result.write_text(json.dumps(result))


if __name__ == "__main__":
    run(sys.argv[1:])
    sys.exit(0)
