"""Against torch's ReduceLROnPlateau: the same decays, with a patience that is one more here."""

import keras
import numpy as np
import pytest

import kwarmup as kw
from kwarmup.private import schedule_of

pytestmark = pytest.mark.peers


def theirs(torch, values, factor, patience, min_delta, mode, cooldown, min_factor):
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    scheduler = torch.optim.lr_scheduler.ReduceLROnPlateau(
        optimizer, mode=mode, factor=factor, patience=patience, threshold=min_delta, threshold_mode="abs",
        cooldown=cooldown, min_lr=min_factor, eps=0,
    )  # fmt: skip
    found = []
    for value in values:
        scheduler.step(value)
        found.append(optimizer.param_groups[0]["lr"])
    return found


def ours(values, factor, patience, min_delta, mode, cooldown, min_factor):
    model = keras.Sequential([keras.Input((1,)), keras.layers.Dense(1)])
    model.compile(keras.optimizers.SGD(1.0), "mse")
    callback = kw.PlateauDecay("value", factor, patience, min_delta, mode, cooldown, min_factor)
    callback.set_model(model)
    callback.on_train_begin()
    found = []
    for epoch, value in enumerate(values):
        callback.on_epoch_begin(epoch)
        callback.on_epoch_end(epoch, {"value": value})
        found.append(schedule_of(model.optimizer).factor)
    return found


def cases():
    draw = np.random.default_rng(0)
    for _ in range(60):
        arguments = dict(
            factor=draw.choice([0.1, 0.5, 0.9]),
            patience=int(draw.integers(0, 4)),
            min_delta=draw.choice([0, 0.25, 1.0]),
            mode=str(draw.choice(["min", "max"])),
            cooldown=int(draw.integers(0, 4)),
            min_factor=draw.choice([0, 1e-3, 0.3]),
        )
        # Few different values, so that many are equal or better by exactly min_delta; and some NaN.
        values = draw.integers(0, 12, 60) / 4 + np.linspace(0, draw.choice([-8, 0, 8]), 60).round()
        values[draw.random(60) < draw.choice([0, 0.2])] = np.nan
        yield values.tolist(), {n: v.item() if hasattr(v, "item") else v for n, v in arguments.items()}


def test_the_same_decays(torch):
    shifted = decays = 0
    for values, arguments in cases():
        expected = theirs(torch, values, **arguments)
        # A factor in single precision ends at 1e-45.
        here = {**arguments, "patience": arguments["patience"] + 1}
        np.testing.assert_allclose(
            ours(values, **here), expected, rtol=1e-5, atol=1e-37, err_msg=f"{arguments}, {values}"
        )
        decays += len(set(expected)) - 1
        if arguments["patience"]:  # The comparison can fail: without the shift it does.
            shifted += not np.allclose(ours(values, **arguments), expected, rtol=1e-5)
    assert decays > 200 and shifted > 20
