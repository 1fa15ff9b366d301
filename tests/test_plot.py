"""Pictures: what is drawn is what the curve says; files in each format; no display, no pyplot."""

import subprocess
import sys
import warnings

import numpy as np
import pytest

from kwarmup import Clock, Curve, Plan, PlanWarning, cosine, hold, warmup
from kwarmup.plot import plot_curve, plot_plan, plot_training

PROFILE = 0.1 * (warmup(steps=10) >> cosine(steps=90))
PLAN = Plan(learning_rate=0.1 * (warmup(epochs=1) >> cosine()), batch_size=250, examples=1_000, epochs=3)
HISTORY = {"loss": [2.3, 0.9, 0.4], "val_loss": [1.2, 0.6, 0.5], "accuracy": [0.1, 0.5, 0.9]}


def lines(axes):
    return [np.column_stack(line.get_data()) for line in axes.get_lines()]


def labels(axes):
    return [text.get_text() for text in axes.get_legend().get_texts()]


def test_a_short_curve_is_drawn_update_by_update():
    (axes,) = plot_curve(Curve(PROFILE), 100).axes
    np.testing.assert_allclose(
        lines(axes)[0], np.column_stack([np.arange(100), Curve(PROFILE)(np.arange(100))])
    )
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("update", "learning rate")
    assert axes.get_ylim()[0] == 0


def test_a_long_curve_keeps_both_sides_of_its_jumps():
    curve = Curve(hold(steps=600_001) >> hold(0.1, steps=3) >> hold(0.5))
    (axes,) = plot_curve(curve, 10**6).axes
    drawn = lines(axes)[0]
    assert len(drawn) < 3_000
    at = {int(place): value for place, value in drawn}
    assert (at[600_000], at[600_001], at[600_003], at[600_004]) == (1, 0.1, 0.1, 0.5)


def test_values_below_zero_are_in_the_picture():
    (axes,) = plot_curve(Curve(-1 * PROFILE), 100).axes
    assert axes.get_ylim()[0] < -0.1


def test_one_update_can_be_drawn():
    (axes,) = plot_curve(Curve(0.1), 1).axes
    assert lines(axes)[0].tolist() == [[0, 0.1]]


def test_a_plan_of_constant_batch_size_has_one_panel_with_epochs_along_the_top():
    (axes,) = plot_plan(PLAN).axes
    np.testing.assert_allclose(lines(axes)[0][:, 1], PLAN.curve(np.arange(12)))
    (top,) = axes.child_axes
    assert top.get_xlabel() == "epoch"


def test_a_growing_batch_has_a_panel_of_its_own():
    above, below = plot_plan(PLAN.replace(batch_size=100 * (hold(epochs=1) >> hold(2)), scaling=1)).axes
    assert below.get_ylabel() == "batch size"
    assert lines(below)[0][[0, 9, 10, 19], 1].tolist() == [100, 100, 200, 200]
    # Epochs along the top follow the batch: epoch 1 is at update 10 of 20, epoch 2 at update 15.
    (top,) = above.child_axes
    to_epoch, to_update = top._functions
    assert (to_epoch(10), to_epoch(15), to_update(2)) == (1, 2, 15)


def test_a_training_shows_both_losses_and_the_learning_rate():
    above, below = plot_training(HISTORY, PLAN).axes
    assert labels(above) == ["training", "validation"]
    assert [line[:, 1].tolist() for line in lines(above)] == [HISTORY["loss"], HISTORY["val_loss"]]
    assert lines(above)[0][:, 0].tolist() == [1, 2, 3]
    dotted, solid = lines(below)
    np.testing.assert_allclose(solid, np.column_stack([np.arange(12) / 4, PLAN.curve(np.arange(12))]))
    np.testing.assert_allclose(dotted, solid)
    assert above.get_yscale() == "linear"


def test_a_training_without_validation():
    above, _ = plot_training({"loss": [1.0]}, PLAN).axes
    assert labels(above) == ["training"]


@pytest.mark.parametrize(("epochs", "updates", "drawn"), [(2, None, 8), (2, 6, 6), (1, None, 4)])
def test_what_was_not_reached_is_only_dotted(epochs, updates, drawn):
    history = {name: values[:epochs] for name, values in HISTORY.items()}
    _, below = plot_training(history, PLAN, updates=updates).axes
    dotted, solid = lines(below)
    assert (len(dotted), len(solid)) == (12, drawn)


