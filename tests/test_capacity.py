"""The search for the largest batch size: planted ends are found exactly, in few trials, and never by a leap."""

import itertools

import numpy as np
import pytest

from kwarmup.capacity import BatchTrial, find_largest

MEMORY, BASE = 10**9, 10**8
ENDS = sorted({int(end) for end in np.geomspace(1, 50_000, 150)})


def search(fits, peak=None, **known):
    """Run a search; `peak` gives the bytes of a size that fits, and of one whose end is counted."""
    trials = []

    def try_out(size):
        assert len(trials) < 100 and size not in [trial.batch_size for trial in trials]
        held = None if peak is None or not (fits(size) or known.get("counted")) else int(peak(size))
        return BatchTrial(size, fits(size), held)

    if peak is not None:
        known = {"base": BASE, "memory": BASE + MEMORY, **known}
    find_largest(try_out, trials, **{"multiple": 1, "limit": 10**6, **known})
    return trials


def largest(trials):
    return max((trial.batch_size for trial in trials if trial.fits), default=0)


def doubling_and_halving(end):
    """How many sizes are tried until the end is known: powers of two, and then the middle."""
    low, high, count = 0, 1, 1
    while high <= end:
        low, high, count = high, 2 * high, count + 1
    while high - low > 1:
        middle, count = (low + high) // 2, count + 1
        low, high = (middle, high) if middle <= end else (low, middle)
    return count


# Of the memory: what is fixed, how the rest grows, and how much is chance.
SHAPES = {
    "a line": (0.0, 1, 0.0),
    "half is fixed": (0.5, 1, 0.0),
    "most is fixed": (0.9, 1, 0.0),
    "noisy": (0.1, 1, 0.005),
    "square": (0.0, 2, 0.0),
}


@pytest.mark.parametrize("name", list(SHAPES))
def test_a_planted_end_is_found_exactly_and_sooner_than_by_doubling_and_halving(name):
    fixed, power, noise = SHAPES[name]
    draw = np.random.default_rng(0)
    counts, failed = [], []
    for end in ENDS:
        trials = search(
            lambda size, end=end: size <= end,
            lambda size, end=end: (
                BASE + MEMORY * (fixed + (1 - fixed) * (size / (end + 0.5)) ** power + noise * draw.normal())
            ),
        )
        assert largest(trials) == end and trials[-1].batch_size <= end + 1
        counts.append([len(trials), doubling_and_halving(end)])
        failed.append(sum(not trial.fits for trial in trials))
    found, usual = np.array(counts).T
    assert (found <= usual).all() and (found < usual)[np.array(ENDS) > 3].mean() > 0.97
    if not noise:
        assert found.mean() < usual.mean() / 2 and np.mean(failed) < 1.5


@pytest.mark.parametrize("told", [None, 0.7, 0.9, 1.1, 1.5, 10.0])
def test_it_is_exact_too_where_peaks_tell_nothing_or_lie(told):
    for end in ENDS:
        peak = told and (lambda size, end=end: BASE + MEMORY * size / (end + 0.5) / told)
        trials = search(lambda size, end=end: size <= end, peak)
        assert largest(trials) == end and min(t.batch_size for t in trials if not t.fits) == end + 1
        assert len(trials) <= doubling_and_halving(end) + 8


@pytest.mark.parametrize(("multiple", "limit"), [(1, 48), (1, 4800), (6, 48), (6, 4800), (8, 4800)])
def test_multiples_and_a_limit_are_kept(multiple, limit):
    for end in range(0, 6000, 37):
        trials = search(lambda size, end=end: size <= end, multiple=multiple, limit=limit)
        assert largest(trials) == min(end // multiple * multiple, limit)
        assert all(t.batch_size % multiple == 0 and t.batch_size <= limit for t in trials)


@pytest.mark.parametrize("peak", [None, lambda size: BASE + size], ids=["nothing told", "hardly a rise"])
def test_what_fits_as_a_whole_takes_no_more_than_fourfold_steps(peak):
    sizes = [trial.batch_size for trial in search(lambda size: True, peak, limit=2000)]
    assert sizes == ([1, 4, 16, 64, 256, 1024, 2000] if peak is None else [1, 2, 8, 32, 128, 512, 2000])


def test_where_the_smallest_fails_nothing_else_is_tried():
    assert [trial.batch_size for trial in search(lambda size: False)] == [1]


@pytest.mark.parametrize(
    ("fixed", "noise", "least"), [(0, 0, 0.95), (0.5, 0, 0.9), (0, 0.005, 0.94), (0.1, 0.005, 0.94)]
)
def test_a_counted_end_is_come_close_to_and_not_passed(fixed, noise, least):
    draw = np.random.default_rng(1)
    failed, reached = 0, []
    for end in ENDS:
        peaks = {}

        def peak(size, end=end, peaks=peaks):
            chance = noise * draw.normal()
            return peaks.setdefault(size, BASE + MEMORY * (fixed + (1 - fixed) * size / (end + 0.5) + chance))

        trials = search(lambda size, peak=peak: peak(size) <= BASE + MEMORY, peak, counted=True)
        failed += sum(not trial.fits for trial in trials)
        reached.append(largest(trials) / end)
        assert len(trials) < 14
    assert failed <= 0.02 * len(ENDS)
    assert np.quantile(np.array(reached)[np.array(ENDS) > 50], 0.02) > least


def test_memory_that_bends_is_not_leapt_over():
    for power, end in itertools.product([1.5, 2], ENDS):
        trials = search(
            lambda size, end=end: size <= end,
            lambda size, end=end, power=power: BASE + MEMORY * (size / (end + 0.5)) ** power,
            counted=True,
        )
        assert max(trial.batch_size for trial in trials) <= max(2, 1.3 * end)


def test_behind_a_peak_that_was_too_high_a_smaller_size_is_found():
    for end in (150, 1_000, 7_777):
        # From 100 on a library computes in another way, which takes four times as much.
        trials = search(
            lambda size, end=end: size <= end,
            lambda size, end=end: BASE + MEMORY * size / (end + 0.5) / (1 if size >= 100 else 4),
            counted=True,
        )
        assert 0.85 * end < largest(trials) <= end and len(trials) < 16
        assert max(trial.batch_size for trial in trials) <= 2.5 * end
        assert sum(not trial.fits for trial in trials) < 2


def test_where_the_process_keeps_what_a_larger_size_took_the_search_ends():
    trials, held = [], []

    def try_out(size):
        held.append(BASE + int(MEMORY * (size / 100 if size < 64 else 1.2)))
        return BatchTrial(size, max(held) <= BASE + MEMORY, max(held))

    find_largest(try_out, trials, multiple=1, limit=10**6, base=BASE, memory=BASE + MEMORY, counted=True)
    assert (
        [trial.fits for trial in trials[-2:]] == [False, False] and largest(trials) == 32 and len(trials) == 7
    )
