"""plan.fit(checkpoint_dir=...): killed anywhere and started again, training ends bit for bit the same.

Most crashes are an exception in a callback, behind which everything is built anew, with other first
weights, as in a new process. Real processes and real kills are at the end.
"""

import collections
import json
import os
import random
import signal
import tempfile
import warnings
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import keras
import numpy as np
import pytest
from forks import Forks
from keras import layers

from kwarmup import Plan, PlanWarning, Record, checkpoint, cosine, hold, linear, warmup
from kwarmup.checkpoint import CheckpointWarning

BACKEND = keras.backend.backend()
backend = pytest.mark.backend
on_tensorflow = pytest.mark.skipif(BACKEND != "tensorflow", reason="tf.data, or several steps an execution")

N, EPOCHS, SAVE_EVERY = 84, 4, 3
# JAX compiles each batch size anew in each process, which is most of the time a training takes there: it has a
# shorter ramp, and less to survive.
RAMP = 12 * (hold(epochs=1) >> linear(to=2, epochs=2))
RAMP = 12 * (hold(epochs=2) >> hold(2)) if BACKEND == "jax" else RAMP
RANDOM = np.random.default_rng(0)
X = RANDOM.normal(size=(N, 5)).astype("float32")
Y = (X[:, :1] * X[:, 1:2] + RANDOM.normal(0, 0.3, size=(N, 1))).astype("float32")


class Crash(Exception):
    pass


class Crashes(keras.callbacks.Callback):
    """Crashes at each of its places once: (hook, pass, batch)."""

    places = ()  # of the class, since a callback's own attributes are kept and restored

    def meet(self, *place):
        if place in Crashes.places:
            Crashes.places = tuple(p for p in Crashes.places if p != place)
            raise Crash(place)

    def on_epoch_begin(self, epoch, logs=None):
        self.meet("begin", epoch)
        Crashes.epoch = epoch

    def on_train_batch_end(self, batch, logs=None):
        self.meet("batch", Crashes.epoch, batch)

    def on_test_end(self, logs=None):
        self.meet("validation", Crashes.epoch)

    def on_epoch_end(self, epoch, logs=None):
        self.meet("end", epoch)

    def on_train_end(self, logs=None):
        self.meet("over")


# Before anything is saved; on a batch that is saved and on one that is not; around passes; at the very end.
ALL_PLACES = (("batch", 0, 1), ("batch", 0, 2), ("batch", 0, 4), ("end", 0), ("begin", 1), ("batch", 1, 3))
ALL_PLACES += (("batch", 2, 0), ("end", 3), ("over",))
PLACES = (("batch", 0, 5), ("batch", 1, 3))[BACKEND == "jax" :]


def make_plan(**changes):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", PlanWarning)
        arguments = dict(
            learning_rate=0.03 * (warmup(epochs=1) >> cosine(to=0.1)),
            batch_size=RAMP,
            examples=N,
            epochs=EPOCHS,
        )
        return Plan(**{**arguments, **changes})


def make_layers():
    return [layers.Dense(8, "relu"), layers.BatchNormalization(), layers.Dropout(0.2), layers.Dense(1)]


def make_model(plan, optimizer=None, stack=None, built=True, **arguments):
    model = keras.Sequential([keras.Input((5,))] * built + (stack or make_layers()))
    optimizer = optimizer or keras.optimizers.SGD(plan.learning_rate, momentum=0.9)
    model.compile(optimizer, **{"loss": "mse", **arguments})
    return model


class Case:
    """A training, made anew for each process."""

    def __init__(self, plan=None, model=make_model, data=lambda: (X, Y), callbacks=lambda: [], **arguments):
        self.plan = plan or make_plan()
        self.model, self.data, self.callbacks, self.arguments = model, data, callbacks, arguments

    def start(self, folder, seed=0, **changes):
        """Start the process; return what it ends with."""
        keras.utils.set_random_seed(0)  # on which the order of a tf.data.Dataset depends
        data = self.data()
        keras.utils.set_random_seed(seed)
        model = self.model(self.plan)
        callbacks = [*self.callbacks(), Crashes()]
        arguments = {"verbose": 0, "save_every": SAVE_EVERY, **self.arguments, **changes}
        history = self.plan.fit(model, *data, callbacks=callbacks, checkpoint_dir=folder, **arguments)
        return Result(model, history, callbacks)


class Result:
    def __init__(self, model, history, callbacks):
        self.model, self.callbacks = model, callbacks
        self.arrays = [
            keras.ops.convert_to_numpy(v).tobytes() for v in [*model.variables, *model.optimizer.variables]
        ]
        self.history = history.history, history.epoch


