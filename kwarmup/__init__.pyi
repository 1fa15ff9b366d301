"""The public names, once: `__init__.py` reads this file and imports each when it is first used."""

from . import shapes as shapes
from .callbacks.checkpoints import Checkpoints as Checkpoints
from .callbacks.guard import Guard as Guard
from .callbacks.noise_scale_monitor import NoiseScaleMonitor as NoiseScaleMonitor
from .callbacks.plateau_decay import PlateauDecay as PlateauDecay
from .callbacks.plateau_growth import PlateauGrowth as PlateauGrowth
from .callbacks.progress import Progress as Progress
from .callbacks.record import Record as Record
from .callbacks.warmup_decay import WarmupDecay as WarmupDecay
from .clock import Clock as Clock
from .curve import Curve as Curve
from .export import ExportError as ExportError
from .export import export as export
from .finite import LossNotFinite as LossNotFinite
from .measure.noise_scale import NoiseScale as NoiseScale
from .measure.noise_scale import noise_scale as noise_scale
from .optimizers import SGD as SGD
from .optimizers import Adam as Adam
from .optimizers import AdamW as AdamW
from .optimizers import adam_sde as adam_sde
from .plan import Plan as Plan
from .plan import PlanWarning as PlanWarning
from .profile import Phase as Phase
from .profile import Profile as Profile
from .recipes import cosine_restarts as cosine_restarts
from .recipes import cyclic as cyclic
from .recipes import flat_cosine as flat_cosine
from .recipes import inverse_sqrt as inverse_sqrt
from .recipes import multistep as multistep
from .recipes import one_cycle as one_cycle
from .recipes import one_cycle_momentum as one_cycle_momentum
from .recipes import radam_warmup as radam_warmup
from .recipes import step_decay as step_decay
from .recipes import untuned_warmup as untuned_warmup
from .recipes import wsd as wsd
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
