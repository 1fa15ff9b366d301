"""AdaScale: the gain of a larger batch, the pace it gives a schedule, and the training that this makes."""

import types

import keras
import numpy as np
import pytest
from keras import ops

from kwarmup import (
    AdaScale,
    Checkpoints,
    Clock,
    NoiseScaleMonitor,
    Plan,
    PlateauDecay,
    PlateauGrowth,
    Record,
    Schedule,
    cosine,
    follow_noise,
    hold,
    inverse_sqrt,
    linear,
    noise,
    warmup,
)
from kwarmup.gained import Gained
from kwarmup.scaled import unscaled

FEATURES, N = 4, 256
DRAW = np.random.default_rng(0)
X = DRAW.normal(size=(N, FEATURES)).astype("float32")
Y = (X.sum(1, keepdims=True) + DRAW.normal(size=(N, 1))).astype("float32")
#: 40 updates with a batch of 16, from a learning rate of 0.1 to 0.
LINE = 0.1 * linear(steps=40)


# The gain, as a function.


@pytest.mark.parametrize(
    ("scale", "expected"), [(1, 1), (2, 4 / 3), (4, 1.6), (8, 1.7778), (16, 1.8824), (32, 1.9394)]
)
def test_the_gain_where_noise_and_gradient_are_alike(scale, expected):
    assert noise.gain(3.0, 3.0, scale) == pytest.approx(expected, abs=5e-5)


def test_the_gain_lies_between_its_ends_and_grows_with_the_scale():
    draw = np.random.default_rng(1)
    variance, squared_norm = 10.0 ** draw.uniform(-8, 8, size=(2, 1000))
    scales = np.array([1, 1.5, 2, 7, 8, 64, 1e4])[:, None]
    gains = noise.gain(variance, squared_norm, scales)
    assert (gains >= 1).all() and (gains <= scales).all()
    assert (np.diff(gains, axis=0) >= 0).all()
    np.testing.assert_array_equal(gains[0], 1.0)
    expected = (variance + squared_norm) / (variance / scales + squared_norm)
    np.testing.assert_allclose(gains, expected.clip(1, scales), rtol=1e-12)


@pytest.mark.parametrize(
    ("variance", "squared_norm", "expected"),
    [(1.0, 0.0, 8.0), (1.0, -0.5, 8.0), (0.0, 1.0, 1.0), (-0.5, 1.0, 1.0), (0.0, 0.0, 1.0), (1e12, 1.0, 8.0)],
)
def test_the_gain_at_its_ends(variance, squared_norm, expected):
    assert noise.gain(variance, squared_norm, 8.0) == pytest.approx(expected)
    assert float(noise.gain(ops.cast(variance, "float32"), squared_norm, 8.0, ops)) == pytest.approx(expected)


# What a training does with it.


def make_model(rate, *layers, weights=0.0, **arguments):
    keras.utils.set_random_seed(0)
    inner = [layer() for layer in layers]
    model = keras.Sequential([keras.Input((FEATURES,)), *inner, keras.layers.Dense(1, use_bias=False)])
    model.layers[-1].kernel.assign(np.full(model.layers[-1].kernel.shape, weights))
    optimizer = arguments.pop("optimizer", None) or keras.optimizers.SGD(rate, momentum=0.9)
    model.compile(optimizer, arguments.pop("loss", "mse"), metrics=["mae"], **arguments)
    return model


def train(model, callbacks, x=X, y=Y, batch_size=64, epochs=3, **arguments):
    history = model.fit(
        x, y, batch_size=batch_size, epochs=epochs, shuffle=False, verbose=0, callbacks=callbacks, **arguments
    )
    return history.history


def updates(model):
    return int(ops.convert_to_numpy(model.optimizer.iterations))


def values(model):
    return [ops.convert_to_numpy(v) for v in [*model.variables, *model.optimizer.variables]]


class Watch(keras.callbacks.Callback):
    """Keeps gain, step and learning rate behind each update."""

    def __init__(self):
        super().__init__()
        self.gains, self.steps, self.rates = [], [], []

    def on_train_batch_end(self, batch, logs=None):
        gained = unscaled(self.model.optimizer)
        self.gains.append(float(ops.convert_to_numpy(gained.state["gain"])))
        self.steps.append(gained.step)
        self.rates.append(gained.used)


