"""Expressions on the command line: read as syntax, never run; what is refused is pointed at."""

import re

import pytest

import kwarmup
from kwarmup import (
    cosine,
    cosine_restarts,
    curve,
    cyclic,
    decay,
    exponential,
    flat_cosine,
    hold,
    inverse_sqrt,
    linear,
    multistep,
    one_cycle,
    polynomial,
    radam_warmup,
    recipes,
    shapes,
    step_decay,
    untuned_warmup,
    warmup,
    wsd,
)
from kwarmup.cli.expression import ExpressionError, functions, parse

PROFILES = [
    ("0.1 * (warmup(steps=500) >> cosine(steps=9_500))", 0.1 * (warmup(steps=500) >> cosine(steps=9_500))),
    ("(warmup(epochs=5) >> hold(fraction=0.5) >> decay(shape='sqrt')) * 1e-3",
     0.001 * (warmup(epochs=5) >> hold(fraction=0.5) >> decay(shape="sqrt"))),
    ("2 * 0.05 * linear(to=0.1)", 0.1 * linear(to=0.1)),
    ("-1 * hold(0.5, steps=3)", -1 * hold(0.5, steps=3)),
    ("warmup(start=1e-2, shape='exponential', examples=10)",
     warmup(start=0.01, shape="exponential", examples=10)),
    ("polynomial(power=2) ", polynomial(power=2)),
    ("exponential(to=0.01, steps=9)", exponential(to=0.01, steps=9)),
    ("kw.warmup(steps=5) >> kwarmup.cosine()", warmup(steps=5) >> cosine()),
    ("decay(shape=shapes.polynomial(power=3))", decay(shape=shapes.polynomial(3))),
    ("decay(shape=shapes.polynomial(3))", decay(shape=shapes.polynomial(3))),
    ("decay(shape=kw.shapes.cosine)", cosine()),
    ("curve(shapes.inverse_sqrt(timescale=4000))", curve(shapes.inverse_sqrt(4000))),
    ("0.1 * one_cycle(steps_per_epoch=50, epochs=4, three_phase=True, anneal_strategy='linear')",
     0.1 * one_cycle(steps_per_epoch=50, epochs=4, three_phase=True, anneal_strategy="linear")),
    ("multistep(steps=[30, 60])", multistep(steps=[30, 60])),
    ("warmup(steps=None, epochs=2)", warmup(epochs=2)),
    ("\n  warmup(steps=5)\n  >> cosine()\n", warmup(steps=5) >> cosine()),
    ("0.05", 0.05 * hold()),
    ("-3", -3 * hold()),
]  # fmt: skip


@pytest.mark.parametrize(("text", "profile"), PROFILES, ids=[text for text, _ in PROFILES])
def test_an_expression_is_what_python_makes_of_it(text, profile):
    assert parse(text) == profile


@pytest.mark.parametrize("name", sorted(functions()))
def test_a_function_refuses_its_own_arguments(name):
    with pytest.raises(ExpressionError) as caught:
        parse(f"{name}(nonsense=1)")
    assert "nonsense" in str(caught.value)


def test_the_functions_are_the_public_verbs_and_recipes():
    assert {"warmup", "cosine", "wsd", "one_cycle"} <= set(functions())
    assert set(functions()) <= set(kwarmup.__all__)
    assert set(recipes.__all__) <= set(functions())


@pytest.mark.parametrize(
    "profile",
    [
        0.1 * one_cycle(total_steps=101),
        one_cycle(total_steps=101, pct_start=0.257, anneal_strategy="linear", three_phase=True),
        cosine_restarts(epochs=10, cycles=3, t_mul=2),
        cyclic(steps=100, base=0.1, cycles=2, m_mul=0.5),
        cyclic(steps=100, base=0.1, cycles=2, gamma=0.999),
        wsd(warmup(epochs=5), decay(fraction=0.2, shape="sqrt")),
        step_decay(epochs=30, drops=2),
        inverse_sqrt(steps=4_000),
        flat_cosine(fraction=0.75),
        untuned_warmup() >> hold(),
        untuned_warmup(0.99, shape="exponential", steps=100) >> linear(steps=10),
        radam_warmup(steps=100) >> linear(steps=10),
    ],
    ids=repr,
)
def test_the_repr_of_a_profile_is_an_expression(profile):
    assert parse(repr(profile)) == profile


