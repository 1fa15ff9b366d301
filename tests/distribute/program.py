"""Trainings that must come to the same weights on any number of devices; run as a program.

    python program.py RESULT

trains on one device and over two and four of this process, writes weights, optimizer variables and histories of each
case to RESULT, an .npz file, and what `edges.py` has found. As a worker it trains a few cases with the others, and
writes to a file of its own, with its number in place of `{}`.
"""

import argparse
import json
import os
import types
import warnings

import edges
import keras
import keras_tuner
import numpy as np
import tensorflow as tf
from numpy.testing import assert_equal as assert_same
from pytest import approx, raises

import kwarmup as kw
from kwarmup import NoiseScaleMonitor, Plan, PlateauDecay, cosine, distribute, hold, linear, warmup
from kwarmup.distribute import replicas
from kwarmup.private import build

EXAMPLES = 101  # a prime: the last batch of a pass is always a partial one
RANDOM = np.random.default_rng(0)
X = RANDOM.normal(size=(EXAMPLES, 6)).astype("float32")
Y = (X[:, :1] * X[:, 1:2] + RANDOM.normal(0, 0.1, (EXAMPLES, 1))).astype("float32")
WORDS = RANDOM.integers(0, 9, (EXAMPLES, 5)) * (RANDOM.random((EXAMPLES, 5)) < 0.7)
CLASSES = WORDS % 3
WEIGHTS = RANDOM.random(EXAMPLES).astype("float32") + 0.1


def dense(**arguments):
    return [keras.layers.Dense(8, "tanh", **arguments), keras.layers.Dense(1)]


def mean_of_squares(y, y_pred):
    return keras.ops.mean(keras.ops.square(y_pred - keras.ops.cast(y, y_pred.dtype)))


class Collectives(keras.callbacks.Callback):
    """Counts how often all devices wait for each other in an update; `None` on one device."""

    count = None

    def on_train_begin(self, logs=None):
        function = self.model.train_function
        if not hasattr(function, "get_concrete_function"):
            return

        def counting(iterator):
            if self.count is None:
                operations = function.get_concrete_function(iterator).graph.get_operations()
                self.count = sum(operation.type.startswith("Collective") for operation in operations)
            return function(iterator)

        self.model.train_function = counting


def ramp(strategy):
    """A ramp with the square-root rule, accumulation, a momentum that cycles, clipping and a penalty."""
    plan = Plan(
        learning_rate=0.1 * (warmup(epochs=1, start=0.1) >> cosine()),
        batch_size=8 * (hold(epochs=1) >> hold(2, epochs=1) >> hold(4)),
        examples=EXAMPLES,
        epochs=4,
        scaling=0.5,
        gradient_accumulation_steps=2,
    )
    with strategy.scope():
        model = keras.Sequential(dense(kernel_regularizer="l2"))
        momentum = 0.9 * (linear(to=0.8, epochs=2) >> linear(to=1))
        clipped = dict(gradient_accumulation_steps=2, global_clipnorm=0.5)
        model.compile(kw.SGD(plan.learning_rate, momentum=momentum, **clipped), "mse", metrics=["mae"])
    validation = dict(validation_data=(X[:33], Y[:33]), validation_batch_size=16)
    return model, plan.on(strategy).fit(model, X, Y, verbose=0, **validation)


def plateau(strategy):
    """A plateau, two outputs, and batches from a dataset smaller than four devices."""
    plan = Plan(learning_rate=0.05, batch_size=4, examples=41, epochs=3)
    with strategy.scope():
        x = keras.Input((6,))
        body = keras.layers.Dense(4, "tanh")(x)
        model = keras.Model(x, [keras.layers.Dense(1, name=name)(body) for name in "ab"])
        model.compile(keras.optimizers.AdamW(plan.learning_rate), ["mse", "mae"], loss_weights=[1.0, 0.3])
    decay = PlateauDecay("loss", factor=0.5, patience=1, min_delta=10.0, steps=5)
    data = tf.data.Dataset.from_tensor_slices((X[:41], (Y[:41], -Y[:41])))
    return model, plan.on(strategy).fit(
        model, data, verbose=0, callbacks=[decay], validation_data=data.batch(9)
    )


