"""The schedule inside Keras and TensorFlow: every way in which it is called, kept and compiled."""

import copy
import pickle

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import ops
from keras.optimizers import schedules

from kwarmup import (
    Clock,
    Curve,
    Profile,
    Schedule,
    cosine,
    curve,
    decay,
    exponential,
    hold,
    linear,
    polynomial,
    shapes,
    warmup,
)

PARTIAL = Clock(examples=100, epochs=4, batch_size=32)
GROWING = Clock(
    examples=100,
    epochs=6,
    batch_size=8 * (hold(epochs=2) >> linear(to=4)),
    gradient_accumulation_steps=2,
    multiple_of=2,
)

#: Schedules that go through every branch of the table: in steps, with partial batches, scaled, and of all shapes.
SCHEDULES = {
    "constant": Schedule(0.1),
    "steps": Schedule(0.1 * (warmup(steps=5) >> cosine(steps=20))),
    "all shapes": Schedule(
        warmup(steps=4, shape="exponential", start=0.01)
        >> polynomial(power=0.5, steps=5, to=0.5)
        >> decay(steps=5, shape="sqrt", to=0.3)
        >> polynomial(power=2, steps=5, to=0.2)
        >> exponential(steps=5, to=0.1)
        >> curve(shapes.inverse_sqrt(10))
    ),
    "partial batches": Schedule(
        0.1 * (warmup(epochs=1.5) >> hold(fraction=0.25) >> polynomial(power=0.5)), PARTIAL
    ),
    "accumulated": Schedule(warmup(steps=5), gradient_accumulation_steps=4),
    "growing batch": Schedule(3 * (warmup(epochs=1) >> cosine()), GROWING, scaling=0.5),
}
every = pytest.mark.parametrize("schedule", SCHEDULES.values(), ids=SCHEDULES)
STEPS = np.arange(80)


def exact(schedule, ticks=STEPS):
    return schedule.curve.at_tick(np.asarray(ticks, "int64"), np, "int64", "float64")


@pytest.fixture
def policy():
    """A setter of the dtype policy, undone afterwards."""
    before = keras.config.dtype_policy()
    yield keras.config.set_dtype_policy
    keras.config.set_dtype_policy(before)


def small_model(learning_rate, **arguments):
    model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1, kernel_initializer="zeros")])
    model.compile(keras.optimizers.SGD(learning_rate, **arguments), "mse")
    return model


@every
class TestSameEverywhere:
    def test_host_eager_graph_and_xla(self, schedule):
        expected = exact(schedule)
        tolerance = dict(rtol=0, atol=2e-7 * np.abs(expected).max())

        graph = tf.function(schedule.__call__)
        xla = tf.function(schedule.__call__, jit_compile=True)
        for call in (schedule, graph):
            found = call(tf.constant(STEPS))
            assert found.dtype == tf.float32
            np.testing.assert_allclose(found, expected, **tolerance)
        for call in (schedule, graph, xla):
            # As the optimizer calls it: one step at a time.
            for tick in (0, 1, 7, 33):
                found = call(tf.constant(tick, tf.int64))
                assert found.dtype == tf.float32
                np.testing.assert_allclose(found, expected[tick], **tolerance)

    def test_one_trace_serves_every_step(self, schedule):
        traces = []

        @tf.function
        def rate(tick):
            traces.append(tick)
            return schedule(tick)

        for tick in (0, 3, 10**6):
            rate(tf.constant(tick, tf.int64))
        assert len(traces) == 1
        # No branch in the graph: nothing of it can be left out by a compiler, and no step takes another way.
        kinds = {operation.type for operation in rate.get_concrete_function(traces[0]).graph.get_operations()}
        assert not kinds & {"If", "StatelessIf", "While", "StatelessWhile", "PyFunc", "EagerPyFunc"}

    def test_is_a_value(self, schedule):
        for other in (
            Schedule.from_config(schedule.get_config()),
            schedules.deserialize(schedules.serialize(schedule)),
            keras.saving.deserialize_keras_object(
                keras.saving.serialize_keras_object(schedule), safe_mode=True
            ),
            copy.copy(schedule),
            copy.deepcopy(schedule),
            pickle.loads(pickle.dumps(schedule)),
            eval(repr(schedule)),
        ):
            assert other == schedule
            assert hash(other) == hash(schedule)
            assert repr(other) == repr(schedule)
            assert (other(STEPS) == schedule(STEPS)).numpy().all()

    def test_survives_a_keras_file(self, schedule, tmp_path):
        model = small_model(
            schedule, gradient_accumulation_steps=schedule.curve.parts if schedule.curve.parts > 1 else None
        )
        model.optimizer.build(model.trainable_variables)
        model.optimizer._iterations.assign(7)
        model.save(tmp_path / "model.keras")
        loaded = keras.models.load_model(tmp_path / "model.keras", safe_mode=True)
        assert loaded.optimizer._learning_rate == schedule
        assert float(loaded.optimizer.learning_rate) == pytest.approx(exact(schedule, 7), rel=1e-6)

    def test_survives_a_saved_model(self, schedule, tmp_path):
        class Rate(tf.Module):
            @tf.function(input_signature=[tf.TensorSpec([None], tf.int64)])
            def __call__(self, tick):
                return schedule(tick)

        tf.saved_model.save(Rate(), str(tmp_path))
        np.testing.assert_allclose(tf.saved_model.load(str(tmp_path))(STEPS), schedule(STEPS), rtol=1e-6)


