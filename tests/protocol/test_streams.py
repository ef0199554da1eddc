"""Streams: cursors that survive crashes, one execution of a slot after the other."""

from __future__ import annotations

import msgspec

from protocol.effects import Bucket, Effect, Save, StreamLines, Tell
from protocol.events import LinesPublished
from protocol.ids import ExecutionId, JobId
from protocol.streams import STREAMS_MAX, Row, Stream, Streams
from protocol.wire import dumps


def named(number: int) -> ExecutionId:
    signs = "abcdefghijklmnopqrstuvwxyz234567"
    return ExecutionId((signs[number // 32] + signs[number % 32]).rjust(32, "e"))


E1, E2, E3, LAST = (named(number) for number in (0, 1, 2, 999))
J = JobId("j" * 32)


def stream(execution: ExecutionId, slot: int = 0) -> Stream:
    return Stream(execution, 0, J, slot, "sensor", "home", "t", 1, False, "raw")


def read(effects: list[Effect]) -> list[tuple[str, int]]:
    return [(e.execution, e.offset) for e in effects if isinstance(e, StreamLines)]


def restored(*rows: Row) -> Streams:
    disk: dict[Bucket, dict[str, bytes]] = {"stream": {}}
    for _, key, value in rows:
        if value is None:
            disk["stream"].pop(key, None)
        else:
            disk["stream"][key] = value
    streams = Streams()
    assert streams.restore(disk) == []
    return streams


def rows_of(effects: list[Effect]) -> list[Row]:
    return [row for effect in effects if isinstance(effect, Save) for row in effect.rows]


def test_it_is_read_once_its_task_has_begun() -> None:
    streams = Streams()
    assert streams.add(stream(E1))[0][:2] == ("stream", E1)
    assert streams.due() == []
    (effect,) = streams.begun(E1)
    assert effect == StreamLines(E1, "home", "t", 1, False, "raw", 0, (J, 0, "sensor"))
    assert streams.begun(E1) == [], "once"
    assert streams.begun(E2) == [], "of which no lines are wanted"


def test_executions_of_a_slot_follow_each_other_and_slots_do_not_wait() -> None:
    streams = Streams()
    for execution, slot in ((E1, 0), (E2, 0), (E3, 1)):
        streams.add(stream(execution, slot))
    assert read(streams.begun(E1)) == [(E1, 0)]
    assert read(streams.begun(E2)) == []
    assert read(streams.begun(E3)) == [(E3, 0)]
    assert read(streams.on_published(LinesPublished(E1, 50, over=True))) == [(E2, 0)]


def test_after_a_crash_it_goes_on_from_the_place_that_was_saved() -> None:
    streams = Streams()
    first, second = streams.add(stream(E1)), streams.add(stream(E2))
    streams.begun(E1)
    moved = streams.on_published(LinesPublished(E1, 120))
    assert isinstance(moved[0], Save) and moved[0].lazy
    lost = restored(*first, *second)
    assert read(lost.due()) == [(E1, 0)], "lines come twice, and none is lost"
    kept = restored(*first, *second, *rows_of(moved))
    assert read(kept.due()) == [(E1, 120)]
    over = kept.on_published(LinesPublished(E1, 130, over=True))
    assert read(over) == [(E2, 0)]
    gone = restored(*first, *second, *rows_of(over))
    assert read(gone.due()) == [(E2, 0)]
    assert gone.add(stream(E3))[0][1] == E3
    assert list(gone.streams) == [E2, E3]


def test_a_place_never_goes_back_and_what_is_unknown_is_nothing() -> None:
    streams = Streams()
    streams.add(stream(E1))
    streams.on_published(LinesPublished(E1, 50))
    streams.on_published(LinesPublished(E1, 40))
    assert streams.streams[E1].offset == 50
    assert streams.on_published(LinesPublished(E2, 1, over=True)) == []


def test_what_was_dropped_is_counted_and_told_whenever_it_has_doubled() -> None:
    """What prints faster than its broker takes it loses some every few seconds."""
    streams = Streams()
    streams.add(stream(E1))

    def told(dropped_bytes: int) -> list[str]:
        effects = streams.on_published(LinesPublished(E1, 50, dropped_bytes))
        tells = [effect for effect in effects if isinstance(effect, Tell)]
        assert all(tell.kind == "mqtt.dropped" for tell in tells)
        totals = [tell.fields["dropped_bytes"] for tell in tells]
        assert totals in ([], [streams.streams[E1].dropped_bytes])
        return [tell.text for tell in tells]

    lost = "bytes of the output of sensor were dropped before broker home had them"
    assert told(10) == [f"10 {lost}: it was longer than is kept"]
    assert told(5) == told(0) == []
    assert told(5) == [f"20 {lost}: it was longer than is kept"]
    assert told(11) == []
    assert told(4077) == [f"4,108 {lost}: it was longer than is kept"]


def test_what_is_missing_and_cannot_be_counted_is_told_whenever_it_was_twice_as_often() -> None:
    """A broker that comes and goes would have it told of each time; a restart changes nothing."""
    streams = Streams()
    rows = streams.add(stream(E1))

    def told(gaps: int) -> list[str]:
        nonlocal streams
        effects = streams.on_published(LinesPublished(E1, 50, gaps=gaps))
        tells = [effect for effect in effects if isinstance(effect, Tell)]
        assert all(tell.kind == "mqtt.dropped" and tell.job == J for tell in tells)
        assert [tell.fields["gaps"] for tell in tells] in ([], [streams.streams[E1].gaps])
        streams = restored(*rows, *rows_of(effects))
        return [tell.text for tell in tells]

    lost = "output of sensor may have been dropped before broker home had it"
    why = "docker keeps so much, and does not say what it drops"
    assert told(1) == [f"{lost}: {why}"]
    assert told(0) == []
    assert told(1) == [f"{lost} (2 times by now): {why}"]
    assert told(1) == []
    assert told(2) == [f"{lost} (5 times by now): {why}"]
    assert streams.streams[E1].gaps == 5 and streams.streams[E1].dropped_bytes == 0


def test_a_row_of_before_such_were_counted_is_read() -> None:
    fields = msgspec.to_builtins(stream(E1))
    assert fields[-1] == 0
    assert restored(("stream", E1, dumps(fields[:-1]))).streams == {E1: stream(E1)}


def test_a_daemon_that_ends_all_the_time_fills_no_disk() -> None:
    streams = Streams()
    for number in range(STREAMS_MAX):
        assert len(streams.add(stream(named(number)))) == 1
    added, dropped = streams.add(stream(LAST))
    assert added[1] == LAST and dropped == ("stream", named(0), None)
    assert len(streams.streams) == STREAMS_MAX


def test_the_streams_of_one_job_take_no_place_from_anothers() -> None:
    streams = Streams()
    other = JobId("k" * 32)
    running = msgspec.structs.replace(stream(E3), job=other, name="daemon")
    streams.add(running)
    streams.begun(E3)
    for number in range(1, STREAMS_MAX):
        streams.add(stream(named(number + 32)))
    _, dropped = streams.add(stream(LAST))
    assert dropped == ("stream", named(33), None) and E3 in streams.streams
    (tell,) = [effect for effect in streams.begun(LAST) if isinstance(effect, Tell)]
    assert tell.kind == "mqtt.dropped" and "sensor" in tell.text
    assert streams.due() == [], "told once"


def test_of_many_slots_no_running_one_is_dropped() -> None:
    streams = Streams()
    for number in range(STREAMS_MAX - 2):
        streams.add(stream(named(number), slot=number))
    for number in (STREAMS_MAX - 2, STREAMS_MAX - 1):
        streams.add(stream(named(number), slot=7))
    _, dropped = streams.add(stream(LAST, slot=300))
    assert dropped == ("stream", named(7), None)


def test_of_an_output_that_is_removed_the_stream_is_over_and_told_of() -> None:
    streams = Streams()
    rows = [*streams.add(stream(E1)), *streams.add(stream(E2))]
    streams.begun(E1)
    streams.begun(E2)
    save, tell, following = streams.removed(E1)
    assert isinstance(save, Save) and save.rows == (("stream", E1, None),)
    assert isinstance(tell, Tell) and tell.kind == "mqtt.dropped"
    assert "sensor" in tell.text and tell.fields["execution"] == E1
    assert read([following]) == [(E2, 0)]
    assert streams.removed(E1) == [] and streams.on_published(LinesPublished(E1, 9)) == []
    assert list(restored(*rows, *rows_of([save])).streams) == [E2]


def test_a_row_that_cannot_be_read_is_said() -> None:
    unread = Streams().restore({"stream": {E1: b"\xff", E2: b"\x80"}})
    assert [each.key for each in unread] == [E1, E2]
