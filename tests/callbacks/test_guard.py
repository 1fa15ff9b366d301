"""Guard: what a plain `fit` runs against the plan, before the first update where that is possible. On any backend."""

import keras
import numpy as np
import pytest

from kwarmup import Guard, Plan, PlateauDecay, Schedule, hold, warmup
from kwarmup.applied import updates
from kwarmup.scaled import install

pytestmark = pytest.mark.backend

BACKEND = keras.backend.backend()
X = np.ones((200, 1), "float32")


def make_plan(**changes):
    rate = 0.1 * (warmup(epochs=1, start=0.1) >> hold())
    return Plan(**{"learning_rate": rate, "batch_size": 30, "examples": 100, "epochs": 3, **changes})


PLAN = make_plan()  # four batches in a pass, the last one of ten
GROWING = make_plan(batch_size=10 * (hold(epochs=1) >> hold(2, epochs=1) >> hold(5)))


def compiled(
    plan=PLAN, rate=None, parts=None, wrap=lambda optimizer: optimizer, kind=keras.Sequential, **arguments
):
    model = kind([keras.Input((1,)), keras.layers.Dense(1)])
    optimizer = keras.optimizers.SGD(rate or plan.learning_rate, gradient_accumulation_steps=parts)
    model.compile(wrap(optimizer), "mse", **arguments)
    return model


def fit(plan, model, data=None, **arguments):
    x, y = (X[: plan.clock.examples],) * 2 if data is None else data
    arguments = {**plan.fit_arguments, "verbose": 0, "callbacks": [Guard(plan)], **arguments}
    arguments = {name: value for name, value in arguments.items() if value is not None}
    model.fit(x, y, **arguments)
    return model


# What is right


def test_arrays():
    assert updates(fit(PLAN, compiled()).optimizer) == PLAN.clock.steps


def test_without_the_number_of_steps():
    fit(PLAN, compiled(), steps_per_epoch=None)


def test_with_validation_that_has_other_numbers():
    fit(PLAN, compiled(), validation_data=(X[:77], X[:77]), validation_batch_size=7)


@pytest.mark.parametrize("plan", [PLAN, GROWING], ids=["constant", "growing"])
def test_batches_of_the_plan(plan):
    arguments = {**plan.fit_arguments}
    arguments.pop("batch_size", None)
    model = compiled(plan)
    x = X[:100]
    model.fit(plan.batches(x, x), **arguments, verbose=0, shuffle=False, callbacks=[Guard(plan)])
    assert updates(model.optimizer) == plan.clock.steps


def test_accumulation():
    plan = make_plan(gradient_accumulation_steps=3)  # ten micro-batches a pass
    assert updates(fit(plan, compiled(plan, parts=3)).optimizer) == 10


def test_executions_of_several_steps():
    if BACKEND == "torch":
        with pytest.raises(ValueError, match="steps_per_execution"):  # by Keras itself
            fit(PLAN, compiled(steps_per_execution=3))
        return
    fit(PLAN, compiled(steps_per_execution=3))


def test_mixed_precision():
    fit(
        PLAN,
        compiled(wrap=lambda optimizer: keras.optimizers.LossScaleOptimizer(optimizer, initial_scale=2.0)),
    )


def test_one_that_goes_on_where_the_plan_stands():
    model = fit(PLAN, compiled(), epochs=2, callbacks=None)
    fit(PLAN, model, initial_epoch=2)


