"""PlateauDecay under plan.fit: killed anywhere and started again, it decays as if nothing had been."""

import warnings

import keras
import numpy as np
import pytest

from kwarmup import Plan, PlanWarning, PlateauDecay, Record, hold, linear, warmup
from kwarmup.private import schedule_of
from kwarmup.scaled import install

RANDOM = np.random.default_rng(0)
X = RANDOM.normal(size=(40, 3)).astype("float32")
Y = RANDOM.normal(size=(40, 1)).astype("float32")
VALIDATION = X[:7], Y[:7]

with warnings.catch_warnings():
    warnings.simplefilter("ignore", PlanWarning)
    # 10, 5, 4 and 4 updates, the learning rate far too large to get better for long.
    PLAN = Plan(
        learning_rate=0.3 * (warmup(epochs=1) >> hold()),
        batch_size=4 * (hold(epochs=1) >> linear(start=2, to=3, epochs=2)),
        examples=40,
        epochs=4,
    )
WAYS = {
    "by passes": dict(patience=1, cooldown=1, min_delta=1),
    "by steps": dict(monitor="loss", patience=2, min_delta=0.05, steps=2),
    "by steps across passes": dict(monitor="loss", patience=1, cooldown=1, min_delta=0.5, steps=4),
}


class Crash(Exception):
    pass


class Crashes(keras.callbacks.Callback):
    """Crashes behind the n-th batch from now."""

    left = 0  # of the class: what is counted in the callback would go on in the next process

    def on_train_batch_end(self, batch, logs=None):
        Crashes.left -= 1
        if Crashes.left == 0:
            raise Crash


def start(folder, way, seed, rate, plan=PLAN, begun=False, on_change="raise", **compiled):
    """Start the process: all is made anew."""
    keras.utils.set_random_seed(seed)
    model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(4, "tanh"), keras.layers.Dense(1)])
    model.compile(keras.optimizers.SGD(rate, momentum=0.9), "mse", **compiled)
    plateau = PlateauDecay(factor=0.5, **WAYS[way])
    if begun:
        install(model)
    history = plan.fit(
        model, X, Y, validation_data=VALIDATION, callbacks=[plateau, Record(), Crashes()], verbose=0,
        checkpoint_dir=folder, save_every=1, on_change=on_change,
    )  # fmt: skip
    state = {n: v for n, v in vars(plateau).items() if isinstance(v, int | float | list | None.__class__)}
    arrays = [keras.ops.convert_to_numpy(v).tobytes() for v in [*model.variables, *model.optimizer.variables]]
    return arrays, history.history, schedule_of(model.optimizer).factor, state


@pytest.mark.parametrize(
    ("way", "rate"),
    [*((way, PLAN.learning_rate) for way in WAYS), ("by passes", 0.3)],
    ids=[*WAYS, "a number"],
)
def test_killed_at_any_batch(tmp_path, way, rate):
    Crashes.left = 0
    expected = start(tmp_path / "undisturbed", way, 0, rate)
    assert expected[2] <= 0.25, "too few decays to tell anything"
    for number in (3, 10, 13, 20):
        Crashes.left = number
        with pytest.raises(Crash):
            start(tmp_path / str(number), way, 0, rate)
        # Other first weights: what is restored must not lean on a seed.
        assert start(tmp_path / str(number), way, 1, rate) == expected


def test_killed_at_every_batch_in_turn(tmp_path):
    Crashes.left = 0
    expected = start(tmp_path / "undisturbed", "by steps", 0, PLAN.learning_rate, steps_per_execution=2)
    for attempt in range(30):
        Crashes.left = 2
        try:
            found = start(tmp_path / "again", "by steps", attempt, PLAN.learning_rate, steps_per_execution=2)
            break
        except Crash:
            continue
    assert attempt > 5 and found == expected


def test_by_the_plan_of_the_checkpoint(tmp_path):
    Crashes.left = 0
    expected = start(tmp_path / "undisturbed", "by passes", 0, PLAN.learning_rate)
    Crashes.left = 13
    with pytest.raises(Crash):
        start(tmp_path / "again", "by passes", 0, PLAN.learning_rate)
    # Another plan now, in a model whose learning rate can be scaled already.
    other = PLAN.replace(learning_rate=0.1 * (warmup(epochs=1) >> hold()))
    arguments = dict(plan=other, begun=True, on_change="checkpoint")
    assert start(tmp_path / "again", "by passes", 1, other.learning_rate, **arguments) == expected
