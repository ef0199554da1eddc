"""Shortfalls: what is said of output that cannot be had, and what stands in for it."""

from __future__ import annotations

import errno
from typing import Any

import pytest

from agent.control.backend import LogQuery, RequestError, View
from agent.engines.docker_client import EngineFailed
from agent.logs import BOTH
from agent.shortfall import (
    BUSY_TEXT,
    GONE_TEXT,
    Cause,
    Shortfall,
    cause_of,
    of_broken_off,
    of_ended,
    of_replaced,
    of_running,
    remains_of,
)
from agent.tasks import TAIL_BYTES, TAIL_LINES
from protocol.bounds import TAIL_BYTES_MAX
from protocol.errors import ShoalError

AWAY = ShoalError("the peer that ran it cannot be reached")
LINES = "".join(f"{number}\n" for number in range(TAIL_LINES))  # as many as come with a result


def ended(stdout: str = "", stderr: str = "", **more: Any) -> View:
    view: View = {"state": "completed", "started_ms": 1_000, "ended_ms": 2_000, "exit_code": 0}
    return {**view, "stdout_tail": stdout, "stderr_tail": stderr, **more}


def short(
    execution: View, wanted: LogQuery | None = None, error: Exception = AWAY
) -> Shortfall | None:
    return of_ended(error, execution, BOTH, wanted or LogQuery())


@pytest.mark.parametrize(
    ("error", "cause", "why"),
    [
        (AWAY, Cause.UNREACHABLE, "the device cannot be reached"),
        (KeyError("e1"), Cause.GONE, "none is kept there"),
        (ValueError("no plain name"), Cause.GONE, "none is kept there"),
        (RequestError(404, GONE_TEXT), Cause.GONE, "none is kept there"),
        (RequestError(404, BUSY_TEXT), Cause.BUSY, "too many read logs there just now"),
        (RequestError(404, "the disk is full"), Cause.FAILED, "the disk is full"),
        (EngineFailed("docker is not there"), Cause.FAILED, "docker is not there"),
        (OSError(errno.EIO, "Input/output error", "/x"), Cause.FAILED, "Input/output error"),
    ],
)
def test_the_cause_is_in_words_that_a_person_knows(
    error: Exception, cause: Cause, why: str
) -> None:
    assert cause_of(error) == (cause, why)


def test_a_short_output_that_came_with_its_result_is_all_of_it() -> None:
    found = ended("hello\n")
    assert remains_of(found, "stdout", LogQuery()).data == b"hello\n"
    assert remains_of(found, "stderr", LogQuery()).whole, "both come together: it was empty"
    assert short(found) == Shortfall(
        Cause.UNREACHABLE,
        "is as it came with the result: the device cannot be reached",
        missing=False,
    )


@pytest.mark.parametrize("text", [LINES, "x" * TAIL_BYTES, "x" * TAIL_BYTES_MAX])
def test_what_may_not_be_all_is_not_given_as_if_it_were(text: str) -> None:
    told = short(ended(text))
    assert told is not None and told.missing
    assert told.text == (
        "is what came with the result, and may not be all: the device cannot be reached; "
        "once it is back (see `shoal peers`) `shoal logs` has all of it"
    )


def test_where_nothing_came_nothing_is_claimed() -> None:
    """There may have been none, or a view of very many slots had no room for it."""
    told = short(ended())
    assert told is not None and told.missing
    assert told.text.startswith("cannot be had: the device cannot be reached, and none came with")


