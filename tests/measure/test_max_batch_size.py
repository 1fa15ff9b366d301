"""The largest batch that fits: planted ends, allocations that really fail, and a model left as it was."""

import keras
import numpy as np
import pytest
from keras import ops

import kwarmup as kw
from kwarmup.measure import max_batch_size as module
from kwarmup.process_memory import ProcessMemory

BACKEND = keras.backend.backend()
X, Y = np.ones((2000, 4), "float32"), np.ones((2000, 1), "float32")
MEGABYTE = 2**20


class Greedy(keras.layers.Layer):
    """Holds some megabytes for each example, and beyond a number of them asks for more than any machine has.

    What is not written to is held for whoever counts what was asked for, and takes no time.
    """

    #: Bytes that any such layer has held at once since this was set to 0.
    peak = 0

    def __init__(self, most, megabytes=0, written=True):
        super().__init__()
        self.most, self.megabytes = most, megabytes
        self.make = np.ones if written else np.empty

    def compute_output_spec(self, inputs):
        return keras.KerasTensor(inputs.shape, inputs.dtype)

    def call(self, inputs):
        if BACKEND == "torch":
            self.hold(len(inputs))
            return inputs
        if BACKEND == "jax":
            import jax

            # When it runs: while the step is compiled no memory is asked for.
            zero = jax.pure_callback(lambda x: self.hold(len(x)), jax.ShapeDtypeStruct((), "float32"), inputs)
            return inputs + jax.lax.stop_gradient(zero)
        import tensorflow as tf

        zero = tf.numpy_function(self.hold, [tf.shape(inputs)[0]], "float32", stateful=True)
        return inputs + tf.ensure_shape(zero, ())

    def hold(self, rows):
        held = self.make(int(rows) * self.megabytes * MEGABYTE, "uint8")
        Greedy.peak = max(Greedy.peak, len(held))
        if rows > self.most:
            self.fail()
        return np.float32(0 * len(held))

    def fail(self):
        if BACKEND == "torch":
            import torch

            torch.empty(2**60, dtype=torch.uint8)
        np.empty(2**60, "uint8")


def network(*layers, optimizer=None, **compiled):
    keras.utils.set_random_seed(0)
    inner = [keras.layers.BatchNormalization(), keras.layers.Dropout(0.5), keras.layers.Dense(1)]
    model = keras.Sequential([keras.Input((4,)), *layers, *inner])
    model.compile(optimizer or keras.optimizers.Adam(0.01), "mse", **compiled)
    return model


def values(model):
    variables = [*model.variables, *model.optimizer.variables]
    return [np.array(ops.convert_to_numpy(variable)).tolist() for variable in variables]


class Device:
    """An accelerator of a certain memory, which tells what `Greedy` holds, and says itself when it has no more.

    Not by what the process holds, which is another number of megabytes from day to day.
    """

    counted, held = False, 100 * MEGABYTE

    def __init__(self, memory):
        self.total = self.held + memory

    def begin(self):
        Greedy.peak = 0

    def peak(self):
        return self.held + Greedy.peak


@pytest.mark.parametrize("most", [37, 150])
def test_a_planted_end_is_found_exactly_and_sooner_than_by_doubling_and_halving(monkeypatch, most):
    monkeypatch.setattr(module, "device_memory", lambda model: Device(most * 4 * MEGABYTE))
    model = network(Greedy(most, megabytes=4, written=False))
    found = kw.max_batch_size(model, X, Y)
    assert found.value == most and found.too_large == most + 1 and not found.counted
    assert len(found.trials) < doubling_and_halving(most)


def doubling_and_halving(most):
    """Sizes tried until the end is known: powers of two, and then the middle."""
    doublings = int(np.log2(most)) + 2
    return doublings + (doublings - 2)


@pytest.mark.backend
def test_behind_a_failed_allocation_the_search_goes_on_and_the_model_is_as_it_was(monkeypatch):
    model = network(Greedy(5))
    model.fit(X[:64], Y[:64], batch_size=4, verbose=0)
    before = values(model)
    found = kw.max_batch_size(model, X, Y)
    assert found.value == 5 and found.too_large == 6
    # A step that fails gives JAX's variables away; one that trains needs them.
    assert any(trial.fits for trial in found.trials[3:]) and not found.trials[2].fits
    assert values(model) == before
    model.fit(X[:64], Y[:64], batch_size=4, verbose=0)


@pytest.mark.backend
def test_no_more_is_held_than_was_allowed():
    model = network(Greedy(10**9, megabytes=2))
    model.fit(X[:64], Y[:64], batch_size=2, verbose=0)
    memory = ProcessMemory().held + 400 * MEGABYTE
    found = kw.max_batch_size(model, X, Y, memory=memory)
    peaks = {trial.batch_size: trial.peak for trial in found.trials}
    assert max(peaks.values()) <= memory and found.counted and found.too_large is None
    # What is left would hold a few more examples, and not many.
    assert peaks[found.value] > memory - 80 * MEGABYTE
    assert found.bytes_per_example == pytest.approx(2 * MEGABYTE, rel=0.2)
    assert len(found.trials) < 12