@pytest.mark.parametrize(
    "step",
    [
        250,
        250.0,
        np.int32(250),
        np.int64(250),
        np.uint8(250),
        np.float32(250),
        np.array(250),
        tf.constant(250),
        tf.constant(250, tf.int64),
        tf.constant(250.0),
        tf.Variable(250),
    ],
    ids=lambda step: type(step).__name__,
)
def test_any_kind_of_step(step):
    found = Schedule(0.1 * warmup(steps=500))(step)
    assert (found.dtype, found.shape) == (tf.float32, ())
    assert float(found) == pytest.approx(0.05)


def test_a_keras_variable_is_a_step():
    for dtype in ("int32", "int64", "float32"):
        assert float(Schedule(0.1 * warmup(steps=500))(keras.Variable(250, dtype=dtype))) == pytest.approx(
            0.05
        )


def test_an_array_of_any_shape():
    steps = np.arange(24).reshape(2, 3, 4)
    found = Schedule(warmup(steps=24))(steps)
    assert found.shape == (2, 3, 4)
    np.testing.assert_allclose(found, steps / 24, rtol=1e-6)


def test_a_batch_of_unknown_size():
    rate = tf.function(
        Schedule(warmup(steps=24)).__call__, input_signature=[tf.TensorSpec([None, None], tf.int64)]
    )
    np.testing.assert_allclose(rate(STEPS[:24].reshape(6, 4)), STEPS[:24].reshape(6, 4) / 24, rtol=1e-6)


def test_beyond_what_32_bits_count():
    schedule = Schedule(0.1 * (warmup(steps=2**33) >> hold(steps=2**34) >> linear(steps=2**33)))
    ticks = np.array([2**31 - 1, 2**31, 2**32, 2**33, 3 * 2**33 - 1, 2**35 - 2**31, 2**35, 2**40])
    np.testing.assert_allclose(schedule(ticks), exact(schedule, ticks), rtol=0, atol=1e-7)
    assert float(schedule(float(2**33))) == pytest.approx(0.1)


@pytest.mark.parametrize("name", ["mixed_float16", "mixed_bfloat16", "bfloat16", "float64"])
def test_is_float32_whatever_the_policy(policy, name):
    policy(name)
    schedule = Schedule(
        0.1 * (warmup(epochs=2) >> polynomial(power=0.5)), Clock(examples=10**6, epochs=5, batch_size=3)
    )
    # Casting the step to a half type would make 257 of 256, and of 70,000 infinity.
    for step in (257, 70_000):
        found = schedule(tf.constant(step))
        assert found.dtype == tf.float32
        assert float(found) == pytest.approx(schedule.curve(step), rel=1e-6)


def test_under_a_loss_scale_optimizer_skipped_updates_do_not_count(policy):
    policy("mixed_float16")
    model = small_model(Schedule(warmup(steps=100)))
    assert isinstance(model.optimizer, keras.optimizers.LossScaleOptimizer)
    x = np.full((4, 2), 0.1, "float32")
    model.train_on_batch(x, x[:, :1])
    model.train_on_batch(x * np.inf, x[:, :1])
    model.train_on_batch(x, x[:, :1])
    assert int(model.optimizer.iterations) == 2
    assert float(model.optimizer.learning_rate) == pytest.approx(0.02)