def assert_same(found, expected):
    assert repr(found.history) == repr(expected.history)
    assert found.arrays == expected.arrays


def survive(case, folder, places=PLACES):
    """Start a training again until it comes to its end."""
    Crashes.places = tuple(places)
    for attempt in range(len(places) + 1):
        try:
            # Other first weights, where there is something to go on from.
            result = case.start(folder, attempt if list(folder.glob("step-*")) else 0)
        except (
            Exception
        ) as error:  # on JAX and torch the crash itself, on TensorFlow maybe an error around it
            if "Crash" not in repr(error) and not isinstance(error, Crash):
                raise
        else:
            assert Crashes.places == (), "it was to crash more often"
            return result
    raise AssertionError("it never came to its end")


@pytest.fixture(autouse=True)
def no_crash_left_over():
    Crashes.places = ()


# What a training can be made of


def custom_step(plan):
    class Own(keras.Model):
        def __init__(self):
            super().__init__()
            self.dense, self.noise = layers.Dense(1), keras.random.SeedGenerator(3)
            self.tracker = keras.metrics.Mean(name="own")

        def call(self, x):
            return self.dense(x + keras.random.normal(keras.ops.shape(x), seed=self.noise))

        def train_step(self, data):
            import tensorflow as tf

            x, y = data
            with tf.GradientTape() as tape:
                loss = keras.ops.mean((self(x) - y) ** 2)
            self.optimizer.apply(tape.gradient(loss, self.trainable_variables), self.trainable_variables)
            self.tracker.update_state(loss)
            return {"own": self.tracker.result()}

    model = Own()
    model.compile(keras.optimizers.SGD(plan.learning_rate, momentum=0.9))
    return model


def half_precision(plan):
    stack = [layers.Dense(8, "relu", dtype="mixed_float16"), layers.Dropout(0.2), layers.Dense(1)]
    inner = keras.optimizers.SGD(plan.learning_rate, momentum=0.9)
    # A scale so large that it overflows at first: steps are skipped, and the scale moves.
    return make_model(plan, keras.optimizers.LossScaleOptimizer(inner, 2.0**40, 3), stack)


class Shuffled(keras.utils.PyDataset):
    def __init__(self):
        super().__init__()
        self.random, self.order = np.random.default_rng(7), np.arange(N)

    def __len__(self):
        return N // 14

    def __getitem__(self, index):
        rows = self.order[14 * index : 14 * index + 14]
        return X[rows], Y[rows]

    def on_epoch_end(self):
        self.random.shuffle(self.order)


def chunks():
    for start in range(0, N, 10):
        yield X[start : start + 10], Y[start : start + 10]


def endless():
    draw = np.random.default_rng(5)
    while True:
        rows = draw.integers(0, N, 9)
        yield X[rows], Y[rows]


def dataset():
    import tensorflow as tf

    return tf.data.Dataset.from_tensor_slices((X, Y)).shuffle(N, seed=3).map(lambda x, y: (2 * x, y))


class Counting(keras.callbacks.Callback):
    """Steers training by state of every kind, some of it reset where passes begin."""

    def __init__(self):
        super().__init__()
        self.recent = collections.deque(maxlen=4)
        self.seen = collections.defaultdict(list)
        self.total = keras.Variable(0.0)
        self.pair = [keras.Variable(1.0), np.zeros(2, "float32")]
        self.best = None

    def on_epoch_begin(self, epoch, logs=None):
        self.batches = 0
        self.names = set()

    def on_train_batch_end(self, batch, logs=None):
        self.batches += 1
        self.recent.append(logs["loss"])
        self.seen[batch % 3].append(logs["loss"])
        self.names.add(batch)
        self.total.assign_add(logs["loss"])
        self.pair[0].assign(self.pair[0] * 1.25)
        self.pair[1] += np.float32(logs["loss"])
        self.best = min(self.best or (np.inf, 0), (np.float32(logs["loss"]), batch))

    def on_epoch_end(self, epoch, logs=None):
        logs.update(
            batches=self.batches,
            recent=sum(self.recent) / len(self.recent),
            seen=sum(self.seen[0]) + sum(self.seen[7]),
            names=float(len(self.names)),
            total=float(keras.ops.convert_to_numpy(self.total + self.pair[0])),
            array=float(self.pair[1][1]),
            best=float(self.best[0]) + self.best[1],
        )


def lowered():
    # `min_delta` changes its sign when Keras finds out which way is better: once, not once a process.
    return [
        keras.callbacks.ReduceLROnPlateau("val_loss", 0.5, patience=1, min_delta=0.05, min_lr=1e-5),
        keras.callbacks.LearningRateScheduler(lambda epoch, rate: rate * 0.95),
    ]


