"""Measure what the batch size does to a network on this machine, then train by the plan that follows from it.

    python examples/from_study_to_plan.py

The study is a small one, of one seed and short trainings; three seeds and `budget=180` give answers that are worth
more. It prints the reasons for the plan, and leaves all figures in study.html and the plan in plan.svg.
"""

import keras
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

import kwarmup as kw

images, labels = load_digits(return_X_y=True)  # 1797 images of 8 × 8 pixels, valued 0 to 16
x, x_val, y, y_val = train_test_split(images / 16, labels, test_size=360, random_state=0)


def build() -> keras.Model:
    """A new model, compiled. The study replaces the learning rate."""
    layers = [
        keras.Input((64,)),
        keras.layers.Dense(128, activation="relu"),
        keras.layers.Dense(10, activation="softmax"),
    ]
    model = keras.Sequential(layers)
    optimizer = keras.optimizers.SGD(momentum=0.9)
    model.compile(optimizer, loss="sparse_categorical_crossentropy", metrics=["accuracy"])
    return model


study = kw.study(
    build, x, y, validation_data=(x_val, y_val), batch_sizes=[16, 128], seeds=1, epochs=4, path="study.json"
)
study.report("study.html")

advice = study.advise("time", epochs=10)
print(advice)

plan = advice.plan
plan.plot("plan.svg")
model = build()
model.optimizer.learning_rate = plan.learning_rate
plan.fit(model, x, y, validation_data=(x_val, y_val), verbose=0)
loss, accuracy = model.evaluate(x_val, y_val, verbose=0)
print(plan.table())
print(f"validation accuracy {accuracy:.3f}, validation loss {loss:.4f}")