def test_a_training_that_is_stopped():
    class Stop(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            self.model.stop_training = batch == 1

    fit(PLAN, compiled(), callbacks=[Guard(PLAN), Stop()])


def test_a_plateau_changes_the_factor_not_the_schedule():
    model = fit(PLAN, compiled(), epochs=2, callbacks=[PlateauDecay("loss", patience=1, min_delta=99)])
    fit(PLAN, model, initial_epoch=2)


def test_a_learning_rate_of_its_own_is_left_alone():
    for rate in (0.5, keras.optimizers.schedules.CosineDecay(0.1, 12)):
        fit(PLAN, compiled(rate=rate))


class Own(keras.Sequential):
    """With a training step whose loss counts batches, not examples."""

    def __init__(self, layers):
        super().__init__(layers)
        self.own = keras.metrics.Mean(name="loss")

    @property
    def metrics(self):
        return [self.own]

    def train_step(self, *arguments):
        found = super().train_step(*arguments)
        return found

    def compute_metrics(self, *arguments, **keywords):
        return {"own": 0.0}


def test_what_a_training_step_of_ones_own_counts_is_not_compared():
    fit(PLAN, compiled(kind=Own))


# What is not: before the first update


TRAINED = 7
BEFORE = {
    "batch_size forgotten": (
        dict(batch_size=None, steps_per_epoch=None),
        dict(plan=make_plan(batch_size=10)),
        "`steps_per_epoch`: expected 10 batches in an epoch, as in Clock(examples=100, epochs=3, batch_size=10).\n"
        "Received: 4 in fit, as 100 examples have with Keras's default, batch_size=32\n"
        "Write: model.fit(x, y, **plan.fit_arguments)",
    ),
    "another batch_size": (
        dict(batch_size=50, steps_per_epoch=None),
        {},
        "`steps_per_epoch`: expected 4 batches in an epoch, as in Clock(examples=100, epochs=3, batch_size=30).\n"
        "Received: 2 in fit\n"
        "Write: model.fit(x, y, **plan.fit_arguments)",
    ),
    "other data": (
        dict(data=(X, X), steps_per_epoch=None),
        {},
        "Received: 7 in fit",
    ),
    "other steps_per_epoch": (dict(steps_per_epoch=2), {}, "Received: 2 in fit"),
    "other epochs": (
        dict(epochs=5),
        {},
        "`epochs`: expected the same in both.\n"
        "Received: 5 in fit, 3 in Clock(examples=100, epochs=3, batch_size=30)\n"
        "Write: plan.replace(epochs=5)",
    ),
    "a growing plan with arrays": (
        dict(epochs=3, steps_per_epoch=None, batch_size=10),
        dict(plan=GROWING),
        "`epochs`: expected 1 for the whole run, since its passes differ in length",
    ),
    "accumulation in the optimizer alone": (
        {},
        dict(parts=3),
        "`gradient_accumulation_steps`: expected the same in both.\nReceived: 3 in the optimizer, 1 in Clock(",
    ),
    "accumulation in the plan alone": (
        {},
        dict(plan=make_plan(gradient_accumulation_steps=3)),
        "`gradient_accumulation_steps`: expected the same in both.\nReceived: 1 in the optimizer, 3 in Clock(",
    ),
    "another schedule": (
        {},
        dict(rate=Schedule(0.5 * warmup(steps=3))),
        "`learning_rate`: expected the plan's own, Schedule(0.1 * (warmup(epochs=1, start=0.1) >> hold()), Clock(",
    ),
    "an optimizer that has not trained where it should": (
        dict(initial_epoch=2),
        {},
        "`iterations`: expected 8, which the plan has in front of initial_epoch.\n"
        "Received: an optimizer that has done 0 updates\n"
        "Write: keras.models.load_model(path), which brings the optimizer as it was saved there",
    ),
}


@pytest.mark.parametrize("mistake", BEFORE)
def test_a_mistake_is_found_before_the_first_update(mistake):
    arguments, made, words = BEFORE[mistake]
    plan = made.get("plan", PLAN)
    model = compiled(**made)
    with pytest.raises(ValueError) as caught:
        fit(plan, model, **arguments)
    assert words in str(caught.value)
    assert updates(model.optimizer) == 0


def test_another_schedule_is_found_behind_a_factor():
    model = compiled(rate=Schedule(0.5 * warmup(steps=3)))
    install(model)
    with pytest.raises(ValueError, match="`learning_rate`: expected the plan's own"):
        fit(PLAN, model)


def test_an_optimizer_that_has_trained():
    model = fit(PLAN, compiled(), epochs=1, callbacks=None)
    with pytest.raises(
        ValueError, match=r"(?s)`iterations`: expected 0, where the plan begins.*has done 4 updates"
    ):
        fit(PLAN, model)
    with pytest.raises(ValueError, match="(?s)expected 8, which the plan has in front of initial_epoch"):
        fit(PLAN, model, initial_epoch=2)
    assert updates(model.optimizer) == 4


def test_each_training_is_looked_at():
    callback, model = Guard(PLAN), compiled()
    fit(PLAN, model, callbacks=[callback])
    with pytest.raises(ValueError, match="has done 12 updates"):
        fit(PLAN, model, callbacks=[callback])


# What is not: as soon as Keras has counted it


def test_another_batch_size_where_the_number_of_batches_is_right():
    # Told the number of batches alone, Keras divides the data into so many equal ones.
    model = compiled()
    with pytest.raises(
        RuntimeError, match=r"There were 25 examples in batch 0, but the plan has 30: Clock\("
    ):
        fit(PLAN, model, batch_size=None)
    assert updates(model.optimizer) == 1


def test_other_data_where_the_number_of_batches_is_right():
    model = compiled()
    with pytest.raises(
        RuntimeError, match="There were 95 examples in the batches 0 to 3, but the plan has 100"
    ):
        fit(PLAN, model, data=(X[:95], X[:95]), validation_data=(X[:100], X[:100]))
    assert updates(model.optimizer) == 4


def batches(count):
    for _ in range(count):
        yield X[:25], X[:25]


UNKNOWN = make_plan(batch_size=25, epochs=1, learning_rate=0.1)


def test_a_generator_and_its_number_of_batches():
    model = compiled(UNKNOWN)
    guards = [Guard(UNKNOWN)]
    model.fit(batches(9), steps_per_epoch=4, verbose=0, shuffle=False, callbacks=guards)
    with pytest.raises(ValueError, match="Received: 3 in fit"):
        model.fit(batches(9), steps_per_epoch=3, verbose=0, shuffle=False, callbacks=guards)


@pytest.mark.filterwarnings("ignore:Your input ran out of data")  # by Keras, wherever it has to find out
def test_data_of_unknown_length_is_found_out_behind_the_epoch():
    model = compiled(UNKNOWN)
    with pytest.raises(
        RuntimeError, match=r"After epoch 0 the optimizer has done \d updates, but the plan has 4"
    ):
        model.fit(batches(2), verbose=0, shuffle=False, callbacks=[Guard(UNKNOWN)])


@pytest.mark.filterwarnings("ignore:Your input ran out of data")
def test_the_update_too_many_behind_data_of_unknown_length():
    model = compiled(UNKNOWN)
    arguments = dict(verbose=0, shuffle=False, callbacks=[Guard(UNKNOWN)])
    if BACKEND != "tensorflow":
        model.fit(batches(4), **arguments)
        return
    with pytest.raises(
        RuntimeError, match=r"(?s)has done 5 updates.*Write: model.fit\(..., steps_per_epoch=4\)"
    ):
        model.fit(batches(4), **arguments)


def test_no_plan():
    with pytest.raises(TypeError, match="`plan`: expected a Plan"):
        Guard(PLAN.clock)
