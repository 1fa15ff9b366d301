"""Batches: every example once a pass, in the sizes of the clock, from any kind of data. On any backend."""

import gc
import weakref

import keras
import numpy as np
import pytest

from kwarmup import Clock, hold, linear
from kwarmup.batches import Batches

pytestmark = pytest.mark.backend

N = 100
X = np.arange(N, dtype="float32")[:, None]
Y = 2 * X
RAMP = Clock(examples=N, epochs=4, batch_size=8 * (hold(epochs=1) >> hold(3, epochs=1) >> hold(100)))
CLOCKS = {
    "constant": Clock(examples=N, epochs=3, batch_size=32),
    "dropped": Clock(examples=N, epochs=3, batch_size=32, drop_remainder=True),
    "accumulated": Clock(examples=N, epochs=3, batch_size=32, gradient_accumulation_steps=4),
    "jumps": RAMP,
    "grows": Clock(examples=N, epochs=4, batch_size=4 * linear(to=8, epochs=3), multiple_of=4),
}


class Sevens(keras.utils.PyDataset):
    ended = 0

    def __len__(self):
        return -(-N // 7)

    def __getitem__(self, index):
        rows = slice(7 * index, 7 * index + 7)
        return X[rows], Y[rows]

    def on_epoch_end(self):
        self.ended += 1


def chunks():
    for index in range(-(-N // 7)):
        yield X[7 * index : 7 * index + 7], Y[7 * index : 7 * index + 7]


def endless():
    while True:
        yield from chunks()


def dataset():
    tf = pytest.importorskip("tensorflow")
    return tf.data.Dataset.from_tensor_slices((X, Y))


SOURCES = {
    "arrays": lambda: (X, Y),
    "PyDataset": lambda: (Sevens(),),
    "function": lambda: (chunks,),
    "generator": lambda: (endless(),),
    "tf.data": lambda: (dataset(),),
    "tf.data of unknown length": lambda: (dataset().filter(lambda x, y: True),),
}


def taken(batches, first, last, skip=0):
    return [[np.asarray(part) for part in batch] for batch in batches.between(first, last, skip)]


@pytest.mark.parametrize(
    ("source", "clock"),
    [
        pytest.param(source, clock, id=f"{name}, {kind}")
        for name, source in SOURCES.items()
        for kind, clock in CLOCKS.items()
        # What is dropped from an endless generator belongs to no pass.
        if (name, kind) != ("generator", "dropped")
    ],
)
def test_sizes_and_order_are_the_clocks(source, clock):
    found = taken(Batches(clock, *source()), 0, clock.epochs)
    sizes = [clock.micro_batches(epoch) for epoch in range(clock.epochs)]
    assert [len(x) for x, _ in found] == np.concatenate(sizes).tolist()
    expected = np.concatenate([X[: size.sum()] for size in sizes])
    np.testing.assert_array_equal(np.concatenate([x for x, _ in found]), expected)
    np.testing.assert_array_equal(np.concatenate([y for _, y in found]), 2 * expected)


@pytest.mark.parametrize("name", [name for name in SOURCES if name != "generator"])
@pytest.mark.parametrize(("first", "skip"), [(0, 0), (0, 3), (1, 4), (2, 1), (0, 15)])
def test_a_run_can_be_entered_anywhere(name, first, skip):
    whole = taken(Batches(RAMP, *SOURCES[name]()), 0, 4)
    part = taken(Batches(RAMP, *SOURCES[name]()), first, 4, skip)
    begun = RAMP.first_micro_batch(first) + skip
    assert len(part) == len(whole) - begun
    for (x, _), (expected, _) in zip(part, whole[begun:], strict=True):
        np.testing.assert_array_equal(x, expected)


def test_shuffling_is_seeded_and_different_in_each_pass():
    def passes(seed):
        batches = Batches(CLOCKS["constant"], X, Y, seed=seed)
        return [np.concatenate([x for x, _ in taken(batches, e, e + 1)])[:, 0] for e in range(3)]

    orders = [*passes(0), *passes(1)]
    for order in orders:
        np.testing.assert_array_equal(np.sort(order), X[:, 0])
    assert len({tuple(order) for order in orders}) == 6
    assert [tuple(order) for order in passes(0)] == [tuple(order) for order in orders[:3]]


def test_nested_arrays_and_weights_stay_together():
    x = {"a": X, "b": (X + 1, np.arange(N))}
    found = Batches(RAMP, x, Y, sample_weight=X[:, 0], seed=5).between(0, 1)
    for features, y, weight in found:
        first = np.asarray(features["a"])
        np.testing.assert_array_equal(np.asarray(features["b"][0]), first + 1)
        np.testing.assert_array_equal(np.asarray(features["b"][1]), first[:, 0])
        np.testing.assert_array_equal(np.asarray(y), 2 * first)
        np.testing.assert_array_equal(np.asarray(weight), first[:, 0])


def test_arrays_are_let_go_of():
    x = X.copy()
    batches = Batches(CLOCKS["constant"], x, Y, seed=0)
    taken(batches, 0, 1)
    # On TensorFlow the tensors are here, and tf.data never forgets a generator that has run.
    gone = [weakref.ref(thing) for thing in (x, batches, batches._arrays or batches)]
    del x, batches
    gc.collect()
    assert [thing() is None for thing in gone] == [True] * 3


def test_a_py_dataset_is_told_of_the_end_of_each_pass():
    data = Sevens()
    taken(Batches(CLOCKS["constant"], data), 0, 3)
    assert data.ended == 3


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (lambda: (X[:90], Y[:90]), r"Received: an array of shape \(90, 1\)"),
        (lambda: (X, Y[:90]), r"Received: an array of shape \(90, 1\)"),
        (lambda: (dataset().take(90),), "Received: a tf.data.Dataset of 90 elements"),
    ],
)
def test_another_number_of_examples_is_refused(data, words):
    with pytest.raises(ValueError, match=words):
        Batches(RAMP, *data())


@pytest.mark.parametrize(("rows", "words"), [(90, "90 examples in pass 0"), (110, "more than 100 examples")])
def test_a_stream_of_another_length_is_refused(rows, words):
    # TensorFlow raises an error of its own around the one from the generator.
    with pytest.raises(Exception, match=words):
        taken(Batches(RAMP, lambda: [(np.zeros((rows, 1)),)]), 0, 1)


def test_targets_beside_data_that_brings_its_own_are_refused():
    with pytest.raises(TypeError, match="yields its own targets"):
        Batches(RAMP, Sevens(), Y)