@pytest.mark.skipif(BACKEND != "tensorflow", reason="a pool that keeps what it had is TensorFlow's")
def test_what_the_process_keeps_of_larger_steps_leads_to_no_leap():
    layers = [
        keras.layers.Reshape((100, 1)),
        keras.layers.Conv1D(64, 3),
        keras.layers.GlobalAveragePooling1D(),
    ]
    model = keras.Sequential([keras.Input((100,)), *layers, keras.layers.Dense(1)])
    model.compile("sgd", "mse")
    x, y = np.ones((6000, 100), "float32"), np.ones((6000, 1), "float32")
    model.fit(x, y, batch_size=4000, verbose=0)  # what it held stays
    memory = ProcessMemory().held + 40 * MEGABYTE
    found = kw.max_batch_size(model, x, y, memory=memory)
    # Sizes that need less than the process still holds are seen to take memory, and so are not followed by a leap.
    assert found.bytes_per_example > 4 * 98 * 64 / 2
    assert (found.too_large or 0) <= 2 * found.value
    assert next(trial.peak for trial in found.trials if trial.batch_size == 8) < memory - 80 * MEGABYTE


@pytest.mark.backend
def test_what_fits_as_a_whole_is_found_soon():
    model = network()
    before = values(model)
    found = kw.max_batch_size(model, X, Y)
    assert found.value == found.limit == 2000 and len(found.trials) == 7
    assert repr(found) == "<MaxBatchSize: 2,000; the largest that was to be tried; 7 tried>"
    assert values(model)[: len(before)] == before
    assert kw.MaxBatchSize.from_dict(found.to_dict()) == found


def test_micro_batches_and_executions_divide_it():
    model = network(
        optimizer=keras.optimizers.SGD(0.01, gradient_accumulation_steps=3), steps_per_execution=1
    )
    found = kw.max_batch_size(model, X, Y, limit=100)
    assert found.value == 99 and all(trial.batch_size % 3 == 0 for trial in found.trials)


def test_data_without_a_length(monkeypatch):
    def batches():
        for begin in range(0, 2000, 100):
            yield X[begin : begin + 100], Y[begin : begin + 100]

    assert kw.max_batch_size(network(), batches, limit=600).value == 600
    monkeypatch.setattr(module, "_MOST", 300)
    assert kw.max_batch_size(network(), batches).value == 300


def test_ctrl_c_keeps_what_was_found(monkeypatch):
    real, calls = module.BatchTrials.try_out, []

    def try_out(self, size):
        calls.append(size)
        if len(calls) > 3:
            raise KeyboardInterrupt
        return real(self, size)

    monkeypatch.setattr(module.BatchTrials, "try_out", try_out)
    model = network()
    model.fit(X[:64], Y[:64], verbose=0)
    before = values(model)
    found = kw.max_batch_size(model, X, Y)
    assert found.interrupted and found.value == 8 and repr(found) == "<MaxBatchSize: 8; interrupted; 3 tried>"
    assert values(model) == before
    with pytest.raises(KeyboardInterrupt):
        kw.max_batch_size(model, X, Y)


def test_another_error_is_raised_as_it_is(monkeypatch):
    def run(*arguments):
        raise RuntimeError("on purpose")

    monkeypatch.setattr(module.AsTrained, "run", run)
    with pytest.raises(RuntimeError, match="on purpose"):
        kw.max_batch_size(network(), X, Y)


@pytest.mark.parametrize(
    ("change", "first"),
    [
        ({"limit": 0}, "`limit`: expected a whole number, 1 or more."),
        ({"limit": 2.5}, "`limit`: expected a whole number, 1 or more."),
        ({"limit": 3000}, "`limit`: expected at most the 2,000 examples that there are."),
        ({"memory": 0}, "`memory`: expected a whole number of bytes, 1 or more."),
        ({"memory": MEGABYTE}, "`memory`: expected more than the "),
        ({"model": keras.Sequential([keras.layers.Dense(1)])}, "`model`: expected a compiled model."),
    ],
    ids=["limit 0", "limit 2.5", "too many", "no memory", "little memory", "not compiled"],
)
def test_what_is_wrong_is_said(change, first):
    with pytest.raises(ValueError) as caught:
        kw.max_batch_size(**{"model": network(), "x": X, "y": Y, **change})
    assert str(caught.value).startswith(first)


def test_a_model_that_no_batch_fits_with_is_refused():
    with pytest.raises(
        ValueError, match="`model`: expected a model that can be trained with the smallest batch"
    ):
        kw.max_batch_size(network(Greedy(0)), X, Y)


def test_a_generator_is_refused():
    with pytest.raises(TypeError, match="`x`: expected data that can be begun anew"):
        kw.max_batch_size(network(), (batch for batch in [(X, Y)]))


def test_a_system_that_tells_nothing_is_refused(monkeypatch):
    monkeypatch.setattr(module, "device_memory", lambda model: None)
    with pytest.raises(ValueError, match="`model`: expected Linux, or a model on an accelerator"):
        kw.max_batch_size(network(), X, Y)
