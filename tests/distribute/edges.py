"""What trainings over several devices refuse, notice and survive; `program.py` calls this, `test_equal.py` reads it."""

import contextlib
import tempfile
import warnings
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf

from kwarmup import Plan, cosine, distribute
from kwarmup.batches import Batches
from kwarmup.checkpoint import CheckpointWarning
from kwarmup.distribute import replicas

EXAMPLES = 44
X = np.random.default_rng(1).normal(size=(EXAMPLES, 3)).astype("float32")
Y = X.sum(axis=1, keepdims=True)
PLAN = Plan(learning_rate=0.1 * cosine(), batch_size=8, examples=EXAMPLES, epochs=3)


class OwnStep(keras.Sequential):
    def train_step(self, data):
        return super().train_step(data)


def model_in(strategy, kind=keras.Sequential, rate=None, **compiled):
    keras.utils.set_random_seed(0)
    with strategy.scope():
        model = kind([keras.layers.Dense(2, "tanh"), keras.layers.Dense(1)])
        optimizer = keras.optimizers.SGD(PLAN.learning_rate if rate is None else rate, momentum=0.9)
        model.compile(optimizer, "mse", **compiled)
    return model


class Unanswered(keras.callbacks.Callback):
    """Behind a pass, where metrics are read, another worker does not answer any more."""

    def on_epoch_end(self, epoch, logs=None):
        raise tf.errors.UnavailableError(None, None, "connection reset")


def refused(strategy, model, *data, **arguments):
    try:
        PLAN.on(strategy).fit(model, *(data or (X, Y)), verbose=0, **arguments)
    except (ValueError, RuntimeError) as error:
        return str(error)
    return "nothing"


class Seen(keras.metrics.Metric):
    """Counts examples in whole numbers of 32 bits."""

    def __init__(self):
        super().__init__(name="seen")
        self.number = self.add_variable((), "zeros", dtype="int32", name="number")

    def update_state(self, y, y_pred, sample_weight=None):
        self.number.assign(self.number + keras.ops.shape(y)[0])

    def result(self):
        return keras.ops.cast(self.number, "float32")


def whole_numbers(strategy):
    """Return what metrics whose state is whole numbers find in training and validation."""
    keras.utils.set_random_seed(0)
    with strategy.scope():
        model = keras.Sequential([keras.layers.Dense(2, "softmax")])
        metrics = [keras.metrics.MeanIoU(2, sparse_y_pred=False, name="overlap"), Seen()]
        model.compile(
            keras.optimizers.SGD(PLAN.learning_rate), "sparse_categorical_crossentropy", metrics=metrics
        )
    classes = (Y[:, 0] > 0).astype("int32")
    validation = (X[:9], classes[:9])
    history = PLAN.on(strategy).fit(model, X, classes, verbose=0, validation_data=validation).history
    return {name: [float(value) for value in values] for name, values in history.items()}


def refused_plainly(strategy, metrics=None, **arguments):
    model = model_in(strategy, rate=0.1, metrics=metrics)
    try:
        with distribute.plain_fit(model):
            model.fit(X, Y, shuffle=False, verbose=0, **arguments)
    except (ValueError, distribute.WorkerLost) as error:
        return str(error)
    return "nothing"


