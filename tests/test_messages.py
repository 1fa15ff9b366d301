# ruff: noqa: E501 (exact words are not wrapped)
"""What a user reads when something is wrong: bad input on the left, the exact words on the right."""

import keras
import pytest

import kwarmup
from kwarmup import shapes, verbs

WORDS = {
    **vars(verbs),
    **{
        name: getattr(kwarmup, name)
        for name in (
            "AdaScale",
            "Clock",
            "Curve",
            "Guard",
            "Plan",
            "PlateauDecay",
            "Profile",
            "Schedule",
            "best_batch_size",
            "fit_tradeoff",
            "follow_noise",
        )
    },
    "shapes": shapes,
    "keras": keras,
    "short": kwarmup.Clock(examples=1_000, epochs=3, batch_size=10),
}

#: Code, the kind of error, and its three lines: `argument`: expected …, Received: …, Write: …
MESSAGES = """
AdaScale(scale=0.5)
ValueError `scale`: expected a number, 1 or more.
0.5
AdaScale(scale=8)

AdaScale(scale=8, parts=1)
ValueError `parts`: expected a whole number, 2 or more, or None.
1
AdaScale(scale=8, parts=4)

follow_noise(start=64, max=32)
ValueError `max`: expected a whole number, 64 or more.
32
follow_noise(start=64, max=2048)

follow_noise(start=32, max=1024, factor=0.5)
ValueError `factor`: expected a number above 1.
0.5
follow_noise(start=32, max=1024, factor=2)

Plan(learning_rate=0.1, batch_size=follow_noise(start=32, max=64), examples=960, epochs=2).fit_arguments
ValueError `batch_size`: expected one that is known before training, since nothing changes it on the way here.
follow_noise(start=32, max=64)
plan.fit(model, x, y), or plan.replace(batch_size=64)

warmup(5)
TypeError `length`: expected a keyword that names the unit.
warmup(5)
warmup(steps=5)

cosine(9_500)
TypeError `length`: expected a keyword that names the unit.
cosine(9500)
cosine(steps=9500)

hold(0.1, 5)
TypeError `length`: expected a keyword that names the unit.
hold(0.1, 5)
hold(0.1, steps=5)

curve("cosine", 5)
TypeError `length`: expected a keyword that names the unit.
curve(shapes.cosine, 5)
curve(shapes.cosine, steps=5)

warmup(steps=5, epochs=1)
TypeError `steps/epochs`: expected exactly one length.
steps=5, epochs=1
warmup(steps=5)

warmup(steps=-5)
ValueError `steps`: expected a length of 0 or more.
-5
warmup(steps=500)

linear(epochs=-0.5)
ValueError `epochs`: expected a length of 0 or more.
-0.5
linear(epochs=5)

hold(fraction=1.5)
ValueError `fraction`: expected a part of the whole run, from 0 to 1.
1.5
hold(fraction=0.1)

warmup(steps=float("nan"))
ValueError `steps`: expected a finite number.
nan
warmup(steps=500)

warmup(steps="5")
TypeError `steps`: expected a real number.
'5'
warmup(steps=500)

warmup(steps=True)
TypeError `steps`: expected a real number.
True
warmup(steps=500)

warmup(step=5)
TypeError `step`: expected one of steps, epochs, examples, fraction.
warmup(step=...)
warmup(steps=500)

warmup(start="0", steps=5)
TypeError `start`: expected a real number.
'0'
warmup(start=0.1, epochs=5)

warmup(steps=5) >> 0.1 * cosine(steps=9)
ValueError `*`: expected the scale in front of the whole chain, since `>>` goes on from the value it has reached.
warmup(steps=5) >> 0.1 * cosine(steps=9)
0.1 * (warmup(steps=5) >> cosine(steps=9))

Profile([warmup(steps=5), 0.1 * cosine(steps=9)])
ValueError `*`: expected the scale in front of the whole chain, since `>>` goes on from the value it has reached.
warmup(steps=5) >> 0.1 * cosine(steps=9)
0.1 * (warmup(steps=5) >> cosine(steps=9))

warmup(steps=5) >> 3
TypeError `>>`: expected a profile on both sides.
3
warmup(steps=5) >> hold(3)

3 >> warmup(steps=5)
TypeError `>>`: expected a profile on both sides.
3
hold(3, steps=500) >> warmup(steps=5)

"cosine" >> warmup(steps=5)
TypeError `>>`: expected a profile on both sides.
'cosine'
warmup(steps=500) >> warmup(steps=5)

warmup(steps=5) * warmup(steps=5)
TypeError `*`: expected a number.
warmup(steps=5)
0.1 * (warmup(steps=5))

"0.1" * warmup(steps=5)
TypeError `*`: expected a real number.
'0.1'
0.1 * (warmup(steps=5))

warmup(steps=5) * float("inf")
ValueError `*`: expected a finite number.
inf
0.1 * (warmup(steps=5))

hold() >> cosine()
ValueError `length`: expected one phase at most that takes the rest of the run.
hold() and cosine()
warmup(epochs=5) >> hold(fraction=0.5) >> cosine()

Profile([])
ValueError `phases`: expected at least one phase.
[]
Profile([warmup(steps=500)])

Profile(warmup(steps=5))
TypeError `phases`: expected a list of profiles.
warmup(steps=5)
Profile([warmup(steps=500), cosine(steps=9_500)])

Profile([3])
TypeError `phases`: expected a list of profiles.
3
Profile([warmup(steps=500), cosine(steps=9_500)])

decay(shape="cosin", steps=5)
ValueError `shape`: expected one of 'linear', 'cosine', 'sqrt', 'exponential', or a function f(t).
'cosin'
shape="cosine"

decay(shape="polynomial", steps=5)
ValueError `shape`: expected a shape with its arguments.
'polynomial'
shape=shapes.polynomial(power=2)

decay(shape=3, steps=5)
TypeError `shape`: expected a name or a function f(t).
3
shape="cosine"

decay(shape=lambda t: 1 - t, steps=5)
ValueError `shape`: expected a function with f(0) = 0 and f(1) = 1.
<lambda> with f(0) = 1, f(1) = 0
decay(shape=lambda t: t * t), or curve(f) for a function of any values

decay(shape=shapes.inverse_sqrt(4000), steps=5)
ValueError `shape`: expected a shape with f(0) = 0 and f(1) = 1.
shapes.inverse_sqrt(timescale=4000)
curve(shapes.inverse_sqrt(timescale=4000))

polynomial(power=0, steps=5)
ValueError `power`: expected a number above 0.
0
polynomial(power=2)

shapes.inverse_sqrt(timescale=-1)
ValueError `timescale`: expected updates, above 0.
-1
inverse_sqrt(timescale=4000)

exponential(to=0, steps=5)
ValueError `shape`: expected both ends above 0, since an exponential never reaches 0.
exponential(steps=5), from 1 to 0
exponential(to=0.01, steps=5)

warmup(shape="exponential", steps=5)
ValueError `shape`: expected both ends above 0, since an exponential never reaches 0.
warmup(steps=5, shape='exponential'), from 0 to 1
warmup(start=0.01, shape='exponential', steps=5)

warmup(steps=5)(3)
TypeError 'Profile' object is not callable

Curve(warmup(steps=5) >> cosine())
ValueError `clock`: expected a clock, since `cosine()` needs one to know how long the rest of the run is.
None
Schedule(warmup(steps=5) >> cosine(), Clock(examples=50_000, epochs=90, batch_size=256)), or lengths in steps

Schedule(warmup(epochs=5))
ValueError `clock`: expected a clock, since `warmup(epochs=5)` needs one to know how long epochs=5 is.
None
Schedule(warmup(epochs=5), Clock(examples=50_000, epochs=90, batch_size=256)), or lengths in steps

Schedule("warmup")
TypeError `profile`: expected a profile or a number.
'warmup'
0.1 * (warmup(steps=500) >> cosine(steps=9_500))

Schedule(warmup(steps=5), 100)
TypeError `clock`: expected a Clock.
100
Clock(examples=50_000, epochs=90, batch_size=256)

Curve(warmup(epochs=5) >> cosine(), short)
ValueError `profile`: expected phases that fit into the run of 300 updates (3 epochs, 3000 examples); epochs=5 add up to 500 updates.
warmup(epochs=5) >> cosine()
shorter phases; one without a length takes what is left. Or a longer run: Clock(..., epochs=5)

Curve(hold(steps=301), short)
ValueError `profile`: expected phases that fit into the run of 300 updates (3 epochs, 3000 examples); steps=301 add up to 301 updates.
hold(steps=301)
shorter phases; one without a length takes what is left. Or a longer run: Clock(..., epochs=4)

Curve(hold(fraction=0.5) >> hold() >> cosine(fraction=0.6), short)
ValueError `profile`: expected phases that fit into the run of 300 updates (3 epochs, 3000 examples); fraction=0.5, fraction=0.6 add up to 330 updates.
hold(fraction=0.5) >> hold() >> cosine(fraction=0.6)
shorter phases; one without a length takes what is left

Curve(warmup(steps=5), gradient_accumulation_steps=0)
ValueError `gradient_accumulation_steps`: expected a whole number, 1 or more.
0
Clock(..., gradient_accumulation_steps=4)

Curve(warmup(steps=5), short, gradient_accumulation_steps=2)
ValueError `gradient_accumulation_steps`: expected the clock's 1.
2
Clock(..., gradient_accumulation_steps=2)

Curve(0.1, scaling=2)
ValueError `scaling`: expected 0 (none), 0.5 (square-root rule) or 1 (linear rule).
2
Plan(..., scaling=1)

Clock(examples=0, epochs=1, batch_size=1)
ValueError `examples`: expected a whole number, 1 or more.
0
Clock(examples=50_000, epochs=90, batch_size=256)

Clock(examples=100, epochs=1.5, batch_size=1)
TypeError `epochs`: expected a whole number.
1.5
Clock(examples=50_000, epochs=90, batch_size=256)

Clock(examples=100, epochs=1, batch_size="8")
TypeError `batch_size`: expected a real number.
'8'
Clock(examples=50_000, epochs=90, batch_size=256)

Clock(examples=100, epochs=1, batch_size=6, replicas=4)
ValueError `batch_size`: expected sizes that divide by gradient_accumulation_steps × replicas = 1 × 4 (6 does not).
6
batch_size=8

Clock(examples=100, epochs=1, batch_size=6 * hold(), gradient_accumulation_steps=4)
ValueError `batch_size`: expected sizes that divide by gradient_accumulation_steps × replicas = 4 × 1 (6 does not).
6 * hold()
Clock(..., multiple_of=4)

Clock(examples=100, epochs=1, batch_size=8, drop_remainder="yes")
TypeError `drop_remainder`: expected True or False.
'yes'
Clock(examples=50_000, epochs=90, batch_size=256)

Clock(examples=100, epochs=1, batch_size=128, drop_remainder=True)
ValueError `drop_remainder`: expected micro-batches of at most 100 examples, or nothing is left of a pass.
True
Clock(examples=100, epochs=1, batch_size=100)

Clock(examples=8, epochs=1, batch_size=32, gradient_accumulation_steps=8)
ValueError `gradient_accumulation_steps`: expected at most the 2 micro-batches of the whole run, or there is no update.
8
Clock(..., gradient_accumulation_steps=2)

Clock(examples=100, epochs=1, batch_size=8 * hold(epochs=2))
ValueError `batch_size`: expected phases that fit into the run of 1 epochs of 100 examples.
8 * hold(epochs=2)
batch_size=64 * (hold(epochs=2) >> hold(4))

short.step_at()
TypeError `step_at`: expected exactly one length.
step_at()
step_at(epochs=1)

short.step_at(epochs=4)
ValueError `step_at`: expected a place within the 300 updates.
{'epochs': 4}
step_at(fraction=1)

Clock.from_dict({"examples": 100, "shuffle": True})
ValueError `data`: expected no keys ['shuffle'].
{'examples': 100, 'shuffle': True}
Clock.from_dict(clock.to_dict())

Profile.from_dict({"scale": 1})
ValueError `data`: expected the keys 'scale' and 'phases'.
{'scale': 1}
Profile.from_dict(profile.to_dict())

Profile.from_dict({"scale": 1, "phases": [{"steps": 5}]})
ValueError `phases`: expected a shape and, of start, to, steps, epochs, examples, fraction, what it has.
{'steps': 5}
Profile.from_dict(profile.to_dict())

Profile.from_dict({"scale": 1, "phases": [{"shape": "mine", "to": 0}]})
ValueError `shape`: expected a registered shape.
'mine'
import the module that registers 'mine' first

Profile.from_dict({"scale": 1, "phases": [{"shape": {"name": "polynomial", "n": 2}, "to": 0}]})
ValueError `shape`: expected the arguments of 'polynomial' (missing a required argument: 'power').
{'name': 'polynomial', 'n': 2}
shapes.polynomial(power=2)

Profile.from_dict({"scale": 1, "phases": [{"shape": 3, "to": 0}]})
ValueError `shape`: expected the name of a shape, with its arguments.
3
{"name": "cosine"}

decay(shape=lambda t: t, steps=5).to_json()
ValueError `shape`: expected a shape with a registered name, to be written to JSON.
'<lambda>'
@kwarmup.shapes.register above `def my_shape(t): ...`, in a module of yours

shapes.register(lambda t: t, name="cosine")
ValueError `name`: expected a name that no other shape has.
'cosine'
register(f, name='my_cosine')

0.1 * warmup(steps=5) >> keras.optimizers.schedules.CosineDecay(0.1, 100)
ValueError `*`: expected one scale: a Keras schedule brings its own, the value it starts with.
0.1 * warmup(steps=5) >> CosineDecay(...)
warmup(steps=5) >> CosineDecay(...)

PlateauDecay(factor=2)
ValueError `factor`: expected a number above 0 and below 1.
2
PlateauDecay(factor=0.1)

PlateauDecay(patience=0)
ValueError `patience`: expected a whole number, 1 or more.
0
PlateauDecay("loss", patience=10)

PlateauDecay(min_delta=-1)
ValueError `min_delta`: expected a number, 0 or more.
-1
PlateauDecay(min_delta=1e-4)

PlateauDecay(min_factor=1)
ValueError `min_factor`: expected a number from 0 up and below 1.
1
PlateauDecay(min_factor=1e-3)

PlateauDecay("val_accuracy", mode="high")
ValueError `mode`: expected "auto", "min" or "max".
'high'
PlateauDecay("val_accuracy", mode="max")

PlateauDecay(steps=500)
ValueError `monitor`: expected what is measured in training, since nothing is validated within a pass.
'val_loss'
PlateauDecay("loss", steps=500)

PlateauDecay(epochs=1, steps=500)
TypeError `epochs/steps`: expected exactly one length.
epochs=1, steps=500
PlateauDecay(epochs=1)

Guard(short)
TypeError `plan`: expected a Plan.
Clock(examples=1000, epochs=3, batch_size=10)
Guard(plan)

fit_tradeoff([16, 64], [[900]])
ValueError `updates`: expected the updates of each batch size.
2 batch sizes, and updates of 1
fit_tradeoff([16, 64, 256], [[6_500, 6_400], [1_700, 1_650], [470, 480]])

fit_tradeoff([16, 16], [[900], [910]])
ValueError `batch_sizes`: expected each size once, with all its seeds.
[16, 16]
fit_tradeoff([16, 64, 256], [[6_500, 6_400], [1_700, 1_650], [470, 480]])

fit_tradeoff([0, 16], [[900], [910]])
ValueError `batch_sizes`: expected numbers of examples, 1 or more.
0
fit_tradeoff([16, 64, 256], [[6_500, 6_400], [1_700, 1_650], [470, 480]])

fit_tradeoff([1.5, 16], [[900], [910]])
TypeError `batch_sizes`: expected whole numbers.
1.5
fit_tradeoff([16, 64, 256], [[6_500, 6_400], [1_700, 1_650], [470, 480]])

fit_tradeoff([16, 64], [[900], ["many"]])
TypeError `updates`: expected numbers, one for each seed of batch size 64.
['many']
fit_tradeoff([16, 64, 256], [[6_500, 6_400], [1_700, 1_650], [470, 480]])

fit_tradeoff([16, 64], [[900, 0], [910]])
ValueError `updates`: expected one number above 0 or more for each size.
[900, 0] for batch size 16
fit_tradeoff([16, 64, 256], [[6_500, 6_400], [1_700, 1_650], [470, 480]])

fit_tradeoff([16, 64, 256], [[900], [300], [100, None]])
ValueError `updates`: expected it to be reached at three sizes or more.
the target, reached at 2 of 3 sizes by more than half the seeds
a target that is easier to reach, or more updates

best_batch_size("1 ms", 4e-6, 400)
TypeError `fixed`: expected a number, or something with a `value` and an `interval`.
'1 ms'
best_batch_size(fixed=1.2e-3, per_example=4e-6, noise_scale=400)

best_batch_size(1e-3, -4e-6, 400)
ValueError `per_example`: expected a number, 0 or more and finite, within its interval.
-4e-06
best_batch_size(fixed=1.2e-3, per_example=4e-6, noise_scale=400)

best_batch_size(1e-3, 4e-6, float("nan"))
ValueError `noise_scale`: expected a number, 0 or more, within its interval.
nan
best_batch_size(fixed=1.2e-3, per_example=4e-6, noise_scale=400)

best_batch_size(1e-3, 4e-6, float("inf"))
ValueError `max`: expected a limit, since without one the largest batch is the fastest.
None
best_batch_size(fixed=1.2e-3, per_example=4e-6, noise_scale=400, max=4096)

best_batch_size(1e-3, 4e-6, 400, multiple_of=1.5)
ValueError `multiple_of`: expected a whole number, 1 or more.
1.5
best_batch_size(fixed=1.2e-3, per_example=4e-6, noise_scale=400, multiple_of=8)

best_batch_size(1e-3, 4e-6, 400, max=6, multiple_of=8)
ValueError `max`: expected a multiple of 8 between min and max.
6
best_batch_size(fixed=1.2e-3, per_example=4e-6, noise_scale=400, min=8, max=8)
"""

