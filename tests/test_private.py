"""The doors of Keras that are not public: these tests say when one moves."""

import keras
import numpy as np
import pytest
from keras import ops

from kwarmup import Schedule, warmup
from kwarmup.private import (
    built_beforehand,
    direction_of,
    index_of,
    input_signature,
    layers_of,
    loss_tracker,
    losses_of_one_device,
    mask_of,
    optimizer_like,
    output_loss_trackers,
    rate_of,
    saved_by,
    schedule_of,
    second_moments,
    shared_seed_generator,
    slurm_nodes,
    summed_beforehand,
    tensorflow_memory_limit,
    tensorflow_seeds,
    tracked,
)


def optimizers(rate):
    yield keras.optimizers.SGD(rate)
    yield keras.optimizers.AdamW(rate)
    yield keras.optimizers.LossScaleOptimizer(keras.optimizers.SGD(rate))


def test_the_schedule_itself_is_found():
    for schedule in (Schedule(warmup(steps=3)), keras.optimizers.schedules.CosineDecay(0.1, 10)):
        for optimizer in optimizers(schedule):
            assert schedule_of(optimizer) is schedule


@pytest.mark.parametrize("rate", [0.1, lambda: 0.1])
def test_a_number_and_a_function_are_no_schedule(rate):
    for optimizer in optimizers(rate):
        assert schedule_of(optimizer) is None


def test_what_a_learning_rate_is_is_found_whatever_it_is():
    def function():
        return 0.1

    for rate in (Schedule(warmup(steps=3)), function):
        for optimizer in optimizers(rate):
            assert rate_of(optimizer) is rate
    for optimizer in optimizers(0.1):
        assert isinstance(rate_of(optimizer), keras.Variable)


@pytest.mark.parametrize(
    ("metric", "direction"),
    [
        (keras.metrics.SparseCategoricalAccuracy, "up"),
        (keras.metrics.AUC, "up"),
        (keras.metrics.MeanSquaredError, "down"),
        (keras.metrics.Mean, None),
    ],
)
def test_a_metric_tells_which_of_its_ends_is_the_better_one(metric, direction):
    assert direction_of(metric()) == direction


def test_a_variable_is_found_among_those_of_an_optimizer():
    optimizer = keras.optimizers.SGD(0.1, momentum=0.9)
    variables = [keras.Variable([1.0]), keras.Variable([2.0])]
    optimizer.build(variables)
    assert [index_of(optimizer, variable) for variable in variables] == [0, 1]


def test_the_losses_that_are_logged_are_found():
    x = keras.Input((2,))
    model = keras.Model(x, [keras.layers.Dense(1, name="a")(x), keras.layers.Dense(1, name="b")(x)])
    model.compile("sgd", ["mse", "mae"])
    targets = [np.ones((4, 1)), np.zeros((4, 1))]
    logged = model.train_on_batch(np.ones((4, 2)), targets, return_dict=True)
    assert float(loss_tracker(model).result()) == pytest.approx(float(logged["loss"]))
    found = {tracker.name: float(tracker.result()) for tracker in output_loss_trackers(model)}
    assert found == pytest.approx({name: float(logged[name]) for name in ("a_loss", "b_loss")})


def test_a_single_loss_is_logged_once():
    model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)])
    model.compile("sgd")
    assert output_loss_trackers(model) == []
    model.compile("sgd", "mse")
    model.train_on_batch(np.ones((4, 2)), np.ones((4, 1)))
    assert output_loss_trackers(model) == []


def test_a_mask_is_found_on_the_tensor_it_goes_with():
    words = np.array([[3, 0, 2]])
    assert np.asarray(mask_of(keras.layers.Embedding(4, 2, mask_zero=True)(words))).tolist() == [
        [True, False, True]
    ]
    assert mask_of(keras.layers.Embedding(4, 2)(words)) is None


