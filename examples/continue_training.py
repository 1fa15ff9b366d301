"""Export in the middle of a training, and go on from the SavedModel in a process that has TensorFlow alone.

    python examples/continue_training.py

It prints each epoch with its learning rate: one warmup and one decay, across both processes. Version 1 in
saved_models/continued is from the middle, version 2 from the end.
"""

import subprocess
import sys

from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

images, labels = load_digits(return_X_y=True)
x, x_val, y, y_val = train_test_split((images / 16).astype("float32"), labels, test_size=360, random_state=0)
BATCH, EPOCHS, MIDDLE = 32, 10, 5


def first_half() -> None:
    import keras

    import kwarmup as kw

    profile = 0.1 * (kw.warmup(epochs=2) >> kw.linear())
    plan = kw.Plan(learning_rate=profile, batch_size=BATCH, examples=len(x), epochs=EPOCHS)
    keras.utils.set_random_seed(0)
    layers = [keras.Input((64,)), keras.layers.Dense(64, "relu"), keras.layers.Dense(10, "softmax")]
    model = keras.Sequential(layers)
    model.compile(keras.optimizers.SGD(plan.learning_rate, momentum=0.9), "sparse_categorical_crossentropy")
    for epoch in range(MIDDLE):
        loss = model.fit(x, y, batch_size=BATCH, verbose=0).history["loss"][-1]
        print(
            f"{epoch:5}  {plan.curve(plan.clock.step_at(epochs=epoch)):13.4f}  {loss:.4f}  Keras", flush=True
        )
    kw.export(model, "saved_models/continued", plan=plan, trainable=True, batch=x[:BATCH], targets=y[:BATCH])


def second_half() -> None:
    sys.modules.update(keras=None, kwarmup=None)  # neither can be imported here
    import tensorflow as tf

    served = tf.saved_model.load("saved_models/continued/1")
    data = tf.data.Dataset.from_tensor_slices((x, y)).shuffle(len(x), seed=0).batch(BATCH)
    for epoch in range(MIDDLE, EPOCHS):
        updates = [served.train_step(*batch) for batch in data]
        rate, loss = updates[0]["learning_rate"], tf.reduce_mean([update["loss"] for update in updates])
        print(f"{epoch:5}  {rate:13.4f}  {loss:.4f}  TensorFlow, without Keras")
    accuracy = (served.serve(x_val).numpy().argmax(1) == y_val).mean()
    print(f"validation accuracy {accuracy:.3f}")
    tf.saved_model.save(served, "saved_models/continued/2", signatures=dict(served.signatures))


if sys.argv[1:]:
    second_half()
else:
    print("epoch  learning rate  loss    trained by", flush=True)
    first_half()
    subprocess.run([sys.executable, __file__, "second half"], check=True)