def masked(strategy):
    """A masked mean, whose divisor is known only over all devices; and rows of an embedding."""
    plan = Plan(learning_rate=0.2, batch_size=20, examples=EXAMPLES, epochs=2)
    with strategy.scope():
        model = keras.Sequential([keras.layers.Embedding(9, 4, mask_zero=True), keras.layers.Dense(3)])
        loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        optimizer = keras.optimizers.SGD(plan.learning_rate, momentum=0.5)
        # Six steps in a pass: the second execution is cut short.
        model.compile(optimizer, loss, metrics=["accuracy"], steps_per_execution=4)
    return model, plan.on(strategy).fit(model, WORDS, CLASSES, verbose=0)


class Places(keras.layers.Layer):
    """Adds what it has learned of each place in a text, the same rows for all examples."""

    def build(self, shape):
        self.table = keras.layers.Embedding(8, shape[-1])
        self.table.build()

    def call(self, x):
        return x + self.table(keras.ops.arange(keras.ops.shape(x)[1]))


def words(strategy):
    """Rows of an embedding that are more to an optimizer than their sum: it squares each, and those of places once.

    The last batch of a pass is one example, for one of the devices, and comes in the same execution as another.
    """
    plan = Plan(learning_rate=0.05, batch_size=12, examples=37, epochs=2)

    def fit(steps, **clipped):
        keras.utils.set_random_seed(0)
        with strategy.scope():
            embedding = keras.layers.Embedding(9, 3)
            model = keras.Sequential([embedding, Places(), keras.layers.Flatten(), keras.layers.Dense(3)])
            optimizer = keras.optimizers.Adam(plan.learning_rate, **clipped)
            loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
            model.compile(optimizer, loss, steps_per_execution=steps)
        return model, plan.on(strategy).fit(model, WORDS[:37], CLASSES[:37, 0], verbose=0)

    model, history = fit(1)
    if replicas.several_workers(model):
        with raises(ValueError, match="`steps_per_execution`: expected 1 where several workers train an emb"):
            fit(2)
    else:
        # Several steps of an execution are the same training.
        assert_same(fit(2)[1].history["loss"], history.history["loss"])
    history.history["clipped"] = fit(1, global_clipnorm=0.1)[1].history["loss"]
    return model, history


def weighted(strategy):
    """A mean over sample weights of a loss that is a mean, and a loss scale."""
    plan = Plan(learning_rate=0.05, batch_size=12, examples=EXAMPLES, epochs=2)
    with strategy.scope():
        model = keras.Sequential(dense())
        loss = keras.losses.MeanSquaredError(reduction="mean_with_sample_weight")
        optimizer = keras.optimizers.LossScaleOptimizer(keras.optimizers.SGD(plan.learning_rate))
        model.compile(optimizer, loss, weighted_metrics=["mae"])
    return model, plan.on(strategy).fit(model, X, Y, WEIGHTS, verbose=0)


def own_loss(strategy):
    """A loss function that returns one number, which Keras does not divide by the replicas."""
    plan = Plan(learning_rate=0.05, batch_size=12, examples=EXAMPLES, epochs=2)
    with strategy.scope():
        model = keras.Sequential([keras.layers.Dense(3)])
        model.compile(keras.optimizers.SGD(plan.learning_rate), mean_of_squares)
    collectives = Collectives()
    history = plan.on(strategy).fit(model, X, Y, verbose=0, callbacks=[collectives])
    history.history["collectives"] = [-1 if collectives.count is None else collectives.count]
    return model, history


def eager(strategy):
    """Updates that Python runs; the last one has a single example, for one of the devices."""
    plan = Plan(learning_rate=0.1, batch_size=8, examples=9, epochs=2)
    with strategy.scope():
        model = keras.Sequential(dense())
        model.compile(keras.optimizers.SGD(plan.learning_rate), "mse", metrics=["mae"], run_eagerly=True)
    return model, plan.on(strategy).fit(model, X[:9], Y[:9], verbose=0)


def noise(strategy):
    """The noise scale from what two devices have computed: as from two parts of the batch on one."""
    plan = Plan(learning_rate=0.001, batch_size=20, examples=90, epochs=2)
    with strategy.scope():
        model = keras.Sequential(dense())
        model.compile(keras.optimizers.SGD(plan.learning_rate), "mse")
    monitor = NoiseScaleMonitor(every=1, parts=2)
    # Far from its target, so that there is a gradient beside the noise.
    data = X[:90], Y[:90] + 3
    history = plan.on(strategy).fit(model, *data, verbose=0, callbacks=[monitor])
    with distribute.plain_fit(model):
        once = dict(batch_size=20, shuffle=False, verbose=0)
        more = model.fit(*data, callbacks=[NoiseScaleMonitor(every=1, parts=2)], **once)
    history.history["through the door"] = more.history["noise_scale"]
    return model, history


