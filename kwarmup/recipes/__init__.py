"""Recipes: the schedules that have a name, each a few lines over profiles.

Every recipe returns a profile relative to the peak; write the peak in front, `0.1 * one_cycle(...)`.
Where libraries disagree about an edge, the docstring says which one is followed and how to get the other.
"""

from kwarmup.recipes.adam import radam_warmup, untuned_warmup
from kwarmup.recipes.anneal import one_cycle, one_cycle_momentum
from kwarmup.recipes.cycles import cosine_restarts, cyclic
from kwarmup.recipes.drops import multistep, step_decay
from kwarmup.recipes.noam import inverse_sqrt
from kwarmup.recipes.stable import flat_cosine, wsd

__all__ = [
    "cosine_restarts",
    "cyclic",
    "flat_cosine",
    "inverse_sqrt",
    "multistep",
    "one_cycle",
    "one_cycle_momentum",
    "radam_warmup",
    "step_decay",
    "untuned_warmup",
    "wsd",
]
