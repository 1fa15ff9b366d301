"""Trainings by two workers that can be killed anywhere and started again; run by `test_faults.py` as a program.

    kwarmup launch --workers 2 -- python faulty.py FOLDER [--kill RESTART:WORKER:TRAINING:BATCH ...]
        [--end RESTART:WORKER:TRAINING:BATCH] [--pause RESTART:TRAINING:BATCH] [--only TRAINING]

trains three times: `planned` by `plan.fit`, `checkpoints` by Keras's own `fit` with `Checkpoints`, and `backup` by the
same with Keras's `BackupAndRestore`. Each writes its checkpoints to a folder of its name in FOLDER, and the weights of
each worker to an .npz file there. `--kill` lets a worker kill itself, as `kill -9` would, at a batch of the start that
follows so many restarts; `--end` lets it send itself SIGTERM. `--pause` lets all workers say "paused" and sleep at
each batch of such a start from there on, so that there is time to end them. `--only` trains one of them alone.
"""

import argparse
import os
import shutil
import signal
import tempfile
import time
import warnings
from pathlib import Path

import keras
import numpy as np

from kwarmup import SGD, Checkpoints, Plan, PlateauDecay, cosine, distribute, hold, linear, warmup
from kwarmup.distribute import replicas

RESTARTS = os.environ.get("KWARMUP_RESTARTS", "0")
EXAMPLES = 90
RANDOM = np.random.default_rng(0)
X = RANDOM.normal(size=(EXAMPLES, 6)).astype("float32")
Y = (X[:, :1] * X[:, 1:2]).astype("float32")


class At(keras.callbacks.Callback):
    """Does to a training what the command line asks for.

    Args:
        training: its name.
        worker: the number of this one.
        asked: of the command line.
    """

    def __init__(self, training, worker, asked):
        super().__init__()
        self.signals = {
            int(batch): number
            for number, all_of_them in ((signal.SIGKILL, asked.kill), (signal.SIGTERM, asked.end))
            for *where, batch in (one.split(":") for one in all_of_them)
            if where == [RESTARTS, str(worker), training]
        }
        *where, batch = asked.pause.split(":")
        self.pause = int(batch) if where == [RESTARTS, training] else None

    def on_train_begin(self, logs=None):
        At.batches = 0

    def on_train_batch_end(self, batch, logs=None):
        At.batches += 1
        if At.batches in self.signals:
            os.kill(os.getpid(), self.signals[At.batches])
        if self.pause is not None and At.batches >= self.pause:
            print("paused", flush=True)
            time.sleep(0.3)


def planned(strategy, folder, at):
    plan = Plan(
        learning_rate=0.05 * (warmup(epochs=1, start=0.1) >> cosine(to=0.1)),
        batch_size=6 * (hold(epochs=1) >> hold(2)),
        examples=EXAMPLES,
        epochs=3,
        scaling=0.5,
    ).on(strategy)
    with strategy.scope():
        model = keras.Sequential(
            [keras.layers.Dense(4, "tanh"), keras.layers.Dropout(0.2), keras.layers.Dense(1)]
        )
        model.compile(SGD(plan.learning_rate, momentum=0.9 * linear(to=0.8)), "mse", metrics=["mae"])
    history = plan.fit(
        model,
        X,
        Y,
        verbose=0,
        validation_data=(X[:31], Y[:31]),
        callbacks=[PlateauDecay("loss", factor=0.8, patience=1, min_delta=0.5, steps=4), at],
        checkpoint_dir=folder,
        save_every=4,
    )
    return model, history.history


def checkpoints(strategy, folder, at):
    plan = Plan(learning_rate=0.05 * cosine(), batch_size=8, examples=EXAMPLES, epochs=2).on(strategy)
    with strategy.scope():
        model = keras.Sequential(
            [keras.layers.Dense(4, "tanh"), keras.layers.Dropout(0.2), keras.layers.Dense(1)]
        )
        model.compile(SGD(plan.learning_rate, momentum=0.9), "mse", metrics=["mae"])
    training = Checkpoints(folder, plan, model, [at], save_every=4, verbose=0)
    with distribute.plain_fit(model):
        batches = training.batches(X, Y)
        history = model.fit(batches, validation_data=(X[:31], Y[:31]), **training.fit_arguments)
    return model, history.history


def backup(strategy, folder, at):
    """Goes on behind the last whole epoch, without what dropout drew and what callbacks know."""
    mine = folder
    if not distribute.is_chief(strategy):
        # All go on from what the chief has kept: of two workers one may have been killed before it kept the same.
        mine = Path(tempfile.mkdtemp()) / "backup"
        if folder.exists():
            shutil.copytree(folder, mine)
    with strategy.scope():
        model = keras.Sequential([keras.Input((6,)), keras.layers.Dense(4, "tanh"), keras.layers.Dense(1)])
        model.compile(keras.optimizers.SGD(0.05, momentum=0.9), "mse")
    callbacks = [keras.callbacks.BackupAndRestore(mine, double_checkpoint=True), at]
    with distribute.plain_fit(model):
        model.fit(X, Y, batch_size=16, epochs=3, shuffle=False, callbacks=callbacks, verbose=0)
    return model, {}


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("--kill", nargs="*", default=[])
    parser.add_argument("--end", nargs="*", default=[])
    parser.add_argument("--pause", default="::0")
    parser.add_argument("--only", default="")
    arguments = parser.parse_args()
    strategy = distribute.strategy(timeout=60)
    worker = replicas.worker_number(strategy.cluster_resolver)
    for training in (planned, checkpoints, backup):
        name = training.__name__
        if arguments.only not in ("", name):
            continue
        # In a training that goes on, what is restored must not lean on a seed.
        begun = (arguments.folder / name).exists()
        keras.utils.set_random_seed(int(RESTARTS) if begun else 0)
        model, history = training(strategy, arguments.folder / name, At(name, worker, arguments))
        variables = [*model.variables, *model.optimizer.variables]
        arrays = {
            str(index): keras.ops.convert_to_numpy(variable) for index, variable in enumerate(variables)
        }
        arrays |= {key: np.array(values) for key, values in history.items()}
        np.savez(arguments.folder / f"{name}-{worker}.npz", **arrays)


if __name__ == "__main__":
    warnings.simplefilter("error")
    warnings.filterwarnings("ignore", "__array__ implementation", DeprecationWarning)
    main()
