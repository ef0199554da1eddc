"""loss: dated once the time is known, and over `retain` later."""

from __future__ import annotations

from dataclasses import replace

from protocol.clock import Now
from protocol.effects import DropVolumes, Save
from protocol.loss import LOST, NOTICED, Loss
from protocol.wire import dumps
from tests.protocol.jobs import WALL_MS, at

DAY_S = 86_400.0
RETAIN_S = 7 * DAY_S


def unclocked(mono: float) -> Now:
    return replace(at(mono), wall_trusted=False)


def test_a_database_that_was_never_lost_wants_nothing() -> None:
    loss = Loss.restore({"wall": dumps(1)}, RETAIN_S)
    assert not loss.spares and loss.review(at(0.0)) == []


def test_it_is_dated_at_the_first_moment_whose_time_is_known() -> None:
    loss = Loss.restore({LOST: b"missing"}, RETAIN_S)
    assert loss.spares
    assert loss.review(unclocked(30 * DAY_S)) == [] and loss.spares, "nothing expires by it"
    dated = Save((("meta", NOTICED, dumps(WALL_MS + 9_000)),))
    assert loss.review(at(9.0)) == [dated]
    assert loss.review(at(10.0)) == [] and loss.spares


def test_what_was_before_is_spared_for_as_long_as_jobs_are_kept() -> None:
    loss = Loss.restore({LOST: b"missing", NOTICED: dumps(WALL_MS)}, RETAIN_S)
    assert loss.review(at(RETAIN_S - 1.0)) == [] and loss.spares
    assert loss.review(unclocked(RETAIN_S + 1.0)) == [] and loss.spares
    assert loss.review(at(RETAIN_S + 1.0)) == [DropVolumes()] and not loss.spares
    assert loss.review(at(RETAIN_S + 2.0)) == [], "once is enough"


def test_a_restart_goes_on_counting_and_a_second_loss_begins_anew() -> None:
    loss = Loss.restore({LOST: b"missing", NOTICED: dumps(WALL_MS)}, RETAIN_S)
    assert loss.spares, "until it is looked at"
    loss.review(at(2 * RETAIN_S))
    assert not loss.spares
    again = Loss.restore({LOST: b"shoal.db.corrupt-1"}, RETAIN_S)
    again.review(at(2 * RETAIN_S))
    assert again.spares


def test_a_date_that_cannot_be_read_is_none() -> None:
    for damaged in (b"\xff", dumps("soon"), dumps(-1)):
        loss = Loss.restore({LOST: b"missing", NOTICED: damaged}, RETAIN_S)
        assert len(loss.review(at(0.0))) == 1 and loss.spares