def plain_rate(plan):
    return make_model(plan, keras.optimizers.Adam(0.01), metrics=["mae"])


CASES = {
    "ramp, BatchNorm, Dropout, momentum": Case(),
    "several metrics, sample weights": Case(
        model=lambda plan: make_model(plan, loss="mae", metrics=["mse", "mape"], weighted_metrics=["mse"]),
        data=lambda: (X, (Y > 0).astype("int32"), np.linspace(0, 1, N, dtype="float32")),
    ),
    "model without an Input": Case(model=lambda plan: make_model(plan, built=False)),
    "validation, a plain rate that callbacks lower": Case(
        model=plain_rate, callbacks=lowered, validation_data=(X[:20], Y[:20])
    ),
    "callbacks with state": Case(callbacks=lambda: [Counting(), Record()]),
    "averaged weights": Case(model=lambda plan: make_model(plan, keras.optimizers.Adam(0.01, use_ema=True))),
    "accumulation, saved in the middle of an update": Case(
        make_plan(batch_size=36, gradient_accumulation_steps=3, epochs=5),
        lambda plan: make_model(
            plan, keras.optimizers.SGD(plan.learning_rate, momentum=0.9, gradient_accumulation_steps=3)
        ),
        save_every=1,
    ),
    "a loss scale": Case(model=half_precision),
    "a PyDataset that shuffles": Case(data=lambda: (Shuffled(),)),
    "a generator for each pass": Case(data=lambda: (chunks,)),
    "one generator for all passes": Case(data=lambda: (endless(),)),
    "arrays in their order": Case(seed=None),
}
ON_TENSORFLOW = {
    # Elsewhere batches come from a generator, for which Keras takes no class weights.
    "class weights": Case(data=lambda: (X, (Y > 0).astype("int32")), class_weight={0: 1.0, 1: 3.0}),
    "a dataset that shuffles": Case(data=lambda: (dataset(),)),
    "executions of several steps": Case(
        model=lambda plan: make_model(plan, steps_per_execution=2), save_every=1
    ),
    "a training step of one's own, random in inference too": Case(model=custom_step),
}
# Batches are made by the same code on JAX and torch.
SLOW_ON_JAX = ["a PyDataset that shuffles", "a generator for each pass", "arrays in their order"]
SLOW_ON_JAX += ["several metrics, sample weights", "a loss scale"]
UNDISTURBED = {}


def undisturbed(name, folder):
    if name not in UNDISTURBED:
        UNDISTURBED[name] = {**CASES, **ON_TENSORFLOW}[name].start(folder / "undisturbed")
    return UNDISTURBED[name]


@backend
@pytest.mark.parametrize(
    "name",
    [
        *(name for name in CASES if BACKEND != "jax" or name not in SLOW_ON_JAX),
        *[pytest.param(name, marks=on_tensorflow) for name in ON_TENSORFLOW],
    ],
)
def test_it_ends_bit_for_bit_the_same(name, tmp_path):
    case = {**CASES, **ON_TENSORFLOW}[name]
    assert_same(survive(case, tmp_path / "crashed"), undisturbed(name, tmp_path))


@backend
@pytest.mark.parametrize("place", ALL_PLACES if BACKEND != "jax" else ALL_PLACES[2:5], ids=str)
def test_wherever_it_crashes(place, tmp_path):
    name = next(iter(CASES))
    assert_same(survive(CASES[name], tmp_path / "crashed", [place]), undisturbed(name, tmp_path))


# Against trainings without checkpoints


def without(case):
    """The same training by plan.fit, but without a checkpoint_dir."""
    keras.utils.set_random_seed(0)
    model = case.model(case.plan)
    callbacks = [*case.callbacks(), Crashes()]
    return Result(
        model, case.plan.fit(model, *case.data(), callbacks=callbacks, verbose=0, **case.arguments), callbacks
    )


@backend
@pytest.mark.parametrize("name", ["ramp, BatchNorm, Dropout, momentum", "model without an Input"])
def test_checkpoints_change_nothing(name, tmp_path):
    assert_same(undisturbed(name, tmp_path), without(CASES[name]))


