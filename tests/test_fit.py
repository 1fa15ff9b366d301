"""plan.fit: the same weights as a hand-written loop over the same slices; true epochs. On any backend."""

import warnings

import keras
import numpy as np
import pytest

from kwarmup import SGD, Plan, PlanWarning, Record, Schedule, cosine, hold, linear, warmup

pytestmark = pytest.mark.backend

RANDOM = np.random.default_rng(0)
N = 200
X = RANDOM.normal(size=(N, 5)).astype("float32")
Y = RANDOM.normal(size=(N, 1)).astype("float32")
BATCHES = {
    "constant": 64,
    "jumps": 16 * (hold(epochs=1) >> hold(4, epochs=1) >> hold(16)),
    "grows": 16 * linear(to=5, epochs=3),
}


def make_plan(batch_size=64, **changes):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", PlanWarning)
        arguments = dict(
            learning_rate=0.05 * (warmup(epochs=1) >> cosine(to=0.1)), examples=N, epochs=4, scaling=0.5
        )
        return Plan(batch_size=batch_size, **{**arguments, **changes})


def make_model(plan, rate=None, parts=None, **arguments):
    keras.utils.set_random_seed(1)
    model = keras.Sequential(
        [keras.Input((5,)), keras.layers.Dense(8, activation="relu"), keras.layers.Dense(1)]
    )
    rate = plan.learning_rate if rate is None else rate
    optimizer = keras.optimizers.SGD(rate, momentum=0.9, gradient_accumulation_steps=parts)
    model.compile(optimizer, "mse", **arguments)
    return model


def by_hand(plan):
    model, step = make_model(plan, rate=0.1), 0
    for epoch in range(plan.clock.epochs):
        order = np.random.default_rng([0, epoch]).permutation(N)
        for rows in np.split(order, np.cumsum(plan.clock.micro_batches(epoch))[:-1]):
            model.optimizer.learning_rate = plan.curve(step)
            model.train_on_batch(X[rows], Y[rows])
            step += 1
    return model.get_weights()


def assert_equal(found, expected, tolerance=1e-6):
    for a, b in zip(found, expected, strict=True):
        np.testing.assert_allclose(a, b, rtol=0, atol=tolerance)


@pytest.mark.parametrize("batch_size", BATCHES.values(), ids=BATCHES)
def test_it_trains_as_a_loop_by_hand_does(batch_size):
    plan = make_plan(batch_size)
    model = make_model(plan)
    history = plan.fit(model, X, Y, verbose=0)
    assert len(history.history["loss"]) == 4
    assert int(model.optimizer.iterations) == plan.clock.steps
    assert_equal(model.get_weights(), by_hand(plan))


@pytest.mark.parametrize("batch_size", BATCHES.values(), ids=BATCHES)
def test_driving_keras_oneself_gives_the_same_weights(batch_size):
    plan = make_plan(batch_size)
    expected = make_model(plan)
    plan.fit(expected, X, Y, verbose=0)
    model = make_model(plan)
    model.fit(plan.batches(X, Y), shuffle=False, verbose=0, **plan.fit_arguments)
    assert int(model.optimizer.iterations) == plan.clock.steps
    assert_equal(model.get_weights(), expected.get_weights(), 0)


def test_another_seed_gives_other_weights():
    plan = make_plan()
    models = [make_model(plan), make_model(plan)]
    for seed, model in enumerate(models):
        plan.fit(model, X, Y, seed=seed, verbose=0)
    assert abs(models[0].get_weights()[0] - models[1].get_weights()[0]).max() > 1e-4


def test_executions_of_several_steps_change_nothing():
    plan = make_plan(BATCHES["jumps"])
    if keras.backend.backend() == "torch":
        with pytest.raises(ValueError, match="steps_per_execution"):  # by Keras itself
            plan.fit(make_model(plan, steps_per_execution=3), X, Y, verbose=0)
        return
    weights = []
    for steps in (1, 3):
        model = make_model(plan, steps_per_execution=steps)
        plan.fit(model, X, Y, verbose=0)
        assert int(model.optimizer.iterations) == plan.clock.steps
        weights.append(model.get_weights())
    assert_equal(*weights)


def test_accumulation_equals_the_large_batch_where_it_divides():
    large = make_plan(40, drop_remainder=True, scaling=0)
    small = large.replace(gradient_accumulation_steps=4)
    expected, model = make_model(large), make_model(small, parts=4)
    large.fit(expected, X, Y, verbose=0)
    small.fit(model, X, Y, verbose=0)
    assert_equal(model.get_weights(), expected.get_weights())


class Diary(keras.callbacks.Callback):
    def __init__(self):
        super().__init__()
        self.seen = []

    def on_train_begin(self, logs=None):
        self.seen.append("begin")

    def on_epoch_begin(self, epoch, logs=None):
        self.seen.append((epoch, self.params["steps"], self.params["epochs"]))

    def on_test_end(self, logs=None):
        self.seen.append("validated")

    def on_train_end(self, logs=None):
        self.seen.append("end")


