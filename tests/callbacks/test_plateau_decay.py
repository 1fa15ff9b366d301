"""PlateauDecay: when it fires, on what, and that the compiled step follows. On any backend."""

import csv
import math

import keras
import numpy as np
import pytest

from kwarmup import PlateauDecay, Record, Schedule, WarmupDecay, hold, linear, warmup
from kwarmup.private import schedule_of

pytestmark = pytest.mark.backend

BACKEND = keras.backend.backend()
NAN, INF = math.nan, math.inf


def compiled(rate=1.0, loss="mse", parts=None, **arguments):
    model = keras.Sequential([keras.Input((1,)), keras.layers.Dense(1, kernel_initializer="zeros")])
    model.compile(keras.optimizers.SGD(rate, gradient_accumulation_steps=parts), loss, **arguments)
    return model


def factors(values, model=None, **arguments):
    """Return the factor behind each check, where the monitored value takes these values."""
    model = model or compiled()
    callback = PlateauDecay(**{"factor": 0.5, "min_delta": 0, **arguments})
    callback.set_model(model)
    callback.on_train_begin()
    found = []
    for epoch, value in enumerate(values):
        callback.on_epoch_begin(epoch)
        callback.on_epoch_end(epoch, {callback.monitor: value})
        found.append(schedule_of(model.optimizer).factor)
    return found


BETTER = [9, 8, 7, 6]
SEMANTICS = {
    "never while it gets better": (dict(patience=1), BETTER, [1, 1, 1, 1]),
    "patience 1: at the first that is no better": (dict(patience=1), [9, 9, 9], [1, 0.5, 0.25]),
    "patience 3: at the third in a row": (dict(patience=3), [9, 9, 9, 9, 9], [1, 1, 1, 0.5, 0.5]),
    "a better one begins the row anew": (dict(patience=2), [9, 9, 8, 8, 8], [1, 1, 1, 1, 0.5]),
    "better than the best, not than the last": (dict(patience=2), [5, 9, 8, 7], [1, 1, 0.5, 0.5]),
    "more than min_delta": (dict(patience=1, min_delta=1), [9, 8, 7.9], [1, 0.5, 0.5]),
    "little by little is better too": (dict(patience=2, min_delta=1), [9, 8.5, 7.5], [1, 1, 1]),
    "max": (dict(patience=1, mode="max"), [1, 2, 3, 3, 2], [1, 1, 1, 0.5, 0.25]),
    "max by more than min_delta": (dict(patience=1, mode="max", min_delta=1), [1, 2, 2.1], [1, 0.5, 0.5]),
    "cooldown 1: one check does not count": (
        dict(patience=1, cooldown=1), [9, 9, 9, 9, 9, 9], [1, 0.5, 0.5, 0.25, 0.25, 0.125],
    ),
    "cooldown 2, then patience 2": (
        dict(patience=2, cooldown=2), [9, 9, 9, 9, 9, 9, 9], [1, 1, 0.5, 0.5, 0.5, 0.5, 0.25],
    ),
    "a better one in the cooldown is the best": (
        dict(patience=1, cooldown=1), [9, 9, 5, 6, 4], [1, 0.5, 0.5, 0.25, 0.25],
    ),
    "min_factor is a floor": (dict(patience=1, min_factor=0.3), [9, 9, 9, 9], [1, 0.5, 0.3, 0.3]),
    "NaN is never the best": (dict(patience=2), [NAN, 9, 9, 9], [1, 1, 1, 0.5]),
    "NaN is no improvement": (dict(patience=2), [9, NAN, NAN, 8], [1, 1, 0.5, 0.5]),
    "-inf is never the best": (dict(patience=2), [-INF, 9, 8, 7], [1, 1, 1, 1]),
    "inf is never the best": (dict(patience=2, mode="max"), [INF, 1, 2, 3], [1, 1, 1, 1]),
    "NaN from the begin": (dict(patience=2), [NAN, NAN, NAN, NAN], [1, 0.5, 0.5, 0.25]),
    "every second pass": (dict(patience=1, epochs=2), [0, 9, 0, 9, 0, 9], [1, 1, 1, 0.5, 0.5, 0.25]),
}  # fmt: skip


