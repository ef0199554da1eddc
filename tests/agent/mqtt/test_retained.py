"""Retained: brokers are brought to what is wanted, and rows are on disk before messages leave."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
import trio
import trio.testing

from agent.mqtt import retained as retained_module
from agent.mqtt.refusal import ENDS, HELD, LOST
from agent.mqtt.retained import CORRECT_S, LOOK_S, REFUSED_S, SPARE, Kept, Retained
from agent.storesql import RowWrite, StoreFailed
from tests.agent.mqtt.standingbroker import StandingBroker, StandingBrokers

ONE, TWO = Kept(b"1"), Kept(b"2", note=b"n", guarded=True)


class Keeping:
    """A ledger over a disk that a test can stop."""

    def __init__(self, *brokers: StandingBroker, rows: dict[str, bytes] | None = None) -> None:
        self.brokers = StandingBrokers(brokers)
        self.rows = dict(rows or {})
        self.saves = 0
        self.failing = False
        given: Any = self.brokers
        self.retained = Retained(given, dict(self.rows), self.save)

    async def save(self, rows: Sequence[RowWrite]) -> None:
        await trio.sleep(0.01)
        if self.failing:
            raise StoreFailed("full")
        self.saves += 1
        for bucket, key, value in rows:
            assert bucket == "retained"
            if value is None:
                self.rows.pop(key, None)
            else:
                self.rows[key] = value

    def want(self, **topics: Kept) -> None:
        self.retained.want("home", topics)


@pytest.fixture
def broker() -> StandingBroker:
    return StandingBroker()


async def settle() -> None:
    await trio.sleep(LOOK_S + 1)


async def test_a_row_is_on_disk_before_the_message_leaves_and_until_it_is_cleared(
    broker: StandingBroker, autojump_clock: trio.testing.MockClock, nursery: trio.Nursery
) -> None:
    it = Keeping(broker)
    it.failing = True
    nursery.start_soon(it.retained.run)
    it.want(a=ONE, b=TWO)
    await settle()
    assert broker.published == []
    it.failing = False
    await settle()
    assert broker.retained == {"a": b"1", "b": b"2"}
    assert it.rows == {"home a": b"", "home b": b"n"} and it.retained.note("home", "b") == b"n"
    assert all(message.retain and message.qos == 1 for message in broker.published)
    broker.holds = True
    it.want(b=TWO)
    await settle()
    assert "home a" in it.rows, "it may stand there yet"
    broker.holds = False
    broker.let_go()
    await settle()
    assert broker.retained == {"b": b"2"} and it.rows == {"home b": b"n"}


async def test_nothing_is_sent_again_that_stands_and_nothing_cleared_before_it_is_known(
    broker: StandingBroker, autojump_clock: trio.testing.MockClock, nursery: trio.Nursery
) -> None:
    it = Keeping(broker, rows={"home a": b"", "home old": b"", "gone x": b""})
    nursery.start_soon(it.retained.run)
    await settle()
    assert broker.published == [], "nobody has said yet what is wanted"
    it.want(a=ONE)
    await settle()
    assert broker.retained == {"a": b"1"} and len(broker.published) == 2
    assert it.rows == {"home a": b"", "gone x": b""}, "that broker may be configured again"
    it.want(a=ONE)
    await settle()
    assert len(broker.published) == 2
    it.want(a=Kept(b"3"))
    await settle()
    assert broker.retained == {"a": b"3"} and it.saves == 1


async def test_each_connection_and_whoever_asks_is_told_again(
    broker: StandingBroker, autojump_clock: trio.testing.MockClock, nursery: trio.Nursery
) -> None:
    it = Keeping(broker)
    nursery.start_soon(it.retained.run)
    it.want(a=ONE, b=ONE)
    await settle()
    broker.retained.clear()
    it.retained.connected("home")
    await settle()
    assert broker.retained == {"a": b"1", "b": b"1"}
    broker.retained.clear()
    it.retained.again("home", "a")
    await settle()
    assert broker.retained == {"a": b"1"}


async def test_what_is_lost_goes_again_and_what_is_refused_later(
    broker: StandingBroker, autojump_clock: trio.testing.MockClock, nursery: trio.Nursery
) -> None:
    it = Keeping(broker)
    nursery.start_soon(it.retained.run)
    broker.holds = True
    it.want(a=ONE, b=ONE)
    await settle()
    broker.holds, broker.refuses = False, {"b": "not authorized"}
    broker.let_go(LOST)
    await settle()
    assert broker.retained == {"a": b"1"}
    count = len(broker.published)
    await trio.sleep(REFUSED_S / 2)
    assert len(broker.published) == count
    broker.refuses = {}
    await trio.sleep(REFUSED_S)
    assert broker.retained == {"a": b"1", "b": b"1"}


async def test_one_that_is_held_goes_soon_and_holds_up_no_other(
    broker: StandingBroker, autojump_clock: trio.testing.MockClock, nursery: trio.Nursery
) -> None:
    """Connections ended under it: agent.mqtt.suspects says when it may go."""
    it = Keeping(broker)
    nursery.start_soon(it.retained.run)
    broker.refuses = {"a": HELD}
    it.want(a=ONE, b=ONE)
    await settle()
    assert broker.retained == {"b": b"1"}
    assert len(broker.published) <= 4
    broker.refuses = {}
    await settle()
    await settle()
    assert broker.retained == {"a": b"1", "b": b"1"}
    broker.refuses = {"a": ENDS}
    it.want(a=Kept(b"2"), b=ONE)
    await settle()
    count = len(broker.published)
    await trio.sleep(REFUSED_S / 2)
    assert len(broker.published) == count


async def test_results_have_room_and_a_broker_that_is_away_is_left_alone(
    broker: StandingBroker, autojump_clock: trio.testing.MockClock, nursery: trio.Nursery
) -> None:
    it = Keeping(broker)
    nursery.start_soon(it.retained.run)
    broker.room = SPARE
    it.want(a=ONE)
    await settle()
    broker.room, broker.connected = 20, False
    await settle()
    assert broker.published == []
    broker.connected = True
    await settle()
    assert broker.retained == {"a": b"1"}


async def test_a_broker_that_takes_few_at_once_is_told_all_the_same(
    broker: StandingBroker, autojump_clock: trio.testing.MockClock, nursery: trio.Nursery
) -> None:
    it = Keeping(broker)
    nursery.start_soon(it.retained.run)
    broker.room = broker.window = 1
    it.want(a=ONE)
    await settle()
    assert broker.retained == {"a": b"1"}


async def test_what_another_took_over_is_let_go_of_and_not_cleared(
    broker: StandingBroker, autojump_clock: trio.testing.MockClock, nursery: trio.Nursery
) -> None:
    it = Keeping(broker)
    nursery.start_soon(it.retained.run)
    it.want(shared=TWO)
    await settle()
    assert list(broker.subscriptions) == ["shared"]
    it.retained.want("home", {}, ["shared"])
    await settle()
    assert broker.retained == {"shared": b"2"} and it.rows == {} and not broker.subscriptions
    it.retained.want("home", {}, [])
    await settle()
    assert broker.retained == {"shared": b"2"}


async def test_what_somebody_else_puts_in_its_place_is_put_right_but_in_no_race(
    broker: StandingBroker, autojump_clock: trio.testing.MockClock, nursery: trio.Nursery
) -> None:
    it = Keeping(broker)
    nursery.start_soon(it.retained.run)
    it.want(shared=TWO)
    await settle()
    assert broker.say("shared", b"2") and len(broker.published) == 1, "its own"
    for _ in range(5):
        broker.retained["shared"] = b"theirs"
        assert broker.say("shared", b"theirs")
        await settle()
    assert broker.retained == {"shared": b"theirs"} and len(broker.published) == 2
    await trio.sleep(CORRECT_S)
    assert broker.retained == {"shared": b"2"} and len(broker.published) == 3


async def test_another_devices_topics_are_cleared_once_and_remembered_until_then(
    broker: StandingBroker, autojump_clock: trio.testing.MockClock, nursery: trio.Nursery
) -> None:
    it = Keeping(broker)
    nursery.start_soon(it.retained.run)
    broker.retained = {"theirs": b"x", "a": b"1"}
    it.want(a=ONE)
    await settle()
    broker.connected = False
    it.retained.clear("home", ["theirs", "a"])
    await settle()
    assert it.rows == {"home a": b"", "home theirs": b""}
    again = Keeping(broker, rows=it.rows)
    nursery.cancel_scope.cancel()
    async with trio.open_nursery() as later:
        later.start_soon(again.retained.run)
        broker.connected = True
        again.want(a=ONE)
        with trio.CancelScope(shield=True):
            await settle()
        later.cancel_scope.cancel()
    assert broker.retained == {"a": b"1"} and again.rows == {"home a": b""}


async def test_what_another_still_told_of_is_cleared_as_well(
    broker: StandingBroker, autojump_clock: trio.testing.MockClock, nursery: trio.Nursery
) -> None:
    """A device is forgotten, and it is not known yet that nobody is left who tells of it."""
    it = Keeping(broker)
    nursery.start_soon(it.retained.run)
    broker.retained = {"theirs": b"x"}
    it.retained.want("home", {}, ["theirs"])
    await settle()
    it.retained.clear("home", ["theirs"])
    await settle()
    assert broker.retained == {} and it.rows == {}


async def test_there_is_a_bound(
    broker: StandingBroker,
    autojump_clock: trio.testing.MockClock,
    nursery: trio.Nursery,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(retained_module, "TOPICS_MAX", 3)
    it = Keeping(broker)
    nursery.start_soon(it.retained.run)
    it.want(**{f"t{at}": ONE for at in range(9)})
    await settle()
    assert list(broker.retained) == ["t0", "t1", "t2"]
    it.retained.clear("home", [f"x{at}" for at in range(9)])
    await settle()
    assert len(it.rows) <= 6
