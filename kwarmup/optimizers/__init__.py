"""Keras's optimizers with hyperparameters that may move: `SGD`, `Adam`, `AdamW`, and `adam_sde`.

`hyperparameter` is the one mechanism; an optimizer only names what may be scheduled.
"""

from kwarmup.optimizers.adam import Adam as Adam
from kwarmup.optimizers.adam import AdamW as AdamW
from kwarmup.optimizers.sde import adam_sde as adam_sde
from kwarmup.optimizers.sgd import SGD as SGD