@pytest.mark.parametrize(("arguments", "values", "expected"), SEMANTICS.values(), ids=SEMANTICS)
def test_when_it_fires(arguments, values, expected):
    assert factors(values, **arguments) == expected


def test_a_tenth_of_a_tenth_is_a_hundredth():
    assert factors([9] * 5, patience=1, factor=0.1) == [1, 0.1, 0.01, 0.001, 0.0001]


def test_a_factor_below_the_floor_is_not_raised():
    model = compiled()
    assert factors([9] * 3, model, patience=1, factor=0.1) == [1, 0.1, 0.01]
    assert factors([9] * 3, model, patience=1, factor=0.1, min_factor=0.5) == [0.01] * 3


UP = [1, 2, 3, 4]


@pytest.mark.parametrize(
    ("monitor", "mode"),
    [
        ("loss", "min"), ("val_loss", "min"), ("val_accuracy", "max"),
        ("accuracy", "max"), ("val_mse", "min"), ("val_r2_score", "max"),
    ],
)  # fmt: skip
def test_auto_knows_the_better_end(monitor, mode):
    model = compiled(metrics=["accuracy", "mse", keras.metrics.R2Score()])
    model.fit(np.ones((4, 1)), np.ones((4, 1)), verbose=0)
    values = UP if mode == "max" else UP[::-1]
    assert factors(values, model, monitor=monitor, patience=1)[-1] == 1
    assert factors(values[::-1], model, monitor=monitor, patience=1)[-1] == 0.125


# In training


X = np.ones((6, 1), "float32")


def slope(y, prediction):
    """A loss whose gradient by the kernel is -1: the kernel is the sum of the learning rates used."""
    return -keras.ops.mean(prediction)


def kernel(model):
    return float(keras.ops.convert_to_numpy(model.layers[0].kernel).item())


class Say(keras.callbacks.Callback):
    """Puts values into the logs, as a validation would."""

    def __init__(self, values):
        super().__init__()
        self.values = values

    def on_epoch_end(self, epoch, logs=None):
        logs["val_loss"] = self.values[epoch]


STUCK = [9.0] * 6
RATES = {
    "warmup, then plateau": (lambda: Schedule(linear(start=1, to=4, steps=3) >> hold()), [1, 2, 3, 4, 4, 4]),
    "a Keras schedule": (
        lambda: keras.optimizers.schedules.PolynomialDecay(8.0, 8, 0.0),
        [8, 7, 6, 5, 4, 3],
    ),
    "a number": (lambda: 0.5, [0.5] * 6),
}


def train(model, *callbacks, values=STUCK, **arguments):
    """Train for some passes of one update each; return the learning rates in the logs."""
    arguments = {"epochs": 6, "verbose": 0, "callbacks": [Say(values), *callbacks], **arguments}
    return model.fit(X[:1], X[:1], **arguments).history.get("learning_rate")


@pytest.mark.parametrize("rate", RATES)
def test_each_schedule_is_multiplied_and_the_logs_have_what_was_used(rate):
    make, rates = RATES[rate]
    expected = np.multiply(rates, [1, 1, 1, 0.5, 0.5, 0.25])  # decays behind the third and the fifth
    for order in (0, 1):
        callbacks = [PlateauDecay(factor=0.5, patience=2), Record()]
        model = compiled(make(), slope)
        assert train(model, *(callbacks if order else callbacks[::-1])) == pytest.approx(expected)
        assert kernel(model) == pytest.approx(expected.sum())


