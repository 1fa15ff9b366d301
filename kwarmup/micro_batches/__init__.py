"""Large batches on a small device: the training step takes a batch in micro-batches, and updates once."""

from kwarmup.micro_batches.step import check as check
from kwarmup.micro_batches.step import within_the_step as within_the_step
