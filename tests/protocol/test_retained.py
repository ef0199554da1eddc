"""Retained results: kept over restarts, taken back when their time has come, and bounded."""

from __future__ import annotations

from protocol.effects import Bucket
from protocol.ids import JobId
from protocol.retained import AT_ONCE_MAX, BUCKET, ROWS_MAX, Kept, Retained, Row

J = JobId("j" * 32)


def one(topic: str = "t", ended_ms: int = 100, execution: str = "e") -> Kept:
    return Kept("home", topic, J, execution, ended_ms)


def disk(*rows: Row) -> dict[Bucket, dict[str, bytes]]:
    return {BUCKET: {key: value for _, key, value in rows if value is not None}}


def test_it_is_taken_back_when_its_time_has_come_and_once() -> None:
    retained = Retained()
    rows = [retained.keep(one("late", 200)), retained.keep(one("soon", 100))]
    again = Retained()
    assert again.restore(disk(*rows)) == []
    assert again.due(100, 10) == []
    assert again.due(101, 10) == [(one("soon", 100), (BUCKET, "home/soon", None))]
    assert again.due(101, 10) == []
    assert [kept.topic for kept, _ in again.due(1000, 10)] == ["late"]


def test_of_several_in_one_place_the_last_counts() -> None:
    retained = Retained()
    retained.keep(one("t", 200, "second"))
    _, _, value = retained.keep(one("t", 100, "first"))
    assert [kept.execution for kept in retained.kept.values()] == ["second"] and value


def test_only_so_many_are_kept_and_taken_back_at_once() -> None:
    retained = Retained()
    for number in range(ROWS_MAX + 3):
        retained.keep(one(f"t{number}", number))
    assert [kept.topic for kept, _ in retained.due(0, 2)] == ["t0", "t1"]
    assert [kept.topic for kept, _ in retained.due(0, 10)] == ["t2"]
    assert len(retained.due(1 << 50, ROWS_MAX)) == AT_ONCE_MAX
    assert retained.due(1 << 50, 0) == []


def test_a_foreign_row_is_named() -> None:
    unread = Retained().restore({BUCKET: {"x": b"\xff", "y": b"\x80"}})
    assert [each.key for each in unread] == ["x", "y"]