def test_the_generator_that_all_share_is_found():
    keras.random.uniform(())
    state = shared_seed_generator().state
    before = keras.ops.convert_to_numpy(state).tolist()
    keras.random.uniform(())
    assert keras.ops.convert_to_numpy(state).tolist() != before


def test_the_seeds_of_tensorflow_are_found():
    import tensorflow as tf

    tf.random.set_seed(3)
    before = tensorflow_seeds().getstate()
    tf.data.Dataset.range(3).shuffle(3)
    assert tensorflow_seeds().getstate() != before


def test_the_list_that_a_schedule_takes_the_learning_rate_out_of_is_found():
    optimizer = keras.optimizers.SGD(0.1)
    _, variables = tracked(optimizer)["config"]["variables"]
    assert [id(variable) for variable in variables] == [id(variable) for variable in optimizer.variables]
    optimizer.learning_rate = Schedule(warmup(steps=3))
    assert len(variables) == 1


class Nested(keras.layers.Layer):
    def __init__(self):
        super().__init__()
        self.inner = [keras.layers.Dense(1), keras.layers.BatchNormalization(synchronized=True)]


def test_layers_within_layers_are_found():
    nested = Nested()
    model = keras.Sequential([keras.Sequential([nested]), keras.layers.Dense(2)])
    assert (
        nested.inner[1] in layers_of(model) and len(layers_of(model)) == 5 and model not in layers_of(model)
    )


@pytest.mark.parametrize("amsgrad", [False, True])
def test_the_second_moments_of_adam_are_found(amsgrad):
    weights = [keras.Variable([1.0, 2.0]), keras.Variable([3.0])]
    optimizer = keras.optimizers.Adam(0.1, beta_2=0.5, amsgrad=amsgrad)
    gradients = [keras.ops.array([2.0, 4.0]), keras.ops.array([6.0])]
    optimizer.apply(gradients, weights)
    if amsgrad:  # a smaller gradient leaves the greatest average as it is
        optimizer.apply([0 * gradient for gradient in gradients], weights)
    found = [keras.ops.convert_to_numpy(moment).tolist() for moment in second_moments(optimizer)]
    assert found == [[2.0, 8.0], [18.0]]


def test_an_optimizer_like_another_has_all_its_settings():
    model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(3, bias_initializer="ones")])
    optimizer = keras.optimizers.AdamW(
        keras.optimizers.schedules.CosineDecay(0.1, 10), weight_decay=0.3, beta_2=0.9, clipnorm=2.0
    )
    optimizer.exclude_from_weight_decay(var_names=["bias"])
    fresh = optimizer_like(optimizer, 0.5)
    assert fresh.get_config() == {**optimizer.get_config(), "learning_rate": 0.5}
    kernel, bias = model.trainable_variables
    before = ops.convert_to_numpy(kernel).copy()
    fresh.apply([ops.zeros((2, 3)), ops.zeros((3,))], model.trainable_variables)
    assert ops.convert_to_numpy(bias).tolist() == [1, 1, 1]
    assert ops.convert_to_numpy(kernel) == pytest.approx((1 - 0.5 * 0.3) * before)


def test_a_learning_rate_that_has_no_config_is_no_hindrance():
    class Own(keras.optimizers.schedules.LearningRateSchedule):
        def __call__(self, step):
            return 0.1

    optimizer = keras.optimizers.LossScaleOptimizer(
        keras.optimizers.SGD(Own(), momentum=0.5), initial_scale=4.0
    )
    fresh = optimizer_like(optimizer, 0.25)
    assert (float(fresh.learning_rate), fresh.inner_optimizer.momentum, fresh.initial_scale) == (
        0.25,
        0.5,
        4.0,
    )
    assert optimizer.inner_optimizer is not fresh.inner_optimizer


def test_tensorflow_tells_the_memory_of_a_device():
    limit = tensorflow_memory_limit("/job:localhost/replica:0/task:0/device:CPU:0")
    assert isinstance(limit, int) and limit > 0
    assert tensorflow_memory_limit("GPU:7") is None


