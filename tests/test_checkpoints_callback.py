"""Checkpoints in Keras's own `fit`: killed anywhere and started again, training ends bit for bit the same."""

import signal

import keras
import numpy as np
import pytest
from test_resume import (
    BACKEND,
    CASES,
    ON_TENSORFLOW,
    STOPPED,
    Case,
    Counting,
    Crashes,
    Loud,
    Result,
    Terminated,
    X,
    Y,
    assert_same,
    endless,
    make_model,
    make_plan,
    survive,
)

from kwarmup import SGD, Checkpoints, linear

backend = pytest.mark.backend  # not on all: a process on JAX spends seconds compiling
EVEN = make_plan(batch_size=12)


class Plain(Case):
    """A training by Keras's own `fit`, made anew for each process."""

    def start(self, folder, seed=0, **changes):
        keras.utils.set_random_seed(0)
        data = self.data()
        keras.utils.set_random_seed(seed)
        model = self.model(self.plan)
        callbacks = [*self.callbacks(), Crashes()]
        arguments = {"save_every": 3, **self.arguments, **changes}
        order = {"seed": arguments.pop("seed")} if "seed" in arguments else {}
        own = {name: arguments.pop(name) for name in ("save_every", "on_change") if name in arguments}
        training = Checkpoints(folder, self.plan, model, callbacks, verbose=0, **own)
        history = model.fit(training.batches(*data, **order), **training.fit_arguments, **arguments)
        return Result(model, history, callbacks)


def plain(case, plan=EVEN, **changes):
    arguments = {name: value for name, value in case.arguments.items() if name != "class_weight"}
    return Plain(plan, case.model, case.data, case.callbacks, **{**arguments, **changes})


def one_cycle(plan):
    return make_model(plan, SGD(plan.learning_rate, momentum=0.9 * linear(to=0.8)))


# In the first pass before anything is saved and behind it; in later passes, between and around them.
PLACES = (("batch", 1, 3), ("begin", 2), ("batch", 0, 1), ("batch", 0, 4), ("end", 1), ("batch", 3, 5))
PLACES = PLACES[: 2 if BACKEND == "jax" else None]
VALIDATED = Plain(
    EVEN,
    lambda plan: make_model(plan, metrics=["mae"]),
    callbacks=lambda: [Counting()],
    validation_data=(X[:20], Y[:20]),
)
CYCLED = Plain(EVEN, one_cycle)


@pytest.mark.parametrize(
    "case",
    [
        pytest.param(VALIDATED, id="callbacks, metrics, validation", marks=backend),
        pytest.param(CYCLED, id="momentum"),
    ],
)
def test_true_epochs_go_on_in_their_middle(case, tmp_path):
    expected = case.start(tmp_path / "undisturbed")
    assert (
        expected.history[1] == [0, 1, 2, 3] and int(expected.model.optimizer.iterations) == EVEN.clock.steps
    )
    assert_same(survive(case, tmp_path / "crashed", PLACES), expected)
    assert_same(case.start(tmp_path / "crashed", seed=9), expected)  # ended, and stays so


@backend
def test_passes_of_different_lengths_are_one_epoch_that_goes_on_in_its_middle(tmp_path):
    case = Plain(callbacks=lambda: [Counting()])
    assert case.plan.fit_arguments["epochs"] == 1
    expected = case.start(tmp_path / "undisturbed")
    # The seventh batch is the last of the first pass.
    places = [("batch", 0, batch) for batch in ((7, 15) if BACKEND == "jax" else (1, 4, 6, 7, 15))]
    places += [("end", 0), ("over",)] * (BACKEND != "jax")
    assert_same(survive(case, tmp_path / "crashed", places), expected)
    assert_same(case.start(tmp_path / "crashed", seed=9), expected)
    assert expected.history[1] == [0]


SOME = ["a PyDataset that shuffles", "one generator for all passes", "a loss scale", "model without an Input"]
SOME += ["a dataset that shuffles", "a training step of one's own, random in inference too"] * (
    BACKEND == "tensorflow"
)
SOME += [pytest.param("averaged weights", marks=backend)]


@pytest.mark.parametrize("name", SOME)
def test_whatever_a_training_is_made_of(name, tmp_path):
    case = plain({**CASES, **ON_TENSORFLOW}[name])
    expected = case.start(tmp_path / "undisturbed")
    assert_same(survive(case, tmp_path / "crashed", [("batch", 0, 5), ("batch", 2, 4)]), expected)


