"""The state of a training: variables and callbacks, taken and put back."""

import collections
import json

import keras
import numpy as np
import pytest
from keras import ops

from kwarmup import state
from kwarmup.private import build
from kwarmup.state import CallbackStates


def make_model(units=3, **arguments):
    model = keras.Sequential(
        [keras.layers.Dense(units), keras.layers.BatchNormalization(), keras.layers.Dropout(0.5)]
    )
    model.compile(keras.optimizers.SGD(0.1, momentum=0.9), "mse", **arguments)
    build(model, (np.ones((1, 2), "float32"), np.ones((1, units), "float32")))
    return model


def values(model):
    return [ops.convert_to_numpy(v).tolist() for group in state.variables(model).values() for v in group]


def test_all_variables_come_back_generators_and_metrics_too():
    one, other = make_model(metrics=["mae"]), make_model(metrics=["mae"])
    one.fit(np.ones((8, 2)), np.zeros((8, 3)), batch_size=4, verbose=0)
    assert values(one) != values(other)
    assert any("seed" in variable.path for variable in state.variables(one)["model"])
    state.put(state.variables(other), state.take(state.variables(one)))
    assert values(one) == values(other)


@pytest.mark.parametrize(
    ("model", "words"),
    [
        (lambda: make_model(metrics=["mae"]), "Received: 4 metrics variables"),
        (lambda: make_model(units=4), r"model variable .*kernel of shape \(2, 4\)"),
    ],
)
def test_other_variables_are_refused_and_none_is_assigned(model, words):
    arrays, other = state.take(state.variables(make_model())), model()
    before = values(other)
    with pytest.raises(
        ValueError, match=rf"(?s)`model`: expected .*, as the checkpoint holds.*{words}"
    ) as error:
        state.put(state.variables(other), arrays)
    assert "another checkpoint_dir" in str(error.value)
    assert values(other) == before


@pytest.mark.backend
def test_the_generator_of_torch_comes_back():
    kept = state.take_generators()
    if keras.backend.backend() != "torch":
        assert kept == {}
        return
    import torch

    first, behind = torch.rand(3), state.take_generators()
    state.put_generators(kept)
    assert torch.equal(torch.rand(3), first)
    assert behind["generators/0"].tobytes() == state.take_generators()["generators/0"].tobytes()


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float64", "int32", "uint8", "bool"])
def test_every_type_comes_back(dtype):
    numbers = np.array([[0.0, 1.5, 3.0], [100.0, 0.25, 7.0]])
    one, other = (
        keras.Variable(ops.cast(n, dtype), dtype=dtype, trainable=False) for n in (numbers, np.zeros((2, 3)))
    )
    state.put({"a": [other]}, state.take({"a": [one]}))
    assert keras.backend.standardize_dtype(other.dtype) == dtype
    assert ops.convert_to_numpy(one).tolist() == ops.convert_to_numpy(other).tolist()


# Callbacks


class Anything(keras.callbacks.Callback):
    """Made with a setting, and steered by whatever `change` does to it."""

    def __init__(self, change=lambda self: None, patience=3):
        super().__init__()
        self.patience, self.change = patience, change
        self.value = None
        self.variable = keras.Variable(np.zeros(2, "float32"))
        self.variables = [keras.Variable(0.0), keras.Variable(0.0)]
        self.window = collections.deque(maxlen=2)
        self.groups = collections.defaultdict(list)

    def on_train_begin(self, logs=None):
        self.count = 0


def through_json(change, again=lambda: Anything()):
    """Change a callback behind its begin; return a new one that was given its state."""
    one, other = Anything(change), again()
    for callback in (one, other):
        callback.on_train_begin()
    taken = CallbackStates([one])
    change(one)
    states, arrays = taken.take()
    CallbackStates([other]).put(json.loads(json.dumps(states)), arrays)
    return other, states[0]["state"]


VALUES = [
    5,
    True,
    "word",
    float("inf"),
    -0.0,
    [1, [2.5, None], ("a", (1,))],
    {"a": 1, 2: [3], (4, 5): {"b": {1, 2}}},
    {1, 2},
    (1, 2),
    keras.ops.less,
    json.loads,
]


