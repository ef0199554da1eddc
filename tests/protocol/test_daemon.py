"""daemon: one daemon's row on disk, and what its task sees."""

from __future__ import annotations

import pytest

from protocol.clock import NEVER
from protocol.daemon import Daemon, Running, environment
from protocol.errors import RemoteProtocolError
from protocol.execution import State
from protocol.ids import PeerId
from protocol.wire import dumps
from tests.protocol.standingbook import StandingBook

BOOK = StandingBook()
ME = PeerId("a")


def running(generation: int = 1) -> Running:
    return Running.of(BOOK.opened(BOOK.spec(generation=generation)))


def restored(value: bytes | None) -> Daemon:
    assert value is not None
    return Daemon.restore(BOOK.id, value, BOOK.keyring("a"))


@pytest.mark.parametrize(
    "it",
    [
        Daemon(BOOK.id, running()),
        Daemon(
            BOOK.id,
            running(2),
            running(1),
            running(3).revision,
            7,
            5,
            State.RUNNING,
            "updated",
            123,
            (("x", -1, "lost", 1, 2), ("y", 0, "", 3, 4)),
        ),
    ],
)
def test_a_row_reads_back(it: Daemon) -> None:
    bucket, key, value = it.row()
    assert (bucket, key) == ("daemon", BOOK.id)
    assert restored(value) == it


@pytest.mark.parametrize("value", [b"garbage", dumps([]), dumps([BOOK.control()] + [0] * 8)])
def test_a_row_of_something_else_is_refused(value: bytes) -> None:
    with pytest.raises((RemoteProtocolError, ValueError)):
        restored(value)


def test_only_a_spec_can_be_run() -> None:
    with pytest.raises(RemoteProtocolError, match="a spec record is needed"):
        Running.of(BOOK.opened(BOOK.control()))


def test_each_start_has_a_name_of_its_own_and_so_has_each_peer() -> None:
    it = Daemon(BOOK.id, running(), attempt=1)
    names = {it.execution(ME), it.execution(PeerId("b"))}
    it.attempt = 2
    names.add(it.execution(ME))
    it.now = running(2)
    names.add(it.execution(ME))
    assert len(names) == 4


def test_parked_nothing_of_it_is_due() -> None:
    it = Daemon(BOOK.id, running(), next_at=5.0, waiting="busy")
    it.park()
    assert (it.parked, it.next_at, it.waiting, it.active) == (True, NEVER, "", False)


def test_a_task_sees_one_part_of_one() -> None:
    it = Daemon(BOOK.id, running(), attempt=4)
    seen = environment(it, ME)
    assert (seen["SHOAL_PARTITION_INDEX"], seen["BACALHAU_PARTITION_COUNT"]) == ("0", "1")
    assert (seen["SHOAL_ATTEMPT"], seen["SHOAL_EXECUTION_ID"]) == ("4", it.execution(ME))
    assert (seen["BACALHAU_JOB_ID"], seen["BACALHAU_JOB_TYPE"]) == (BOOK.id, "daemon")
    assert seen["BACALHAU_EXECUTION_ID"] == it.execution(ME)