@backend
def test_averaged_weights_are_put_in_place_at_the_end_as_in_one_fit_of_keras(tmp_path):
    plan = make_plan(batch_size=12)

    def make(plan):
        # Without dropout, for which torch draws other numbers where each pass is a `fit` of its own.
        stack = [layers.Dense(8, "relu"), layers.BatchNormalization(), layers.Dense(1)]
        return make_model(plan, keras.optimizers.Adam(0.01, use_ema=True), stack)

    keras.utils.set_random_seed(0)
    model = make(plan)
    model.fit(plan.batches(X, Y), shuffle=False, verbose=0, epochs=4, steps_per_epoch=7)
    expected = [keras.ops.convert_to_numpy(v) for v in model.variables]
    for found in (without(Case(plan, make)), survive(Case(plan, make), tmp_path / "a")):
        for a, b in zip(found.model.variables, expected, strict=True):
            np.testing.assert_allclose(keras.ops.convert_to_numpy(a), b, rtol=0, atol=1e-6)


# Trainings that have come to an end


def early(**changes):
    arguments = dict(patience=2, min_delta=0.04, restore_best_weights=True)
    return lambda: [keras.callbacks.EarlyStopping("val_loss", **{**arguments, **changes}), Counting()]


STOPPED = Case(
    make_plan(epochs=12, learning_rate=0.01),
    lambda plan: make_model(plan, metrics=["mae"]),
    callbacks=early(),
    validation_data=(X[:30], Y[:30]),
)


@backend
def test_a_training_that_was_stopped_early_ends_the_same_and_stays_ended(tmp_path):
    expected = STOPPED.start(tmp_path / "undisturbed")
    stop = expected.callbacks[0]
    assert 1 <= stop.best_epoch < stop.stopped_epoch < 10  # or the test would say little
    last = stop.stopped_epoch
    places = [("batch", 1, 4), ("validation", last), ("begin", last), ("end", last), ("over",)]
    survived = survive(STOPPED, tmp_path / "crashed", places)
    assert_same(survived, expected)
    for _ in range(2):
        again = STOPPED.start(tmp_path / "crashed", seed=9)
        assert_same(again, expected)
        stopped = again.callbacks[0]
        assert (stopped.stopped_epoch, stopped.best) == (stop.stopped_epoch, stop.best)


class Loud(keras.callbacks.Callback):
    said = ()

    def on_train_begin(self, logs=None):
        Loud.said += ("begin",)

    def on_train_end(self, logs=None):
        Loud.said += ("end",)


@backend
def test_a_finished_training_returns_at_once_and_callbacks_hear_nothing(tmp_path):
    case = Case(callbacks=lambda: [Loud()])
    expected = case.start(tmp_path)
    kept = sorted((path.name, path.stat().st_mtime_ns) for path in tmp_path.iterdir())
    Loud.said = ()
    again = case.start(tmp_path, seed=5)
    assert_same(again, expected)
    assert again.model.history.history == expected.history[0]
    assert Loud.said == ()
    assert sorted((path.name, path.stat().st_mtime_ns) for path in tmp_path.iterdir()) == kept


class Break(keras.callbacks.Callback):
    """Stops within a pass, as Ctrl-C in `kwarmup train` does."""

    wanted = False

    def on_train_batch_end(self, batch, logs=None):
        if Break.wanted and batch == 4:
            Break.wanted, self.model.stop_training = False, True


@backend
def test_a_stop_within_a_pass_is_a_break(tmp_path):
    case = Case(callbacks=lambda: [Break()])
    expected = case.start(tmp_path / "undisturbed")
    Break.wanted = True
    assert len(case.start(tmp_path / "broken").history[1]) == 1
    assert_same(case.start(tmp_path / "broken", seed=3), expected)


class Pressed(keras.callbacks.Callback):
    places = []

    def on_train_batch_end(self, batch, logs=None):
        if Pressed.places and batch == Pressed.places[0]:
            Pressed.places.pop(0)
            raise KeyboardInterrupt


@backend
def test_ctrl_c_loses_no_more_than_a_kill(tmp_path):
    case = Case(callbacks=lambda: [Pressed()])
    expected = case.start(tmp_path / "undisturbed")
    Pressed.places = [4, 1]
    for _ in range(2):
        with pytest.raises(KeyboardInterrupt):
            case.start(tmp_path / "pressed")
    assert_same(case.start(tmp_path / "pressed", seed=3), expected)


# Callbacks of Keras


@backend
def test_half_precision_weights_that_a_callback_keeps_come_back(tmp_path):
    stack = [("Dense", 8), ("Dense", 1)]
    case = Case(
        make_plan(epochs=5, learning_rate=0.03),
        lambda plan: make_model(plan, stack=[layers.Dense(n, dtype="bfloat16") for _, n in stack]),
        callbacks=early(patience=9),
        validation_data=(X[:30], Y[:30]),
    )
    expected = case.start(tmp_path / "undisturbed")
    assert_same(survive(case, tmp_path / "crashed", [("batch", 2, 1), ("batch", 3, 1)]), expected)