@pytest.mark.parametrize(
    ("text", "lines", "data", "whole"),
    [
        (LINES, 3, b"37\n38\n39\n", True),
        (LINES, TAIL_LINES, LINES.encode(), True),
        (LINES, TAIL_LINES + 1, LINES.encode(), False),
        ("one\ntwo\n", 5, b"one\ntwo\n", True),
        ("a\n10%\r20%\r30%\r\nb\n", 2, b"10%\r20%\r30%\r\nb\n", True),
        ("one\ntwo", 1, b"two", True),
        ("x" * (TAIL_BYTES - 4) + "\nyz\n", 1, b"yz\n", True),
        # Its first line may be the end of one.
        ("x" * (TAIL_BYTES - 4) + "\nyz\n", 2, b"x" * (TAIL_BYTES - 4) + b"\nyz\n", False),
        ("x\n" * (TAIL_BYTES_MAX // 2), 2, b"", False),  # the beginning of what is answered
        (LINES, 0, b"", True),
    ],
)
def test_the_last_lines_are_taken_of_what_came(
    text: str, lines: int, data: bytes, whole: bool
) -> None:
    found = remains_of(ended(text), "stdout", LogQuery(tail=lines))
    assert (found.data, found.whole) == (data, whole)


def test_what_ended_before_the_moment_that_is_asked_for_lacks_nothing() -> None:
    assert short(ended("x\n"), LogQuery(since_ms=2_001)) is None
    assert remains_of(ended("x\n"), "stdout", LogQuery(since_ms=2_001)).data == b""
    told = short(ended("x\n"), LogQuery(since_ms=1_500))
    assert told is not None
    assert "as it came with the result, whenever it was written:" in told.text
    assert short(ended("x\n"), LogQuery(tail=0)) is None


def test_a_task_that_never_began_says_how_it_ended() -> None:
    found = ended(exit_code=None, reason="image x cannot be fetched", started_ms=2_000)
    told = short(found, error=KeyError("e1"))
    assert told is not None and told.cause is Cause.NONE and told.missing
    assert told.text == (
        "cannot be had: none is kept there, and its task ended so: image x cannot be fetched"
    )
    told = short(found)
    assert told is not None and told.cause is Cause.UNREACHABLE, "nobody can say"


@pytest.mark.parametrize(
    ("seen", "cause"),
    [
        ({}, Cause.GONE),
        ({"exit_code": 126}, Cause.GONE),
        ({"exit_code": None, "reason": "the device lost it"}, Cause.GONE),
        ({"started_ms": 3_000}, Cause.GONE),  # the clock was set back meanwhile
        ({"started_ms": 2_000}, Cause.GONE),  # within a millisecond
        ({"started_ms": 2_000, "exit_code": None, "stderr_tail": "x\n"}, Cause.GONE),
        ({"ended_ms": 0}, Cause.GONE),  # of a service's task that is stopped there is no result
        ({"started_ms": 2_000, "exit_code": None}, Cause.NONE),
        ({"started_ms": 2_000, "exit_code": 126}, Cause.NONE),  # its module is no module
        ({"started_ms": 0, "ended_ms": 0, "exit_code": None}, Cause.NONE),  # it got no result
    ],
)
def test_gone_is_what_there_may_have_been(seen: View, cause: Cause) -> None:
    told = short(ended(**seen), error=RequestError(404, GONE_TEXT))
    assert told is not None and told.cause is cause


def test_of_what_runs_the_way_out_is_to_wait() -> None:
    runs = {"state": "running", "started_ms": 0}
    told = of_running(AWAY, runs, follows=False)
    assert told is not None and told.missing
    assert told.text == (
        "cannot be had: the device cannot be reached; "
        "`shoal logs -f` waits until it is back (see `shoal peers`)"
    )
    told = of_running(AWAY, runs, follows=True)
    assert told is not None and not told.missing, "it may come yet"
    assert told.text.startswith("cannot be had just now: the device cannot be reached; it is asked")
    told = of_running(RequestError(404, BUSY_TEXT), runs, follows=False)
    assert told is not None and told.text.endswith("; `shoal logs` has it in a moment")


@pytest.mark.parametrize("state", ["pending", "starting", "waiting", "restarting"])
def test_of_what_has_not_begun_there_is_none_yet(state: str) -> None:
    waits = {"state": state, "started_ms": 0}
    assert of_running(KeyError("e1"), waits, follows=False) is None
    assert of_running(KeyError("e1"), {**waits, "started_ms": 5}, follows=False) is not None
    assert of_running(KeyError("e1"), {**waits, "started_ms": 5}, follows=True) is None
    assert of_running(AWAY, waits, follows=False) is not None, "that nobody can say"


def test_what_breaks_off_says_so() -> None:
    assert of_broken_off(AWAY).text.startswith("breaks off: the device cannot be reached; once")
    assert of_broken_off(KeyError("e1")).text == "breaks off: none is kept there"


def test_of_what_was_placed_again_that_is_missing_which_may_have_been() -> None:
    told = of_replaced(AWAY, given=False, begun=True)
    assert told is not None and told.missing and told.cause is Cause.UNREACHABLE
    assert (
        told.text
        == "cannot be had: the device cannot be reached, and that execution no longer counts"
    )
    assert of_replaced(AWAY, given=False, begun=False) is None
    assert of_replaced(KeyError("e1"), given=False, begun=True) is None, "it may not have begun"
    told = of_replaced(KeyError("e1"), given=True, begun=True)
    assert told is not None and told.text.startswith("breaks off: none is kept there, and that")
