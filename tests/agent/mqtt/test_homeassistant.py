"""Messages for Home Assistant: in its own words, within bounds, with what is no more taken away."""

from __future__ import annotations

import json
from typing import Any

import pytest

from agent.mqtt.homeassistant import (
    BYTES_MAX,
    COMPONENTS_MAX,
    GONE_MAX,
    Button,
    Switch,
    message_of,
    peer_device,
    peer_topic,
    shoal_device,
    shoal_topic,
)
from tests.agent.mqtt.introduced import (
    ABOUT,
    BUTTONS,
    MEASURED,
    STATE,
    SWITCHES,
    peer_payload,
    shoal_payload,
    wrong_with,
)


def components(payload: bytes) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(payload)["cmps"]
    return found


@pytest.mark.parametrize(
    "payload",
    [
        peer_payload(),
        peer_payload(labels={}),
        shoal_payload(),
        shoal_payload(buttons=(), switches=(), peers=()),
        shoal_payload(json.dumps({"gone": "button"}).encode()),
    ],
)
def test_messages_are_in_the_words_of_home_assistant(payload: bytes) -> None:
    assert wrong_with(payload) == []


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"p": "toaster"}, "platform toaster"),
        ({"val_tmpl": "x"}, "temperature: ?val_tmpl"),
        ({"cmd_t": "x"}, "temperature: command_topic"),
        ({"dev_cla": "battery"}, "battery in °C"),
        ({"stat_cla": "total"}, "state class total"),
    ],
)
def test_the_reference_finds_what_breaks_it(change: dict[str, str], why: str) -> None:
    device = json.loads(peer_payload())
    device["cmps"]["temperature"] |= change
    assert why in wrong_with(json.dumps(device).encode())[0]
    del device["cmps"]["temperature"]["uniq_id"], device["dev"]["ids"]
    assert len(wrong_with(json.dumps(device).encode())) >= 2


def test_a_device_shows_what_it_can_tell_and_nothing_else() -> None:
    few = peer_device(ABOUT, STATE, {}, ["load_permille"])
    assert list(few["cmps"]) == ["load", "running", "problem"]
    assert few["avty"] == [{"t": "shoal/lab/peer/12D3peer/status"}]
    assert few["dev"]["name"] == "porch" and few["dev"]["mdl"] == "Raspberry Pi 4"
    assert list(peer_device(ABOUT, STATE, MEASURED, MEASURED)["cmps"])[3:5] == [
        "temperature", "battery",
    ]  # fmt: skip


def test_ids_say_whose_they_are_and_topics_have_no_other_signs() -> None:
    ids = [each["uniq_id"] for each in components(peer_payload()).values()]
    ids += [each["uniq_id"] for each in components(shoal_payload()).values()]
    assert len(set(ids)) == len(ids)
    assert "shoal_12D3peer_load" in ids and "shoal_shoalid_switch_d1" in ids
    assert peer_payload() == peer_payload(), "the same again in every life"
    assert peer_topic("homeassistant", "p") == "homeassistant/device/shoal_p/config"
    assert shoal_topic("ha", "s") == "ha/device/shoal_s/config"


def test_a_daemon_is_switched_where_it_may_be_and_shown_otherwise() -> None:
    found = components(shoal_payload())
    assert found["switch_d1"]["cmd_t"] == SWITCHES[0].command_topic
    assert found["daemon_d2"]["p"] == "binary_sensor" and "cmd_t" not in found["daemon_d2"]
    assert found["button_t1"]["cmd_t"] == BUTTONS[0].topic


def test_what_is_no_more_is_named_with_its_platform_alone_for_as_long_as_is_known() -> None:
    first, _ = message_of(shoal_device(ABOUT, [], BUTTONS, SWITCHES), b"")
    second, _ = message_of(shoal_device(ABOUT, [], (), SWITCHES[:1]), first.note)
    found = components(second.payload)
    assert found["button_t1"] == {"p": "button"} and found["daemon_d2"] == {"p": "binary_sensor"}
    again, _ = message_of(shoal_device(ABOUT, [], (), SWITCHES[:1]), second.note)
    assert again == second, "nothing new to be written"
    back, _ = message_of(shoal_device(ABOUT, [], BUTTONS, SWITCHES), second.note)
    assert components(back.payload) == components(first.payload)


def test_what_another_had_told_of_is_named_too() -> None:
    theirs, _ = message_of(shoal_device(ABOUT, [], BUTTONS, SWITCHES), b"")
    mine, _ = message_of(shoal_device(ABOUT, [], (), SWITCHES[:1]), b"", theirs.payload)
    found = components(mine.payload)
    assert found["button_t1"] == {"p": "button"} and found["daemon_d2"] == {"p": "binary_sensor"}
    again, _ = message_of(shoal_device(ABOUT, [], (), SWITCHES[:1]), mine.note, theirs.payload)
    assert again == mine
    later, _ = message_of(shoal_device(ABOUT, [], (), SWITCHES[:1]), mine.note)
    assert later == mine, "it is noted"


