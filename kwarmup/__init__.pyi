"""The public names, once: `__init__.py` reads this file and imports each when it is first used."""

from . import shapes as shapes
from .callbacks.record import Record as Record
from .callbacks.warmup_decay import WarmupDecay as WarmupDecay
from .clock import Clock as Clock
from .curve import Curve as Curve
from .plan import Plan as Plan
from .plan import PlanWarning as PlanWarning
from .profile import Phase as Phase
from .profile import Profile as Profile
from .schedule import Schedule as Schedule
from .verbs import cosine as cosine
from .verbs import curve as curve
from .verbs import decay as decay
from .verbs import exponential as exponential
from .verbs import hold as hold
from .verbs import linear as linear
from .verbs import polynomial as polynomial
from .verbs import warmup as warmup

__version__: str