@pytest.mark.backend
def test_with_a_scale_of_1_training_is_what_it_was():
    plain = make_model(Schedule(LINE))
    plain_history = train(plain, [Record()])
    adapted = make_model(Schedule(LINE))
    history = train(adapted, [AdaScale(scale=1), Record()])
    for one, other in zip(values(plain), values(adapted), strict=True):
        np.testing.assert_array_equal(one, other)
    assert (history.pop("gain"), history.pop("base_step")) == ([1, 1, 1], [4, 8, 12])
    assert history.pop("learning_rate") == pytest.approx(plain_history.pop("learning_rate"), rel=1e-6)
    assert history == plain_history


@pytest.mark.backend
def test_with_nothing_but_noise_the_schedule_goes_on_by_the_scale():
    # Weights of 0, and targets whose halves cancel each other.
    x, y = np.ones((N, FEATURES), "float32"), np.tile(np.repeat([[1.0], [-1.0]], 32, axis=0), (4, 1))
    watch = Watch()
    model = make_model(Schedule(LINE))
    train(model, [AdaScale(scale=4, parts=2), watch], x, y)
    assert watch.gains == [1] + [4] * 10
    assert watch.steps == [1 + 4 * n for n in range(11)]  # beyond 40 it is over
    # Each update has 4 times the learning rate of the schedule's own step.
    steps = [0, *watch.steps[:-1]]
    assert watch.rates == pytest.approx(
        [g * 0.1 * (1 - t / 40) for g, t in zip(watch.gains, steps, strict=True)]
    )
    assert updates(model) == 11


@pytest.mark.backend
def test_without_noise_nothing_is_gained():
    x, y = np.ones((N, FEATURES), "float32"), np.ones((N, 1), "float32")
    watch, model = Watch(), make_model(Schedule(LINE))
    train(model, [AdaScale(scale=4), watch], x, y, epochs=15)
    assert watch.gains == pytest.approx([1] * 40, abs=1e-4)
    assert updates(model) in (39, 40, 41)


def test_on_a_noisy_quadratic_the_schedule_ends_between_the_extremes():
    """The gain follows the closed form; training ends early by as much as is gained."""
    draw = np.random.default_rng(2)
    x = draw.normal(size=(4096, FEATURES)).astype("float32")
    y = (x.sum(1, keepdims=True) + 2 * draw.normal(size=(4096, 1))).astype("float32")
    clock = Clock(examples=4096, epochs=2, batch_size=16)  # 512 updates
    for rate, weights, lowest, highest in ((1e-12, 0.0, 1.0, 8.0), (0.02, 0.0, 1.0, 8.0)):
        watch = Watch()
        model = make_model(Schedule(rate * cosine(), clock), weights=weights, optimizer=None)
        train(model, [AdaScale(scale=8), watch], x, y, batch_size=128, epochs=16)
        assert 512 / 8 <= updates(model) <= 512
        assert min(watch.gains) >= lowest and max(watch.gains) <= highest
        assert watch.steps[-2] < 512 <= watch.steps[-1]
        np.testing.assert_allclose(np.diff(watch.steps), watch.gains[1:], rtol=1e-4)
        if rate < 1e-6:
            # Weights that stay where they are: noise and gradient are known.
            gradients = 2 * x * (x @ np.full((FEATURES, 1), weights) - y)
            variance, squared_norm = gradients.var(0).sum() / 16, (gradients.mean(0) ** 2).sum()
            exact = noise.gain(variance, squared_norm, 8)
            assert np.mean(watch.gains[30:]) == pytest.approx(exact, rel=0.15)
        else:
            # It has learned; noise has the upper hand at the end, and a warmup came by itself.
            assert np.mean(watch.gains[-20:]) > 1.5 * np.mean(watch.gains[1:10])


