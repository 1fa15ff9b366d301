"""Another plan from a pass on: the same past, another batch size behind it."""

import keras
import numpy as np
import pytest

from kwarmup import SGD, Plan, cosine, hold, inverse_sqrt, linear, warmup
from kwarmup.replan import Replans, follow, place, with_batch_size

pytestmark = pytest.mark.backend

DECAY = 0.1 * (warmup(epochs=1) >> cosine())


def make_plan(batch_size=32, learning_rate=DECAY, **changes):
    return Plan(learning_rate=learning_rate, batch_size=batch_size, examples=1_000, epochs=9, **changes)


@pytest.mark.parametrize(
    ("batch_size", "epoch", "expected"),
    [
        (32, 4, 32 * (hold(epochs=4) >> hold(4))),
        (32 * (hold(epochs=4) >> hold(2)), 6, 32 * (hold(epochs=4) >> hold(2, epochs=2) >> hold(4))),
        # Decided on twice for the same pass: the later word holds.
        (32 * (hold(epochs=4) >> hold(2)), 4, 32 * (hold(epochs=4) >> hold(4))),
    ],
)
def test_the_batch_size_holds_its_past(batch_size, epoch, expected):
    plan = make_plan(batch_size, drop_remainder=True)
    grown = with_batch_size(plan, 128, epoch)
    assert grown.clock.batch_size == expected
    assert grown.clock.drop_remainder
    past = [plan.clock.micro_batches(e).tolist() for e in range(epoch)]
    assert [grown.clock.micro_batches(e).tolist() for e in range(epoch)] == past
    assert set(grown.clock.micro_batches(8)) == {128}
    assert place(grown, epoch) == place(plan, epoch)


def test_the_learning_rate_keeps_its_place_in_the_data():
    in_steps = 0.1 * (warmup(steps=32) >> linear(steps=32 * 8))
    for profile in (DECAY, in_steps):
        plan = make_plan(learning_rate=profile)
        grown = with_batch_size(plan, 128, 5)
        assert grown.clock.steps == 5 * 32 + 4 * 8
        for epoch in (5, 6, 7, 8):
            steps = [p.clock.step_at(epochs=epoch) for p in (plan, grown)]
            assert grown.curve(steps[1]) == pytest.approx(plan.curve(steps[0]), rel=1e-9)


@pytest.mark.parametrize(
    ("plan", "words"),
    [
        (make_plan(32 * linear(to=4, epochs=9)), "`batch_size`: expected one that holds"),
        (make_plan(32 * (hold(epochs=2.5) >> hold(4))), "`batch_size`: expected one that holds"),
        (make_plan(32 * (hold(epochs=6) >> hold(4))), "`batch_size`: expected one that holds"),
        (
            make_plan(learning_rate=0.1 * inverse_sqrt(steps=32)),
            "`learning_rate`: expected phases along a shape",
        ),
    ],
)
def test_what_cannot_be_continued_is_refused(plan, words):
    with pytest.raises(ValueError, match=words):
        with_batch_size(plan, 128, epoch=5)


def test_a_plan_with_another_past_is_refused():
    plan = make_plan()
    model = keras.Sequential([keras.Input((1,)), keras.layers.Dense(1)])
    model.compile(keras.optimizers.SGD(plan.learning_rate), "mse")
    with pytest.raises(
        ValueError, match="expected the same past as the plan in force, 160 batches and 5,000"
    ):
        follow(model, plan, make_plan(64), epoch=5)


def test_all_that_the_optimizer_has_on_the_clock_follows():
    plan = make_plan()
    model = keras.Sequential([keras.Input((1,)), keras.layers.Dense(1)])
    model.compile(
        SGD(plan.learning_rate, momentum=0.9 * warmup(epochs=8, start=0.5), weight_decay=0.1 * hold()), "mse"
    )
    grown = with_batch_size(plan, 128, 5)
    follow(model, plan, grown, 5)
    assert float(model.optimizer.momentum) == pytest.approx(0.45)
    model.optimizer.build(model.trainable_variables)
    model.optimizer.iterations.assign(grown.clock.step_at(epochs=8))
    assert float(model.optimizer.momentum) == pytest.approx(0.9)
    assert model.optimizer.schedules["momentum"].clock == grown.clock
    expected = grown.curve(grown.clock.step_at(epochs=8))
    assert float(model.optimizer.learning_rate) == pytest.approx(expected, rel=1e-5)


class Doubles(keras.callbacks.Callback):
    """Doubles the batch before each pass, whatever happens."""

    def replan(self, plan, epoch):
        return with_batch_size(plan, 10 * 2**epoch, epoch) if epoch else plan


def test_a_callback_may_change_the_plan_between_passes():
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(80, 3)).astype("float32"), rng.normal(size=(80, 1)).astype("float32")
    grows = 10 * (hold(epochs=1) >> hold(2, epochs=1) >> hold(4, epochs=1) >> hold(8))
    arguments = dict(learning_rate=0.1 * (warmup(epochs=1) >> linear()), examples=80, epochs=4)
    weights = []
    assert isinstance(Doubles(), Replans)
    for batch_size, callbacks in ((grows, []), (10, [Doubles()])):
        plan = Plan(batch_size=batch_size, **arguments)
        keras.utils.set_random_seed(0)
        model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(4), keras.layers.Dense(1)])
        model.compile(SGD(plan.learning_rate, momentum=0.9 * warmup(epochs=3, start=0.5)), "mse")
        plan.fit(model, x, y, verbose=0, callbacks=callbacks)
        assert int(model.optimizer.iterations) == 8 + 4 + 2 + 1
        weights.append(model.get_weights())
    for planned, decided in zip(*weights, strict=True):
        np.testing.assert_array_equal(planned, decided)