@backend
def test_it_trains_as_a_fit_without_checkpoints_does(tmp_path):
    keras.utils.set_random_seed(0)
    model = make_model(EVEN)
    history = model.fit(EVEN.batches(X, Y), shuffle=False, verbose=0, epochs=4, steps_per_epoch=7)
    assert_same(Plain(EVEN).start(tmp_path), Result(model, history, []))


@pytest.mark.skipif(BACKEND == "torch", reason="Keras has no executions of several steps there")
@pytest.mark.parametrize("plan", [make_plan(batch_size=14), make_plan()], ids=["epochs", "one epoch"])
def test_executions_of_several_steps(plan, tmp_path):
    case = Plain(plan, lambda plan: make_model(plan, steps_per_execution=3), save_every=1)
    expected = case.start(tmp_path / "undisturbed")
    assert int(expected.model.optimizer.iterations) == plan.clock.steps
    assert_same(survive(case, tmp_path / "crashed", [("batch", 0, 2), ("batch", 0, 5)]), expected)


def test_executions_that_would_reach_into_the_next_epoch_are_refused(tmp_path):
    model = make_model(EVEN, steps_per_execution=2)
    training = Checkpoints(tmp_path, EVEN, model)
    with pytest.raises(ValueError, match="`steps_per_execution`: expected a divisor of the 7 steps"):
        training.batches(X, Y)


def test_an_early_stop_is_an_end(tmp_path):
    case = plain(STOPPED, make_plan(batch_size=12, epochs=12, learning_rate=0.01))
    expected = case.start(tmp_path / "undisturbed")
    last = expected.callbacks[0].stopped_epoch
    assert 1 < last < 11  # or the test would say little
    places = [("batch", 1, 4), ("validation", last), ("end", last), ("over",)]
    assert_same(survive(case, tmp_path / "crashed", places), expected)
    assert_same(case.start(tmp_path / "crashed", seed=9), expected)


def test_an_ended_training_of_averaged_weights_stays_as_its_callbacks_left_it(tmp_path):
    """Keras puts the averages in place again, behind which the best weights are others."""
    case = Plain(
        make_plan(batch_size=12, epochs=5),
        lambda plan: make_model(plan, keras.optimizers.Adam(0.01, use_ema=True, ema_momentum=0.5)),
        callbacks=lambda: [
            keras.callbacks.EarlyStopping("loss", patience=0, mode="max", restore_best_weights=True)
        ],
    )
    expected = case.start(tmp_path)
    assert len(expected.history[1]) < 5  # the loss falls, which was to be a reason to stop
    assert_same(case.start(tmp_path, seed=9), expected)


class Numbers(keras.callbacks.Callback):
    """Notes which batches it hears of; in the class, so that it survives a crash."""

    heard = []

    def on_train_batch_begin(self, batch, logs=None):
        Numbers.heard.append(batch)

    def on_train_batch_end(self, batch, logs=None):
        assert logs["loss"] > 0


@backend
def test_callbacks_hear_nothing_of_batches_that_are_only_read_again(tmp_path):
    Crashes.places, Numbers.heard = (("batch", 1, 4),), []
    case = Plain(EVEN, callbacks=lambda: [Numbers(), Loud()])
    with pytest.raises(Exception, match="Crash|batch"):
        case.start(tmp_path)
    # The checkpoint is of nine batches, seven of them in the first pass.
    Numbers.heard = []
    case.start(tmp_path, seed=5)
    assert Numbers.heard == [2, 3, 4, 5, 6, *range(7), *range(7)]
    Numbers.heard, Loud.said = [], ()
    case.start(tmp_path, seed=6)
    assert Numbers.heard == [] and Loud.said == ()


@pytest.mark.parametrize(
    ("case", "words"),
    [
        (Plain(make_plan(batch_size=12, epochs=9)), "epochs: 4 in the checkpoint, 9 now"),
        (Plain(EVEN, data=lambda: (X, 2 * Y)), "data.1.contents: '.*' in the checkpoint, '.*' now"),
        (Plain(EVEN, callbacks=lambda: [Counting()]), "callbacks: 'Crashes' in the checkpoint, 'Counting, C"),
        (
            Plain(EVEN, one_cycle),
            r"model.settings.momentum: 0.9 in the checkpoint, '0.9 \* linear\(to=0.8\)' now",
        ),
        (Case(EVEN), "trained by: 'Checkpoints' in the checkpoint, 'plan.fit' now"),
    ],
    ids=["plan", "data", "callbacks", "momentum", "plan.fit"],
)
def test_a_change_is_refused_and_spelled_out(case, words, begun):
    with pytest.raises(ValueError, match=f"(?s)`checkpoint_dir`: .*begun with\n.*{words}"):
        case.start(begun)


