"""PlateauGrowth: the batch grows where PlateauDecay would decay, with the same ratio to the learning rate."""

import contextlib
import warnings

import keras
import numpy as np
import pytest

from kwarmup import SGD, Plan, PlanWarning, PlateauDecay, PlateauGrowth, Record, hold, linear, warmup

pytestmark = pytest.mark.backend

N = 120
X = np.ones((N, 1), "float32")


class Left(Exception):
    pass


class Leaves(keras.callbacks.Callback):
    """Ends the process, or nearly so, at an update."""

    def __init__(self, update):
        super().__init__()
        self.update = update

    def on_train_batch_end(self, batch, logs=None):
        if int(keras.ops.convert_to_numpy(self.model.optimizer.iterations)) == self.update:
            raise Left


class Told(keras.callbacks.Callback):
    """Puts values that were decided on beforehand into the logs."""

    def __init__(self, values):
        super().__init__()
        self.values = values

    def on_epoch_end(self, epoch, logs=None):
        logs["told"] = self.values[epoch]


def train(callbacks, batch_size=10, epochs=8, learning_rate=0.1, **changes):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", PlanWarning)
        plan = Plan(learning_rate=learning_rate, batch_size=batch_size, examples=N, epochs=epochs, **changes)
    model = keras.Sequential([keras.Input((1,)), keras.layers.Dense(1)])
    parts = plan.clock.gradient_accumulation_steps
    model.compile(
        keras.optimizers.SGD(plan.learning_rate, gradient_accumulation_steps=parts if parts > 1 else None),
        "mse",
        # Compiling a step takes longer than all of these; on JAX it is the other way round.
        run_eagerly=keras.backend.backend() != "jax",
    )
    history = plan.fit(model, X, X, verbose=0, callbacks=[*callbacks, Record()])
    return model, history.history["learning_rate"]


BETTER = [8, 7, 6, 5, 4, 3, 2, 1]
STILL = [8, 7, 7, 7, 7, 7, 7, 7]  # With patience 2, passes 3, 5 and 7 end with a plateau.


def growth(**arguments):
    return PlateauGrowth(
        "told", mode="min", **{"factor": 0.5, "patience": 2, "max_batch_size": 40, **arguments}
    )


def sizes(callback):
    clock = callback.plan.clock
    return [clock.batch_size_at(clock.step_at(epochs=epoch)) for epoch in range(clock.epochs)]


def test_the_batch_grows_and_beyond_its_limit_the_learning_rate_decays():
    callback = growth()
    model, rates = train([Told(STILL), callback])
    assert sizes(callback) == [10, 10, 10, 10, 20, 20, 40, 40]
    assert int(model.optimizer.iterations) == 4 * 12 + 2 * 6 + 2 * 3 == callback.plan.clock.steps
    assert rates == pytest.approx([0.1] * 8)
    callback = growth(max_batch_size=20)
    _, rates = train([Told(STILL), callback])
    assert sizes(callback) == [10, 10, 10, 10, 20, 20, 20, 20]
    assert rates == pytest.approx([0.1] * 6 + [0.05] * 2)


def test_nothing_grows_while_training_gets_better():
    callback = growth()
    _, rates = train([Told(BETTER), callback])
    assert sizes(callback) == [10] * 8
    assert rates == pytest.approx([0.1] * 8)


@pytest.mark.parametrize(
    ("scaling", "factor", "limit"),
    [(0, 0.3, 25), (0, 0.5, 1_000), (0.5, 0.3, 1_000), (1, 0.5, 25), (1, 0.3, 10)],
)
def test_the_ratio_to_the_batch_size_is_that_of_a_decay(scaling, factor, limit):
    _, decayed = train([Told(STILL), PlateauDecay("told", factor=factor, patience=2, mode="min")])
    callback = growth(factor=factor, max_batch_size=limit)
    _, grown = train([Told(STILL), callback], scaling=scaling)
    ratios = [rate * 10 / size for rate, size in zip(grown, sizes(callback), strict=True)]
    assert ratios == pytest.approx(decayed, rel=1e-5)


def test_sizes_are_what_the_clock_divides_by():
    callback = growth(factor=0.4, max_batch_size=70)
    model, _ = train([Told(STILL), callback], batch_size=12, gradient_accumulation_steps=3, multiple_of=2)
    assert sizes(callback) == [12, 12, 12, 12, 30, 30, 66, 66]
    assert int(model.optimizer.iterations) == callback.plan.clock.steps