@pytest.mark.backend
@pytest.mark.parametrize("way", ["parts", "beside"])
def test_but_for_the_learning_rate_training_is_the_plain_one(way):
    """The same batches, with the learning rates that AdaScale came to as a schedule."""
    layers = [lambda: keras.layers.Dense(3, "tanh")] + [keras.layers.BatchNormalization] * (way == "beside")
    watch = Watch()
    adapted = make_model(Schedule(LINE), *layers, optimizer=keras.optimizers.SGD(Schedule(LINE)))
    callback = AdaScale(scale=4)
    history = train(adapted, [callback, watch], epochs=2)
    assert callback._split == (way == "parts")

    class Same(keras.callbacks.Callback):
        def on_train_batch_begin(self, batch, logs=None):
            self.model.optimizer.learning_rate = watch.rates[updates(self.model)]

    plain = make_model(None, *layers, optimizer=keras.optimizers.SGD(0.1))
    plain_history = train(plain, [Same()], epochs=2)
    for one, other in zip(adapted.get_weights(), plain.get_weights(), strict=True):
        np.testing.assert_allclose(one, other, rtol=2e-4, atol=2e-6)
    assert history["loss"] == pytest.approx(plain_history["loss"], rel=1e-4)
    assert history["mae"] == pytest.approx(plain_history["mae"], rel=1e-4)
    assert history["gain"][-1] > 1


def test_a_batch_that_is_not_full_is_worth_less():
    x, y = (
        np.ones((80, FEATURES), "float32"),
        np.repeat([[1.0], [-1.0], [1.0], [-1.0]], [32, 32, 8, 8], axis=0),
    )
    watch = Watch()
    train(make_model(Schedule(LINE)), [AdaScale(scale=4, parts=2), watch], x, y, epochs=2)
    # Nothing but noise; a batch of 16 is one of the base batch. Nothing is known in the first update.
    assert watch.gains == [1, 1, 4, 1]


@pytest.mark.parametrize(
    "kind", ["accumulated", "several an execution", "half precision", "a factor", "a plan"]
)
def test_it_works_with(kind):
    rate, clock = 0.1 * linear(), Clock(examples=N, epochs=3, batch_size=16)  # 48 updates
    arguments, optimizer, batch_size, callbacks, layers = {}, None, 64, [], []
    if kind == "accumulated":
        clock = Clock(examples=N, epochs=3, batch_size=16, gradient_accumulation_steps=2)
        optimizer = keras.optimizers.SGD(Schedule(rate, clock), gradient_accumulation_steps=2)
        batch_size = 32
    if kind == "several an execution":
        arguments = {"steps_per_execution": 2}
    if kind == "half precision":
        inner = keras.optimizers.SGD(Schedule(rate, clock))
        # A scale so large that gradients in half precision overflow at first.
        optimizer = keras.optimizers.LossScaleOptimizer(inner, 2.0**18, 3)
        layers = [lambda: keras.layers.Dense(FEATURES, dtype="mixed_float16")]
    if kind == "a factor":
        callbacks = [PlateauDecay("loss", patience=1, factor=0.5)]
    schedule = Schedule(rate, clock)
    if kind == "a plan":
        schedule = Plan(learning_rate=rate, batch_size=16, examples=N, epochs=3).learning_rate
    model = make_model(schedule, *layers, optimizer=optimizer, weights=0.5, **arguments)
    watch = Watch()
    train(model, [*callbacks, AdaScale(scale=4), watch, Record()], batch_size=batch_size, epochs=12)
    gained = unscaled(model.optimizer)
    assert 48 <= gained.step < 48 + 4 * arguments.get("steps_per_execution", 1)
    assert 12 <= updates(model) < 48
    assert np.isfinite(model.get_weights()[-1]).all()
    if kind == "half precision":
        assert watch.steps[0] == 0, "nothing overflowed"


def test_what_is_logged():
    model = make_model(Schedule(LINE))
    history = train(model, [AdaScale(scale=4), watch := Watch(), Record()])
    assert history["gain"] == pytest.approx(watch.gains[3::4])
    assert history["base_step"] == pytest.approx(watch.steps[3::4])
    assert history["learning_rate"] == pytest.approx(watch.rates[3::4])


# What it keeps, and leaves behind.


