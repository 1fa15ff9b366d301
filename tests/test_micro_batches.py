"""plan.fit(max_device_batch=...): micro-batches within the step give what the large batch gives. On any backend."""

import copy
import os
import pickle
import subprocess
import sys
import types
import warnings

import keras
import numpy as np
import pytest
from keras import layers, ops

import kwarmup
from kwarmup import Plan, PlanWarning, hold
from kwarmup.micro_batches import within_the_step

pytestmark = pytest.mark.backend

BACKEND = keras.backend.backend()
RANDOM = np.random.default_rng(0)
N, MOST = 54, 8
X = RANDOM.normal(size=(N, 5)).astype("float32")
Y = RANDOM.normal(size=(N, 1)).astype("float32")
WORDS = RANDOM.integers(0, 7, size=(N, 4)).astype("int32")  # 0 is masked
WORDS[:12, 1:] = 0  # micro-batches with far fewer words than others
LABELS = RANDOM.integers(0, 3, size=(N, 4)).astype("int32")
STEPS = RANDOM.normal(size=(N, 4, 1)).astype("float32")
WEIGHTS = RANDOM.uniform(0, 2, size=N).astype("float32")
LOSSES = keras.losses


def make_plan(**changes):
    """A pass in batches of 6, which fit into 8, then one in batches of 42, and of 12 at its end."""
    arguments = dict(
        learning_rate=0.05,
        batch_size=6 * (hold(epochs=1) >> hold(7)),
        examples=N,
        epochs=2,
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", PlanWarning)
        return Plan(**{**arguments, **changes})


PLAN = make_plan()


def dense(last=(), loss="mse", optimizer=keras.optimizers.SGD, penalty=None, metrics=("mae",), **arguments):
    """A small network on X, with further layers in front of the last."""
    given = {name: arguments.pop(name) for name in list(arguments) if name not in COMPILED}

    def build():
        keras.utils.set_random_seed(1)
        first = layers.Dense(8, activation="tanh", kernel_regularizer=penalty)
        model = keras.Sequential([keras.Input((5,)), first, *(make() for make in last), layers.Dense(1)])
        model.compile(optimizer(0.05, **given), loss, metrics=list(metrics), **arguments)
        return model

    return build


COMPILED = ("jit_compile", "run_eagerly", "steps_per_execution", "weighted_metrics")


def tagging(loss, penalty=None, classes=None):
    """Words with a mask, and a number or a class for each."""

    def build():
        keras.utils.set_random_seed(1)
        model = keras.Sequential(
            [
                keras.Input((4,), dtype="int32"),
                layers.Embedding(7, 6, mask_zero=classes is None, embeddings_regularizer=penalty),
                layers.Dense(classes or 1, activation="softmax" if classes else None),
            ]
        )
        model.compile(keras.optimizers.SGD(0.05, clipnorm=0.5), loss)
        return model

    return build


def two_by_two(**arguments):
    def build():
        keras.utils.set_random_seed(1)
        a, b = keras.Input((5,), name="a"), keras.Input((4,), dtype="int32", name="b")
        words = layers.Flatten()(layers.Embedding(7, 3)(b))
        both = layers.Concatenate()([layers.Dense(4, activation="tanh")(a), words])
        first, second = layers.Dense(1, name="first")(both), layers.Dense(3, name="second")(both)
        model = keras.Model({"a": a, "b": b}, {"first": first, "second": second})
        given = dict(loss={"first": "mse", "second": "mae"}, metrics={"first": "mae"}) | arguments
        model.compile(keras.optimizers.SGD(0.05), **given)
        return model

    return build


TWO = ({"a": X, "b": WORDS}, {"first": Y, "second": RANDOM.normal(size=(N, 3)).astype("float32")})


class Added(layers.Layer):
    """Adds a loss, and has a weight that no loss depends on."""

    def build(self, shape):
        self.unused = self.add_weight(shape=(2,), initializer="ones")
        super().build(shape)

    def call(self, x):
        self.add_loss(ops.mean(ops.square(x)))
        return x


def of_mse(reduction):
    return LOSSES.MeanSquaredError(reduction=reduction)


SGD, Adam, AdamW = keras.optimizers.SGD, keras.optimizers.Adam, keras.optimizers.AdamW
WEIGHTED = {"sample_weight": WEIGHTS}
#: What is built, and what it is given.
SAME = {
    "metrics": (dense(metrics=["mae", keras.metrics.RootMeanSquaredError]), (X, Y), {}),
    "momentum and a clipped norm": (dense(momentum=0.9, clipnorm=0.1), (X, Y), {}),
    "decay and averaged weights": (dense(optimizer=AdamW, use_ema=True, weight_decay=0.1), (X, Y), {}),
    "optimizers of kwarmup": (dense(optimizer=kwarmup.SGD, momentum=0.9, nesterov=True), (X, Y), {}),
    "a penalty on weights": (dense(penalty="l2"), (X, Y), {}),
    "a penalty on outputs": (
        dense([lambda: layers.Dense(4, activity_regularizer="l2")]),
        (X, Y),
        {},
    ),
    "an added loss, a weight without gradient": (dense([Added], penalty="l2"), (X, Y), {}),
    "a function as the loss": (dense(loss=lambda y, p: ops.mean(ops.abs(y - p), -1)), (X, Y), {}),
    "sample weights": (dense(metrics=[], weighted_metrics=["mae"]), (X, Y), WEIGHTED),
    "a mean over sample weights": (dense(loss=of_mse("mean_with_sample_weight")), (X, Y), WEIGHTED),
    "that, with penalties": (
        dense([Added], of_mse("mean_with_sample_weight"), penalty="l2"),
        (X, Y),
        WEIGHTED,
    ),
    "that, without sample weights": (dense(loss=of_mse("mean_with_sample_weight")), (X, Y), {}),
    "a sum": (dense(loss=of_mse("sum"), clipnorm=1.0), (X, Y), {}),
    "a sum, with penalties": (dense([Added], of_mse("sum"), penalty="l2", clipnorm=1.0), (X, Y), WEIGHTED),
    "a mask": (tagging("mse"), (WORDS, STEPS), {}),
    "a mask, with a penalty": (tagging("mse", "l2"), (WORDS, STEPS), {}),
    "a mask under a sum": (tagging(of_mse("sum")), (WORDS, STEPS), {}),
    "a mask, a mean over weights": (
        tagging(of_mse("mean_with_sample_weight")),
        (WORDS, STEPS),
        {"sample_weight": RANDOM.uniform(0, 2, size=(N, 4)).astype("float32")},
    ),
    "an ignored class": (
        tagging(LOSSES.SparseCategoricalCrossentropy(ignore_class=0), classes=3),
        (WORDS, LABELS),
        {},
    ),
    "several inputs and outputs": (two_by_two(loss_weights={"first": 1.0, "second": 0.3}), TWO, {}),
    "weights for several outputs": (
        two_by_two(),
        TWO,
        {"sample_weight": {"first": WEIGHTS, "second": WEIGHTS[::-1].copy()}},
    ),
    "one weight for several outputs": (two_by_two(loss=["mse", "mae"], metrics=None), TWO, WEIGHTED),
    "step by step": (dense([Added], run_eagerly=True), (X, Y), {}),
}
if BACKEND == "tensorflow":  # elsewhere Keras takes none with batches of changing size
    SAME["class weights"] = (dense(), (X, (Y > 0).astype("int32")), {"class_weight": {0: 0.2, 1: 3.0}})
if BACKEND != "torch":
    SAME["compiled"] = (dense(penalty="l2", jit_compile=True), (X, Y), {})
    SAME["a compiled mask"] = (tagging("mse", "l2"), (WORDS, STEPS), {})
    SAME["executions of several steps"] = (dense([Added], steps_per_execution=4), (X, Y), {})


def assert_same(found, expected, tolerance=2e-6):
    assert set(found.history) == set(expected.history)
    for name, values in expected.history.items():
        np.testing.assert_allclose(
            found.history[name], values, rtol=5 * tolerance, atol=tolerance, err_msg=name
        )
    pairs = zip(found.model.get_weights(), expected.model.get_weights(), strict=True)
    for one, other in pairs:
        np.testing.assert_allclose(one, other, rtol=tolerance, atol=tolerance)


@pytest.mark.filterwarnings("ignore:Gradients do not exist")
@pytest.mark.parametrize(("build", "data", "arguments"), SAME.values(), ids=SAME)
def test_it_is_the_large_batch(build, data, arguments):
    expected = PLAN.fit(build(), *data, verbose=0, **arguments)
    found = PLAN.fit(build(), *data, verbose=0, max_device_batch=MOST, **arguments)
    assert_same(found, expected)
    assert int(found.model.optimizer.iterations) == PLAN.clock.steps == 11
    assert (
        max(abs(a - b).max() for a, b in zip(found.model.get_weights(), build().get_weights(), strict=True))
        > 1e-3
    )


def test_a_model_that_is_built_by_its_first_batch():
    def build():
        keras.utils.set_random_seed(1)
        model = keras.Sequential([layers.Dense(8, activation="tanh"), layers.Dense(1)])
        model.compile(SGD(0.05, momentum=0.9), "mse", metrics=["mae"])
        return model

    plan = make_plan(batch_size=42)
    expected, found = (plan.fit(build(), X, Y, verbose=0, max_device_batch=m) for m in (None, MOST))
    assert_same(found, expected)


def test_several_outputs_that_are_built_by_their_first_batch():
    class Two(keras.Model):
        def __init__(self):
            super().__init__()
            self.first, self.second = layers.Dense(1), layers.Dense(3)

        def call(self, x):
            return self.first(x["a"]), self.second(x["a"])

    def build():
        keras.utils.set_random_seed(1)
        model = Two()
        model.compile(SGD(0.05), ["mse", "mae"], metrics=[["mae"], []])
        return model

    data = TWO[0], tuple(TWO[1].values())
    expected, found = (PLAN.fit(build(), *data, verbose=0, max_device_batch=m) for m in (None, MOST))
    assert len(found.history) == 4
    assert_same(found, expected)


def test_a_shuffled_dataset_is_in_the_same_order():
    if BACKEND != "tensorflow":
        return
    import tensorflow as tf

    found = []
    for most in (None, MOST):
        data = tf.data.Dataset.from_tensor_slices((X, Y)).shuffle(N, seed=1)
        found.append(PLAN.fit(dense()(), data, verbose=0, max_device_batch=most))
    assert_same(*found)


def test_accumulation_by_the_optimizer_goes_on_top():
    plan = make_plan(batch_size=24, gradient_accumulation_steps=2, drop_remainder=True)
    build = dense(gradient_accumulation_steps=2)
    expected, found = (plan.fit(build(), X, Y, verbose=0, max_device_batch=m) for m in (None, MOST))
    assert_same(found, expected)
    assert int(found.model.optimizer.iterations) == plan.clock.steps


def mixed(scale, policy="mixed_float16"):
    keras.utils.set_random_seed(1)
    model = keras.Sequential(
        [keras.Input((5,)), layers.Dense(8, activation="tanh", dtype=policy), layers.Dense(1, dtype=policy)]
    )
    optimizer = SGD(0.05)
    if scale:
        optimizer = keras.optimizers.LossScaleOptimizer(optimizer, initial_scale=scale)
    model.compile(optimizer, "mse")
    return model


@pytest.mark.parametrize("scale", [2.0**10, 2.0**26])
def test_under_a_loss_scale_what_overflows_is_skipped(scale):
    plan = make_plan(batch_size=42)
    expected, found = (plan.fit(mixed(scale), X, Y, verbose=0, max_device_batch=m) for m in (None, MOST))
    assert_same(found, expected, 2e-3)
    done = [int(history.model.optimizer.iterations) for history in (found, expected)]
    scales = [float(history.model.optimizer.dynamic_scale) for history in (found, expected)]
    assert done[0] == done[1] and scales[0] == scales[1]
    assert (done[0] < plan.clock.steps) == (scale > 2**20)


def test_half_types_are_summed_in_float32():
    # Eighths are exact in bfloat16, and so is the gradient of the batch; a sum of 64 shares in it is not.
    class Ones(layers.Layer):
        def build(self, shape):
            self.kernel = self.add_weight(shape=(1,), initializer="zeros")

        def call(self, x):
            return x * self.kernel

    def build():
        model = keras.Sequential([keras.Input((1,)), Ones(dtype="bfloat16")])
        model.compile(SGD(1.0), lambda y, p: ops.mean(ops.cast(p, "float32"), -1))
        return model

    x = np.r_[np.full(1, 256.0), np.ones(511)].astype("float32")[:, None]
    plan = make_plan(learning_rate=1.0, examples=512, batch_size=512, epochs=1)
    model = build()
    plan.fit(model, x, x, verbose=0, max_device_batch=1, seed=None)
    found = float(ops.convert_to_numpy(ops.cast(model.weights[0], "float32"))[0])
    assert found == pytest.approx(-(256 + 511) / 512, rel=2**-8)


def test_random_generators_go_on_within_the_batch():
    plan = make_plan(batch_size=27, epochs=1)
    states = []
    for most in (None, 6):
        model = dense([lambda: layers.Dropout(0.5, seed=3)])()
        state = model.layers[1].seed_generator.state
        before = ops.convert_to_numpy(state).astype("int64")
        plan.fit(model, X, Y, verbose=0, max_device_batch=most)
        states.append((ops.convert_to_numpy(state).astype("int64") - before).sum())
    assert states[1] == 5 * states[0] > 0


def test_batch_normalisation_sees_micro_batches():
    # The one exception: as documented, each micro-batch is normalised by itself, and counts in the averages.
    model = dense([lambda: layers.BatchNormalization(momentum=0.5, center=False)])()
    plan = make_plan(learning_rate=0.0, batch_size=N, epochs=1)
    outputs = ops.convert_to_numpy(model.layers[0](X))
    plan.fit(model, X, Y, verbose=0, max_device_batch=20, seed=None)
    average = np.zeros(8)
    for rows in (slice(0, 14), slice(14, 34), slice(34, 54)):  # what is left over comes first
        average = 0.5 * average + 0.5 * outputs[rows].mean(0)
    np.testing.assert_allclose(ops.convert_to_numpy(model.layers[1].moving_mean), average, atol=1e-6)


class Sizes(layers.Layer):
    """Notes the batch sizes it is called with; on TensorFlow the number of traces."""

    def call(self, x):
        SEEN.append(x.shape[0])
        return x


SEEN = []


def test_no_more_than_the_device_holds_is_in_a_step():
    model = dense([Sizes])()
    SEEN.clear()
    PLAN.fit(model, X, Y, verbose=0, max_device_batch=MOST)
    if BACKEND == "tensorflow":
        # Once to build what is logged; then a trace for the first size and one for any other, each with one
        # micro-batch and one more within a loop.
        assert len(SEEN) <= 5
    else:
        assert max(size for size in SEEN if size is not None) == MOST


def test_the_model_comes_back_as_it_was():
    model = dense()()
    model.make_train_function()
    function, attributes = model.train_function, set(vars(model))

    class Look(keras.callbacks.Callback):
        inside = False

        def on_train_batch_end(self, batch, logs=None):
            Look.inside = "train_step" in vars(self.model)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        PLAN.fit(model, X, Y, verbose=0, max_device_batch=MOST, callbacks=[Look()])
    assert Look.inside
    assert model.train_function is function
    assert "train_step" not in vars(model) and type(model).train_step is keras.Model.train_step
    assert set(vars(model)) - attributes <= {
        "history",
        "_called",
        "_eval_epoch_iterator",
        "training",
        "_jax_state",
    }
    model.fit(X, Y, verbose=0)


def test_where_no_batch_is_larger_nothing_is_done():
    model = dense()()
    with within_the_step(model, PLAN.clock, 42):
        assert "train_step" not in vars(model)
    with within_the_step(model, PLAN.clock, 41):
        assert "train_step" in vars(model)


def test_the_model_can_be_saved_and_copied_while_it_trains(tmp_path):
    class Copy(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            for made in (copy.deepcopy(self.model), pickle.loads(pickle.dumps(self.model))):
                assert "train_step" not in vars(made)
                np.testing.assert_array_equal(made.get_weights()[0], self.model.get_weights()[0])
            keras.models.clone_model(self.model)

    path = tmp_path / "{epoch}.keras"
    callbacks = [keras.callbacks.ModelCheckpoint(path), Copy()]
    model = dense()()
    PLAN.fit(model, X, Y, verbose=0, max_device_batch=MOST, callbacks=callbacks)
    loaded = keras.models.load_model(tmp_path / "2.keras")
    assert "train_step" not in vars(loaded)
    np.testing.assert_array_equal(loaded.get_weights()[0], model.get_weights()[0])
    loaded.fit(X, Y, verbose=0)


class Break(keras.callbacks.Callback):
    left = 0  # in the class: what is counted in the callback would be kept with the training

    def on_train_batch_end(self, batch, logs=None):
        Break.left -= 1
        if Break.left == 0:
            raise KeyboardInterrupt


@pytest.mark.parametrize(("most", "tolerance"), [(MOST, 0), (11, 2e-6)])
def test_training_goes_on_where_it_stood(tmp_path, most, tolerance):
    if BACKEND != "tensorflow":
        return  # no checkpoints there so far
    drops = [lambda: layers.Dropout(0.5, seed=3)] if most == MOST else []
    build = dense(drops, momentum=0.9)
    arguments = dict(verbose=0, checkpoint_dir=tmp_path, save_every=2)
    whole = build()
    PLAN.fit(whole, X, Y, verbose=0, max_device_batch=MOST)
    Break.left = 10
    with pytest.raises(KeyboardInterrupt):
        PLAN.fit(build(), X, Y, max_device_batch=MOST, callbacks=[Break()], **arguments)
    model = build()
    PLAN.fit(model, X, Y, max_device_batch=most, callbacks=[Break()], **arguments)
    for one, other in zip(model.get_weights(), whole.get_weights(), strict=True):
        np.testing.assert_allclose(one, other, rtol=0, atol=tolerance)


class OwnStep(keras.Model):
    def __init__(self):
        super().__init__()
        self.out = layers.Dense(1)

    def call(self, x):
        return self.out(x)


class OwnTrainStep(OwnStep):
    def train_step(self, *arguments):
        return super().train_step(*arguments)


class OwnLogs(OwnStep):
    def compute_metrics(self, *arguments, **words):
        return {**super().compute_metrics(*arguments, **words), "largest": ops.max(arguments[2])}


def compiled(model, loss="mse"):
    model.compile(SGD(0.05), loss)
    return model


def with_a_step():
    model = dense()()
    model.train_step = model.train_step
    return model


REFUSED = {
    "a step of its own": (
        lambda: compiled(OwnTrainStep()),
        (X, Y),
        "a model whose train_step is that of keras.Model.*Received: a OwnTrainStep with a train_step of its own",
    ),
    "a step set from outside": (with_a_step, (X, Y), "Received: a Sequential with a train_step of its own"),
    "no reduction": (
        dense(loss=of_mse("none"), metrics=[]),
        (X, Y),
        r"expected losses with a mean or a sum.*Received: MeanSquaredError\(reduction='none'\)",
    ),
    "a sum among others": (
        two_by_two(loss={"first": of_mse("sum"), "second": "mae"}),
        TWO,
        "expected losses that are means over the examples.*Received: a model of 2 outputs with a sum",
    ),
    "logs that are no metrics": (
        lambda: compiled(OwnLogs()),
        (X, Y),
        "the result of metrics in model.metrics.*Received: compute_metrics of OwnLogs, which returns largest",
    ),
}


@pytest.mark.parametrize(("build", "data", "words"), REFUSED.values(), ids=REFUSED)
def test_what_cannot_be_taken_apart_is_refused(build, data, words):
    model = build()
    with pytest.raises(ValueError, match=f"(?s)`max_device_batch`.*{words}.*Write: "):
        PLAN.fit(model, *data, verbose=0, max_device_batch=MOST)
    if BACKEND != "jax":  # there Keras leaves a model without variables when its first step raises
        assert int(model.optimizer.iterations) == 0
    assert "train_step" in vars(model) if build is with_a_step else "train_step" not in vars(model)


def test_several_devices_are_refused(monkeypatch):
    def begin():
        with within_the_step(dense()(), PLAN.clock, MOST):
            pass

    begin()
    words = "Received: a model over several devices"
    with monkeypatch.context() as patch:
        patch.setattr(keras.distribution, "distribution", lambda: "a distribution")
        with pytest.raises(ValueError, match=words):
            begin()
    strategy = types.SimpleNamespace(num_replicas_in_sync=2)
    monkeypatch.setattr(keras.Model, "distribute_strategy", strategy, raising=False)
    with pytest.raises(ValueError, match=words):
        begin()


@pytest.mark.parametrize(
    ("given", "kind"),
    [(0, ValueError), (-1, ValueError), (1.5, TypeError), (True, TypeError), ("a", TypeError)],
)
def test_exact_words(given, kind):
    with pytest.raises(kind) as caught:
        PLAN.fit(dense()(), X, Y, max_device_batch=given)
    assert str(caught.value).splitlines() == [
        "`max_device_batch`: expected a whole number of examples, 1 or more.",
        f"Received: {given!r}",
        "Write: plan.fit(model, x, y, max_device_batch=256)",
    ]


def test_any_whole_number_will_do():
    plan = make_plan(batch_size=27, epochs=1)
    plan.fit(dense()(), X, Y, verbose=0, max_device_batch=np.int64(20))


MEMORY = """
import re, sys, keras, numpy as np
from keras import layers
from kwarmup import Plan

most, examples = int(sys.argv[1]) or None, int(sys.argv[2])
chain = [layers.Activation("tanh") for _ in range(12)]
model = keras.Sequential([keras.Input((1,)), layers.Dense(1024), *chain, layers.Dense(1)])
model.compile("sgd", "mse")
plan = Plan(learning_rate=0.1, batch_size=examples, examples=examples, epochs=2)
data = np.ones((examples, 1), "float32")
plan.fit(model, data, data, verbose=0, max_device_batch=most)
# Of this program alone: what getrusage says begins with the memory of the process that started it.
print(int(re.search(r"VmHWM:\\s+(\\d+)", open("/proc/self/status").read())[1]) // 1024)
"""


def peak(most, examples):
    """Return the peak memory in MiB of a process that trains with so many examples in memory."""
    command = [sys.executable, "-c", MEMORY, str(most), str(examples)]
    run = subprocess.run(command, capture_output=True, text=True, timeout=200, check=True, env=os.environ)
    return int(run.stdout.split()[-1])


@pytest.mark.slow
def test_memory_is_that_of_the_micro_batches():
    small, large, in_parts = peak(0, 256), peak(0, 8192), peak(256, 8192)
    assert large - small > 200  # twelve activations of 32 MiB
    assert in_parts - small < 0.25 * (large - small)