def test_a_log_goes_on_with_one_header_and_one_line_for_each_pass(tmp_path):
    def loggers():
        opened.append(keras.callbacks.CSVLogger(tmp_path / f"{logs[0]}.csv", append=True))
        return [
            opened[-1],
            keras.callbacks.ModelCheckpoint(
                tmp_path / f"{logs[0]}.weights.h5",
                monitor="loss",
                save_best_only=True,
                save_weights_only=True,
            ),
        ]

    logs, opened = ["undisturbed"], []
    case = Case(callbacks=loggers)
    expected = case.start(tmp_path / "a")
    logs[0] = "crashed"
    survived = survive(case, tmp_path / "b", [("batch", 0, 4), ("batch", 1, 3), ("batch", 2, 1)])
    assert_same(survived, expected)
    assert (tmp_path / "crashed.csv").read_text() == (tmp_path / "undisturbed.csv").read_text()
    assert survived.callbacks[1].best == expected.callbacks[1].best
    for logger in opened:  # left open by the crash
        logger.on_train_end()


def test_the_progress_bar_may_come_and_go(tmp_path, capsys):
    expected = Case().start(tmp_path / "undisturbed")
    Crashes.places = (("batch", 1, 3),)
    with pytest.raises(Exception, match="Crash|batch"):
        Case(verbose=1).start(tmp_path / "crashed")
    assert_same(Case(verbose=0).start(tmp_path / "crashed"), expected)


# What has changed in between


def interrupted(folder, case=None):
    Crashes.places = (("batch", 1, 3),)
    with pytest.raises(Exception, match="Crash|batch"):
        (case or Case()).start(folder)


OTHER_Y = np.concatenate([Y[:-1], [[5.0]]]).astype("float32")
CHANGES = {
    "the peak": (
        Case(make_plan(learning_rate=0.05 * (warmup(epochs=1) >> cosine(to=0.1)))),
        r"learning_rate: '0.03 \* \(warmup\(epochs=1\) >> cosine\(to=0.1\)\)' in the checkpoint, '0.05 \*",
    ),
    "the epochs": (Case(make_plan(epochs=9)), "epochs: 4 in the checkpoint, 9 now"),
    "the batch size": (Case(make_plan(batch_size=24)), r"batch_size: '12 \* .*' in the checkpoint, 24 now"),
    "the dropout": (
        Case(
            model=lambda p: make_model(
                p,
                stack=[
                    layers.Dense(8, "relu"),
                    layers.BatchNormalization(),
                    layers.Dropout(0.5),
                    layers.Dense(1),
                ],
            )
        ),
        "model.layers.2.rate: 0.2 in the checkpoint, 0.5 now",
    ),
    "the optimizer": (
        Case(model=lambda p: make_model(p, keras.optimizers.SGD(p.learning_rate, momentum=0.5))),
        "model.settings.momentum: 0.9 in the checkpoint, 0.5 now",
    ),
    "the loss": (
        Case(model=lambda p: make_model(p, loss="mae")),
        "model.loss: 'mse' in the checkpoint, 'mae' now",
    ),
    "the data": (Case(data=lambda: (X, OTHER_Y)), "data.1.contents: '.*' in the checkpoint, '.*' now"),
    "the seed": (Case(seed=1), "seed: 0 in the checkpoint, 1 now"),
    "the class weights": (
        Case(class_weight={0: 2.0}),
        "class_weight: None in the checkpoint, {'0': 2.0} now",
    ),
    "the callbacks": (
        Case(callbacks=lambda: [Record()]),
        "callbacks: 'Crashes' in the checkpoint, 'Record, Crashes' now",
    ),
}


@pytest.fixture(scope="module")
def begun(tmp_path_factory):
    folder = tmp_path_factory.mktemp("begun")
    interrupted(folder)
    return folder


@pytest.mark.parametrize(("case", "words"), CHANGES.values(), ids=CHANGES)
def test_a_change_is_refused_and_spelled_out(case, words, begun):
    kept = sorted(path.name for path in begun.iterdir())
    Loud.said = ()
    with pytest.raises(ValueError, match=f"(?s)`checkpoint_dir`: .*begun with\n  {words}") as error:
        case.start(begun)
    planned = words.startswith(("learning_rate", "epochs", "batch_size"))
    assert ('or "checkpoint", to go on by the plan as it was' in str(error.value)) == planned
    assert (
        'Write: the same plan, model, data and callbacks as before; another checkpoint_dir; on_change="override"'
        in str(error.value)
    )
    assert sorted(path.name for path in begun.iterdir()) == kept


