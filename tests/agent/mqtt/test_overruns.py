"""What a broker says it has dropped: counted, told of once, and what is no count left alone."""

from __future__ import annotations

from typing import cast

import pytest

from agent.mqtt.broker import Broker
from agent.mqtt.overruns import DROPPED, Overruns
from protocol.effects import Tell
from tests.agent.mqtt.standingbroker import StandingBroker


@pytest.fixture
def told() -> list[Tell]:
    return []


@pytest.fixture
def broker() -> StandingBroker:
    return StandingBroker()


@pytest.fixture
def overruns(broker: StandingBroker, told: list[Tell]) -> Overruns:
    return Overruns([cast("Broker", broker)], told.append)


async def test_what_it_dropped_before_is_counted_and_what_it_drops_then_is_told_of(
    broker: StandingBroker, overruns: Overruns, told: list[Tell]
) -> None:
    assert overruns.dropped("home") == overruns.dropped("office") == 0
    assert overruns.counting() == {}, "no broker has said anything yet"
    assert broker.say(DROPPED, b"40", retain=True)
    assert overruns.dropped("home") == 40 and told == []
    assert overruns.counting() == {"home": 40}
    broker.say(DROPPED, b"40")
    assert told == []
    broker.say(DROPPED, b"700")
    (tell,) = told
    assert (tell.kind, tell.fields) == ("mqtt.overrun", {"broker": "home", "dropped": 700})
    assert "700 messages" in tell.text and "max_queued_messages" in tell.text
    broker.say(DROPPED, b"900")
    assert overruns.dropped("home") == 900 and len(told) == 1, "it goes on dropping, told of once"


async def test_a_broker_that_was_started_again_has_dropped_nothing(
    broker: StandingBroker, overruns: Overruns, told: list[Tell]
) -> None:
    broker.say(DROPPED, b"40", retain=True)
    broker.say(DROPPED, b"0", retain=True)
    assert overruns.dropped("home") == 0 and told == []
    broker.say(DROPPED, b"3")
    assert overruns.dropped("home") == 3 and len(told) == 1


@pytest.mark.parametrize(
    "payload", [b"", b"-1", b"many", b"\xff\x00", b"1.5", b"9" * 20, b"9" * 9000]
)
async def test_what_is_no_count_changes_nothing(
    broker: StandingBroker, overruns: Overruns, told: list[Tell], payload: bytes
) -> None:
    broker.say(DROPPED, b"40", retain=True)
    assert broker.say(DROPPED, payload), "it is acknowledged all the same"
    assert overruns.dropped("home") == 40 and told == []
