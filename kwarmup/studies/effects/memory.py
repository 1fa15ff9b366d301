"""What the batch size does to memory: as yet only which sizes did not fit."""

from __future__ import annotations

from typing import TYPE_CHECKING

from kwarmup.studies.words import listed

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from kwarmup.studies.result import Study


def finding_memory(study: Study) -> str:
    """Return which batch sizes fitted."""
    lost = study.throughput.out_of_memory if study.throughput is not None else ()
    if lost:
        fitted = study.throughput.batch_sizes if study.throughput is not None else ()
        largest = f"; {fitted[-1]:,} does" if fitted else ""
        return f"Batch size {listed(lost)} does not fit into the memory of this machine{largest}."
    if study.throughput is None:
        return "How much memory a batch takes was not measured."
    return (
        f"Batches of up to {study.throughput.batch_sizes[-1]:,} fit into memory; how much of it they take was not "
        "measured."
    )


def notes_memory(study: Study) -> list[str]:
    """Return nothing: there are no figures behind it."""
    return []


def draw_memory(study: Study) -> Figure | None:
    """Return `None`: there is nothing to see."""
    return None