class TestWhatKerasDoes:
    """Facts of Keras that the schedule builds on; one that fails here was changed by an upgrade."""

    class Count(schedules.LearningRateSchedule):
        """Learning rate n + 1 at whatever number n it is handed."""

        def __call__(self, step):
            return ops.cast(step, "float32") + 1

    @staticmethod
    def train(learning_rate, micro_steps, parts):
        """SGD on the loss -w: every gradient is -1, so w is the sum of the learning rates."""
        w = keras.Variable(0.0)
        optimizer = keras.optimizers.SGD(learning_rate, gradient_accumulation_steps=parts)
        optimizer.build([w])
        for _ in range(micro_steps):
            optimizer.apply([ops.convert_to_tensor(-1.0)], [w])
        return float(w), optimizer

    def test_a_schedule_is_handed_the_raw_counter_of_micro_batches(self):
        w, optimizer = self.train(self.Count(), 12, 4)
        assert w == 4 + 8 + 12  # at 3, 7 and 11, the last micro-batch of each update
        assert int(optimizer.iterations) == 3

    def test_so_ours_divides_it(self):
        w, _ = self.train(
            Schedule(1_000 * warmup(steps=1_000, start=0.001), gradient_accumulation_steps=4), 12, 4
        )
        # With start 0.001 and 1000 steps, update n has 1 + n * 0.999.
        assert w == pytest.approx(1 + 1.999 + 2.998)

    def test_and_exactly(self):
        w, _ = self.train(
            Schedule(linear(steps=1_000, start=1, to=1_001), gradient_accumulation_steps=4), 12, 4
        )
        assert w == 1 + 2 + 3

    def test_without_being_told_it_cannot(self):
        w, _ = self.train(Schedule(linear(steps=1_000, start=1, to=1_001)), 12, 4)
        assert w == 4 + 8 + 12

    def test_the_counter_is_64_bits_wide(self):
        _, optimizer = self.train(0.1, 1, None)
        assert optimizer._iterations.dtype == "int64"

    def test_an_optimizer_takes_a_schedule_as_it_is(self):
        schedule = Schedule(warmup(steps=5))
        assert keras.optimizers.SGD(schedule)._learning_rate is schedule

    def test_a_whole_number_is_refused_by_keras_and_taken_by_us(self):
        with pytest.raises(ValueError):
            keras.optimizers.SGD(1)
        assert float(keras.optimizers.SGD(Schedule(1)).learning_rate) == 1

    def test_the_first_update_sees_step_0(self):
        seen = []

        class Spy(schedules.LearningRateSchedule):
            def __call__(self, step):
                seen.append(int(step))
                return 0.0

        self.train(Spy(), 3, None)
        assert seen[-3:] == [0, 1, 2]


#: Built-in schedules and one of a user, in front of which a warmup goes.
BUILT_IN = {
    "CosineDecay": schedules.CosineDecay(0.1, 30, alpha=0.1),
    "CosineDecay, itself warming up": schedules.CosineDecay(0.1, 30, warmup_target=0.2, warmup_steps=10),
    "CosineDecayRestarts": schedules.CosineDecayRestarts(0.1, 10),
    "ExponentialDecay": schedules.ExponentialDecay(0.1, 10, 0.5, staircase=True),
    "InverseTimeDecay": schedules.InverseTimeDecay(0.1, 10, 0.5),
    "PiecewiseConstantDecay": schedules.PiecewiseConstantDecay([5, 15], [0.1, 0.05, 0.01]),
    "PolynomialDecay": schedules.PolynomialDecay(0.1, 30, 0.01, power=2),
}


@pytest.mark.parametrize("built_in", BUILT_IN.values(), ids=BUILT_IN)
class TestWarmupInFrontOfAKerasSchedule:
    def test_its_value_is_the_peak_and_it_starts_when_the_warmup_ends(self, built_in):
        schedule = Schedule(warmup(steps=10) >> built_in)
        assert schedule.profile.scale == 0.1
        found = [float(schedule(step)) for step in range(50)]
        expected = [0.01 * step for step in range(10)] + [float(built_in(step)) for step in range(40)]
        assert found == pytest.approx(expected, rel=1e-6)
        np.testing.assert_allclose(schedule(np.arange(50)), found, rtol=1e-6)
        np.testing.assert_allclose(schedule.curve(np.arange(50).reshape(5, 10)).ravel(), found, rtol=1e-6)

    def test_steps_are_updates(self, built_in):
        schedule = Schedule(warmup(steps=10) >> built_in, gradient_accumulation_steps=4)
        assert float(schedule(4 * 13 + 3)) == pytest.approx(float(built_in(3)), rel=1e-6)

    def test_survives_json_and_a_keras_file(self, built_in, tmp_path):
        profile = warmup(steps=10) >> built_in
        assert Profile.from_json(profile.to_json()) == profile
        assert hash(Profile.from_json(profile.to_json())) == hash(profile)
        small_model(Schedule(profile)).save(tmp_path / "model.keras")
        loaded = keras.models.load_model(tmp_path / "model.keras").optimizer._learning_rate
        assert loaded == Schedule(profile)
        assert float(loaded(13)) == pytest.approx(float(built_in(3)), rel=1e-6)

    def test_in_graph_and_xla(self, built_in):
        schedule = Schedule(warmup(steps=10) >> built_in)
        rate = tf.function(schedule.__call__, jit_compile=True)
        for step in (3, 10, 25):
            assert float(rate(tf.constant(step, tf.int64))) == pytest.approx(float(schedule(step)), rel=1e-6)