@pytest.mark.parametrize("name", ["the peak", "the dropout", "the data", "the callbacks"])
def test_a_change_is_accepted_where_one_says_so(name, begun, tmp_path):
    """Up to the change the history is the old one; behind it the training is another."""
    import shutil

    shutil.copytree(begun, tmp_path / "begun")
    case = CHANGES[name][0]
    result = case.start(tmp_path / "begun", on_change="override")
    expected = undisturbed(next(iter(CASES)), tmp_path)
    assert len(result.history[1]) == case.plan.clock.epochs
    assert result.history[0]["loss"][0] == expected.history[0]["loss"][0]
    if name != "the callbacks":
        assert result.arrays != expected.arrays


def test_a_longer_plan_goes_on_behind_the_end_of_a_shorter_one(tmp_path):
    short, long = (make_plan(learning_rate=0.03, batch_size=12, epochs=epochs) for epochs in (2, 4))
    Case(short).start(tmp_path / "a")
    found = Case(long).start(tmp_path / "a", seed=5, on_change="override")
    assert_same(found, Case(long).start(tmp_path / "b"))
    # And the shorter one again has nothing more to do, where it ends at that very place.
    Case(short).start(tmp_path / "c")
    same = Case(make_plan(learning_rate=0.01, batch_size=12, epochs=2))
    assert_same(same.start(tmp_path / "c", on_change="override"), Case(short).start(tmp_path / "d"))


@pytest.mark.parametrize(
    ("plan", "at_a_pass"),
    [
        (make_plan(batch_size=24), False),
        (make_plan(batch_size=24), True),
        (make_plan(epochs=1, batch_size=12), False),
    ],
    ids=["other batches", "other batches, between passes", "over before"],
)
def test_a_plan_that_came_here_another_way_is_refused(plan, at_a_pass, tmp_path):
    Crashes.places = (("begin", 1),) if at_a_pass else (("batch", 1, 3),)
    with pytest.raises(Exception, match="Crash|begin|batch"):
        Case().start(tmp_path)
    with pytest.raises(
        ValueError, match=r"`on_change`: expected a plan whose batch sizes are the same up to here"
    ) as e:
        Case(plan).start(tmp_path, on_change="override")
    assert ("the 84 examples and 7 batches so far" if at_a_pass else "examples and") in str(e.value)


def test_the_plan_of_the_checkpoint_can_be_taken(begun, tmp_path):
    import shutil

    shutil.copytree(begun, tmp_path / "begun")
    changed = Case(make_plan(learning_rate=0.5, epochs=7))
    found = changed.start(tmp_path / "begun", on_change="checkpoint")
    assert_same(found, undisturbed(next(iter(CASES)), tmp_path))
    with pytest.raises(ValueError, match="seed: 0 in the checkpoint, 1 now") as error:
        Case(changed.plan, seed=1).start(begun, on_change="checkpoint")
    assert "as it was" not in str(error.value)


def test_the_plan_of_the_checkpoint_leaves_a_plain_rate_plain(tmp_path):
    case = CASES["validation, a plain rate that callbacks lower"]
    expected = undisturbed("validation, a plain rate that callbacks lower", tmp_path)
    interrupted(tmp_path / "begun", case)
    changed = Case(make_plan(epochs=7), case.model, case.data, case.callbacks, **case.arguments)
    assert_same(changed.start(tmp_path / "begun", on_change="checkpoint"), expected)


def test_other_variables_are_refused_whatever_one_says(begun):
    larger = Case(model=lambda plan: make_model(plan, stack=[layers.Dense(9), *make_layers()[1:]]))
    with pytest.raises(ValueError, match="as the checkpoint holds"):
        larger.start(begun, on_change="override")


# What is wrong from the start


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (
            {"on_change": "ignore"},
            '`on_change`: expected "raise", "override" or "checkpoint".\nReceived: \'ignore\'',
        ),
        ({"save_every": 0}, "`save_every`: expected a number of updates, 1 or more.\nReceived: 0"),
        ({"save_every": 2.5}, "`save_every`: expected a number of updates, 1 or more.\nReceived: 2.5"),
    ],
)
def test_wrong_arguments_are_said(arguments, words, tmp_path):
    with pytest.raises(ValueError) as error:
        Case().start(tmp_path / "a", **arguments)
    assert words in str(error.value)
    assert not (tmp_path / "a").exists()


