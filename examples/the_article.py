"""Batch size and warmup, step by step: torch's OneCycleLR example line by line, then a batch that grows.

    python examples/the_article.py

It prints what each step has brought, and draws the last plan into the_article.svg.
"""

import keras
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

import kwarmup as kw

images, labels = load_digits(return_X_y=True)
x, x_val, y, y_val = train_test_split(images / 16, labels, test_size=360, random_state=0)
EPOCHS = 10


def train(name, plan, momentum=0.9):
    keras.utils.set_random_seed(0)  # torch.manual_seed(0)
    layers = [keras.Input((64,)), keras.layers.Dense(128, activation="relu"), keras.layers.Dense(10)]
    model = keras.Sequential(
        layers
    )  # model = nn.Sequential(nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, 10))
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)  # criterion = nn.CrossEntropyLoss()
    optimizer = kw.SGD(plan.learning_rate, momentum=momentum)  # optimizer = optim.SGD(model.parameters(), …)
    model.compile(optimizer, loss, metrics=["accuracy"])
    # for epoch in range(epochs): for x, y in loader: zero_grad, forward, backward, optimizer.step, scheduler.step
    plan.fit(model, x, y, verbose=0)
    accuracy = model.evaluate(x_val, y_val, verbose=0)[1]
    print(f"{name:44} {plan.clock.steps:7,} {accuracy:19.3f}")


def plan(profile, batch_size, **more):
    return kw.Plan(learning_rate=profile, batch_size=batch_size, examples=len(x), epochs=EPOCHS, **more)


print(f"{'step':44} {'updates':>7} {'validation accuracy':>19}")
train("1. a small batch, a constant rate", plan(0.02 * kw.hold(), 16))
train("2. eight times the batch, the same rate", plan(0.02 * kw.hold(), 128))
train("3. and eight times the rate, the linear rule", plan(0.16 * kw.hold(), 128))
train("4. and a warmup of the rate", plan(0.16 * (kw.warmup(epochs=2) >> kw.hold()), 128))
train("5. and a decay behind it", plan(0.16 * (kw.warmup(epochs=2) >> kw.linear()), 128))

# scheduler = OneCycleLR(optimizer, max_lr=0.16, steps_per_epoch=len(loader), epochs=10)
cycle = {"steps_per_epoch": -(-len(x) // 128), "epochs": EPOCHS}
# torch's OneCycleLR also moves the momentum, unless told not to: 0.95 at both ends, 0.85 at the peak.
train("6. OneCycleLR", plan(0.16 * kw.one_cycle(**cycle), 128), kw.one_cycle_momentum(**cycle))

growing = 16 * (kw.hold(epochs=1) >> kw.hold(4, epochs=1) >> kw.hold(8))  # 16, 64, 128
both = plan(0.02 * (kw.hold(epochs=2) >> kw.linear()), growing, scaling=1)
train("7. batch and rate start small, and both grow", both)
print(both.table())
both.plot("the_article.svg")