@pytest.fixture(scope="module")
def begun(tmp_path_factory):
    folder = tmp_path_factory.mktemp("begun")
    Crashes.places = (("batch", 1, 3),)
    with pytest.raises(Exception, match="Crash|batch"):
        Plain(EVEN).start(folder)
    return folder


def test_a_changed_plan_is_taken_where_one_says_so(begun, tmp_path):
    import shutil

    expected = Plain(EVEN).start(tmp_path / "undisturbed")
    for change in ("checkpoint", "override"):
        shutil.copytree(begun, tmp_path / change)
        changed = Plain(make_plan(batch_size=12, learning_rate=0.02, epochs=6))
        found = changed.start(tmp_path / change, on_change=change)
        assert (found.arrays == expected.arrays) == (change == "checkpoint")
        assert len(found.history[1]) == (4 if change == "checkpoint" else 6)


def test_what_is_wrong_is_said(tmp_path):
    model = make_model(EVEN)
    with pytest.raises(ValueError, match="`learning_rate`: expected the plan's own"):
        Checkpoints(tmp_path, make_plan(batch_size=12, learning_rate=0.5), model)
    training = Checkpoints(tmp_path, EVEN, model)
    with pytest.raises(ValueError, match="`x`: expected those of training.batches") as error:
        training.fit_arguments  # noqa: B018
    assert "Write: model.fit(training.batches(x, y), **training.fit_arguments)" in str(error.value)
    (tmp_path / "taken").write_text("")
    with pytest.raises(ValueError, match="`checkpoint_dir`: expected a folder that can be written"):
        Checkpoints(tmp_path / "taken", EVEN, model).batches(X, Y)
    assert int(keras.ops.convert_to_numpy(model.optimizer.iterations)) == 0


@pytest.fixture
def handler():
    heard = []
    before = signal.signal(signal.SIGTERM, lambda number, frame: heard.append(number))
    yield heard
    signal.signal(signal.SIGTERM, before)


def test_sigterm_saves_at_once_and_ends_with_143(tmp_path, handler):
    case = Plain(EVEN, callbacks=lambda: [Terminated()], validation_data=(X[:20], Y[:20]), save_every=1000)
    expected = case.start(tmp_path / "undisturbed")
    for place, step in [(("batch", 0, 4), 5), (("begin", 1), 8), (("validation", 1), 14)]:
        Terminated.places = (place,)
        with pytest.raises(SystemExit) as ended:
            case.start(tmp_path / "ended", seed=step if step > 5 else 0)
        assert ended.value.code == 143
        assert max((tmp_path / "ended").glob("step-*")).name == f"step-{step:012d}"
    assert_same(case.start(tmp_path / "ended", seed=99), expected)
    assert handler == [] and signal.getsignal(signal.SIGTERM).__name__ == "<lambda>"


def test_behind_a_crash_sigterm_means_what_it_did_before(tmp_path, handler):
    Crashes.places = (("batch", 0, 1),)
    with pytest.raises(Exception, match="Crash|batch"):
        Plain(EVEN).start(tmp_path)
    signal.raise_signal(signal.SIGTERM)
    assert handler == [signal.SIGTERM]


def test_one_generator_for_all_passes_in_one_epoch(tmp_path):
    case = Plain(data=lambda: (endless(),))
    expected = case.start(tmp_path / "undisturbed")
    assert_same(survive(case, tmp_path / "crashed", [("batch", 0, 5), ("batch", 0, 13)]), expected)


def test_the_data_counts_as_the_plan_does(tmp_path):
    """What Keras is told to do besides is found behind the epoch at the latest."""
    model = make_model(EVEN)
    training = Checkpoints(tmp_path, EVEN, model, verbose=0)
    batches = training.batches(X, Y)
    with pytest.raises(RuntimeError, match="has done 5 updates, but the plan has 7"):
        model.fit(batches, **{**training.fit_arguments, "steps_per_epoch": 5})
    assert np.isfinite(model.get_weights()[0]).all()
