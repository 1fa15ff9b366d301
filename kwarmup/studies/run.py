"""One short training of a study, as numbers."""

from __future__ import annotations

import dataclasses
import math
from typing import Any, NamedTuple, final


class Check(NamedTuple):
    """A look at the model during a training.

    Args:
        updates: how many were done.
        seconds: of training alone: without tracing, validation and what else the study does.
        loss: on the validation data.
        value: of the metric that the study follows, on the same data.
    """

    updates: float
    seconds: float
    loss: float
    value: float


@final
@dataclasses.dataclass(frozen=True)
class Run:
    """A training at one batch size from one seed; everything else follows from its checks.

    Args:
        batch_size: examples per update.
        seed: of the first weights and the order of the data.
        peak: the largest learning rate.
        checks: looks at the model, the first before any update.
        training: the metric that the study follows, at the end, on training examples.
        validation: the same on the validation data.
        trace_seconds: what building and compiling cost.
    """

    batch_size: int
    seed: int
    peak: float
    checks: tuple[Check, ...]
    training: float
    validation: float
    trace_seconds: float

    def __post_init__(self) -> None:
        object.__setattr__(self, "checks", tuple(Check(*check) for check in self.checks))

    @property
    def diverged(self) -> bool:
        """Whether it ended with a loss that is not finite, or is above that of the untrained model."""
        last = self.checks[-1].loss
        return not math.isfinite(last) or last > self.checks[0].loss

    @property
    def updates(self) -> int:
        return round(self.checks[-1].updates)

    @property
    def examples(self) -> int:
        return self.updates * self.batch_size

    @property
    def seconds(self) -> float:
        return self.checks[-1].seconds

    def to_target(self, target: float, sign: float) -> Check | None:
        """Return where the metric came to the target, between two checks if need be; `None` if it never did.

        Args:
            target: value of the metric.
            sign: 1 where more is better, -1 where less is.

        >>> run = Run(32, 0, 0.1, [(0, 0.0, 2.0, 0.25), (10, 1.0, 1.0, 0.5), (30, 3.0, 0.5, 1.0)], 1.0, 0.9, 0.5)
        >>> run.to_target(0.75, sign=1)
        Check(updates=20.0, seconds=2.0, loss=0.75, value=0.75)
        >>> run.to_target(1.5, sign=1) is None
        True
        """
        before: Check | None = None
        for check in self.checks:
            if sign * check.value >= sign * target:
                if before is None:
                    return check
                share = (target - before.value) / (check.value - before.value)
                updates, seconds, loss = (
                    a + share * (b - a) for a, b in zip(before[:3], check[:3], strict=True)
                )
                return Check(updates, seconds, loss, target)
            before = check
        return None

    def to_dict(self) -> dict[str, Any]:
        """Return plain values, from which `Run(**values)` makes the same one."""
        return {**dataclasses.asdict(self), "checks": [list(check) for check in self.checks]}
