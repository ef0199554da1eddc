"""Ends of containers: what docker says of one, and what the agent knows, in one answer."""

from __future__ import annotations

from dataclasses import replace

import pytest

from agent.engines.container_exit import exit_of, lost
from agent.engines.docker_client import Seen
from agent.engines.task import ExitReason, TaskExit

SEEN = Seen("e1", "exited", started=100.0, finished=103.5)
OURS = (None, None)
THROUGH_DOCKER = "it was stopped through docker on this device"
DOCKER_STOPPED = "docker was stopped on this device"
SHUT_DOWN = "the device was shut down or restarted"
DEVICE_GONE = "nobody saw it end: the device lost power or was restarted"
TOO_LARGE = "out of memory: it may have 64 MiB, see Resources.Memory"


def ended(seen: Seen, *flags: str) -> TaskExit:
    """`flags` name what holds; all else does not."""
    known = ("stopping", "timed_out", "rebooted", "unseen", "killed", "cut_off")
    assert set(flags) <= set(known)
    return exit_of(seen, memory_bytes=64 << 20, **{name: name in flags for name in known})


@pytest.mark.parametrize(
    ("code", "told", "reason"),
    [
        (0, (0, None), ExitReason.EXITED),
        (3, (3, None), ExitReason.EXITED),
        (128, (128, None), ExitReason.EXITED),
        (129, (None, 1), ExitReason.SIGNALLED),
        (137, (None, 9), ExitReason.SIGNALLED),
        (143, (None, 15), ExitReason.SIGNALLED),
        (170, (None, 42), ExitReason.SIGNALLED),
    ],
)
def test_of_its_own_accord_its_code_says_how(
    code: int, told: tuple[int | None, int | None], reason: ExitReason
) -> None:
    exit = ended(replace(SEEN, exit_code=code))
    assert ((exit.code, exit.signal), exit.reason, exit.detail) == (told, reason, "")


@pytest.mark.parametrize(
    ("code", "flags", "reason", "detail"),
    [
        (0, "stopping", ExitReason.STOPPED, ""),
        (137, "stopping", ExitReason.STOPPED, ""),
        (137, "stopping timed_out killed cut_off", ExitReason.STOPPED, ""),
        (255, "stopping rebooted", ExitReason.STOPPED, ""),
        (143, "timed_out", ExitReason.TIMEOUT, ""),
        (0, "timed_out killed", ExitReason.TIMEOUT, ""),
        (255, "rebooted", ExitReason.LOST, DEVICE_GONE),
        (255, "rebooted killed cut_off", ExitReason.LOST, DEVICE_GONE),
        (137, "killed", ExitReason.INTERRUPTED, THROUGH_DOCKER),
        (0, "killed", ExitReason.INTERRUPTED, THROUGH_DOCKER),
        (143, "killed cut_off", ExitReason.INTERRUPTED, THROUGH_DOCKER),
        (137, "rebooted killed", ExitReason.INTERRUPTED, THROUGH_DOCKER),
        (143, "cut_off", ExitReason.INTERRUPTED, DOCKER_STOPPED),
        (0, "cut_off", ExitReason.INTERRUPTED, DOCKER_STOPPED),
        (0, "unseen cut_off", ExitReason.INTERRUPTED, DOCKER_STOPPED),
        (255, "unseen", ExitReason.LOST, "nobody saw it end: docker was not there"),
        (143, "rebooted", ExitReason.INTERRUPTED, SHUT_DOWN),
        (137, "rebooted", ExitReason.INTERRUPTED, SHUT_DOWN),
    ],
)
def test_brought_down_it_has_no_code_and_says_by_whom(
    code: int, flags: str, reason: ExitReason, detail: str
) -> None:
    exit = ended(replace(SEEN, exit_code=code), *flags.split())
    assert ((exit.code, exit.signal), exit.reason, exit.detail) == (OURS, reason, detail)


@pytest.mark.parametrize("code", [0, 1, 139])
def test_what_ended_before_a_reboot_ended_as_it_did(code: int) -> None:
    seen = replace(SEEN, exit_code=code)
    assert ended(seen, "rebooted") == ended(seen)


@pytest.mark.parametrize("code", [1, 137])
def test_out_of_memory_says_how_much_there_was(code: int) -> None:
    exit = ended(replace(SEEN, exit_code=code, out_of_memory=True))
    assert ((exit.code, exit.signal), exit.reason) == ((code, None), ExitReason.EXITED)
    assert exit.detail == TOO_LARGE


@pytest.mark.parametrize("code", [0, 1, 137, 143])
def test_what_ended_of_its_own_accord_while_docker_was_away_ended_as_it_did(code: int) -> None:
    seen = replace(SEEN, exit_code=code)
    assert ended(seen, "unseen") == ended(seen)


def test_a_lack_of_memory_before_a_reboot_is_one() -> None:
    seen = replace(SEEN, exit_code=137, out_of_memory=True)
    assert ended(seen, "rebooted") == ended(seen)


def test_a_task_that_lived_through_a_lack_of_memory_has_succeeded() -> None:
    exit = ended(replace(SEEN, exit_code=0, out_of_memory=True))
    assert exit.succeeded and exit.detail == ""


def test_a_stop_is_no_lack_of_memory() -> None:
    exit = ended(replace(SEEN, exit_code=137, out_of_memory=True), "stopping")
    assert (exit.reason, exit.detail) == (ExitReason.STOPPED, "")


@pytest.mark.parametrize(
    ("started", "finished", "duration_s"),
    [(100.0, 103.5, 3.5), (0.0, 103.5, 0.0), (100.0, 100.0, 0.0), (100.0, 90.0, 0.0)],
)
def test_it_took_as_long_as_docker_says_and_never_less_than_nothing(
    started: float, finished: float, duration_s: float
) -> None:
    exit = ended(replace(SEEN, started=started, finished=finished))
    assert (exit.ended_wall, exit.duration_s) == (finished, duration_s)


def test_what_is_lost_ends_now_without_a_code(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("agent.engines.container_exit.time.time", lambda: 1234.5)
    assert lost("it is gone") == TaskExit(None, None, ExitReason.LOST, 1234.5, 0.0, "it is gone")


@pytest.mark.parametrize("code", [193, 255])
def test_a_code_above_all_signals_is_a_code(code: int) -> None:
    """exit(-1) is 255; it is told as `ended by signal 127`. Signals end at 64."""
    exit = exit_of(
        Seen("e1", "exited", exit_code=code, started=1.0, finished=2.0),
        stopping=False,
        timed_out=False,
        rebooted=False,
        unseen=False,
        killed=False,
        cut_off=False,
        memory_bytes=1,
    )
    assert (exit.code, exit.signal, exit.reason) == (code, None, ExitReason.EXITED)
