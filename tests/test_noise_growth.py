"""Training by a plan whose batch follows the noise scale: least squares, of which everything is known."""

import keras
import numpy as np
import pytest

from kwarmup import (
    NoiseScaleMonitor,
    Plan,
    PlateauGrowth,
    Record,
    cosine,
    follow_noise,
    inverse_sqrt,
    linear,
    warmup,
)
from kwarmup.noise_growth import following

N, FEATURES, EPOCHS = 640, 6, 8
DRAW = np.random.default_rng(0)
X = DRAW.normal(size=(N, FEATURES)).astype("float32")
# Far from 0, where weights begin: at first the gradient is much larger than its noise.
Y = (X @ np.full((FEATURES, 1), 2.0) + 3 * DRAW.normal(size=(N, 1))).astype("float32")


def noise_at(weights):
    """The noise scale of these data at weights, from all gradients one by one."""
    gradients = 2 * X * (X @ weights - Y)
    return gradients.var(0, ddof=1).sum() / (gradients.mean(0) ** 2).sum()


class Exact(keras.callbacks.Callback):
    """Works out the true noise scale behind each update."""

    def __init__(self):
        super().__init__()
        self.passes = [[]]

    def on_train_batch_end(self, batch, logs=None):
        self.passes[-1].append(noise_at(self.model.get_weights()[0]))

    def on_epoch_end(self, epoch, logs=None):
        self.passes.append([])


def make_plan(batch_size=None, learning_rate=0.0015, **changes):
    batch_size = batch_size or follow_noise(start=4, max=64)
    return Plan(
        learning_rate=learning_rate, batch_size=batch_size, examples=N, **{"epochs": EPOCHS, **changes}
    )


def train(plan, *callbacks, begin=0.0, **arguments):
    model = keras.Sequential([keras.Input((FEATURES,)), keras.layers.Dense(1, use_bias=False)])
    model.set_weights([np.full((FEATURES, 1), begin)])
    model.compile(keras.optimizers.SGD(plan.learning_rate), "mse")
    return model, plan.fit(model, X, Y, verbose=0, callbacks=list(callbacks), **arguments)


def monitor():
    return NoiseScaleMonitor(every=1, parts=4, decay=0.98, examples=N)


