"""The space of a search: the peak at the plan's own batch size, and what carries it to the others."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from kwarmup.errors import type_error, value_error
from kwarmup.following import FollowNoise
from kwarmup.length import number
from kwarmup.measure.noise_scale import NoiseScale
from kwarmup.plan import Plan, PlanWarning
from kwarmup.profile import Profile
from kwarmup.searches.budget import Budget, batch_of, passes
from kwarmup.sweep import Sweep

#: The names of the hyperparameters.
PEAK, BATCH_SIZE, WARMUP, DECAY = "peak", "batch_size", "warmup", "decay"
#: How far below what a range test suggests the peak is searched, and how far above it where the test never diverges.
_BELOW, _ABOVE = 3, 100
_WRITE = "search(build, plan, peak=(1e-3, 1.0), batch_size=[32, 64, 128, 256])"


@dataclass(frozen=True)
class Space:
    """Which plans a search chooses among. What is searched is the learning rate of an example, not of a batch.

    Args:
        plan: the reference; its batch size is where the peak is told.
        peak: the smallest and the largest.
        batch_sizes: rising.
        warmups: profiles to choose among, in place of the plan's own; empty for that.
        decays: the same for what follows the warmup.
        scaling: of the peak with the batch size; `None` for the rule of the optimizer.
        budget: how long a trial is.
    """

    plan: Plan
    peak: tuple[float, float]
    batch_sizes: tuple[int, ...]
    warmups: tuple[Profile, ...]
    decays: tuple[Profile, ...]
    scaling: float | None
    budget: Budget

    @property
    def reference(self) -> int:
        """The batch size that peaks are told at."""
        return int(self.plan.clock.batch_size_at(0))

    def declare(self, hp: Any, start: Mapping[str, Any]) -> None:
        """Declare the hyperparameters; `start` has their defaults."""
        hp.Float(PEAK, *self.peak, sampling="log", default=start.get(PEAK))
        hp.Choice(BATCH_SIZE, list(self.batch_sizes), default=start.get(BATCH_SIZE))
        for name, profiles in ((WARMUP, self.warmups), (DECAY, self.decays)):
            if profiles:
                hp.Choice(name, [repr(profile) for profile in profiles])

    def plan_of(self, values: Mapping[str, Any], rule: float) -> Plan:
        """Return the plan of a trial, bound to its own batch size.

        Args:
            values: of the hyperparameters.
            rule: of the optimizer, for where `scaling` says nothing.

        Raises:
            ValueError: if the phases or the batch size do not fit.
        """
        size = values[BATCH_SIZE]
        scaling = rule if self.scaling is None else self.scaling
        peak = float(f"{values[PEAK] * (size / self.reference) ** scaling:.6g}")
        warmup, decay = _parts(self.plan.profile)
        warmup = self._chosen(self.warmups, values.get(WARMUP), warmup)
        decay = self._chosen(self.decays, values.get(DECAY), decay)
        parts = [part for part in (warmup, decay) if part is not None]
        profile = Profile(parts)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", PlanWarning)  # said where the reference was made
            return self.plan.replace(
                learning_rate=(peak / profile.peak) * profile,
                batch_size=batch_of(self.plan, size),
                epochs=passes(self.budget, self.plan, size),
            )

    def plans(self) -> Iterator[Plan]:
        """Yield a plan for each batch size, warmup and decay, at the smallest peak."""
        for size in self.batch_sizes:
            for warmup in self.warmups or (None,):
                for decay in self.decays or (None,):
                    values = {PEAK: self.peak[0], BATCH_SIZE: size, WARMUP: repr(warmup), DECAY: repr(decay)}
                    yield self.plan_of(values, 1.0)

    def passes(self) -> dict[int, int]:
        """Return the passes over the data that a trial has, by its batch size."""
        return {size: passes(self.budget, self.plan, size) for size in self.batch_sizes}

    def check_on(self, strategy: Any) -> None:
        """Make a plan of each kind for the devices of a strategy, before the first trial.

        Raises:
            ValueError: if a batch size does not divide by them.
        """
        for plan in self.plans():
            plan.on(strategy)

    def start(self, sweep: Sweep | None, noise: NoiseScale | None, rule: float) -> dict[str, Any]:
        """Return where the search begins, by what was measured: the nearest peak and batch size there are."""
        found: dict[str, Any] = {}
        if noise is not None:
            found[BATCH_SIZE] = min(self.batch_sizes, key=lambda size: abs(size - noise.critical_batch_size))
        if sweep is not None:
            scaling = rule if self.scaling is None else self.scaling
            peak = sweep.suggest().learning_rate * (self.reference / sweep.batch_size) ** scaling
            found[PEAK] = min(max(float(f"{peak:.6g}"), self.peak[0]), self.peak[1])
            found.setdefault(BATCH_SIZE, min(self.batch_sizes, key=lambda size: abs(size - self.reference)))
        return found

    def facts(self) -> dict[str, Any]:
        """Return what makes the space the same one, as plain data."""
        budget = getattr(self.budget, "__qualname__", type(self.budget).__name__)
        return {
            "plan": self.plan.to_dict(), "peak": list(self.peak), "batch_size": list(self.batch_sizes),
            "warmup": [repr(profile) for profile in self.warmups],
            "decay": [repr(profile) for profile in self.decays],
            "scaling": self.scaling, "budget": budget.partition(".")[0],
        }  # fmt: skip

    @staticmethod
    def _chosen(profiles: tuple[Profile, ...], name: str | None, own: Profile | None) -> Profile | None:
        return next((profile for profile in profiles if repr(profile) == name), own)


def own(hp: Any) -> set[str]:
    """Return the names of the hyperparameters that the user's `build` has declared."""
    return {entry.name for entry in hp.space} - {PEAK, BATCH_SIZE, WARMUP, DECAY}


