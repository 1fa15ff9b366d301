"""Whole trainings beside torch's own: optimizer and `OneCycleLR`, which moves momentum and learning rate."""

import keras
import numpy as np
import pytest

import kwarmup as kw

STEPS = 60
GRADIENTS = np.random.default_rng(0).normal(size=(STEPS, 4)).astype("float32")


def torch_path(torch, make, **one_cycle):
    """The weights behind each update, from 1."""
    weight = torch.nn.Parameter(torch.ones(4))
    optimizer = make(torch.optim, [weight])
    scheduler = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=0.1, total_steps=STEPS, **one_cycle)
    found = []
    for step, gradient in enumerate(GRADIENTS):
        weight.grad = torch.from_numpy(gradient.copy())
        optimizer.step()
        if step + 1 < STEPS:  # It raises past its end.
            scheduler.step()
        found.append(weight.detach().numpy().copy())
    return np.array(found)


def our_path(optimizer):
    weight = keras.Variable(np.ones(4, "float32"))
    optimizer.build([weight])
    found = []
    for gradient in GRADIENTS:
        optimizer.apply([keras.ops.convert_to_tensor(gradient)], [weight])
        found.append(keras.ops.convert_to_numpy(weight).copy())
    return np.array(found)


@pytest.mark.peers
@pytest.mark.parametrize("three_phase", [False, True])
@pytest.mark.parametrize("nesterov", [False, True])
def test_one_cycle_with_corrected_momentum_is_torchs(torch, nesterov, three_phase):
    theirs = torch_path(
        torch,
        lambda optim, weights: optim.SGD(weights, lr=0.1, momentum=0.9, nesterov=nesterov),
        three_phase=three_phase,
        cycle_momentum=True,
    )
    rate = 0.1 * kw.one_cycle(STEPS, three_phase=three_phase)
    momentum = kw.one_cycle_momentum(STEPS, three_phase=three_phase)
    corrected = our_path(kw.SGD(rate, momentum, nesterov, momentum_correction=True))
    np.testing.assert_allclose(corrected, theirs, rtol=0, atol=5e-6)
    # Keras's form is another algorithm where the learning rate moves: by more than a rounding.
    assert abs(our_path(kw.SGD(rate, momentum, nesterov)) - theirs).max() > 0.05
    assert abs(our_path(kw.SGD(rate, 0.95, nesterov, momentum_correction=True)) - theirs).max() > 0.05


@pytest.mark.peers
def test_where_the_learning_rate_stands_still_keras_form_is_torchs_too(torch):
    theirs = torch_path(
        torch,
        lambda optim, weights: optim.SGD(weights, lr=0.1, momentum=0.9),
        div_factor=1.0,
        final_div_factor=1.0,
        cycle_momentum=True,
    )
    for corrected in (False, True):
        ours = our_path(kw.SGD(0.1, kw.one_cycle_momentum(STEPS), momentum_correction=corrected))
        np.testing.assert_allclose(ours, theirs, rtol=0, atol=5e-6)


@pytest.mark.peers
def test_one_cycle_of_adamw_is_torchs(torch):
    # With an epsilon that matters the two differ: Keras adds it to the moment before its correction.
    theirs = torch_path(
        torch,
        lambda optim, weights: optim.AdamW(weights, lr=0.1, betas=(0.9, 0.99), eps=0.0, weight_decay=0.1),
        cycle_momentum=True,
    )
    ours = our_path(
        kw.AdamW(0.1 * kw.one_cycle(STEPS), 0.1, kw.one_cycle_momentum(STEPS), beta_2=0.99, epsilon=0.0)
    )
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=5e-6)
    still = our_path(kw.AdamW(0.1 * kw.one_cycle(STEPS), 0.1, 0.95, beta_2=0.99, epsilon=0.0))
    assert abs(still - theirs).max() > 0.01