def test_keras_schedules_differ_by_their_configs():
    one, same, other = (warmup(steps=3) >> schedules.CosineDecay(0.1, steps) for steps in (10, 10, 20))
    assert one == same
    assert one != other


class TestCustomShapes:
    def test_any_function_of_t(self):
        schedule = Schedule(curve(lambda t: ops.sin(3.0 * t) ** 2, steps=50))
        np.testing.assert_allclose(schedule(np.arange(50)), np.sin(3 * np.arange(50) / 50) ** 2, atol=1e-6)

    def test_a_registered_one_survives_a_keras_file(self, tmp_path, monkeypatch):
        monkeypatch.setattr(shapes, "_NAMED", dict(shapes._NAMED))

        @shapes.register
        def smoothstep(t):
            return t * t * (3 - 2 * t)

        small_model(Schedule(decay(steps=50, shape=smoothstep))).save(tmp_path / "model.keras")
        loaded = keras.models.load_model(tmp_path / "model.keras")
        assert loaded.optimizer._learning_rate == Schedule(decay(steps=50, shape="smoothstep"))

    def test_one_without_a_name_says_so_when_it_is_saved(self, tmp_path):
        def mine(t):
            return t

        model = small_model(Schedule(decay(steps=50, shape=mine)))
        with pytest.raises(ValueError, match=r"@kwarmup\.shapes\.register above `def mine\(t\): \.\.\.`"):
            model.save(tmp_path / "model.keras")

    @pytest.mark.parametrize(
        "function",
        [lambda t: np.sqrt(t), lambda t: float(t), lambda t: t if t < 0.5 else t],
        ids=["numpy", "float", "branch"],
    )
    def test_one_that_cannot_run_in_the_training_step_is_refused_at_once(self, function):
        with pytest.raises(ValueError, match="made of operators and keras.ops"):
            Schedule(decay(steps=50, shape=function))


def test_a_cloned_model_takes_the_same_schedule():
    schedule = Schedule(warmup(steps=10))
    model = small_model(schedule)
    clone = keras.models.clone_model(model)
    clone.compile(keras.optimizers.SGD.from_config(model.optimizer.get_config()), "mse")
    assert clone.optimizer._learning_rate == schedule


def test_steps_per_execution_and_jit():
    x = np.ones((40, 2), "float32")
    weights = []
    for arguments in ({}, {"steps_per_execution": 5}, {"jit_compile": True, "steps_per_execution": 5}):
        model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1, kernel_initializer="zeros")])
        optimizer = keras.optimizers.SGD(Schedule(0.1 * warmup(steps=20)))
        model.compile(optimizer, "mse", **arguments)
        model.fit(x, x[:, :1], batch_size=4, epochs=2, verbose=0, shuffle=False)
        weights.append(model.get_weights()[0])
    np.testing.assert_allclose(weights[1], weights[0], rtol=1e-5)
    np.testing.assert_allclose(weights[2], weights[0], rtol=1e-5)


def test_equality():
    one = Schedule(warmup(steps=5))
    assert one == Schedule(warmup(steps=5), gradient_accumulation_steps=1)
    for other in (
        Schedule(2 * warmup(steps=5)),
        Schedule(warmup(steps=5), PARTIAL),
        Schedule(warmup(steps=5), gradient_accumulation_steps=2),
        Curve(warmup(steps=5)),
        0.1,
    ):
        assert one != other
    assert Schedule(1, GROWING) != Schedule(1, GROWING, scaling=1)


@pytest.mark.parametrize(
    "schedule, code",
    [
        (Schedule(0.1), "Schedule(0.1 * hold())"),
        (
            Schedule(warmup(steps=5), gradient_accumulation_steps=4),
            "Schedule(warmup(steps=5), gradient_accumulation_steps=4)",
        ),
        (Schedule(cosine(), PARTIAL), "Schedule(cosine(), Clock(examples=100, epochs=4, batch_size=32))"),
        (
            Schedule(cosine(), PARTIAL, scaling=1),
            "Schedule(cosine(), Clock(examples=100, epochs=4, batch_size=32), scaling=1)",
        ),
    ],
)
def test_repr_is_the_code_that_makes_it(schedule, code):
    assert repr(schedule) == code
    assert eval(code) == schedule