def test_a_saved_model_goes_on_bit_for_bit(tmp_path):
    whole = make_model(Schedule(LINE))
    train(whole, [AdaScale(scale=4)], epochs=3)
    first = make_model(Schedule(LINE))
    train(first, [AdaScale(scale=4)], epochs=2)
    first.save(tmp_path / "model.keras")
    # Other weights, and nothing of the first one in memory.
    again = keras.models.load_model(tmp_path / "model.keras")
    assert unscaled(again.optimizer).get_config()["state"] == unscaled(first.optimizer).get_config()["state"]
    train(again, [AdaScale(scale=4)], epochs=1)
    for one, other in zip(values(whole), values(again), strict=True):
        np.testing.assert_array_equal(one, other)
    assert unscaled(whole.optimizer).step == unscaled(again.optimizer).step


def test_the_step_is_counted_beyond_single_precision():
    gained = Gained(Schedule(linear(steps=2**26)), {"whole": 2**25 + 1, "part": 0.75, "gain": 1.5})
    gained.updated(1)
    assert gained.step == 2**25 + 3.25
    gained.updated(0)
    assert gained.step == 2**25 + 3.25
    assert float(gained(0)) == pytest.approx(1.5 * (0.5 - 3 / 2**26), rel=1e-6)


def test_what_overflows_or_is_too_small_is_not_measured():
    gained = Gained(Schedule(linear(steps=10)))
    gained.seen(8)
    for figures in ((np.inf, np.inf, 8.0, 0.0), (np.nan, 1.0, 8.0, 0.0), (2.0, 1.0, 1.0, 0.0)):
        gained.measure(*figures, parts=2, scale=4.0)
    state = gained.get_config()["state"]
    assert (state["trace"], state["squared_norm"], state["agreed"], state["gain"]) == (0, 0, 0, 1)
    gained.measure(2.0, 1.0, 8.0, 0.0, parts=2, scale=4.0)
    state = gained.get_config()["state"]
    # Of parts with 4 examples: tr(Sigma) is 8 and |G|^2 is 0, by a memory of 250 updates.
    assert state["trace"] == pytest.approx(8 * 0.004) and state["squared_norm"] == pytest.approx(0)
    assert state["gain"] == pytest.approx(4)


def test_averages_keep_their_sign():
    gained = Gained(Schedule(linear(steps=10)))
    gained.seen(2)
    for squared_norm in (-1.0, 3.0):
        # tr(Sigma) is 4, in two parts of 1.
        gained.measure(squared_norm + 4, squared_norm + 2, 2.0, 0.0, parts=2, scale=1000.0 - 500.0)
    state = gained.get_config()["state"]
    assert state["squared_norm"] == pytest.approx(0.5 * (3 - 0.5))
    assert state["trace"] == pytest.approx(4 * 0.75)


def test_the_model_has_its_own_function_back():
    model = make_model(Schedule(LINE))
    train(model, [AdaScale(scale=4)])
    function = model.train_function
    train(model, [AdaScale(scale=4)], epochs=1)
    assert model.train_function is function and "train_step" not in vars(model)
    assert not {"apply", "stateless_apply"} & vars(model.optimizer).keys()


def fit(model=None, clock=None, batch_size=64, callback=None, profile=LINE):
    train(
        model or make_model(Schedule(profile, clock)), [callback or AdaScale(scale=4)], batch_size=batch_size
    )


CLOCK = Clock(examples=N, epochs=3, batch_size=16)
MOVING = Clock(examples=N, epochs=3, batch_size=16 * (hold(epochs=1) >> hold(2)))


@pytest.mark.parametrize(
    ("run", "words"),
    [
        (lambda: AdaScale(scale=0.5), "`scale`: expected a number, 1 or more"),
        (lambda: AdaScale(scale=4, parts=1), "`parts`: expected a whole number, 2 or more, or None"),
        (lambda: AdaScale(scale=4, steps=0), "`steps`: expected a whole number, 1 or more, or None"),
        (lambda: fit(make_model(0.1)), "`learning_rate`: expected a kwarmup schedule, to be read at another"),
        (
            lambda: fit(make_model(keras.optimizers.schedules.CosineDecay(0.1, 10))),
            "`learning_rate`: expected a kwarmup schedule, to be read at another",
        ),
        (lambda: fit(clock=MOVING, profile=0.1 * linear()), "`batch_size`: expected one whole number in the"),
        (
            lambda: fit(clock=CLOCK, batch_size=32),
            r"(?s)`batch_size`: expected 64 in fit.*32 in fit, 16 in the schedule's clock, scale=4",
        ),
        (
            lambda: fit(profile=inverse_sqrt(steps=10)),
            r"(?s)`steps`: expected how many updates.*AdaScale\(scale=8, steps=10_000\)",
        ),
    ],
    ids=["scale", "parts", "steps", "a number", "of Keras", "a moving batch", "another batch", "no end"],
)
def test_what_it_refuses(run, words):
    with pytest.raises(ValueError, match=words):
        run()