def test_csv_logger_sees_the_rate_of_the_pass_of_the_decay(tmp_path):
    log = keras.callbacks.CSVLogger(tmp_path / "log.csv")
    train(compiled(1.0, slope), PlateauDecay(factor=0.5, patience=2), Record(), log)
    with open(tmp_path / "log.csv") as file:
        found = [float(row["learning_rate"]) for row in csv.DictReader(file)]
    assert found == [1, 1, 1, 0.5, 0.5, 0.25]


def test_a_second_fit_with_the_same_object_goes_on():
    whole, halves = compiled(1.0, slope), compiled(1.0, slope)
    values = [9, 9, 8, 8, 8, 8]
    train(whole, PlateauDecay(factor=0.5, patience=2), values=values)
    callback = PlateauDecay(factor=0.5, patience=2)
    for begin in range(6):
        train(halves, callback, values=values, initial_epoch=begin, epochs=begin + 1)
    assert kernel(halves) == kernel(whole) == 5.5


def test_with_another_model_it_begins_anew():
    callback = PlateauDecay(factor=0.5, patience=2)
    train(compiled(1.0, slope), callback, values=[1.0] * 6)
    model = compiled(1.0, slope)
    assert train(model, callback, Record(), values=[9, 8, 7, 6, 5, 4]) == [1] * 6


def test_behind_updates_it_has_not_seen_it_begins_anew():
    callback, model = PlateauDecay(factor=0.5, patience=2), compiled(1.0, slope)
    train(model, callback, values=[1.0] * 6, epochs=2)
    train(model, epochs=1)
    assert train(model, callback, Record(), values=[9.0] * 6, epochs=3) == [1, 1, 1]
    assert callback.best == 9


def test_a_loaded_model_goes_on_with_its_factor(tmp_path):
    model = keras.Sequential([keras.Input((1,)), keras.layers.Dense(1)])
    model.compile(keras.optimizers.SGD(Schedule(0.5 * (warmup(steps=2) >> hold()))), "mse")
    train(model, PlateauDecay(factor=0.1, patience=2), epochs=5)
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    # A callback of its own: its row begins anew, the factor does not.
    found = train(loaded, PlateauDecay(factor=0.1, patience=2), Record(), epochs=4)
    assert found == pytest.approx([0.005, 0.005, 0.005, 0.0005])
    assert schedule_of(loaded.optimizer).learning_rate == Schedule(0.5 * (warmup(steps=2) >> hold()))


# Checks that go by steps


def of_the_targets(y, prediction):
    """A loss that is known beforehand: the mean of the targets."""
    return keras.ops.mean(y, axis=-1) + 0 * keras.ops.mean(prediction)


class Windows(keras.callbacks.Callback):
    """Notes which values were checked, and behind which batch."""

    def __init__(self, callback):
        super().__init__()
        self.found, self.checked, inner = [], callback, callback._check

        def check(value):
            self.found.append(value)
            inner(value)

        callback._check = check


TARGETS = np.array([4, 1, 7, 0, 2, 9, 3], "float32")


