"""A training by two workers that can be killed anywhere and started again; run by `test_faults.py` as a program.

    kwarmup launch --workers 2 -- python faulty.py CHECKPOINTS RESULT [--kill RESTART:WORKER:BATCH ...]
        [--pause RESTART:BATCH]

writes the weights of each worker to RESULT, an .npz file with its number in place of `{}`. `--kill` lets a
worker kill itself, as `kill -9` would, at a batch of the start that follows so many restarts. `--pause` lets all
workers say "paused" and sleep at each batch of such a start from there on, so that there is time to end them.
"""

import argparse
import os
import signal
import time
import warnings

import keras
import numpy as np

from kwarmup import SGD, Plan, PlateauDecay, cosine, distribute, hold, linear, warmup
from kwarmup.distribute import replicas

EXAMPLES = 90
RANDOM = np.random.default_rng(0)
X = RANDOM.normal(size=(EXAMPLES, 6)).astype("float32")
Y = (X[:, :1] * X[:, 1:2]).astype("float32")


class At(keras.callbacks.Callback):
    def __init__(self, kills, worker, pause):
        super().__init__()
        self.kills = [batch for batch, number in kills if number == worker]
        self.pause = pause

    def on_train_begin(self, logs=None):
        At.batches = 0

    def on_train_batch_end(self, batch, logs=None):
        At.batches += 1
        if At.batches in self.kills:
            os.kill(os.getpid(), signal.SIGKILL)
        if self.pause and At.batches >= self.pause:
            print("paused", flush=True)
            time.sleep(0.3)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("checkpoints")
    parser.add_argument("result")
    parser.add_argument("--kill", nargs="*", default=[])
    parser.add_argument("--pause", default="0:0")
    arguments = parser.parse_args()
    restarts = os.environ.get("KWARMUP_RESTARTS", "0")
    kills = [
        tuple(map(int, kill.split(":")[:0:-1])) for kill in arguments.kill if kill.split(":")[0] == restarts
    ]
    restart, _, pause = arguments.pause.partition(":")
    pause = int(pause) * (restart == restarts)
    strategy = distribute.strategy(timeout=60)
    worker = replicas.worker_number(strategy.cluster_resolver)
    plan = Plan(
        learning_rate=0.05 * (warmup(epochs=1, start=0.1) >> cosine(to=0.1)),
        batch_size=6 * (hold(epochs=1) >> hold(2)),
        examples=EXAMPLES,
        epochs=3,
        scaling=0.5,
    ).on(strategy)
    # What is restored must not lean on a seed.
    keras.utils.set_random_seed(int(restarts))
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
        callbacks=[
            PlateauDecay("loss", factor=0.8, patience=1, min_delta=0.5, steps=4),
            At(kills, worker, pause),
        ],
        checkpoint_dir=arguments.checkpoints,
        save_every=4,
    )
    variables = [*model.variables, *model.optimizer.variables]
    arrays = {str(index): keras.ops.convert_to_numpy(variable) for index, variable in enumerate(variables)}
    np.savez(
        arguments.result.format(worker), **arrays, **{k: np.array(v) for k, v in history.history.items()}
    )


if __name__ == "__main__":
    warnings.simplefilter("error")
    warnings.filterwarnings("ignore", "__array__ implementation", DeprecationWarning)
    main()