def test_a_folder_that_cannot_be_written_is_refused_before_the_first_update(tmp_path):
    (tmp_path / "taken").write_text("")
    keras.utils.set_random_seed(0)
    plan, model = Case().plan, make_model(Case().plan)
    with pytest.raises(ValueError, match="`checkpoint_dir`: expected a folder that can be written"):
        plan.fit(model, X, Y, checkpoint_dir=tmp_path / "taken", verbose=0)
    assert int(keras.ops.convert_to_numpy(model.optimizer.iterations)) == 0


def test_a_plan_that_cannot_be_written_is_refused_before_the_first_update(tmp_path):
    from kwarmup import decay

    plan = make_plan(learning_rate=0.1 * decay(shape=lambda t: t * t))
    model = make_model(plan)
    with pytest.raises(ValueError, match="shape"):
        plan.fit(model, X, Y, checkpoint_dir=tmp_path, verbose=0)
    assert int(keras.ops.convert_to_numpy(model.optimizer.iterations)) == 0


# Damage and a full disk, seen from the training


def test_a_damaged_checkpoint_costs_some_batches_and_nothing_else(tmp_path):
    interrupted(tmp_path / "a")
    newest = max((tmp_path / "a").glob("step-*"))
    with open(newest / "arrays.npz", "r+b") as file:
        file.seek(1000)
        file.write(b"\xff\x00\xff")
    with pytest.warns(CheckpointWarning, match="is damaged .*; the one before it is used"):
        found = Case().start(tmp_path / "a", seed=4)
    assert_same(found, undisturbed(next(iter(CASES)), tmp_path))


def test_a_disk_that_is_full_for_a_while_costs_nothing(tmp_path, monkeypatch):
    writes, real = [0], os.fsync

    def full_for_a_while(handle):
        writes[0] += 1
        if 4 < writes[0] < 10:
            raise OSError(28, "No space left on device")
        real(handle)

    monkeypatch.setattr(os, "fsync", full_for_a_while)
    with pytest.warns(
        CheckpointWarning, match=r"No checkpoint was written at step \d+ .*No space left on device"
    ):
        found = survive(Case(), tmp_path / "a", [("batch", 1, 4), ("batch", 2, 1)])
    assert_same(found, undisturbed(next(iter(CASES)), tmp_path))


# SIGTERM, in this process


@pytest.fixture
def handler():
    """The program's own handler, which notes what reaches it."""
    heard = []
    before = signal.signal(signal.SIGTERM, lambda number, frame: heard.append(number))
    yield heard
    signal.signal(signal.SIGTERM, before)


class Terminated(keras.callbacks.Callback):
    places = ()

    def meet(self, *place):
        if place in Terminated.places:
            Terminated.places = tuple(p for p in Terminated.places if p != place)
            signal.raise_signal(signal.SIGTERM)

    def on_epoch_begin(self, epoch, logs=None):
        Terminated.epoch = epoch
        self.meet("begin", epoch)

    def on_train_batch_end(self, batch, logs=None):
        self.meet("batch", Terminated.epoch, batch)

    def on_test_begin(self, logs=None):
        self.meet("validation", Terminated.epoch)


def test_sigterm_saves_at_once_and_ends_with_143(tmp_path, handler):
    case = Case(callbacks=lambda: [Terminated()], validation_data=(X[:20], Y[:20]), save_every=1000)
    expected = case.start(tmp_path / "undisturbed")
    # The step at which it was saved: behind the very batch, or the pass.
    for place, step in [
        (("batch", 0, 4), 5),
        (("begin", 1), 8),
        (("validation", 1), 13),
        (("batch", 2, 0), 14),
    ]:
        Terminated.places = (place,)
        with pytest.raises(SystemExit) as ended:
            case.start(tmp_path / "ended", seed=step if step > 5 else 0)
        assert ended.value.code == 143
        assert max((tmp_path / "ended").glob("step-*")).name == f"step-{step:012d}"
    assert_same(case.start(tmp_path / "ended", seed=99), expected)
    assert handler == [] and signal.getsignal(signal.SIGTERM).__name__ == "<lambda>"


def test_on_a_full_disk_sigterm_saves_elsewhere(tmp_path, handler, monkeypatch):
    case = Case(callbacks=lambda: [Terminated()], save_every=1000)
    expected = case.start(tmp_path / "undisturbed")
    (tmp_path / "other").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "other"))
    real = checkpoint.write

    def full(folder, *arguments):
        if folder.parent.name == "other":
            return real(folder, *arguments)
        warnings.warn("no space", CheckpointWarning, stacklevel=2)
        return False

    Terminated.places = (("batch", 0, 4),)
    with monkeypatch.context() as patched, pytest.warns(CheckpointWarning) as said, pytest.raises(SystemExit):
        patched.setattr(checkpoint, "write", full)
        case.start(tmp_path / "ended")
    (elsewhere,) = (tmp_path / "other").iterdir()
    words = f'saved to {elsewhere} instead, and goes on from there with checkpoint_dir="{elsewhere}"'
    assert any(words in str(warning.message) for warning in said)
    assert_same(case.start(elsewhere, seed=5), expected)