def means(interval, size, passes, counted=1):
    """The true means: the updates of all passes in a row, in windows of `interval`, looked at every `counted`."""
    batches = [TARGETS[i : i + size] for i in range(0, len(TARGETS), size)]
    ends, found, window, done, due = [], [], [], 0, interval
    for _ in range(passes):
        for index, batch in enumerate(batches):
            window, done = [*window, *batch], done + 1
            looked_at = (index + 1) % counted == 0 or index + 1 == len(batches)
            if looked_at and done >= due:
                found, ends, window = [*found, np.mean(window)], [*ends, done], []
                due += interval * ((done - due) // interval + 1)
    return found


@pytest.mark.parametrize("validated", [False, True], ids=["", "validated"])
@pytest.mark.parametrize(("interval", "size"), [(1, 2), (2, 2), (3, 2), (4, 3), (5, 1), (6, 2), (30, 2)])
def test_the_mean_over_the_steps_alone(interval, size, validated):
    callback = PlateauDecay("loss", factor=0.5, patience=2, steps=interval)
    windows = Windows(callback)
    model = compiled(1.0, of_the_targets)
    data = (np.ones((5, 1)), np.full((5, 1), 1000.0)) if validated else None
    model.fit(
        np.ones((7, 1)), TARGETS[:, None], batch_size=size, epochs=5, shuffle=False, verbose=0,
        validation_data=data, callbacks=[callback],
    )  # fmt: skip
    assert windows.found == pytest.approx(means(interval, size, 5), rel=1e-6)


@pytest.mark.parametrize(("interval", "counted"), [(3, 2), (1, 2), (4, 3), (5, 7)])
def test_under_steps_per_execution_a_check_comes_behind_the_execution(interval, counted):
    callback = PlateauDecay("loss", factor=0.5, patience=2, steps=interval)
    windows = Windows(callback)
    model = compiled(1.0, of_the_targets, steps_per_execution=counted)
    arguments = dict(batch_size=1, epochs=4, shuffle=False, verbose=0, callbacks=[callback])
    if BACKEND == "torch":
        with pytest.raises(ValueError, match="steps_per_execution"):  # by Keras itself
            model.fit(np.ones((7, 1)), TARGETS[:, None], **arguments)
        return
    model.fit(np.ones((7, 1)), TARGETS[:, None], **arguments)
    assert windows.found == pytest.approx(means(interval, 1, 4, counted), rel=1e-6)


def test_steps_are_updates_under_accumulation():
    callback = PlateauDecay("loss", factor=0.5, patience=2, steps=2)
    windows = Windows(callback)
    model = compiled(1.0, of_the_targets, parts=2)
    model.fit(
        np.ones((7, 1)), TARGETS[:, None], batch_size=1, epochs=4, shuffle=False, verbose=0,
        callbacks=[callback],
    )  # fmt: skip
    assert windows.found == pytest.approx(np.tile(TARGETS, 4).reshape(-1, 4).mean(axis=1), rel=1e-6)


def test_an_accuracy_over_steps():
    callback = PlateauDecay("accuracy", factor=0.5, patience=2, steps=2)
    windows = Windows(callback)
    model = keras.Sequential(
        [keras.Input((1,)), keras.layers.Dense(1, "sigmoid", kernel_initializer="zeros")]
    )
    model.compile(keras.optimizers.SGD(0.0), "binary_crossentropy", metrics=["accuracy"])
    y = np.array([0, 0, 0, 1, 1, 1])[:, None]
    model.fit(np.ones((6, 1)), y, batch_size=1, epochs=2, shuffle=False, verbose=0, callbacks=[callback])
    assert windows.found == [1, 0.5, 0, 1, 0.5, 0]
    assert callback.best == 1


def test_the_step_behind_a_check_is_the_first_to_be_lower():
    seen = []

    class Look(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            seen.append(logs["learning_rate"])

    model = compiled(Schedule(linear(start=1, to=13, steps=12)), of_the_targets)
    model.fit(
        np.ones((6, 1)), np.ones((6, 1)), batch_size=1, epochs=2, verbose=0,
        callbacks=[PlateauDecay("loss", factor=0.5, patience=1, steps=4), Record("batch"), Look()],
    )  # fmt: skip
    assert seen == pytest.approx([1, 2, 3, 4, 5, 6, 7, 8, 4.5, 5, 5.5, 6])


def test_a_second_fit_goes_on_within_a_window():
    callback = PlateauDecay("loss", factor=0.5, patience=2, steps=5)
    windows = Windows(callback)
    model = compiled(1.0, of_the_targets)
    for _ in range(5):
        model.fit(
            np.ones((7, 1)), TARGETS[:, None], batch_size=2, shuffle=False, verbose=0, callbacks=[callback]
        )
    assert windows.found == pytest.approx(means(5, 2, 5), rel=1e-6)


def test_a_loss_that_is_not_finite_hides_the_rest_of_its_pass_only():
    callback = PlateauDecay("loss", factor=0.5, patience=10, steps=2)
    windows = Windows(callback)
    model = compiled(0.0, of_the_targets)
    y = np.array([1, 2, 3, NAN, 5, 6])[:, None]
    model.fit(np.ones((6, 1)), y, batch_size=1, shuffle=False, verbose=0, callbacks=[callback])
    model.fit(np.ones((6, 1)), np.ones((6, 1)), batch_size=1, verbose=0, callbacks=[callback])
    assert windows.found == pytest.approx([1.5, NAN, NAN, 1, 1, 1], nan_ok=True)
    assert callback.best == 1


# What is refused


@pytest.mark.parametrize(
    ("arguments", "kind", "words"),
    [
        (dict(factor=1), ValueError, "`factor`: expected a number above 0 and below 1"),
        (dict(factor=0), ValueError, "`factor`: expected a number above 0 and below 1"),
        (dict(factor="0.1"), TypeError, "`factor`: expected a real number"),
        (dict(patience=0), ValueError, "`patience`: expected a whole number, 1 or more"),
        (dict(patience=1.5), ValueError, "`patience`: expected a whole number, 1 or more"),
        (dict(min_delta=-1), ValueError, "`min_delta`: expected a number, 0 or more"),
        (dict(cooldown=-1), ValueError, "`cooldown`: expected a whole number, 0 or more"),
        (dict(min_factor=1), ValueError, "`min_factor`: expected a number from 0 up and below 1"),
        (dict(mode="low"), ValueError, '`mode`: expected "auto", "min" or "max"'),
        (dict(monitor=3), TypeError, "`monitor`: expected a name in the logs"),
        (dict(epochs=1, steps=5), TypeError, "`epochs/steps`: expected exactly one length"),
        (dict(epochs=0), ValueError, "`epochs`: expected a whole number, 1 or more"),
        (dict(monitor="loss", steps=0.5), ValueError, "`steps`: expected a whole number, 1 or more"),
        (dict(steps=5), ValueError, r'Write: PlateauDecay\("loss", steps=5\)'),
    ],
)
def test_bad_arguments(arguments, kind, words):
    with pytest.raises(kind, match=words):
        PlateauDecay(**arguments)


def test_a_missing_monitor_is_an_error_at_the_first_check():
    with pytest.raises(ValueError) as caught:
        compiled(metrics=["mae"]).fit(X, X, verbose=0, epochs=2, callbacks=[PlateauDecay()])
    assert str(caught.value).splitlines() == [
        "`monitor`: expected one of loss, mae.",
        "Received: 'val_loss'",
        'Write: model.fit(..., validation_data=(x, y)); with validation_freq=2 also PlateauDecay("val_loss", epochs=2)',
    ]


def test_within_a_pass_too():
    with pytest.raises(ValueError, match="`monitor`: expected one of loss"):
        compiled().fit(X, X, batch_size=1, verbose=0, callbacks=[PlateauDecay("acuracy", steps=2)])


def test_a_metric_that_is_no_mean_cannot_be_taken_apart():
    model = compiled(metrics=[keras.metrics.R2Score(name="r2")])
    with pytest.raises(ValueError, match="`monitor`: expected a mean over the training data, such as loss"):
        model.fit(X, X, batch_size=1, verbose=0, callbacks=[PlateauDecay("r2", steps=2)])


def test_an_end_that_nothing_tells():
    with pytest.raises(ValueError, match='`mode`: expected "min" or "max"'):
        factors([1], monitor="val_mystery")
    assert factors([1, 2], monitor="val_mystery", mode="min", patience=1) == [1, 0.5]


@pytest.mark.parametrize("order", [0, 1])
def test_another_callback_that_sets_the_rate_does_not_win_in_silence(order):
    callbacks = [PlateauDecay("loss"), WarmupDecay(warmup(steps=5))]
    with pytest.raises((TypeError, ValueError)):
        compiled().fit(X, X, verbose=0, callbacks=callbacks[::-1] if order else callbacks)
