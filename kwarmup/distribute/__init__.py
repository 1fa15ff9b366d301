"""The same training on one device, on several, and on several machines.

strategy = kw.distribute.strategy()
with strategy.scope():
    model = build()
    model.compile(SGD(plan.learning_rate), loss=..., metrics=["accuracy"])
plan.on(strategy).fit(model, x, y)
"""

from typing import Any

import lazy_loader

_attach, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submod_attrs={
        "rendezvous": ["WorkerMissing"],
        "lost": ["WorkerLost"],
        "keras_fit": ["plain_fit"],
        "replicas": ["is_chief"],
        "strategies": ["strategy"],
    },
)


def __getattr__(name: str) -> Any:
    return _attach(name)