# Under Plan.fit.

#: 48 updates with a batch of 16; a batch of 64 has a partial one behind each pass.
PLAN = Plan(learning_rate=0.1 * (warmup(epochs=0.5) >> cosine()), batch_size=16, examples=250, epochs=3)


class Crash(Exception):
    pass


class Crashes(keras.callbacks.Callback):
    """Crashes once, at a place that the test names."""

    place = None  # of the class: a callback's own attributes are kept and come back

    def meet(self, *place):
        if place == Crashes.place:
            Crashes.place = None
            raise Crash("Crash")

    def on_train_batch_end(self, batch, logs=None):
        self.meet(self.model.history.epoch[-1] + 1 if self.model.history.epoch else 0, batch)

    def on_epoch_end(self, epoch, logs=None):
        if self.model.stop_training:
            self.meet("behind the last update")

    def on_train_end(self, logs=None):
        self.meet("over")


LAYERS = [lambda: keras.layers.Dense(3, "tanh"), lambda: keras.layers.Dropout(0.2, seed=1)]
JAX = keras.backend.backend() == "jax"


def callbacks_of(scale=4, steps=None):
    # On JAX each factor is compiled anew.
    return [
        *[PlateauDecay("loss", patience=1, factor=0.5)] * (not JAX),
        AdaScale(scale=scale, steps=steps),
        Crashes(),
    ]


def train_by(plan, scale=4, steps=None, **arguments):
    model = make_model(plan.learning_rate, *LAYERS)
    callbacks = [*callbacks_of(scale, steps), *arguments.pop("beside", [])]
    history = plan.fit(
        model, X[:250], Y[:250], verbose=0, callbacks=callbacks, validation_data=(X, Y), **arguments
    )
    return [values(model), history.history, history.epoch, unscaled(model.optimizer).get_config()["state"]]


@pytest.mark.backend
def test_plan_fit_trains_as_fit_does_with_a_large_batch():
    plan, found = PLAN.replace(gradient_accumulation_steps=2), []
    for trained_by_plan in (True, False):
        optimizer = keras.optimizers.SGD(plan.learning_rate, gradient_accumulation_steps=2, momentum=0.9)
        model = make_model(None, optimizer=optimizer)
        watch = Watch()
        if trained_by_plan:
            callbacks = [AdaScale(scale=4), watch]
            plan.fit(model, X[:250], Y[:250], seed=None, verbose=0, callbacks=callbacks)
        else:
            train(model, [AdaScale(scale=4), watch], X[:250], Y[:250], batch_size=32, epochs=12)
        found.append([watch.gains, watch.steps, *model.get_weights()])
    for by_plan, by_keras in zip(*found, strict=True):
        np.testing.assert_allclose(by_plan, by_keras, rtol=1e-5, atol=1e-7)
    gains, steps, *_ = found[0]
    assert min(gains) >= 1 and 1.2 < max(gains) <= 4
    assert steps[-2] < 48 <= steps[-1] and len(steps) % 8, "it ends with the schedule, within a pass"


@pytest.mark.backend
def test_under_plan_fit_it_goes_on_bit_for_bit(tmp_path):
    expected = train_by(PLAN, checkpoint_dir=tmp_path / "undisturbed", save_every=3)
    updates_done = len(expected[2]) * 4
    assert 48 / 4 <= updates_done < 48 and expected[1]["gain"][-1] > 1
    for place in ((1, 2), ("behind the last update",), ("over",))[: 2 if JAX else None]:
        Crashes.place = place
        with pytest.raises(Exception, match="Crash|batch") as crash:
            train_by(PLAN, checkpoint_dir=tmp_path / "crashed", save_every=3)
        assert Crashes.place is None, crash.value
    for _ in range(2):  # to its end, and then it is over already
        found = train_by(PLAN, checkpoint_dir=tmp_path / "crashed", save_every=3)
        assert repr(found) == repr(expected)
    with pytest.raises(ValueError, match=r"pace: 'AdaScale\(scale=4.*now"):
        train_by(PLAN, scale=8, checkpoint_dir=tmp_path / "crashed")