def buttons(first: int, count: int) -> list[Button]:
    return [Button(f"{at:032}", f"w{at}", f"x/{at}") for at in range(first, first + count)]


def named_alone(payload: bytes) -> list[str]:
    return sorted(key for key, each in components(payload).items() if each == {"p": "button"})


def test_all_that_go_at_once_are_named_however_many_they_are() -> None:
    """A device's owner takes a whole namespace off its list, and then another."""
    most = COMPONENTS_MAX - 1
    note, shown = b"", []
    for first in (0, most):
        shown += buttons(first, most)
        kept, left_out = message_of(shoal_device(ABOUT, [], shown[first:], ()), note)
        note = kept.note
        assert left_out == 0 and len(named_alone(kept.payload)) == first
    kept, _ = message_of(shoal_device(ABOUT, [], (), ()), note)
    assert named_alone(kept.payload) == [f"button_{each.id}" for each in shown]
    again, _ = message_of(shoal_device(ABOUT, [], (), ()), kept.note)
    assert again == kept, "nothing new to be written"


def test_of_what_another_had_told_of_what_it_showed_is_named_before_what_was_gone_then() -> None:
    """Nobody else says that those are gone; and each device may have had a full message."""
    most = COMPONENTS_MAX - 1
    gone = json.dumps({f"button_g{at}": "button" for at in range(GONE_MAX)}).encode()
    theirs, _ = message_of(shoal_device(ABOUT, [], buttons(0, most), ()), gone)
    mine, _ = message_of(shoal_device(ABOUT, [], buttons(most, most), ()), b"")
    kept, _ = message_of(shoal_device(ABOUT, [], (), ()), mine.note, theirs.payload)
    wanted = {f"button_{each.id}" for each in buttons(0, 2 * most)}
    assert wanted <= set(named_alone(kept.payload))


@pytest.mark.parametrize(
    "stood",
    [
        b"{", b"[]", b'{"cmps": 1}', b'{"cmps": {"x": 1, "y": {"p": {}}, "z": {"p": "lock"}}}',
        b"[" * 100_000, b'{"cmps": {"\xc3\xbc": {"p": "button"}}}', b'{"cmps": {"a": {"p": []}}}',
    ],
)  # fmt: skip
def test_what_stood_there_may_be_anything(stood: bytes) -> None:
    kept, _ = message_of(shoal_device(ABOUT, [], (), ()), b"", stood)
    assert list(components(kept.payload)) == ["jobs"]


@pytest.mark.parametrize("note", [b"", b"{", b"[]", b"\xff", b'{"a": 1}'])
def test_a_note_that_means_nothing_does_no_harm(note: bytes) -> None:
    kept, left_out = message_of(shoal_device(ABOUT, [], BUTTONS, SWITCHES), note)
    assert left_out == 0 and "jobs" in components(kept.payload)


def test_there_are_bounds_to_components_bytes_and_memory() -> None:
    many = [Switch(f"d{at}", "x" * 63, "s" * 128, "c" * 128) for at in range(300)]
    kept, left_out = message_of(shoal_device(ABOUT, [], BUTTONS, many), b"")
    assert len(components(kept.payload)) == COMPONENTS_MAX and left_out == 302 - COMPONENTS_MAX
    long = [Button(f"t{at}", "ü" * 500, "t" * 1000) for at in range(90)]
    kept, left_out = message_of(shoal_device(ABOUT, [], long, ()), b"")
    assert len(kept.payload) <= BYTES_MAX and left_out > 0
    gone = json.dumps({f"g{at}": "button" for at in range(2 * GONE_MAX)}).encode()
    kept, _ = message_of(shoal_device(ABOUT, [], (), ()), gone)
    assert len(components(kept.payload)) == len(json.loads(kept.note)) == GONE_MAX + 1
    assert f"g{2 * GONE_MAX - 1}" in components(kept.payload), "those that went last"
    wide = {f"{at:032}_{'x' * 40}": "binary_sensor" for at in range(2 * GONE_MAX)}
    kept, left_out = message_of(shoal_device(ABOUT, [], long, ()), json.dumps(wide).encode())
    assert len(kept.payload) <= BYTES_MAX and left_out < 90, "it has room for others beside them"
    peers = [f"p{at}" for at in range(50)]
    assert len(shoal_device(ABOUT, peers, (), ())["avty"]) == 8