def peak_range(sweep: Sweep) -> tuple[float, float]:
    """Return where to look for a peak, by a range test and at its batch size.

    What a range test suggests is a cautious rate, so the range begins a little below it. It ends where the test
    diverges: there is little to find behind that, and every trial there would be lost.

    Raises:
        ValueError: if the test suggests nothing.
    """
    suggested = sweep.suggest().learning_rate
    try:
        high = sweep.divergence().learning_rate
    except ValueError:
        high = _ABOVE * suggested
    return float(f"{suggested / _BELOW:.3g}"), float(f"{high:.3g}")


def make(
    plan: Plan, peak: Any, batch_size: Any, warmup: Any, decay: Any, scaling: float | None, budget: Budget
) -> Space:
    """Return the space of a search, of which every batch size has been tried on the plan.

    Raises:
        TypeError: if an argument is of another type.
        ValueError: if it is out of range.
    """
    if not isinstance(plan, Plan):
        raise type_error("plan", plan, "a Plan", _WRITE)
    if plan.follows is not None or isinstance(batch_size, FollowNoise):
        raise value_error(
            "plan", plan, "one whose batch size is planned, since the search chooses it", "plan.replace(batch_size=64)"
        )  # fmt: skip
    peak, batch_size = (one.tolist() if isinstance(one, np.ndarray) else one for one in (peak, batch_size))
    if not isinstance(peak, Sequence) or isinstance(peak, str) or len(peak) != 2:
        raise type_error("peak", peak, "the smallest and the largest learning rate", _WRITE)
    low, high = (number("peak", value, _WRITE) for value in peak)
    if not 0 < low < high:
        raise value_error("peak", tuple(peak), "two numbers above 0, the smaller one first", _WRITE)
    if not isinstance(batch_size, Sequence) or isinstance(batch_size, str) or not batch_size:
        raise type_error("batch_size", batch_size, "a list of batch sizes", _WRITE)
    sizes = [number("batch_size", size, _WRITE) for size in batch_size]
    for size in sizes:
        if not isinstance(size, int) or not 1 <= size <= plan.clock.examples:
            raise value_error(
                "batch_size", size, f"whole numbers from 1 to the plan's {plan.clock.examples:,} examples", _WRITE
            )  # fmt: skip
    if scaling is not None:
        number("scaling", scaling, f"{_WRITE[:-1]}, scaling=0.5)")
    if not callable(budget):
        raise type_error(
            "budget", budget, "a function of a plan and a batch size", f"{_WRITE[:-1]}, budget=equal_updates)"
        )
    space = Space(
        plan, (float(low), float(high)), tuple(sorted({int(size) for size in sizes})),
        _profiles("warmup", warmup), _profiles("decay", decay), scaling, budget,
    )  # fmt: skip
    for _ in space.plans():
        pass  # one that cannot be made is refused here, not in the middle of the night
    return space


def _profiles(name: str, given: Any) -> tuple[Profile, ...]:
    write = f"{_WRITE[:-1]}, {name}=[warmup(epochs=1), warmup(epochs=3)])".replace(
        "warmup(", "warmup(" if name == "warmup" else "cosine("
    )
    if given is None:
        return ()
    if isinstance(given, Profile) or not isinstance(given, Sequence):
        raise type_error(name, given, "a list of profiles to choose among", write)
    for profile in given:
        if not isinstance(profile, Profile) or profile.scale != 1:
            raise type_error(name, profile, "profiles without a peak in front, which is searched", write)
        profile.to_dict()  # a trial keeps its plan, and shapes that cannot be kept are refused
    return tuple(given)


def _parts(profile: Profile) -> tuple[Profile | None, Profile | None]:
    """The warmup of a profile, if it begins with one, and what follows."""
    first, *rest = profile.phases
    warms = first.start is not None and first.to == 1 and first.start < 1 and not first.shape.free
    if not warms:
        return None, Profile(profile.phases)
    return Profile([first]), Profile(rest) if rest else None