def test_the_weights_are_those_of_the_plan_that_it_came_to():
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(N, 3)).astype("float32"), rng.normal(size=(N, 1)).astype("float32")
    callback, found = growth(), []
    for by in ("told", "planned"):
        plan = callback.plan
        if by == "told":
            plan = Plan(
                learning_rate=0.1 * (warmup(epochs=2) >> linear()), batch_size=10, examples=N, epochs=8
            )
        keras.utils.set_random_seed(0)
        model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(4), keras.layers.Dense(1)])
        model.compile(keras.optimizers.SGD(plan.learning_rate, momentum=0.9), "mse")
        plan.fit(model, x, y, verbose=0, callbacks=[Told(STILL), callback] if by == "told" else [])
        found.append(model.get_weights())
    for told, planned in zip(*found, strict=True):
        np.testing.assert_allclose(told, planned, atol=1e-6)


def test_it_goes_on_from_a_checkpoint_by_the_plan_in_force(tmp_path):
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(N, 3)).astype("float32"), rng.normal(size=(N, 1)).astype("float32")
    found = []
    for stops in ([], [5, 25, 55, 62]):
        for stop in [*stops, None]:
            plan = Plan(
                learning_rate=0.1 * (warmup(epochs=2) >> linear()), batch_size=10, examples=N, epochs=8
            )
            keras.utils.set_random_seed(0)
            model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(4), keras.layers.Dense(1)])
            model.compile(SGD(plan.learning_rate, momentum=0.9 * warmup(epochs=8, start=0.5)), "mse")
            callbacks = [Told(STILL), growth(max_batch_size=20), Record()]
            if stop:
                callbacks.append(Leaves(stop))
            with contextlib.suppress(Left):
                plan.fit(
                    model, x, y, verbose=0, callbacks=callbacks, save_every=7, on_change="override",
                    checkpoint_dir=tmp_path / str(len(stops)),
                )  # fmt: skip
        assert sizes(callbacks[1]) == [10] * 4 + [20] * 4
        found.append([model.history.history["learning_rate"], *model.get_weights()])
    for undisturbed, resumed in zip(*found, strict=True):
        np.testing.assert_array_equal(undisturbed, resumed)


def test_the_same_object_begins_anew_in_another_training():
    callback = growth()
    for _ in range(2):
        train([Told(STILL), callback])
        assert sizes(callback) == [10, 10, 10, 10, 20, 20, 40, 40]


def test_a_check_within_a_pass_takes_effect_with_the_next():
    # Nothing to learn: no loss is better than the first one.
    callback = PlateauGrowth("loss", patience=1, steps=6, max_batch_size=1_000)
    plan = Plan(learning_rate=0.1, batch_size=10, examples=N, epochs=3)
    model = keras.Sequential([keras.Input((1,)), keras.layers.Dense(1, kernel_initializer="zeros")])
    model.compile(keras.optimizers.SGD(plan.learning_rate), "mse")
    plan.fit(model, X, 0 * X, verbose=0, callbacks=[callback])
    assert sizes(callback) == [10, 20, 40]


@pytest.mark.parametrize(
    ("run", "words"),
    [
        (lambda: growth(factor=1), "`factor`: expected a number above 0 and below 1"),
        (lambda: growth(max_batch_size=0), "`max_batch_size`: expected a whole number, 1 or more"),
        (lambda: train([growth(max_batch_size=8)]), "`max_batch_size`: expected 10 or more"),
        (lambda: train([growth()], batch_size=10 * linear(to=4)), "`batch_size`: expected one that holds"),
        (
            lambda: train([growth()], batch_size=10 * (hold(epochs=2) >> hold(2))),
            "`batch_size`: expected one that holds",
        ),
    ],
)
def test_what_it_refuses(run, words):
    with pytest.raises(ValueError, match=words):
        run()


def test_it_is_for_plan_fit():
    model = keras.Sequential([keras.Input((1,)), keras.layers.Dense(1)])
    model.compile("sgd", "mse")
    with pytest.raises(ValueError, match="`callbacks`: expected a training by a plan"):
        model.fit(X, X, verbose=0, callbacks=[growth()])