def test_sigterm_in_the_last_pass_is_handed_on_behind_the_end(tmp_path, handler):
    case = Case(callbacks=lambda: [Terminated()], validation_data=(X[:20], Y[:20]))
    Terminated.places = (("validation", 3),)
    case.start(tmp_path / "a")
    assert handler == [signal.SIGTERM]
    case.start(tmp_path / "a")
    assert handler == [signal.SIGTERM]


def test_training_in_a_thread_has_checkpoints_too(tmp_path):
    with ThreadPoolExecutor() as pool:
        found = pool.submit(Case().start, tmp_path / "a").result()
    assert found.history[1] == [0, 1, 2, 3] and list((tmp_path / "a").glob("step-*"))


# Real processes

PROGRAM = Path(__file__).parent / "resume_program.py"
KILLS = 20 if BACKEND == "tensorflow" else 4


class Processes(Forks):
    """Runs the training program in processes of its own."""

    def __init__(self):
        super().__init__(PROGRAM)

    def run(self, folder, kill="never:0"):
        """Run the training program; return its exit code."""
        folder.mkdir(exist_ok=True)
        code, said = super().run(folder / "checkpoints", folder / "result.json", "--kill", kill)
        assert code in (0, 143, -signal.SIGKILL), said
        return code


def ended_alone(processes, folder):
    """What the program ends with when nobody kills it."""
    processes.run(folder)
    return json.loads((folder / "result.json").read_text())


def a_moment(draw):
    most = {"batch": 4, "seconds": 0.08, "fsync": 8, "rename": 3}
    where = draw.choice(list(most))
    return f"{where}:{draw.uniform(0, most[where]) if where == 'seconds' else draw.randint(1, most[where])}"


@backend
@pytest.mark.slow
def test_killed_at_random_moments_it_ends_bit_for_bit_the_same(tmp_path):
    """SIGKILL at random batches, at random times, and at random calls while a checkpoint is written.

    With a ramp, dropout, a momentum that cycles and decays on plateaus; fewer kills on JAX and torch.
    """

    def chain(processes, number):
        seed = random.SystemRandom().randrange(2**32)
        draw, moments, results = random.Random(seed), [], []
        while len(moments) < KILLS:  # a new training, where one ended before all kills were dealt
            folder, ended = tmp_path / f"{number}-{len(moments)}", None
            while ended != 0:
                moment = a_moment(draw) if len(moments) < KILLS else "never:0"
                ended = processes.run(folder, moment)
                moments += [moment] * (ended == -signal.SIGKILL)
            results.append(json.loads((folder / "result.json").read_text()))
        print(f"seed {seed}: {' '.join(moments)}")
        return results

    with Processes() as processes:
        alone = ended_alone(processes, tmp_path / "alone")
        results = chain(processes, 0)
        if BACKEND == "tensorflow":  # asked to end by SIGTERM it is saved, and goes on
            assert processes.run(tmp_path / "a", "term:3") == 143
            assert (tmp_path / "a" / "checkpoints" / "step-000000000003").exists()
            results.append(ended_alone(processes, tmp_path / "a"))
    assert results
    for result in results:
        assert result == alone
    assert len(alone["history"]["loss"]) > 2
    assert alone["plateau"][-1] < 1  # a plateau was met


@pytest.mark.slow
def test_what_adapts_is_killed_for_real(tmp_path):
    """A batch that follows the noise scale, and the pace that AdaScale gives a schedule."""
    results = {}
    with Forks(PROGRAM) as forks:
        for way, moment in (("--follow", 50), ("--gain", 23)):
            for name, *kills in (("undisturbed",), ("killed", f"batch:{moment}")):
                place = tmp_path / f"{name}{way}"
                for kill in (*kills, "never:0"):
                    code, said = forks.run(place, f"{place}.json", way, "--kill", kill)
                    assert code == (0 if kill == "never:0" else -signal.SIGKILL), said
                results[name, way] = json.loads(Path(f"{place}.json").read_text())
            assert results["killed", way] == results["undisturbed", way]
    sizes = results["killed", "--follow"]["history"]["batch_size"]
    assert sizes[-1] > sizes[0]
    gained = results["killed", "--gain"]["history"]
    assert gained["base_step"][-1] >= 80 and gained["gain"][-1] > 1
