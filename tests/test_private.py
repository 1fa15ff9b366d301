"""The doors of Keras that are not public: these tests say when one moves."""

import keras
import pytest

from kwarmup import Schedule, warmup
from kwarmup.private import schedule_of


def optimizers(rate):
    yield keras.optimizers.SGD(rate)
    yield keras.optimizers.AdamW(rate)
    yield keras.optimizers.LossScaleOptimizer(keras.optimizers.SGD(rate))


def test_the_schedule_itself_is_found():
    for schedule in (Schedule(warmup(steps=3)), keras.optimizers.schedules.CosineDecay(0.1, 10)):
        for optimizer in optimizers(schedule):
            assert schedule_of(optimizer) is schedule


@pytest.mark.parametrize("rate", [0.1, lambda: 0.1])
def test_a_number_and_a_function_are_no_schedule(rate):
    for optimizer in optimizers(rate):
        assert schedule_of(optimizer) is None