def plain(strategy):
    """Keras's own `fit`, through the door: arrays, then a dataset that does not know its length; and `evaluate`."""
    with strategy.scope():
        model = keras.Sequential([keras.layers.BatchNormalization(synchronized=True), *dense()])
        model.compile(keras.optimizers.Adam(0.01), "mse", metrics=["mae"])
    seen = []
    said = keras.callbacks.LambdaCallback(on_train_batch_end=lambda batch, logs: seen.append(logs["mae"]))
    with distribute.plain_fit(model):
        once = dict(shuffle=False, verbose=0, batch_size=16)
        validation = dict(validation_data=(X[:33], Y[:33], WEIGHTS[:33]), validation_batch_size=10)
        history = model.fit(X, Y, sample_weight=WEIGHTS, epochs=2, callbacks=[said], **once, **validation)
        unknown = tf.data.Dataset.from_tensor_slices((X, Y)).batch(25).filter(lambda x, y: True)
        with warnings.catch_warnings():  # Keras warns of each end that it did not know
            warnings.simplefilter("ignore")
            more = model.fit(unknown, epochs=2, shuffle=False, verbose=0)
        # The shuffling of arrays is seeded by `set_random_seed`: all workers draw the same order.
        model.fit(X[:64], Y[:64], batch_size=64, verbose=0)
        evaluated = model.evaluate(X, Y, batch_size=30, verbose=0)
    with strategy.scope():
        model.compile(model.optimizer, "mse", metrics=["mae"], steps_per_execution=3)
    with distribute.plain_fit(model), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        together = model.fit(unknown, epochs=2, shuffle=False, callbacks=[said], verbose=0)
    history.history |= {"seen": seen, "more": more.history["loss"], "evaluated": evaluated}
    history.history |= {"together": together.history["loss"]}
    return model, history


def measured(strategy):
    """What is measured of a model that is not trained, which stays as it is; what cannot be says so."""
    random_layers = [keras.layers.BatchNormalization(), keras.layers.Dropout(0.5, seed=1)]
    with strategy.scope():
        model = keras.Sequential([keras.Input((6,)), *dense()])
        model.compile(keras.optimizers.SGD(), "mse")
        accumulating = keras.Sequential([keras.Input((6,)), *random_layers, *dense()])
        accumulating.compile(keras.optimizers.Adam(gradient_accumulation_steps=2), "mse")
    build(accumulating, (X, Y))
    before = of_each_replica(strategy, accumulating)
    scales = [
        kw.noise_scale(model, X, Y + 3, precision=1e-9, micro_batch_size=1),
        kw.noise_scale(model, X, Y + 3, precision=1e-9, micro_batch_size=6),
        kw.noise_scale(accumulating, X, Y + 3, precision=1e-9, max_examples=256),
        kw.noise_scale(accumulating, X, Y + 3, precision=1e-9, preconditioned=True, training=False),
    ]
    assert scales[0].value == approx(scales[1].value, rel=0.03)  # of 101 examples, and of 96 of them
    assert_same(of_each_replica(strategy, accumulating), before)
    sweep = kw.find_lr(model, X, Y, low=1e-3, high=0.1, steps=20, repeats=1, batch_size=12)
    if strategy.num_replicas_in_sync > 1:
        with raises(ValueError, match="`model`: expected a call behind the scope"), strategy.scope():
            kw.noise_scale(model, X, Y)
        with raises(
            ValueError, match="`gradient_accumulation_steps`: expected None where a model is measured"
        ):
            kw.find_lr(accumulating, X, Y)
        with raises(ValueError, match=r"(?s)`build`: expected one on one device.*over \d replicas"):
            kw.study(lambda: model, X, Y)
    found = {
        "noise": [[*one.interval, one.trace, one.squared_norm] for one in scales],
        "losses": sweep.losses,
    }
    return model, types.SimpleNamespace(history=found)


