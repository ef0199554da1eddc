"""Waiting messages: on disk and back, bounded, and known again when a broker repeats them."""

from __future__ import annotations

import pytest

from protocol.config import TriggersConfig
from protocol.effects import Bucket
from protocol.ids import JobId
from protocol.records import Heard
from protocol.waiting import FRESH, ROW_BYTES, Row, Waiter, Waiting

LOOK = JobId("t" * 32)
MESSAGE = Heard("home/motion", b"\0\xff", "answers", b"7")


def waiter(run: str = "r" * 32, heard_ms: int = 5, message: Heard = MESSAGE) -> Waiter:
    return Waiter(JobId(run), LOOK, "k", message, heard_ms, named=True)


def disk(*rows: Row) -> dict[Bucket, dict[str, bytes]]:
    found: dict[Bucket, dict[str, bytes]] = {}
    for bucket, key, value in rows:
        assert value is not None
        found.setdefault(bucket, {})[key] = value
    return found


def test_what_waits_is_read_back_oldest_first() -> None:
    waiting = Waiting(TriggersConfig())
    rows = [*waiting.add(waiter("a" * 32, 9)), *waiting.add(waiter("b" * 32, 3))]
    again = Waiting(TriggersConfig())
    assert again.restore(disk(*rows)) == []
    assert list(again.waiters) == ["b" * 32, "a" * 32]
    assert again.waiters[JobId("a" * 32)] == waiter("a" * 32, 9)


@pytest.mark.parametrize("value", [b"", b"\x80", b"\xff", b"\x85\x01\x02\x03\x04\x05"])
def test_a_foreign_row_is_named(value: bytes) -> None:
    unread = Waiting(TriggersConfig()).restore({"trigger": {"x": value}})
    assert [each.key for each in unread] == ["x"]


def test_there_is_room_for_so_many_and_so_much() -> None:
    size = len(MESSAGE.payload) + ROW_BYTES
    waiting = Waiting(TriggersConfig(rows_max=2, rows_sure=0, bytes_max=3 * size))
    waiting.add(waiter("a" * 32))
    assert waiting.room(2, LOOK) and not waiting.room(2 * size, LOOK)
    waiting.add(waiter("b" * 32))
    assert not waiting.room(2, LOOK)
    assert waiting.drop(waiting.waiters[JobId("b" * 32)]) == [("trigger", "b" * 32, None)]
    assert waiting.drop(waiter("b" * 32)) == []
    assert waiting.room(2, LOOK)


def test_the_first_few_of_a_template_have_room_whatever_others_hold() -> None:
    size = len(MESSAGE.payload) + ROW_BYTES
    config = TriggersConfig(rows_max=10, rows_sure=3, bytes_sure=3 * size)
    waiting = Waiting(config)
    for number in range(10):
        assert waiting.room(2, LOOK)
        waiting.add(waiter(f"{number:032}"))
    assert not waiting.room(2, LOOK)
    other = JobId("o" * 32)
    assert not waiting.room(3 * size, other)
    for number in range(3):
        assert waiting.room(2, other)
        waiting.add(Waiter(JobId(f"o{number}"), other, "k", MESSAGE, 5, named=True))
    assert not waiting.room(2, other)
    again = Waiting(config)
    again.restore(disk(*(each.row() for each in waiting.waiters.values())))
    assert not again.room(2, other)
    for each in list(again.waiters.values()):
        again.drop(each)
    assert again.room(2, other) and again.room(2, LOOK)


def test_a_delivery_is_known_by_name_and_message() -> None:
    waiting = Waiting(TriggersConfig())
    rows = waiting.deliver(LOOK, "7", MESSAGE)
    again = Waiting(TriggersConfig())
    again.restore(disk(*rows))
    assert again.delivered_before(LOOK, "7", MESSAGE)
    assert not again.delivered_before(LOOK, "8", MESSAGE)
    assert not again.delivered_before(LOOK, "7", Heard(MESSAGE.topic, b""))
    assert again.forget(LOOK) == [("delivery", f"{LOOK}/7", None)]
    assert not again.delivered_before(LOOK, "7", MESSAGE)


def test_a_session_that_begins_anew_is_forgotten_alone() -> None:
    waiting = Waiting(TriggersConfig())
    for name in ("home/one/7", "home/one/8", "home/two/7"):
        waiting.deliver(LOOK, name, MESSAGE)
    gone = [("delivery", f"{LOOK}/home/one/{number}", None) for number in (7, 8)]
    assert waiting.begin("home/one") == gone and waiting.begin("home/one") == []
    assert waiting.delivered_before(LOOK, "home/two/7", MESSAGE)
    assert not waiting.delivered_before(LOOK, "home/one/7", MESSAGE)


def test_a_number_means_another_message_once_many_have_come() -> None:
    waiting = Waiting(TriggersConfig())
    waiting.deliver(LOOK, "home/7", MESSAGE, 40)
    assert waiting.delivered_before(LOOK, "home/7", MESSAGE, 40 + FRESH)
    assert not waiting.delivered_before(LOOK, "home/7", MESSAGE, 41 + FRESH)