GROWING = PLAN.replace(batch_size=100 * (hold(epochs=1) >> hold(2)), scaling=1)


def test_a_training_shows_its_batch_size_below_where_that_moves():
    _, _, sizes = plot_training(HISTORY, GROWING).axes
    assert (sizes.get_ylabel(), sizes.get_xlabel()) == ("batch size", "epoch")
    dotted, solid = lines(sizes)
    np.testing.assert_array_equal(solid, dotted)
    # 10 updates, then 5 and 5; the last size holds to the end of the last epoch.
    np.testing.assert_allclose(solid[:, 0], [*np.arange(10) / 10, *(1 + np.arange(11) / 5)])
    assert solid[:, 1].tolist() == [100] * 10 + [200] * 11
    assert all(line.get_drawstyle() == "steps-post" for line in sizes.get_lines())


@pytest.mark.parametrize(("updates", "ends", "size"), [(12, 1.4, 200), (5, 0.5, 100), (10, 1, 200)])
def test_the_batch_size_of_a_training_that_stopped_early(updates, ends, size):
    sizes = plot_training({"loss": [1.0, 2.0]}, GROWING, updates=updates).axes[2]
    dotted, solid = lines(sizes)
    assert dotted[-1].tolist() == [3, 200]
    assert solid[-1].tolist() == [ends, size]


def test_losses_over_decades_are_on_a_logarithmic_axis():
    above, _ = plot_training({"loss": [2.0, 0.1, 0.001]}, PLAN).axes
    assert above.get_yscale() == "log"
    assert [tick for tick in above.get_yticks() if 1e-3 <= tick <= 1e-2] == [0.001, 0.002, 0.005, 0.01]
    above, _ = plot_training({"loss": [2.0, 0.1, -0.001]}, PLAN).axes
    assert above.get_yscale() == "linear"


def test_losses_that_are_no_numbers_leave_a_gap(tmp_path):
    history = {"loss": [1.0, None, 3.0], "val_loss": [float("nan"), float("inf"), None]}
    above, _ = plot_training(history, PLAN, tmp_path / "gap.png").axes
    assert np.isnan(lines(above)[0][1, 1])


@pytest.mark.parametrize(
    ("name", "begin"), [("a.png", b"\x89PNG"), ("a.svg", b"<?xml"), ("a.pdf", b"%PDF"), ("B.PNG", b"\x89PNG")]
)
def test_the_ending_says_the_format(tmp_path, name, begin):
    plot_plan(PLAN, tmp_path / name)
    assert (tmp_path / name).read_bytes().startswith(begin)


@pytest.mark.parametrize("name", ["plan", "plan.txt", "png"])
def test_an_ending_that_nobody_knows(tmp_path, name):
    with pytest.raises(ValueError, match=r"a name that ends in \.png, \.svg or \.pdf"):
        plot_plan(PLAN, tmp_path / name)
    assert list(tmp_path.iterdir()) == []


def test_what_cannot_be_drawn():
    with pytest.raises(ValueError, match="`steps`: expected updates to draw, 1 or more"):
        plot_curve(Curve(PROFILE), 0)
    with pytest.raises(ValueError, match="`history`: expected a history with `loss`"):
        plot_training({"accuracy": [1.0]}, PLAN)


def test_a_plan_of_a_dropped_remainder_ends_where_the_data_does():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", PlanWarning)
        plan = PLAN.replace(batch_size=300, drop_remainder=True)
    (axes,) = plot_plan(plan).axes
    (top,) = axes.child_axes
    assert plan.clock.steps == 9
    assert top._functions[0](9) == plan.clock.epoch_at(9)


def test_pictures_need_neither_pyplot_nor_keras(tmp_path):
    code = (
        "import sys\nfrom kwarmup import Clock, Curve, cosine\nfrom kwarmup.plot import plot_curve\n"
        "assert 'matplotlib' not in sys.modules\n"
        "plot_curve(Curve(cosine(), Clock(examples=100, epochs=3, batch_size=8)), 39, 'a.png')\n"
        "print([name for name in ('matplotlib.pyplot', 'keras', 'tensorflow') if name in sys.modules])"
    )
    run = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    assert run.stdout.strip() == "[]"
    assert Clock(examples=100, epochs=3, batch_size=8).steps == 39
