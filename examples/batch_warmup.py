"""Let the batch size warm up, 16 to 64 to 256, the learning rate with it, beside two batch sizes that stay.

    python examples/batch_warmup.py

It prints a table of the three ways, and draws the plan of the growing batch into batch_warmup.svg.
"""

import keras
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

import kwarmup as kw

images, labels = load_digits(return_X_y=True)  # 1797 images of 8 × 8 pixels, valued 0 to 16
x, x_val, y, y_val = train_test_split(images.reshape(-1, 8, 8, 1) / 16, labels, test_size=360, random_state=0)

SMALL, LARGE, EPOCHS, RATE = 16, 256, 12, 0.02  # the learning rate is that of the small batch
decay = kw.hold(epochs=3) >> kw.linear()
plans = {
    "batch 16": kw.Plan(learning_rate=RATE * decay, batch_size=SMALL, examples=len(x), epochs=EPOCHS),
    # The linear rule: 16 times the batch, 16 times the learning rate. Its warmup is of the learning rate alone.
    "batch 256, gradual warmup": kw.Plan(
        learning_rate=RATE * LARGE / SMALL * (kw.warmup(epochs=3, start=SMALL / LARGE) >> kw.linear()),
        batch_size=LARGE, examples=len(x), epochs=EPOCHS,
    ),
    # scaling=1 is the same rule, applied at each update to the batch of that update.
    "batch 16 → 64 → 256": kw.Plan(
        learning_rate=RATE * decay,
        batch_size=SMALL * (kw.hold(epochs=1) >> kw.hold(4, epochs=2) >> kw.hold(16)),
        examples=len(x), epochs=EPOCHS, scaling=1,
    ),
}  # fmt: skip


def train(plan: kw.Plan) -> float:
    keras.utils.set_random_seed(0)
    layers = [
        keras.Input((8, 8, 1)),
        keras.layers.Conv2D(32, 3, padding="same", activation="relu"),
        keras.layers.MaxPooling2D(),
        keras.layers.Flatten(),
        keras.layers.Dense(10, activation="softmax"),
    ]
    model = keras.Sequential(layers)
    optimizer = keras.optimizers.SGD(plan.learning_rate, momentum=0.9)
    model.compile(optimizer, loss="sparse_categorical_crossentropy", metrics=["accuracy"])
    plan.fit(model, x, y, verbose=0)
    return model.evaluate(x_val, y_val, verbose=0)[1]


print(f"{'':26} {'updates':>7} {'largest rate':>12} {'validation accuracy':>19}")
for name, plan in plans.items():
    largest = max(plan.curve(range(plan.clock.steps)))
    print(f"{name:26} {plan.clock.steps:7,} {largest:12.3g} {train(plan):19.3f}")
print(plans["batch 16 → 64 → 256"].table())
plans["batch 16 → 64 → 256"].plot("batch_warmup.svg")
