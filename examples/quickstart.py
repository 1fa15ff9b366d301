"""Train a small network on handwritten digits: warm up over two epochs, then follow a cosine down to 0.

    python examples/quickstart.py

It prints the plan and what the network has learned, and draws the learning rate into quickstart.svg.
"""

import keras
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

import kwarmup as kw

keras.utils.set_random_seed(0)
images, labels = load_digits(return_X_y=True)  # 1797 images of 8 × 8 pixels, valued 0 to 16
x, x_val, y, y_val = train_test_split(images.reshape(-1, 8, 8, 1) / 16, labels, test_size=360, random_state=0)

profile = 0.1 * (kw.warmup(epochs=2) >> kw.cosine())
plan = kw.Plan(learning_rate=profile, batch_size=32, examples=len(x), epochs=20)
print(plan.table())
plan.plot("quickstart.svg")

model = keras.Sequential(
    [
        keras.Input((8, 8, 1)),
        keras.layers.Conv2D(32, 3, padding="same", activation="relu"),
        keras.layers.Conv2D(64, 3, padding="same", activation="relu"),
        keras.layers.MaxPooling2D(),
        keras.layers.Flatten(),
        keras.layers.Dropout(0.5),
        keras.layers.Dense(10, activation="softmax"),
    ]
)
optimizer = keras.optimizers.SGD(plan.learning_rate, momentum=0.9)
model.compile(optimizer, loss="sparse_categorical_crossentropy", metrics=["accuracy"])
plan.fit(model, x, y, validation_data=(x_val, y_val), verbose=2)

loss, accuracy = model.evaluate(x_val, y_val, verbose=0)
print(f"validation accuracy {accuracy:.3f}, validation loss {loss:.4f}")