def test_those_of_an_earlier_life_count_from_the_first_that_comes_in_this_one() -> None:
    """Also where the node alone is built anew, and its agent has counted on."""
    waiting = Waiting(TriggersConfig())
    rows = waiting.deliver(LOOK, "home/7", MESSAGE, 50_000)
    again = Waiting(TriggersConfig())
    again.restore(disk(*rows))
    assert again.delivered_before(LOOK, "home/7", MESSAGE, 50_001)
    assert again.delivered_before(LOOK, "home/7", MESSAGE, 50_001 + FRESH)
    assert not again.delivered_before(LOOK, "home/7", MESSAGE, 50_002 + FRESH)


def lives(config: TriggersConfig, *each: list[tuple[str, int]]) -> Waiting:
    """What a life after these knows, each with its deliveries and their numbers."""
    held: dict[str, bytes] = {}
    for deliveries in each:
        waiting = Waiting(config)
        waiting.restore({"delivery": held})
        for name, number in deliveries:
            for _, key, value in waiting.deliver(LOOK, name, MESSAGE, number):
                held.pop(key, None)
                held |= {key: value} if value is not None else {}
    after = Waiting(config)
    after.restore({"delivery": held})
    return after


def test_how_long_ago_a_number_came_is_known_over_lives() -> None:
    """A topic of which one in a thousand is taken: those on disk span its numbers many times."""
    one = [("home/7", 40), ("home/8", 41), ("home/9", 41 + FRESH)]
    after = lives(TriggersConfig(), one)
    assert not after.delivered_before(LOOK, "home/7", MESSAGE, 3)
    assert after.delivered_before(LOOK, "home/8", MESSAGE, 3)
    assert not after.delivered_before(LOOK, "home/8", MESSAGE, 4)
    assert after.delivered_before(LOOK, "home/9", MESSAGE, 3 + FRESH)
    later = lives(TriggersConfig(), one, [("home/1", 3), ("home/2", 4)])
    assert not later.delivered_before(LOOK, "home/8", MESSAGE)
    assert later.delivered_before(LOOK, "home/9", MESSAGE), "numbers of a life begin with it"


def test_one_that_is_too_long_ago_still_leaves_its_disk_in_its_turn() -> None:
    after = lives(TriggersConfig(deliveries_max=2), [("home/7", 1), ("home/8", 2 + FRESH)])
    assert after.deliver(LOOK, "home/9", MESSAGE)[1:] == [("delivery", f"{LOOK}/home/7", None)]


def test_one_handed_on_late_has_a_place_after_the_node_is_built_anew() -> None:
    """It had waited in its agent for room, and came before the first that this node heard of."""
    after = lives(TriggersConfig(), [("home/9", 900), ("home/5", 500)])
    assert after.delivered_before(LOOK, "home/5", MESSAGE, 901)


def test_the_oldest_are_forgotten_first_also_those_that_a_disk_gives_back() -> None:
    """A disk gives rows in the order of their keys: 10 comes before 9."""
    config = TriggersConfig(deliveries_max=4)
    waiting = Waiting(config)
    rows = [waiting.deliver(LOOK, f"home/{number}", MESSAGE) for number in (8, 9, 10, 11)]
    held = disk(*(row for each in rows for row in each))
    again = Waiting(config)
    again.restore({"delivery": dict(sorted(held["delivery"].items()))})
    assert again.deliver(LOOK, "home/12", MESSAGE)[1:] == [("delivery", f"{LOOK}/home/8", None)]
    assert again.deliver(LOOK, "home/13", MESSAGE)[1:] == [("delivery", f"{LOOK}/home/9", None)]
    assert waiting.deliver(JobId("o" * 32), "home/1", MESSAGE)[1:] == [], "each has its own"


def test_a_row_of_a_version_that_kept_no_order_is_known_and_the_oldest() -> None:
    config = TriggersConfig(deliveries_max=2)
    rows = Waiting(config).deliver(LOOK, "home/7", MESSAGE)
    value = rows[0][2]
    assert value is not None
    again = Waiting(config)
    newer = ("delivery", f"{LOOK}/home/1", value)
    again.restore(disk(newer, ("delivery", f"{LOOK}/home/2", value[:16])))
    assert again.delivered_before(LOOK, "home/2", MESSAGE)
    placeless = Waiting(config)
    placeless.restore(disk(("delivery", f"{LOOK}/home/1", value[:24])))
    assert placeless.delivered_before(LOOK, "home/1", MESSAGE)
    assert again.deliver(LOOK, "home/3", MESSAGE)[1:] == [("delivery", f"{LOOK}/home/2", None)]


def test_a_name_that_a_broker_gives_to_another_message_is_forgotten() -> None:
    waiting = Waiting(TriggersConfig())
    waiting.deliver(LOOK, "home/7", MESSAGE)
    other = JobId("o" * 32)
    waiting.deliver(other, "home/7", MESSAGE)
    assert waiting.rename(LOOK, "home/7") == [("delivery", f"{LOOK}/home/7", None)]
    assert waiting.rename(LOOK, "home/7") == []
    assert not waiting.delivered_before(LOOK, "home/7", MESSAGE)
    assert waiting.delivered_before(other, "home/7", MESSAGE), "one packet may be for both"
