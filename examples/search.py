"""Search batch size, learning rate and the width of a network together, and train by the best plan.

    python examples/search.py

It prints the trials, draws them into search.png, and trains for longer by the plan of the best. Killed and started
again, it goes on where it stood.
"""

import keras
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

import kwarmup as kw

images, labels = load_digits(return_X_y=True)  # 1797 images of 8 × 8 pixels, valued 0 to 16
x, x_val, y, y_val = train_test_split(images / 16, labels, test_size=360, random_state=0)


def build(hp):
    units = hp.Int("units", 32, 128, sampling="log")
    layers = [keras.Input((64,)), keras.layers.Dense(units, "relu"), keras.layers.Dense(10, "softmax")]
    model = keras.Sequential(layers)
    model.compile(keras.optimizers.SGD(momentum=0.9), "sparse_categorical_crossentropy", metrics=["accuracy"])
    return model


# The peak is searched at batch size 32, and carried to the others by the linear rule of SGD.
plan = kw.Plan(learning_rate=kw.warmup(fraction=0.1) >> kw.cosine(), batch_size=32, examples=len(x), epochs=4)
tuner = kw.search(
    build,
    plan,
    peak=(1e-3, 1.0),
    batch_size=[16, 32, 64, 128],
    objective="val_accuracy",
    max_trials=6,
    num_initial_points=3,
    directory="search",
)
tuner.search(x, y, validation_data=(x_val, y_val))

found = tuner.results()
print(found.table())
print({name: round(share, 2) for name, share in found.importance().items()})
found.plot("search.png")

longer = tuner.best_plan().replace(epochs=12)
model = build(tuner.get_best_hyperparameters()[0])
model.optimizer = keras.optimizers.SGD(longer.learning_rate, momentum=0.9)
longer.fit(model, x, y, verbose=0)
loss, accuracy = model.evaluate(x_val, y_val, verbose=0)
print(f"validation accuracy {accuracy:.3f} by {longer!r}")
