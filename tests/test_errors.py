import pytest

from kwarmup.errors import Code, message, type_error, value_error


def test_message_has_the_four_parts():
    assert message("steps", -1, "a number", "warmup(steps=500)").splitlines() == [
        "`steps`: expected a number.",
        "Received: -1",
        "Write: warmup(steps=500)",
    ]


@pytest.mark.parametrize(
    "received, shown", [("cosin", "'cosin'"), (Code("a >> b"), "a >> b"), (None, "None"), ([1], "[1]")]
)
def test_received_is_shown_by_its_repr_and_code_without_quotes(received, shown):
    assert f"\nReceived: {shown}\n" in message("argument", received, "something", "line")


@pytest.mark.parametrize("make, kind", [(value_error, ValueError), (type_error, TypeError)])
def test_kinds(make, kind):
    error = make("a", 1, "b", "c")
    assert type(error) is kind
    assert str(error) == message("a", 1, "b", "c")