def train_beside_checkpoints(folder, steps):
    model = make_model(PLAN.learning_rate, *LAYERS)
    training = Checkpoints(folder, PLAN, model, callbacks_of(steps=steps), save_every=3, verbose=0)
    batches = training.batches(X[:250], Y[:250])
    history = model.fit(batches, **training.fit_arguments, validation_data=(X, Y))
    return [values(model), history.history, history.epoch, unscaled(model.optimizer).get_config()["state"]]


@pytest.mark.backend
def test_with_checkpoints_in_keras_own_fit_it_goes_on_bit_for_bit(tmp_path):
    train_by(PLAN, beside=[watch := Watch()])
    steps = int(watch.steps[9])  # it ends with the tenth update, within a pass
    expected = train_beside_checkpoints(tmp_path / "undisturbed", steps)
    assert expected[1]["base_step"] == [*watch.steps[3:8:4], watch.steps[9]]
    if not JAX:
        assert repr(expected) == repr(train_by(PLAN, steps=steps)), "the same training as under Plan.fit"
    places = [(0, 3), (1, 2), ("behind the last update",), ("over",)]
    for place in places[2:] if JAX else places:
        Crashes.place = place
        with pytest.raises(Exception, match="Crash|batch") as crash:
            train_beside_checkpoints(tmp_path / "crashed", steps)
        assert Crashes.place is None, crash.value
    for _ in range(2):  # to its end, and then it is over already
        assert repr(train_beside_checkpoints(tmp_path / "crashed", steps)) == repr(expected)


def test_beside_checkpoints_one_callback_sets_the_batch_size(tmp_path):
    model = make_model(PLAN.learning_rate)
    with pytest.raises(ValueError, match=r"(?s)`callbacks`: expected one of them.*beside PlateauGrowth"):
        Checkpoints(tmp_path, PLAN, model, [AdaScale(scale=4), PlateauGrowth("loss", max_batch_size=64)])


def test_what_plan_fit_refuses_beside_it():
    moving = PLAN.replace(batch_size=16 * (hold(epochs=1) >> hold(2)))
    for words, run in {
        "`scale`: expected one with a whole number of examples": lambda: train_by(PLAN, scale=1.3),
        "`scale`: expected at most 15.6": lambda: train_by(PLAN, scale=100),
        "`batch_size`: expected one whole number in the": lambda: train_by(moving),
        r"(?s)`callbacks`: expected one of them.*beside PlateauGrowth": lambda: train_by(
            PLAN, beside=[PlateauGrowth("loss", max_batch_size=64)]
        ),
        r"(?s)`callbacks`: expected one of them.*beside batch_size=follow_noise": lambda: train_by(
            PLAN.replace(batch_size=follow_noise(16, 64))
        ),
    }.items():
        with pytest.raises(ValueError, match=words):
            run()


def test_replicas_are_refused():
    callback = AdaScale(scale=4)
    strategy = types.SimpleNamespace(num_replicas_in_sync=2)
    callback.set_model(types.SimpleNamespace(name="m", distribute_strategy=strategy))
    with pytest.raises(ValueError, match="`model`: expected a model on one device"):
        callback.on_train_begin()


def test_a_layout_over_devices_is_refused(monkeypatch):
    monkeypatch.setattr(keras.distribution, "distribution", types.SimpleNamespace)
    with pytest.raises(
        ValueError, match="(?s)`model`: expected a model on one device.*laid out by keras.dist"
    ):
        fit()


def test_steps_say_where_it_ends():
    model = make_model(Schedule(0.1 * (warmup(steps=5) >> hold())))
    train(model, [AdaScale(scale=4, steps=9), Watch(), NoiseScaleMonitor()], epochs=15)
    assert 9 <= unscaled(model.optimizer).step < 13
