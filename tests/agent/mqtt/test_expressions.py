"""Expressions: what they find, and those that a message could be blown up with."""

from __future__ import annotations

import pytest

from agent.mqtt.expressions import ExpressionError, check_trigger, is_true, name_of, parsed, search
from protocol.errors import JobSpecError
from tests.protocol.test_trigger import mqtt, triggered

VALUE = {"state": "ON", "id": 7, "of": {"room": "porch"}, "list": [1, 2]}


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("state", "ON"),
        ("state == 'ON'", True),
        ("of.room", "porch"),
        ("nothing.at.all", None),
        ("length(list) > `1`", True),
        ("[state, of.room]", ["ON", "porch"]),
    ],
)
def test_what_an_expression_finds(text: str, found: object) -> None:
    assert search(text, VALUE) == found


def test_plain_text_is_itself() -> None:
    assert search("@ == 'ON'", "ON") is True
    assert search("state", "ON") is None


@pytest.mark.parametrize("operator", ["<", "<=", ">", ">="])
@pytest.mark.parametrize("value", ["31", "warm", "", True, None, [31], {"t": 31}, b"31"], ids=repr)
def test_what_has_no_order_is_neither_more_nor_less(operator: str, value: object) -> None:
    assert search(f"t {operator} `30`", {"t": value}) is None
    assert search(f"`30` {operator} t", {"t": value}) is None
    assert search(f"@ {operator} `30`", value) is None


def test_an_expression_goes_on_past_what_has_no_order() -> None:
    readings = [{"t": "40"}, {"t": 20}, {"t": 31.5}, {"t": True}, {}, {"t": 40}]
    assert search("[?t > `30`].t", readings) == [31.5, 40]
    assert search("t > `30` || state == 'ON'", {"t": "31", "state": "ON"}) is True
    assert search("!(t > `30`)", {"t": "31"}) is True, "as where there is no t"
    assert search("t == `31`", {"t": "31"}) is False and search("t != `31`", {"t": "31"}) is True


def test_numbers_are_ordered_and_so_are_texts() -> None:
    assert search("t > `30`", {"t": 30.5}) is True and search("t > `30`", {"t": 30}) is False
    assert search("at > '2026-02'", {"at": "2026-03-01"}) is True
    assert search("to_number(t) > `30`", {"t": "31"}) is True
    assert search("to_number(t) > `30`", {"t": "warm"}) is None


@pytest.mark.parametrize("value", [None, False, "", [], {}])
def test_what_is_false(value: object) -> None:
    assert not is_true(value)


@pytest.mark.parametrize("value", [True, 0, "x", [0], {"a": None}])
def test_what_is_true(value: object) -> None:
    assert is_true(value)


def test_a_key_is_text_however_it_is_written() -> None:
    assert name_of("x") == "x" and name_of(7) == "7" and name_of(False) == "false"
    assert name_of({"b": 1, "a": "ü"}) == '{"a":"ü","b":1}'
    assert name_of(None) == name_of("") == ""
    with pytest.raises(ExpressionError):
        name_of({1, 2})


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("state = 'ON'", "no JMESPath"),
        ("(" * 1000, "nested too deep|no JMESPath"),
        ("t > 30", "no JMESPath"),
        ("nosuch(@)", r"no function nosuch\(\)"),
        ("a && !nosuch(b)", r"no function nosuch\(\)"),
        ("abs()", "abs.* takes 1 in its parentheses, not 0"),
        ("starts_with(@)", "takes 2 in its parentheses, not 1"),
        ("length(a, b)", "takes 1 in its parentheses, not 2"),
        ("not_null()", "takes 1 or more in its parentheses, not 0"),
        ("|".join(["[@, @]"] * 10), "too much"),
        ("|".join(["{a: @, b: @}"] * 2), "too much"),
        ("to_string(" * 9 + "@" + ")" * 9, "too much"),
        ("join(a, b)", "not allowed"),
        (".".join(["a"] * 300), "too much|nested too deep"),
    ],
)
def test_what_is_not_taken(text: str, says: str) -> None:
    with pytest.raises(ExpressionError, match=says):
        parsed(text)


def test_a_function_may_take_as_many_as_are_given() -> None:
    assert search("not_null(a, state, id)", VALUE) == "ON"


@pytest.mark.parametrize("text", ["abs(state)", "sum(of)", "max(list[0])", "list[:2:0]"])
def test_what_does_not_go_with_the_value_is_a_sentence(text: str) -> None:
    with pytest.raises(ExpressionError):
        search(text, VALUE)


def test_a_template_is_checked_where_it_is_taken() -> None:
    check_trigger(triggered({"Mqtt": mqtt(When="a", Dedup={"Key": "b"})}))
    with pytest.raises(JobSpecError, match="no JMESPath") as caught:
        check_trigger(triggered({"Mqtt": mqtt(Dedup={"Key": "b ="})}))
    assert caught.value.path == "Trigger.Mqtt.Dedup.Key"
    with pytest.raises(JobSpecError, match="no function size") as caught:
        check_trigger(triggered({"Mqtt": mqtt(When="size(a) > `1`")}))
    assert caught.value.path == "Trigger.Mqtt.When"


FAN_OUT = "[" + ",".join(["@"] * 95) + "][]"


@pytest.mark.parametrize(
    ("text", "value"),
    [
        (FAN_OUT + " | [?" + "||".join(["@<`0`"] * 24) + "]", [1] * 200),
        ("[?" + "||".join(["@<`0`"] * 48) + "]", [1] * 2000),
        (FAN_OUT, [1] * 2000),
        ("[" + ",".join(["a == b"] * 40) + "]", {"a": [[1]] * 4000, "b": [[1]] * 4000}),
        ("[" + ",".join(["@"] * 60) + "][*].contains(@, `9`)", [1] * 4000),
        ("[" + ",".join(["@"] * 60) + "] | to_string(@)", [1] * 4000),
        ("[" + ",".join(["@"] * 90) + "][*].to_string(to_string(to_string(@)))", "\\" * 16000),
        ("[" + ",".join(["@"] * 90) + "][*].sort_by(@, &@)", [1] * 2000),
        ("[" + ",".join(["@"] * 90) + "] | map(&[?@ == `3`], @)", [1] * 2000),
    ],
)
def test_what_would_take_long_is_given_up(text: str, value: object) -> None:
    """Each holds up everything else that this device does."""
    with pytest.raises(ExpressionError, match="steps"):
        search(text, value)


def test_what_people_write_is_far_from_that() -> None:
    readings = [{"sensor": f"s{n}", "t": n % 40, "of": {"room": "porch"}} for n in range(500)]
    found = search("readings[?t > `38` && of.room == 'porch'].sensor", {"readings": readings})
    assert len(found) == 12
    assert search("max_by(readings, &t).t", {"readings": readings}) == 39
    assert search("sort(readings[*].sensor)[0]", {"readings": readings}) == "s0"
    assert search("contains(keys(@), 'a') && length(to_string(@)) > `4`", {"a": [1, 2]}) is True


def test_each_message_has_all_the_steps() -> None:
    for _ in range(100):
        assert len(search("[*]", [1] * 4000)) == 4000


def test_what_an_error_quotes_is_cut() -> None:
    with pytest.raises(ExpressionError) as caught:
        search("abs(@)", "\x01" * 100_000)
    assert len(str(caught.value)) < 500
