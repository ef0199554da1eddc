"""restarts: pauses that grow, and an end to trying where it does not work."""

from __future__ import annotations

from random import Random

import pytest

from protocol.authority import signed_assignment
from protocol.config import StandingConfig
from protocol.execution import Execution, State
from protocol.restarts import Restarts
from protocol.tree import Plain
from protocol.wire import open_sealed
from tests.protocol.jobs import Book, at, fence
from tests.protocol.servicenet import service

CONFIG = StandingConfig()


def execution(failures: int = 0, **fields: Plain) -> Execution:
    book = Book(service(1, **fields))
    keyring = book.keyring("a")
    data = book.awarded(fence(1, "a", 1), 0)
    assignment = signed_assignment(data, keyring)
    made = Execution.begin(assignment, data, open_sealed(book.spec_data, keyring), ())
    made.failures = failures
    return made


def restarts() -> Restarts:
    return Restarts(CONFIG, Random(1))


def test_the_next_run_is_pending_with_an_id_of_its_own() -> None:
    ended = execution()
    pending = restarts().next_run(ended, at(100.0))
    assert pending is not None
    assert (pending.run, pending.state, pending.fence) == (1, State.PENDING, ended.fence)
    assert pending.id != ended.id
    assert pending.next_at == 100.0


@pytest.mark.parametrize(("failures", "least", "most"), [(0, 0.75, 1.25), (1, 1.5, 2.5)])
def test_the_pause_doubles(failures: int, least: float, most: float) -> None:
    pending = restarts().next_run(execution(failures), at(10.0))
    assert pending is not None and pending.failures == failures + 1
    assert least <= pending.start_at - 10.0 <= most


def test_the_pause_has_an_end() -> None:
    pending = restarts().next_run(execution(1, Retry={"Backoff": "1h"}), at(10.0))
    assert pending is not None
    assert pending.start_at - 10.0 <= CONFIG.restart_max_s * 1.25


def test_after_some_quick_ends_the_slot_is_handed_back() -> None:
    assert restarts().next_run(execution(CONFIG.quick_ends_max - 1), at(10.0)) is None


def test_one_that_ran_for_long_begins_anew() -> None:
    pending = restarts().next_run(execution(CONFIG.quick_ends_max - 1), at(CONFIG.settled_s))
    assert pending is not None and pending.failures == 1
