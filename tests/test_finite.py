"""A loss that is not finite stops a training, with all that helps to go on; or the training goes back by itself."""

import json
import warnings

import keras
import numpy as np
import pytest

from kwarmup import Checkpoints, LossNotFinite, Plan, PlanWarning, Record, hold, linear
from kwarmup.checkpoint import CheckpointWarning

pytestmark = pytest.mark.backend

N = 80
RANDOM = np.random.default_rng(0)
X = RANDOM.normal(size=(N, 4)).astype("float32")
Y = X @ np.array([[1.0], [2.0], [3.0], [4.0]], "float32")
#: Stable below some 0.8; then the weights grow thousandfold with each update, and overflow within the pass.
STEEP = 400_000 * (hold(1e-7, epochs=2) >> linear(start=1, to=0.5))


def make(rate, **changes):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", PlanWarning)
        plan = Plan(learning_rate=rate, batch_size=8, examples=N, epochs=6, **changes)
    keras.utils.set_random_seed(0)
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(1)])
    parts = plan.clock.gradient_accumulation_steps
    optimizer = keras.optimizers.SGD(
        plan.learning_rate, gradient_accumulation_steps=parts if parts > 1 else None
    )
    model.compile(optimizer, "mse")
    return plan, model


def poisoned(at):
    """Targets, one of which is not a number: it is met at that place of the first pass in the order as it is."""
    y = Y.copy()
    y[at] = np.nan
    return y