@pytest.mark.backend
def test_the_batch_grows_when_the_noise_has_passed_it_and_not_before():
    exact = Exact()
    model, history = train(make_plan(scaling=1), monitor(), exact, Record())
    growth, sizes = history.growth, history.history["batch_size"]
    assert sizes[0] == 4 and sizes[-1] >= 32 and sizes == sorted(sizes)
    assert len(growth.decisions) == EPOCHS - 1
    for epoch, decision in enumerate(growth.decisions):
        assert decision.epoch == epoch
        assert (decision.before, decision.after) == (sizes[epoch], sizes[epoch + 1])
        low, high = decision.interval
        assert low <= decision.noise_scale <= high
        assert decision.after == growth.follows.after(decision.before, low)
        # No batch is larger than the noise scale has ever been on the way.
        assert decision.after <= max(4, *(max(scales) for scales in exact.passes[: epoch + 1]))
        assert history.history["noise_scale"][epoch] == decision.noise_scale
        assert history.history["noise_scale_low"][epoch] == low
    # Nor may it come late: a noise scale far above the batch lets it grow.
    assert all(exact.passes[e][0] < 30 * sizes[e + 1] or sizes[e + 1] == 64 for e in range(EPOCHS - 1))
    assert [
        growth.plan.clock.batch_size_at(growth.plan.clock.step_at(epochs=e)) for e in range(EPOCHS)
    ] == sizes
    assert int(keras.ops.convert_to_numpy(model.optimizer.iterations)) == growth.plan.clock.steps
    assert growth.plan.clock.steps == sum(-(-N // size) for size in sizes)
    assert history.history["learning_rate"] == pytest.approx([0.0015 * size / 4 for size in sizes])


@pytest.mark.backend
@pytest.mark.parametrize(
    ("begin", "start", "expected"),
    [
        (-2.0, 4, [4, 4]),  # a noise scale of 7.8 in front of a next size of 8
        (1.0, 4, [4, 8]),  # of 17
        (1.0, 16, [16, 16]),
        (1.75, 4, [4, 32]),  # of 147
    ],
)
def test_weights_that_stay_where_they_are(begin, start, expected):
    true = noise_at(np.full((FEATURES, 1), begin))
    plan = make_plan(follow_noise(start, 64), learning_rate=1e-12, epochs=2)
    _, history = train(plan, NoiseScaleMonitor(every=1, parts=4, decay=0.999, examples=N), begin=begin)
    (decision,) = history.growth.decisions
    assert history.history["batch_size"] == expected
    assert decision.interval[0] <= true and decision.before == start


def test_weights_are_those_of_the_plan_that_it_came_to():
    """Measured updates have a step of their own, which has to know the learning rates of a larger batch too."""
    plan = make_plan(learning_rate=0.01 * (warmup(epochs=2) >> cosine()), scaling=0.5)
    model, history = train(plan, monitor())
    grown = history.growth.plan
    assert grown.follows is None and grown.scaling == 0.5 and grown.clock.steps < plan.clock.steps
    # Measured, a gradient is a sum in another order; so both are.
    planned, _ = train(grown, monitor())
    np.testing.assert_array_equal(model.get_weights()[0], planned.get_weights()[0])
    assert float(model.optimizer.learning_rate) == float(planned.optimizer.learning_rate)


def test_without_a_monitor_among_the_callbacks_the_plan_brings_one():
    plan = make_plan()
    own, growth = following(plan, [])
    assert growth.monitor is own and own.examples == N
    assert own.every == 1  # of 10 updates in a pass with the largest batch
    assert following(make_plan(follow_noise(2, 4)), [])[0].every == 10
    given = monitor()
    assert following(plan, [record := Record(), given])[1:] == [record, given]
    assert following(make_plan(32), [given]) == [given]
    _, history = train(make_plan(epochs=3))
    assert history.history["batch_size"][-1] > 4
    assert np.isfinite(history.history["noise_scale"]).all()


def test_several_updates_an_execution_and_micro_batches_within_the_step():
    plan = make_plan(epochs=4)
    model = keras.Sequential([keras.Input((FEATURES,)), keras.layers.Dense(1, use_bias=False)])
    model.set_weights([np.zeros((FEATURES, 1))])
    model.compile(keras.optimizers.SGD(plan.learning_rate), "mse", steps_per_execution=5)
    growth = plan.fit(model, X, Y, verbose=0, max_device_batch=4).growth
    assert growth.decisions[-1].after > 4
    assert int(model.optimizer.iterations) == growth.plan.clock.steps


def test_accumulated_gradients():
    plan = make_plan(gradient_accumulation_steps=2, epochs=4)
    model = keras.Sequential([keras.Input((FEATURES,)), keras.layers.Dense(1, use_bias=False)])
    model.set_weights([np.zeros((FEATURES, 1))])
    model.compile(keras.optimizers.SGD(plan.learning_rate, gradient_accumulation_steps=2), "mse")
    growth = plan.fit(model, X, Y, verbose=0).growth
    assert growth.decisions[-1].after > 4
    assert int(model.optimizer.iterations) == growth.plan.clock.steps


def test_what_was_not_measured_changes_nothing():
    plan = make_plan()
    model, history = train(make_plan(epochs=3), NoiseScaleMonitor(every=10_000))
    assert history.history["batch_size"] == [4, 4, 4]  # one measurement has no interval
    growth = following(plan, [])[1]
    growth.set_model(model)
    assert growth.replan(plan, 0) is plan
    for figures in ([np.nan, 1.0, 4.0, 0.0], [np.inf, np.inf, 4.0, 0.0]):
        growth.monitor._absorb(np.array(figures))
    assert growth.replan(plan, 1) is plan
    assert growth.decisions[0].reason == "The noise scale is not known yet: the batch stays at 4."


@pytest.mark.parametrize(
    ("arguments", "callbacks", "words"),
    [
        (
            {},
            [PlateauGrowth("loss", max_batch_size=64)],
            "`callbacks`: expected one of them, since both change",
        ),
        (
            dict(learning_rate=0.01 * inverse_sqrt(steps=10)),
            [],
            "`learning_rate`: expected phases along a shape of the progress",
        ),
    ],
    ids=["two that grow", "a shape of the step"],
)
def test_what_it_refuses_before_the_first_update(arguments, callbacks, words):
    with pytest.raises(ValueError, match=words):
        train(make_plan(**arguments), *callbacks)


# Killed and started again.


class Crash(Exception):
    pass


class Crashes(keras.callbacks.Callback):
    left = 0  # of the class: what is counted in the callback would go on in the next process

    def on_train_batch_end(self, batch, logs=None):
        Crashes.left -= 1
        if Crashes.left == 0:
            raise Crash


def start(folder, begin=0.0, plan=None, **arguments):
    plan = plan or make_plan(learning_rate=0.01 * (warmup(epochs=2) >> linear()), scaling=0.5)
    model, history = train(plan, Crashes(), begin=begin, checkpoint_dir=folder, save_every=7, **arguments)
    return [model.get_weights()[0].tobytes(), history.history, history.growth.decisions]


@pytest.mark.backend
def test_it_goes_on_bit_for_bit(tmp_path):
    Crashes.left = 0
    expected = start(tmp_path / "undisturbed")
    assert len({decision.after for decision in expected[2]}) > 2, "it grew too seldom to tell anything"
    # With nothing kept but the first updates, before and behind growths.
    for number, left in enumerate((9, 140, 10, 60, 150)):
        Crashes.left = left
        with pytest.raises(Crash):
            start(tmp_path / "killed", begin=float(number))
    assert repr(start(tmp_path / "killed", begin=9.0)) == repr(expected)
    assert repr(start(tmp_path / "killed", begin=9.0)) == repr(expected)  # over already


def test_it_goes_on_by_the_rule_in_the_checkpoint(tmp_path):
    Crashes.left = 0
    expected = start(tmp_path / "undisturbed")
    Crashes.left = 200
    with pytest.raises(Crash):
        start(tmp_path / "killed")
    other = make_plan(follow_noise(4, 8), learning_rate=0.01)
    with pytest.raises(
        ValueError, match=r"follow_noise\(start=4, max=64\)' in the checkpoint, 'follow_noise\(start=4"
    ):
        start(tmp_path / "killed", plan=other)
    assert repr(start(tmp_path / "killed", plan=other, on_change="checkpoint")) == repr(expected)
