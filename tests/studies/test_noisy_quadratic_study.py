"""Studies of the noisy quadratic model: of one that is trained, and of one whose figures are the closed form's."""

import keras
import numpy as np
import pytest
from keras import ops
from noisy_quadratic import CURVATURES, RATES, TARGET, UPDATES, loss

import kwarmup as kw
from kwarmup.studies.data import Data
from kwarmup.studies.ramp import predicted_seconds
from kwarmup.studies.result import Noise
from kwarmup.studies.run import Run
from kwarmup.studies.settings import Settings
from kwarmup.studies.training import train

#: Descents side by side in one model, whose mean loss is the expected one to a per cent.
DESCENTS = 200


class Quadratic(keras.layers.Layer):
    """The summed losses of many descents; in training each update sees noise of the variance c / batch."""

    def build(self, shape):
        self.place = self.add_weight(shape=(DESCENTS, len(CURVATURES)), initializer="ones")
        self.seeds = keras.random.SeedGenerator(0)

    def call(self, inputs, training=None):
        loss = ops.sum(CURVATURES.astype("float32") * ops.square(self.place)) / 2
        if training:
            batch = ops.cast(ops.shape(inputs)[0], "float32")
            spread = ops.sqrt(CURVATURES.astype("float32") / batch)
            loss = loss + ops.sum(
                self.place * spread * keras.random.normal(self.place.shape, seed=self.seeds)
            )
        return ops.zeros_like(inputs) + loss


def build(learning_rate=0.1):
    keras.utils.set_random_seed(0)
    model = keras.Sequential([keras.Input((1,)), Quadratic()])
    model.compile(keras.optimizers.SGD(learning_rate), lambda y, loss: ops.mean(loss, axis=-1))
    return model


X = np.zeros((6_400, 1), "float32")
DATA = (X[:6_300], X[:6_300]), (X[6_300:], X[6_300:])


def test_updates_to_the_target_are_those_of_the_table():
    data, rows = Data(*DATA[0], DATA[1]), {}
    for size in (4, 16, 64):
        plan = kw.Plan(
            learning_rate=RATES[size], batch_size=size, examples=6_300, epochs=1, drop_remainder=True
        )
        run = train(
            build(plan.learning_rate), plan, round(1.3 * UPDATES[size]) if size < 64 else 90, data, seed=0
        )
        rows[size] = run.to_target(DESCENTS * TARGET, sign=-1).updates
    # Between two looks the loss falls along a curve, and the straight line lies above it.
    assert rows == {size: pytest.approx(UPDATES[size], rel=0.06) for size in rows}


# What is advised

SIZES, REFERENCE, EXAMPLES = (4, 8, 16, 32, 64), 16, 4_000


def squares(updates, learning_rate, size):
    """The expected squares of the weights behind some updates at a constant rate."""
    factors = (1 - learning_rate * CURVATURES) ** 2
    steady = learning_rate**2 * CURVATURES / (size * (1 - factors))
    return factors**updates * (1 - steady) + steady


def closed_form_study(fixed, per_example):
    """A study as it would measure the model, the peak moved by the square-root rule, which comes near to the table."""
    settings = Settings(
        SIZES, 1, EXAMPLES, EXAMPLES, REFERENCE, RATES[REFERENCE], 0.5, "loss", -1.0, target=TARGET
    )
    runs = []
    for size in SIZES:
        rate = RATES[REFERENCE] * (size / REFERENCE) ** 0.5
        places = np.unique(np.geomspace(1, EXAMPLES // size, 60).astype(int))
        values = loss(np.array([0, *places]), np.full(len(places) + 1, rate), size)
        checks = [
            (n, n * (fixed + per_example * size), value, value)
            for n, value in zip((0, *places), values, strict=True)
        ]
        runs.append(Run(size, 0, rate, checks, values[-1], values[-1], 0.0))
    noise = []
    for updates in (0, 8, 16, 32, 64, 130):
        found = squares(updates, RATES[REFERENCE], REFERENCE)
        scale = CURVATURES.sum() / (CURVATURES**2 * found).sum()
        measured = kw.NoiseScale(scale, (0.9 * scale, 1.1 * scale), 1.0, 1.0, 100, 2, True, "narrow enough")
        noise.append(Noise(updates * REFERENCE, (CURVATURES * found).sum() / 2, measured))
    rates = np.geomspace(1e-3, 10, 41)
    return kw.Study(
        settings,
        {"beta_2": None},
        throughput=kw.Throughput(
            SIZES, [[fixed + per_example * size for size in SIZES]] * 3, [0.0] * len(SIZES)
        ),
        sweep=kw.Sweep(rates, [(3 - 2 / (1 + (0.3 / rates) ** 2) + rates**2).tolist()], REFERENCE),
        noise=tuple(noise),
        runs=tuple(runs),
    )


def seconds(plan, fixed, per_example):
    """The seconds of a plan until the expected loss is at the target."""
    squared, passed = np.ones(len(CURVATURES)), 0.0
    for step, rate in enumerate(plan.curve(np.arange(plan.clock.steps))):
        size = int(plan.clock.batch_size_at(step))
        squared = (1 - rate * CURVATURES) ** 2 * squared + rate**2 * CURVATURES / size
        passed += fixed + per_example * size
        if (CURVATURES * squared).sum() / 2 <= TARGET:
            return passed
    return np.inf


#: Seconds of an update and of an example, for which 64, 32, 16 and 8 are advised. A batch that begins small would take
#: 1.2 times as long with the first three.
COSTS = [(1.0, 0.01), (1.0, 0.1), (1.0, 0.2), (1.0, 1.0)]


@pytest.mark.parametrize("epochs", [None, 5])
@pytest.mark.parametrize(("fixed", "per_example"), COSTS)
def test_the_advised_plan_is_hardly_slower_than_its_batch_throughout(fixed, per_example, epochs):
    plan = closed_form_study(fixed, per_example).recommend("time", epochs=epochs)
    size = int(plan.clock.batch_size_at(plan.clock.steps - 1))
    peak = RATES[REFERENCE] * (size / REFERENCE) ** 0.5
    alone = kw.Plan(learning_rate=peak, batch_size=size, examples=EXAMPLES, epochs=5)
    assert seconds(plan, fixed, per_example) <= 1.1 * seconds(alone, fixed, per_example)


@pytest.mark.parametrize("size", [16, 32, 64])
def test_the_predicted_seconds_are_those_of_the_model(size):
    study, fixed, per_example = closed_form_study(1.0, 0.1), 1.0, 0.1
    noise = [(place.examples, place.scale.value) for place in study.noise]
    found = predicted_seconds(noise, REFERENCE, [(0, size)], fixed, per_example)
    peak = RATES[REFERENCE] * (size / REFERENCE) ** 0.5
    alone = kw.Plan(learning_rate=peak, batch_size=size, examples=EXAMPLES, epochs=5)
    assert found == pytest.approx(seconds(alone, fixed, per_example), rel=0.1)