@pytest.mark.parametrize(("parts", "update"), [(1, 4), (2, 2)])
def test_the_message_says_where_and_what_helps(parts, update):
    plan, model = make(0.01, gradient_accumulation_steps=parts)
    with pytest.raises(LossNotFinite) as caught:
        plan.fit(model, X, poisoned(30 // parts), seed=None, verbose=0)
    error = caught.value
    assert (error.update, error.epoch, error.checkpoint) == (update, 0, None)
    assert error.learning_rate == pytest.approx(0.01)
    assert str(error).startswith(
        f"The loss is nan at update {update}, in pass 0, with a learning rate of 0.01."
    )
    assert "roll_back=0.5" in str(error)


def test_at_the_first_update_it_is_not_the_learning_rate():
    plan, model = make(0.01)
    with pytest.raises(LossNotFinite) as caught:
        plan.fit(model, X, poisoned(0), seed=None, verbose=0)
    assert caught.value.update == 1
    assert "it is not the learning rate" in str(caught.value) and "np.isfinite(y).all()" in str(caught.value)


def test_the_last_loss_of_a_pass_is_seen_before_callbacks_see_it():
    class Seen(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            raise AssertionError("nobody should hear of this pass")

    plan, model = make(0.01)
    with pytest.raises(LossNotFinite, match="at update 10, in pass 0"):
        plan.fit(model, X, poisoned(N - 1), seed=None, verbose=0, callbacks=[Seen()])


def test_checkpoints_are_only_of_what_is_good(tmp_path):
    plan, model = make(0.01)
    with pytest.raises(LossNotFinite, match="The last good checkpoint is .*step-000000000003") as caught:
        plan.fit(model, X, poisoned(30), seed=None, verbose=0, checkpoint_dir=tmp_path, save_every=1)
    assert caught.value.checkpoint == tmp_path / "step-000000000003"
    assert sorted(path.name for path in tmp_path.iterdir())[-1] == "step-000000000003"


def test_weights_that_are_not_finite_are_not_kept(tmp_path):
    # The loss of update 0 is finite, but the step that it asks for is not.
    plan, model = make(1e38)
    with (
        pytest.warns(CheckpointWarning, match="at step 1: there are weights that are not finite"),
        pytest.raises(LossNotFinite, match="at update 2"),
    ):
        plan.fit(model, X, Y * 1e3, verbose=0, checkpoint_dir=tmp_path, save_every=1)
    assert not list(tmp_path.glob("step-*"))


def test_plain_fit_with_checkpoints_stops_too(tmp_path):
    plan, model = make(0.01)
    training = Checkpoints(tmp_path, plan, model, save_every=2, verbose=0)
    with pytest.raises(LossNotFinite, match="at update 4, in pass 0.*\n.*step-000000000002"):
        model.fit(training.batches(X, poisoned(30), seed=None), **training.fit_arguments)


def test_it_goes_back_and_lowers_the_learning_rate(tmp_path):
    plan, model = make(STEEP)
    with pytest.warns(CheckpointWarning) as told:
        history = plan.fit(
            model, X, Y, verbose=0, checkpoint_dir=tmp_path, roll_back=1e-3, callbacks=[Record()]
        )
    said = [str(one.message) for one in told if issubclass(one.category, CheckpointWarning)]
    # A thousandth is still too steep.
    assert len(said) == 2
    assert "Training goes on from" in said[0] and "with 0.001 times the planned learning rate" in said[0]
    assert "with 1e-06 times the planned learning rate" in said[1]
    assert int(model.optimizer.iterations) == plan.clock.steps
    assert history.epoch == list(range(6))
    assert np.isfinite(history.history["loss"]).all()
    planned = [plan.curve(plan.clock.step_at(epochs=e + 1) - 1) for e in range(6)]
    factors = np.array(history.history["learning_rate"]) / planned
    # First to the end of the second pass and then, since that led nowhere, to the end of the first.
    assert "step-000000000020" in said[0] and "step-000000000010" in said[1]
    assert factors == pytest.approx([1, *[1e-6] * 5])


def test_it_ends_as_a_run_with_the_lower_peak_from_there_on(tmp_path):
    lower = 400_000 * (hold(1e-7, epochs=2) >> linear(start=1e-6, to=5e-7))
    plan, expected = make(lower)
    plan.fit(expected, X, Y, verbose=0)
    plan, model = make(STEEP)
    with pytest.warns(CheckpointWarning, match="Training goes on from"):
        plan.fit(model, X, Y, verbose=0, checkpoint_dir=tmp_path, roll_back=1e-6)
    for one, other in zip(model.get_weights(), expected.get_weights(), strict=True):
        np.testing.assert_allclose(one, other, atol=1e-5)


def test_a_lower_learning_rate_is_kept_where_training_goes_on_later(tmp_path):
    weights = []
    for stop in (False, True):

        class Stop(keras.callbacks.Callback):
            def on_train_batch_end(self, batch, logs=None):
                # In the fourth pass, long behind the place where it went back.
                if int(keras.ops.convert_to_numpy(self.model.optimizer.iterations)) == 35:
                    self.model.stop_training = self.stop

        folder = tmp_path / str(stop)
        for again in (False, True) if stop else (False,):
            plan, model = make(STEEP)
            callback = Stop()
            callback.stop = stop and not again
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", CheckpointWarning)
                plan.fit(
                    model,
                    X,
                    Y,
                    verbose=0,
                    checkpoint_dir=folder,
                    roll_back=0.01,
                    callbacks=[callback],
                    save_every=4,
                )
        assert int(model.optimizer.iterations) == plan.clock.steps
        weights.append(model.get_weights())
    for one, other in zip(*weights, strict=True):
        np.testing.assert_array_equal(one, other)


def test_it_gives_up_where_going_back_does_not_help(tmp_path):
    plan, model = make(0.01)
    with (
        pytest.warns(CheckpointWarning) as told,
        pytest.raises(LossNotFinite, match="gone back 5 times and has not come past this place") as caught,
    ):
        plan.fit(model, X, poisoned(30), seed=None, verbose=0, checkpoint_dir=tmp_path, roll_back=0.5)
    assert caught.value.update == 4
    said = [str(one.message) for one in told if issubclass(one.category, CheckpointWarning)]
    assert "0.03125 times" in said[-1]


def test_a_checkpoint_that_leads_nowhere_is_left_for_the_one_before(tmp_path):
    # Written while the weights were finite but lost: no learning rate helps from there.
    plan, model = make(0.01)

    class Spoil(keras.callbacks.Callback):
        spoiled = False

        def on_train_batch_end(self, batch, logs=None):
            if batch == 7 and not self.spoiled:
                self.spoiled = True
                self.model.trainable_variables[0].assign(np.full((4, 1), 1e30, "float32"))

    with pytest.warns(CheckpointWarning) as told:
        plan.fit(
            model, X, Y, verbose=0, checkpoint_dir=tmp_path, roll_back=0.5, callbacks=[Spoil()], save_every=4
        )
    # Micro-batches 4 and 8 were saved; from 8 on every loss overflows.
    went = [str(one.message).split("step-")[1][:12] for one in told if "goes on from" in str(one.message)]
    assert [int(step) for step in went] == [8, 4]
    assert int(model.optimizer.iterations) == plan.clock.steps
    manifest = json.loads((tmp_path / "step-000000000060" / "checkpoint.json").read_text())
    assert json.loads(manifest["facts"])["lowered"] == 0.25


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"roll_back": 1.0}, "`roll_back`: expected a factor above 0 and below 1"),
        ({"roll_back": 0.5, "checkpoint_dir": None}, "`checkpoint_dir`: expected a folder for checkpoints"),
    ],
)
def test_what_it_refuses(arguments, words, tmp_path):
    plan, model = make(0.01)
    with pytest.raises(ValueError, match=words):
        plan.fit(model, X, Y, **{"checkpoint_dir": tmp_path, **arguments})


def test_a_generator_cannot_be_read_again(tmp_path):
    plan, model = make(0.01)
    with pytest.raises(ValueError, match="`x`: expected data that can be read again"):
        plan.fit(model, (pair for pair in [(X, Y)]), checkpoint_dir=tmp_path, roll_back=0.5)