def of_words(strategy):
    """Return the losses of trainings on words: of Python, and of TensorFlow."""
    names = np.array(["one", "two", "three", "four"] * (EXAMPLES // 4), object)[:, None]
    losses = []
    for words in (names, tf.constant(names)):
        keras.utils.set_random_seed(0)
        with strategy.scope():
            layers = [
                keras.layers.StringLookup(vocabulary=["one", "two", "three"]),
                keras.layers.Embedding(4, 2),
                keras.layers.Flatten(),
                keras.layers.Dense(1),
            ]
            model = keras.Sequential([keras.Input((1,), dtype="string"), *layers])
            model.compile(keras.optimizers.SGD(PLAN.learning_rate), "mse")
        losses.append(PLAN.on(strategy).fit(model, words, Y, verbose=0).history["loss"])
    return losses


def on_devices(strategies):
    """Return what was said or found, by name."""
    two = strategies[2]
    outside = keras.metrics.MeanAbsoluteError(name="error")
    data = tf.data.Dataset.from_tensor_slices((X, Y)).batch(4)
    return {
        "jit_compile": refused(two, model_in(two, jit_compile=True)),
        "train_step": refused(two, model_in(two, OwnStep)),
        "max_device_batch": refused(two, model_in(two), max_device_batch=2),
        "no validation": refused(two, model_in(two), validation_data=(X[:0], Y[:0])),
        "validation of no batches": refused(two, model_in(two), validation_data=data.take(0)),
        "nothing, plainly": refused_plainly(two, validation_data=data.take(0)),
        "metrics": refused(two, model_in(two, metrics=[outside])),
        "metrics, plainly": refused_plainly(two, [outside]),
        "whole numbers": [whole_numbers(strategies[count]) for count in (1, 4)],
        "words": [losses for count in (1, 2) for losses in of_words(strategies[count])],
        "resumed": resumed(strategies),
        "rolled back": rolled_back(two),
    }


def resumed(strategies):
    """A training that goes on over one device and then over four, compared with one that is not disturbed."""
    whole = model_in(strategies[1])
    PLAN.fit(whole, X, Y, verbose=0)
    said = []
    with tempfile.TemporaryDirectory() as folder:
        for count, stop in ((2, 5), (1, 11), (4, None)):
            model = model_in(strategies[count])

            def end(batch, logs, model=model, stop=stop):
                if stop is not None and int(keras.ops.convert_to_numpy(model.optimizer.iterations)) == stop:
                    raise KeyboardInterrupt

            with warnings.catch_warnings(record=True) as seen:
                warnings.simplefilter("always", CheckpointWarning)
                with contextlib.suppress(KeyboardInterrupt):
                    PLAN.on(strategies[count]).fit(
                        model, X, Y, verbose=0, checkpoint_dir=folder, save_every=2,
                        callbacks=[keras.callbacks.LambdaCallback(on_train_batch_end=end)],
                    )  # fmt: skip
            said += [str(one.message) for one in seen if issubclass(one.category, CheckpointWarning)]
    apart = max(
        float(np.abs(a - b).max()) for a, b in zip(whole.get_weights(), model.get_weights(), strict=True)
    )
    return {"said": said, "apart": apart}


def rolled_back(strategy):
    """A learning rate that is far too high, and comes down where the loss is lost."""
    plan = PLAN.replace(learning_rate=1e12)
    model = model_in(strategy, rate=plan.learning_rate)
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always", CheckpointWarning)
        history = plan.on(strategy).fit(model, X, Y, verbose=0, checkpoint_dir=folder, roll_back=1e-14)
    return {"said": [str(one.message) for one in seen], "loss": history.history["loss"]}


def among_workers(strategy):
    """Return what this worker was told or has found, by name."""
    number = replicas.worker_number(strategy.cluster_resolver)
    found = {"examples": seen_of_files(strategy), "whole numbers": whole_numbers(strategy)}
    with tempfile.TemporaryDirectory() as folder:
        found["roll_back"] = refused(strategy, model_in(strategy), checkpoint_dir=folder, roll_back=0.5)
    found["lost"] = refused(strategy, model_in(strategy), callbacks=[Unanswered()])
    found["lost, plainly"] = refused_plainly(strategy, callbacks=[Unanswered()])
    own = tf.data.Dataset.from_tensor_slices((X, Y)).shuffle(EXAMPLES, seed=number)
    found["order"] = refused(strategy, model_in(strategy), own)
    found["arrays"] = refused(strategy, model_in(strategy), X[::-1] if number else X, Y)
    model = model_in(strategy, steps_per_execution=3)
    targets = Y.copy()
    targets[0] += number  # in the first step of the first execution alone
    try:
        with distribute.plain_fit(model):
            model.fit(X, targets, batch_size=8, shuffle=False, verbose=0)
        found["plain"] = "nothing"
    except ValueError as error:
        found["plain"] = str(error)
    return found


def seen_of_files(strategy):
    """Return the examples that this worker takes in two passes over two files, which all workers read."""
    with tempfile.TemporaryDirectory() as folder:
        files = [str(Path(folder) / name) for name in ("a.txt", "b.txt")]
        for file, numbers in zip(files, (range(30), range(30, EXAMPLES)), strict=True):
            Path(file).write_text("".join(f"{number}\n" for number in numbers))
        data = tf.data.Dataset.from_tensor_slices(files).interleave(tf.data.TextLineDataset)
        data = data.map(tf.strings.to_number).shuffle(16, seed=5)
        batches = Batches(PLAN.clock, data)
        shares, steps = replicas.shares(strategy), PLAN.clock.first_micro_batch(1)
        passes = [batches.between(epoch, epoch + 1, shares=shares).take(steps) for epoch in range(2)]
        return [[int(x) for piece in one for x in piece.data.numpy()] for one in passes]