# The text, what is marked, and words of the message.
REFUSED = [
    ("__import__('os').system('true')", "__import__('os').system", "cannot be called here"),
    ("open('x')", "open", "`open` cannot be called here; what can: cosine, curve, decay"),
    ("(lambda: 1)()", "lambda: 1", "This cannot be called here"),
    ("warmup(steps=5).phases", "warmup(steps=5).phases", "This means nothing here"),
    ("warmup(steps=5).__class__()", "warmup(steps=5).__class__", "cannot be called here"),
    ("shapes.register(1)", "shapes.register", "cannot be called here"),
    ("kw.shapes.adapt(1)", "kw.shapes.adapt", "cannot be called here"),
    ("shapes.math", "shapes.math", "means nothing here"),
    ("Profile([])", "Profile", "cannot be called here"),
    ("warmpu(steps=5)", "warmpu", "did you mean `warmup`?"),
    ("warmup", "warmup", "write warmup(...) with its arguments"),
    ("é >> warmup(steps=5)", "é", "`é` means nothing here"),
    ("'éé' >> warmup(steps=5)", "'éé'", "joins profiles, and this is 'éé'"),
    ("0.1 >> warmup(steps=5)", "0.1", "joins profiles, and this is 0.1. Write: hold(0.1, epochs=5)"),
    ("1 >> 2", "1", "joins profiles"),
    ("warmup(steps=5) * cosine()", "warmup(steps=5) * cosine()", "two profiles"),
    ("'a' * 9", "'a'", "`*` multiplies a profile by a number, and this is 'a'"),
    ("True * hold()", "True", "and this is True"),
    ("warmup(steps=2**99)", "2**99", "The only operators are `>>` and `*`"),
    ("warmup(steps=5) + cosine()", "warmup(steps=5) + cosine()", "The only operators"),
    ("-warmup(steps=5)", "-warmup(steps=5)", "`-` stands before a number, and this is a profile"),
    ("not 1", "not 1", "A profile has no operators but"),
    ("decay(shape=lambda t: t)", "lambda t: t", "no functions of your own on the command line"),
    ("1 if 2 else 3", "1 if 2 else 3", "no conditions"),
    ("1 < 2", "1 < 2", "no comparisons"),
    ("hold(*[1])", "*[1]", "without `*`"),
    ("hold(**{})", "{}", "without `**`"),
    ("hold({})", "{}", "no dictionaries"),
    ("hold([x for x in y])", "[x for x in y]", "no comprehensions"),
    ("hold(f'{1}')", "f'{1}'", "no formatted strings"),
    ("hold((x := 1))", "x := 1", "no assignments"),
    ("[1][0]", "[1][0]", "no subscripts"),
    ("1j", "1j", "1j is neither a number nor a string"),
    ("b'a'", "b'a'", "neither a number nor a string"),
    ("...", "...", "neither a number nor a string"),
    ("True", "True", "Expected a profile or a number, and this is True"),
    ("[1, 2]", "[1, 2]", "Expected a profile or a number, and this is a list"),
    ("shapes.cosine", "shapes.cosine", "Expected a profile or a number, and this is a shape"),
    ("shapes.polynomial", "shapes.polynomial", "write shapes.polynomial(...) with its arguments"),
    ("warmup(steps=5, steps=6)", "6", "`steps` is given twice"),
    # What the core refuses is pointed at too, in its own words.
    ("0.1 * hold(5, 6)", "hold(5, 6)", "`length`: expected a keyword that names the unit"),
    (
        "hold() >> warmup(5)",
        "warmup(5)",
        "`length`: expected a keyword that names the unit.\nReceived: warmup(5)",
    ),
    ("warmup(steps=-5)", "warmup(steps=-5)", "`steps`: expected a length of 0 or more.\nReceived: -5"),
    ("0.1 * warmup(steps=1) >> 0.2 * cosine()", None, "Write: 0.2 * (warmup(steps=1) >> cosine())"),
    ("1e999 * hold()", "1e999 * hold()", "a finite number"),
    ("decay(shape='foo')", "decay(shape='foo')", "expected one of 'linear', 'cosine'"),
    # What is no expression at all.
    ("warmup(steps=5", "(", "This is not an expression: '(' was never closed"),
    ("x = 1", None, "This is not an expression: invalid syntax"),
    ("import os", None, "This is not an expression: invalid syntax"),
]


@pytest.mark.parametrize(("text", "marked", "words"), REFUSED, ids=[text for text, *_ in REFUSED])
def test_what_is_refused_is_pointed_at(text, marked, words):
    with pytest.raises(ExpressionError) as caught:
        parse(text)
    message = str(caught.value)
    assert words in message
    shown, marks = message.splitlines()[-2:]
    assert shown.strip() == text
    assert re.fullmatch(r" +\^+", marks)
    if marked is not None:
        assert shown[marks.index("^") : len(marks)] == marked


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "The expression is empty. Write: 0.1 *"),
        (" \n ", "The expression is empty"),
        ("(" * 3_000 + ")" * 3_000, "This is not an expression"),
        ("-" * 5_000 + "1", "This is not an expression"),
        ("1 *" * 5_000 + "1", "This is not an expression: it is nested too deeply"),
        ("hold()\0", "This is not an expression"),
        ("9" * 5_000, "This is not an expression"),
    ],
    ids=lambda value: value[:12],
)
def test_what_cannot_even_be_read(text, words):
    with pytest.raises(ExpressionError) as caught:
        parse(text)
    assert words in str(caught.value)


def test_the_place_in_a_long_expression_stays_in_sight():
    text = " >> ".join(["hold(steps=5)"] * 30) + " >> oops(1) >> " + " >> ".join(["hold(steps=5)"] * 30)
    with pytest.raises(ExpressionError) as caught:
        parse(text)
    shown, marks = str(caught.value).splitlines()[-2:]
    assert shown[marks.index("^") : len(marks)] == "oops"
    assert len(shown) < 80