def of_each_replica(strategy, model):
    variables = [*model.variables, *model.optimizer.variables]
    return [
        np.array(one) for variable in variables for one in strategy.experimental_local_results(variable.value)
    ]


def searched(strategy):
    """A trial of a search, whose optimizer is made behind the scope that the model is made in."""

    def in_scope():
        with strategy.scope():
            model = keras.Sequential(dense())
            model.compile(keras.optimizers.SGD(momentum=0.9), "mse")
        return model

    plan = Plan(learning_rate=1.0, batch_size=12, examples=EXAMPLES, epochs=1).on(strategy)
    hypermodel = kw.PlanHyperModel(in_scope, plan, peak=(0.01, 0.1), batch_size=[12, 24])
    hp = keras_tuner.HyperParameters()
    model = hypermodel.build(hp)
    return model, hypermodel.fit(hp, model, X, Y)


class Halves(keras.utils.PyDataset):
    """Batches of a size that is not the plan's."""

    def __init__(self, x, y):
        super().__init__()
        self.x, self.y = x, y

    def __len__(self):
        return 2

    def __getitem__(self, index):
        middle = len(self.x) // 2
        rows = slice(middle * index, middle if index == 0 else None)
        return self.x[rows], self.y[rows]


def classes(strategy):
    """Class weights, a `PyDataset` for training and validation, and BatchNorm that looks at all devices.

    The last batch of a pass is one example, for one of the devices.
    """
    plan = Plan(learning_rate=0.1, batch_size=20, examples=EXAMPLES, epochs=2)
    targets = CLASSES[:, 0]
    with strategy.scope():
        layers = [keras.layers.Dense(4, use_bias=False), keras.layers.BatchNormalization(synchronized=True)]
        model = keras.Sequential([*layers, keras.layers.Dense(3)])
        loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        model.compile(keras.optimizers.SGD(plan.learning_rate), loss)
    return model, plan.on(strategy).fit(
        model, Halves(X, targets), class_weight={0: 1.0, 1: 3.0, 2: 0.5}, verbose=0,
        validation_data=Halves(X[:37], targets[:37]),
    )  # fmt: skip


CASES = (ramp, plateau, masked, words, weighted, own_loss, eager, noise, measured, searched, classes, plain)
#: The noise scale is measured from as many parts as there are devices; the door is tried by workers.
DEVICES = {
    1: CASES,
    2: tuple(case for case in CASES if case is not plain),
    4: (ramp, plateau, words, own_loss, eager),
}
WORKERS = (ramp, plateau, masked, words, noise, plain)


def trained(strategy, cases):
    """Return the arrays that trainings end with, by the names of the cases."""
    found = {}
    for case in cases:
        keras.utils.set_random_seed(0)
        model, history = case(strategy)
        for index, variable in enumerate([*model.variables, *model.optimizer.variables]):
            found[f"{case.__name__}/{index}"] = keras.ops.convert_to_numpy(variable)
        for key, values in history.history.items():
            found[f"{case.__name__}/{key}"] = np.array(values)
    return found


def devices(result):
    cpu = tf.config.list_physical_devices("CPU")[0]
    tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * max(DEVICES))
    strategies = {
        1: distribute.strategy("one"),
        # Collective operations know one number of devices in a process; this one sums on its first device.
        2: tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"], tf.distribute.ReductionToOneDevice()),
        4: distribute.strategy(),
    }
    found = {}
    for count, cases in DEVICES.items():
        assert strategies[count].num_replicas_in_sync == count
        found |= {f"{count}/{name}": array for name, array in trained(strategies[count], cases).items()}
    found["edges"] = json.dumps(edges.on_devices(strategies))
    np.savez(result, **found)


def worker(result):
    strategy = distribute.strategy()
    assert strategy.num_replicas_in_sync == 2
    found = trained(strategy, WORKERS)
    found["edges"] = json.dumps(edges.among_workers(strategy))
    np.savez(result.format(replicas.worker_number(strategy.cluster_resolver)), **found)


if __name__ == "__main__":
    warnings.simplefilter("error")
    warnings.filterwarnings("ignore", "__array__ implementation", DeprecationWarning)
    parser = argparse.ArgumentParser()
    parser.add_argument("result")
    (worker if "TF_CONFIG" in os.environ else devices)(parser.parse_args().result)