def test_the_nodes_of_slurm_are_read_in_its_order():
    assert slurm_nodes("n[9-10],m3", "2(x2),1") == (["n9", "n10", "m3"], [2, 2, 1])


def test_the_inputs_of_an_export_are_worked_out_as_keras_does(tmp_path):
    a, b = keras.Input((3,), name="a"), keras.Input((), dtype="int32", name="b")
    model = keras.Model({"a": a, "b": b}, keras.layers.Dense(1)(a))
    (signature,) = input_signature(model)
    assert {name: (spec.shape, spec.dtype) for name, spec in signature.items()} == {
        "a": ((None, 3), "float32"),
        "b": ((None,), "int32"),
    }


def test_what_is_put_into_an_archive_is_saved_with_it(tmp_path):
    tensorflow = pytest.importorskip("tensorflow")
    archive = keras.export.ExportArchive()
    archive.add_endpoint("twice", lambda x: 2 * x, [tensorflow.TensorSpec((), "float32")])
    (tmp_path / "note.txt").write_text("words")
    saved_by(archive).note = tensorflow.saved_model.Asset(str(tmp_path / "note.txt"))
    archive.write_out(str(tmp_path / "saved"), verbose=False)
    assert (tmp_path / "saved" / "assets" / "note.txt").read_text() == "words"
    loaded = tensorflow.saved_model.load(str(tmp_path / "saved"))
    assert loaded.note.asset_path.numpy().endswith(b"note.txt")


def test_losses_are_those_of_one_device():
    import tensorflow as tf

    loss = keras.losses.MeanSquaredError()
    value = float(loss(np.zeros((4, 1)), np.ones((4, 1))))
    divided = []

    class Two:
        num_replicas_in_sync = 2

    real = tf.distribute.get_strategy
    tf.distribute.get_strategy = Two
    try:
        with losses_of_one_device():
            alone = float(loss(np.zeros((4, 1)), np.ones((4, 1))))
        divided = float(loss(np.zeros((4, 1)), np.ones((4, 1))))
    finally:
        tf.distribute.get_strategy = real
    assert (value, alone, divided) == (1.0, 1.0, 0.5)


def test_an_optimizer_sums_through_the_door_that_is_closed():
    optimizer, weight, asked = keras.optimizers.SGD(1.0), keras.Variable([1.0]), []
    vars(optimizer)["_all_reduce_sum_gradients"] = lambda pairs: [*pairs, asked.append(len(pairs))][:-1]
    optimizer.apply([ops.array([0.25])], [weight])
    assert asked == [1]
    del vars(optimizer)["_all_reduce_sum_gradients"]
    with summed_beforehand(optimizer):
        assert "_all_reduce_sum_gradients" in vars(optimizer)
        optimizer.apply([ops.array([0.25])], [weight])
    assert "_all_reduce_sum_gradients" not in vars(optimizer)
    assert ops.convert_to_numpy(weight).tolist() == [0.5]


def test_fit_builds_through_the_door_that_is_closed():
    model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)])
    model.compile("sgd", "mse")
    called = []
    vars(model)["_maybe_symbolic_build"] = lambda *arguments, **named: called.append(named)
    model.fit(np.ones((4, 2)), np.ones((4, 1)), verbose=0)
    model.evaluate(np.ones((4, 2)), np.ones((4, 1)), verbose=0)
    assert [list(named) for named in called] == [["iterator"], ["iterator"]]
    del vars(model)["_maybe_symbolic_build"]
    with built_beforehand(model):
        assert "_maybe_symbolic_build" in vars(model)
    assert "_maybe_symbolic_build" not in vars(model)


def test_a_keras_without_that_door_is_refused_in_words():
    with pytest.raises(RuntimeError, match="pip install --upgrade kwarmup"), built_beforehand(object()):
        pass
