"""Searches in processes that are killed, interrupted, or have several devices; forked by `forks.py`."""

import contextlib
import json
import os
import signal
import sys
import warnings
from pathlib import Path

import keras
import matplotlib.figure  # noqa: F401
import numpy as np
import tensorflow as tf
from sliding import PLAN, X, Y, build

import kwarmup as kw
from kwarmup import cli
from kwarmup.cli import tuning  # noqa: F401
from kwarmup.searches.outcome import FINISHED

RANDOM = np.random.default_rng(0)
INPUTS = RANDOM.normal(size=(61, 3)).astype("float32")  # a prime: the last batch is shared unevenly
TARGETS = (INPUTS[:, :1] * INPUTS[:, 1:2]).astype("float32")


def run(arguments):
    # As a job in the background of a shell, a process may have been told to ignore it.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    warnings.simplefilter("ignore")
    what, *rest = arguments
    {"command": command, "stuck": stuck, "devices": devices}[what](*rest)


def command(folder, settings, *arguments):
    """Run `kwarmup` in a folder, with settings for what is in it."""
    os.chdir(folder)
    os.environ |= json.loads(settings)
    sys.path.insert(0, folder)
    with open("out.txt", "w", buffering=1) as out, contextlib.redirect_stdout(out):
        cli.main(list(arguments), prog_name="kwarmup")


class Kills(keras.callbacks.Callback):
    """Ends the process in the first trial, whenever it begins."""

    def __init__(self, folder):
        super().__init__()
        self.folder = folder

    def on_train_begin(self, logs=None):
        if not (Path(self.folder) / "trial_1").exists():
            os.kill(os.getpid(), signal.SIGKILL)


def stuck(folder):
    tuner = kw.search(
        build,
        PLAN.replace(epochs=2),
        peak=(0.01, 1),
        batch_size=[40],
        tuner="random",
        max_trials=2,
        directory=folder,
    )
    tuner.search(X, Y, validation_data=(X, Y), verbose=0, callbacks=[Kills(folder)])
    found = tuner.results()
    print(found.table())
    assert [trial.status for trial in found.trials] == ["failed", FINISHED]


def devices(count, folder):
    """Write what comes of a search by Hyperband, whose trials run on so many logical devices."""
    cpu = tf.config.list_physical_devices("CPU")[0]
    tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * int(count))
    strategy = kw.distribute.strategy()
    ways = {"argument": ({"distribution_strategy": strategy}, contextlib.nullcontext)}
    if int(count) > 1:
        ways["build"] = {}, strategy.scope
    found = {"replicas": strategy.num_replicas_in_sync, "ways": {}}
    plan = kw.Plan(
        learning_rate=kw.warmup(epochs=1, start=0.1) >> kw.cosine(), batch_size=20, examples=61, epochs=2
    )
    for way, (more, scope) in ways.items():

        def dense(scope=scope):
            with scope():
                model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(1)])
                model.compile(keras.optimizers.SGD(momentum=0.9), "mse")
            return model

        # The last of three goes on from one of the first two.
        arguments = dict(peak=(0.01, 0.3), tuner="hyperband", factor=2, max_trials=3 if more else 1, **more)
        tuner = kw.search(dense, plan, batch_size=[20], directory=Path(folder) / way, **arguments)
        tuner.search(INPUTS, TARGETS, validation_data=(INPUTS, TARGETS), verbose=0)
        trials = tuner.results().trials
        (model,) = tuner.get_best_models()
        found["ways"][way] = {
            "trials": [[t.status, t.values, t.score, t.epochs, repr(t.plan)] for t in trials],
            "messages": [t.message for t in trials],
            "weights": [weight.tolist() for weight in model.get_weights()],
            "replicas": getattr(model.distribute_strategy, "num_replicas_in_sync", 1),
        }
        if int(count) > 1:
            try:
                kw.search(
                    dense, plan, batch_size=[20, 25], directory=Path(folder) / f"odd {way}", **arguments
                )
            except ValueError as error:
                found["ways"][way]["odd"] = str(error)
    (Path(folder) / "found.json").write_text(json.dumps(found))