@pytest.mark.parametrize("value", VALUES, ids=lambda value: getattr(value, "__name__", repr(value)))
def test_a_value_comes_back(value):
    found, _ = through_json(lambda callback: setattr(callback, "value", value))
    assert type(found.value) is type(value) and found.value == value
    assert repr(found.value) == repr(value)


ARRAY = np.array([[1.5, -2.0]])


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16", "int8", "bool", "complex64", "<U3"])
def test_an_array_comes_back(dtype):
    import ml_dtypes

    array = ARRAY.astype(getattr(ml_dtypes, dtype, dtype))
    found, _ = through_json(lambda callback: setattr(callback, "value", [array, {"same": array}]))
    for back in (found.value[0], found.value[1]["same"]):
        assert back.dtype == array.dtype and back.tobytes() == array.tobytes() and back.shape == array.shape


def test_a_tensor_comes_back_as_one():
    found, _ = through_json(lambda callback: setattr(callback, "value", ops.convert_to_tensor(ARRAY)))
    assert ops.is_tensor(found.value) and ops.convert_to_numpy(found.value).tolist() == ARRAY.tolist()


def test_variables_stay_themselves():
    def change(callback):
        callback.variable.assign([1.0, 2.0])
        callback.variables[1].assign(3.0)

    made = Anything()
    before = made.variable, made.variables[1]
    found, _ = through_json(change, lambda: made)
    assert found.variable is before[0] and found.variables[1] is before[1]
    assert ops.convert_to_numpy(found.variable).tolist() == [1.0, 2.0]
    assert float(ops.convert_to_numpy(found.variables[1])) == 3.0


def test_containers_stay_how_they_were_made():
    def change(callback):
        callback.window.extend([1, 2, 3])
        callback.groups["a"].append(1)

    found, _ = through_json(change)
    found.window.append(4)
    found.groups["new"].append(1)
    assert list(found.window) == [3, 4] and found.groups == {"a": [1], "new": [1]}


def test_only_what_has_changed_is_state():
    found, kept = through_json(lambda callback: setattr(callback, "count", 7), lambda: Anything(patience=9))
    assert kept.keys() == {"count"} and (found.count, found.patience) == (7, 9)


def test_what_came_back_is_kept_again_though_it_did_not_change():
    one, other, third = Anything(), Anything(), Anything()
    taken = CallbackStates([one])
    one.value = 5
    again = CallbackStates([other])
    again.put(*taken.take())
    CallbackStates([third]).put(*again.take())
    assert third.value == 5


def loop(callback):
    callback.value = []
    callback.value.append(callback.value)


@pytest.mark.parametrize(
    "change",
    [
        loop,
        lambda callback: setattr(callback, "value", object()),
        lambda callback: setattr(callback, "value", [1, lambda: 2]),
        lambda callback: setattr(callback, "value", open(__file__)),  # noqa: SIM115
        lambda callback: setattr(callback, "value", np.array([object()])),
        lambda callback: setattr(callback, "value", keras.KerasTensor((1,))),
    ],
    ids=["loop", "object", "lambda", "file", "objects", "symbolic"],
)
def test_what_cannot_be_kept_is_left_alone(change):
    def changed(callback):
        change(callback)
        callback.count = 3
        if hasattr(callback.value, "close"):
            callback.value.close()

    found, kept = through_json(changed)
    assert found.value is None and found.count == 3 and kept.keys() == {"count"}


def test_callbacks_of_a_class_are_told_apart_by_their_order():
    class Other(Anything):
        pass

    one = [Anything(), Other(), Anything()]
    taken = CallbackStates(one)
    for number, callback in enumerate(one):
        callback.value = number
    now = [Other(), Anything(), Anything(), Anything()]
    CallbackStates(now).put(*taken.take())
    assert [callback.value for callback in now] == [1, 0, 2, None]


def test_the_progress_bar_has_no_state():
    assert CallbackStates([keras.callbacks.ProgbarLogger()]).take() == ([], {})


def test_a_function_that_the_program_has_not_imported_is_not_fetched():
    import sys

    sys.modules.pop("this", None)
    callback = Anything()
    CallbackStates([callback]).put(
        [{"class": "Anything", "state": {"value": {"function": ["this", "s"]}}}], {}
    )
    assert callback.value is None and "this" not in sys.modules
