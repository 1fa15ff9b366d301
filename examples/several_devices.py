"""The same training on one device or several, or as several workers: only the way it is started differs.

    python examples/several_devices.py
    kwarmup launch --workers 2 -- python examples/several_devices.py

It prints how many replicas there were and how many of the held-out digits are right.
"""

import keras
from sklearn.datasets import load_digits

import kwarmup as kw

x, y = load_digits(return_X_y=True)
x = (x / 16).astype("float32")
x, y, x_validation, y_validation = x[:1500], y[:1500], x[1500:], y[1500:]

strategy = kw.distribute.strategy()
plan = kw.Plan(
    learning_rate=0.1 * (kw.warmup(epochs=1) >> kw.cosine()),
    batch_size=32 * (kw.hold(epochs=2) >> kw.hold(2)),
    examples=len(x),
    epochs=4,
    scaling=1,
)
keras.utils.set_random_seed(0)
with strategy.scope():
    model = keras.Sequential(
        [keras.Input((64,)), keras.layers.Dense(32, activation="relu"), keras.layers.Dense(10)]
    )
    model.compile(
        kw.SGD(plan.learning_rate, momentum=0.9),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
    )

verbose = 2 if kw.distribute.is_chief(strategy) else 0
history = plan.on(strategy).fit(model, x, y, validation_data=(x_validation, y_validation), verbose=verbose)
if kw.distribute.is_chief(strategy):
    print(plan.on(strategy).table())
    print(
        f"{strategy.num_replicas_in_sync} replicas: {history.history['val_accuracy'][-1]:.3f} of the digits are right"
    )
