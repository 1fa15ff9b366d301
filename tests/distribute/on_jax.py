"""Trains and measures on one device and on two, on JAX; run by `test_on_jax.py`, it prints the largest difference."""

import keras
import numpy as np

from kwarmup import SGD, Plan, cosine, distribute, find_lr, hold, noise_scale, warmup

random = np.random.default_rng(0)
x = random.normal(size=(96, 6)).astype("float32")
y = (x[:, :1] * x[:, 1:2]).astype("float32")
plan = Plan(
    learning_rate=0.1 * (warmup(epochs=1, start=0.1) >> cosine()),
    batch_size=8 * (hold(epochs=1) >> hold(2)),
    examples=96,
    epochs=3,
    scaling=0.5,
)
found = []
for name in ("one", "auto"):
    strategy = distribute.strategy(name)
    keras.utils.set_random_seed(0)
    with strategy.scope():
        model = keras.Sequential([keras.layers.Dense(4, "tanh"), keras.layers.Dense(1)])
        model.compile(SGD(plan.learning_rate, momentum=0.9), "mse")
    placed = plan.on(strategy)
    history = placed.fit(model, x, y, verbose=0, validation_data=(x[:32], y[:32]))
    noise = noise_scale(model, x, y, precision=1e-9)
    sweep = find_lr(model, x, y, low=1e-4, high=1e-2, steps=20, repeats=1)
    found.append(
        [*model.get_weights(), np.array(history.history["loss"]), np.array(history.history["val_loss"])]
        + [np.array(sweep.losses), np.array([noise.trace, noise.squared_norm])]
    )
print(placed.clock.replicas, max(float(np.abs(a - b).max()) for a, b in zip(*found, strict=True)))