CASES = [entry.split("\n") for entry in MESSAGES.strip().split("\n\n")]


@pytest.mark.parametrize("case", CASES, ids=[case[0] for case in CASES])
def test_exact_words(case):
    code, first, *rest = case
    kind, first = first.split(" ", 1)
    expected = "\n".join(
        [first, *(label + line for label, line in zip(("Received: ", "Write: "), rest, strict=False))]
    )
    with pytest.raises({"TypeError": TypeError, "ValueError": ValueError}[kind]) as caught:
        eval(code, dict(WORDS))
    assert str(caught.value) == expected
    assert type(caught.value).__name__ == kind


def whole_expression(line):
    try:
        compile(line, "", "eval")
    except SyntaxError:
        return False
    return (
        "..." not in line
        and "profile." not in line
        and "clock." not in line
        and "f," not in line
        and "plan" not in line
    )


LINES = sorted({case[3] for case in CASES if len(case) > 3 and whole_expression(case[3])})


@pytest.mark.parametrize("line", LINES)
def test_the_line_to_write_works(line):
    eval(line, {**WORDS, "inverse_sqrt": shapes.inverse_sqrt, "step_at": WORDS["short"].step_at})


def test_most_lines_to_write_are_tried():
    assert len(LINES) >= 25


def test_a_shape_that_cannot_run_in_the_training_step_says_why():
    with pytest.raises(ValueError) as caught:
        WORDS["Schedule"](verbs.decay(shape=lambda t: t if t < 1 else t, steps=5))
    first, *rest = str(caught.value).splitlines()
    assert first.startswith(
        "`shape`: expected a function that runs inside the training step, made of operators and keras.ops ("
    )
    assert rest == ["Received: '<lambda>'", "Write: decay(shape=lambda t: keras.ops.sin(t * math.pi / 2))"]


def test_a_keras_schedule_that_starts_at_0_has_no_peak_to_warm_up_to():
    with pytest.raises(
        ValueError, match="a schedule that starts above 0, so that there is a peak to go on from"
    ):
        verbs.warmup(steps=5) >> keras.optimizers.schedules.CosineDecay(
            0.0, 10, warmup_target=0.1, warmup_steps=5
        )