def test_callbacks_see_one_training_of_true_epochs():
    plan, diary = make_plan(BATCHES["jumps"]), Diary()
    history = plan.fit(make_model(plan), X, Y, validation_data=(X, Y), verbose=0, callbacks=[diary, Record()])
    epochs = [
        ((0, 13, 4), "validated"),
        ((1, 4, 4), "validated"),
        ((2, 1, 4), "validated"),
        ((3, 1, 4), "validated"),
    ]
    assert diary.seen == ["begin", *(item for epoch in epochs for item in epoch), "end"]
    assert history.epoch == [0, 1, 2, 3]
    assert {"loss", "val_loss", "learning_rate"} <= set(history.history)


def test_training_that_is_stopped_ends_once():
    class Stop(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            self.model.stop_training = epoch == 1

    plan, diary = make_plan(), Diary()
    history = plan.fit(make_model(plan), X, Y, verbose=0, callbacks=[Stop(), diary])
    assert history.epoch == [0, 1]
    assert diary.seen.count("end") == diary.seen.count("begin") == 1


PLAN = make_plan()


def with_momentum(momentum):
    model = make_model(PLAN)
    model.compile(SGD(0.1, momentum=momentum), "mse")
    return model


def test_a_momentum_on_the_plans_clock_is_taken():
    PLAN.fit(with_momentum(Schedule(0.9 * linear(to=0.8), PLAN.clock)), X, Y, verbose=0)


@pytest.mark.parametrize(
    ("model", "words"),
    [
        (lambda: make_model(PLAN, Schedule(0.1 * hold())), "`learning_rate`: expected the plan's own"),
        (
            lambda: with_momentum(Schedule(0.9 * linear(to=0.8), PLAN.replace(epochs=5).clock)),
            r"`momentum`: expected the plan's clock in both.\nReceived: Schedule\(0.9 \* linear\(to=0.8\), Clock\("
            r"examples=200, epochs=5, batch_size=64\)\) in the optimizer, Clock\(examples=200, epochs=4, "
            r"batch_size=64\) in the plan\nWrite: kw.SGD\(plan.learning_rate, momentum=0.9 \* linear\(to=0.8\)\), w",
        ),
        (lambda: make_model(PLAN, parts=2), "Received: 2 in the optimizer, 1 in Clock"),
        (
            lambda: keras.Sequential([keras.Input((5,)), keras.layers.Dense(1)]),
            "`model`: expected a compiled model",
        ),
    ],
)
def test_a_model_that_does_not_fit_is_refused_before_the_first_update(model, words):
    model = model()
    before = model.get_weights()
    with pytest.raises(ValueError, match=words):
        PLAN.fit(model, X, Y, verbose=0)
    assert_equal(model.get_weights(), before, 0)


def test_an_optimizer_that_has_trained_already_is_refused():
    model = make_model(PLAN)
    PLAN.fit(model, X, Y, verbose=0)
    with pytest.raises(ValueError, match="an optimizer that has done 16 updates"):
        PLAN.fit(model, X, Y, verbose=0)


def test_what_the_plan_decides_is_refused():
    with pytest.raises(TypeError, match="`batch_size`: expected no such argument, since the plan decides it"):
        PLAN.fit(make_model(PLAN), X, Y, batch_size=32)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (
            {"checkpointdir": "x"},
            r"(?s)`checkpointdir`: expected no such argument.*fit\(model, x, y, checkpoint_dir=",
        ),
        ({"zzz": 1}, r"(?s)`zzz`: expected no such argument.*Write: plan.fit\(model, x, y\)$"),
        (
            {"callbacks": [Record]},
            r"(?s)`callbacks`: expected callbacks, which are.*callbacks=\[Record\(\)\]",
        ),
        ({"callbacks": ["Record"]}, "`callbacks`: expected callbacks, which are objects"),
        ({"x": X.tolist()}, r"(?s)`x`: expected arrays\..*Write: plan.fit\(model, np.asarray\(x\)"),
    ],
    ids=["misspelt", "unknown", "a class", "a word", "lists"],
)
def test_what_nobody_takes_is_refused(arguments, words):
    with pytest.raises(TypeError, match=words):
        PLAN.fit(make_model(PLAN), **{"x": X, "y": Y, **arguments})


def test_callbacks_may_be_one_or_nested_as_in_keras():
    found = []
    for callbacks in (Record(), [[Record()]], [Record()]):
        found.append(
            PLAN.fit(make_model(PLAN), X, Y, callbacks=callbacks, verbose=0).history["learning_rate"]
        )
    assert found[0] == found[1] == found[2]


@pytest.mark.parametrize(
    ("rows", "words"), [(150, "150 examples in pass 0"), (250, "more than 200 examples")]
)
def test_data_of_another_length_than_the_plan_says_both_numbers(rows, words):
    def chunks():
        yield np.resize(X, (rows, 5)), np.resize(Y, (rows, 1))

    # TensorFlow raises an error of its own around the one from the generator.
    with pytest.raises(Exception, match=f"(?s)expected 200 examples a pass.*Received: {words}"):
        PLAN.fit(make_model(PLAN), chunks, verbose=0)
