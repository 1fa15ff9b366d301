"""One comparison for all peers: every update of a run, in float64 and in float32."""

from collections.abc import Sequence

import numpy as np
from keras import ops

import kwarmup as kw


def ours(profile: kw.Profile, steps: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the values of updates 0 to `steps` - 1: of the Curve, and of the Schedule."""
    step = np.arange(steps, dtype="int32")
    return kw.Curve(profile)(step), ops.convert_to_numpy(kw.Schedule(profile)(step))


def check(profile: kw.Profile, theirs: Sequence[float], exact: float = 1e-6) -> None:
    """Fail unless both are within 1e-6 of the peak everywhere; the Curve within `exact`."""
    curve, schedule = ours(profile, len(theirs))
    for name, found, tolerance in (("Curve", curve, exact), ("Schedule", schedule, 1e-6)):
        difference = np.abs(found - np.asarray(theirs, "float64")) / profile.peak
        worst = int(difference.argmax())
        assert difference[worst] <= tolerance, (
            f"{name}({profile!r}) is off by {difference[worst]:.2e} of the peak at update {worst}: "
            f"{found[worst]:.9g}, expected {theirs[worst]:.9g}"
        )
