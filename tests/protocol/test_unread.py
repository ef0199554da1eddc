"""unread: what this version cannot read is left aside and told of, and costs nothing else."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import cast

import pytest

from protocol import derived
from protocol.bounds import REASON_CHARS_MAX
from protocol.config import CoordinationConfig, NodeConfig
from protocol.effects import Bucket
from protocol.errors import JobSpecError
from protocol.events import TaskEnded
from protocol.ids import JobId
from protocol.job import JobSpec
from protocol.node import SWEEP_S
from protocol.records import Desired
from protocol.tree import Plain
from protocol.unread import TOLD_MAX, Unread, told
from protocol.wire import load_plain
from tests.protocol.nodenet import NodeNet, batch, ops
from tests.protocol.schedulenet import ScheduleNet, schedule
from tests.protocol.standingbook import daemon
from tests.protocol.triggernet import TriggerNet, look

WHY = "Tasks[0].Resources.GPU: a WebAssembly module reaches none"


@contextmanager
def refusing(
    patch: pytest.MonkeyPatch, wrong: str | Callable[[dict[str, Plain]], bool]
) -> Iterator[None]:
    """A version that refuses specs of this name, or like these, which an earlier one took."""
    read = JobSpec.decode.__func__  # type: ignore[attr-defined]

    def stricter(cls: type[JobSpec], body: bytes, *more: object) -> JobSpec:
        spec = load_plain(body)
        if wrong(spec) if callable(wrong) else spec["Name"] == wrong:
            raise JobSpecError("Tasks[0].Resources.GPU", "a WebAssembly module reaches none")
        return read(cls, body, *more)  # type: ignore[no-any-return]

    with patch.context() as within:
        within.setattr(JobSpec, "decode", classmethod(stricter))
        derived._job_of.cache_clear()
        yield
    derived._job_of.cache_clear()


def restart(net: NodeNet, *names: str) -> dict[str, dict[Bucket, dict[str, bytes]]]:
    """What stood on their disks."""
    disks = {name: {of: {**rows} for of, rows in net.boxes[name].disk.items()} for name in names}
    net.kill(*names)
    net.run(1.0)
    for name in names:
        net.boot(name)
    return disks


def left_aside(net: NodeNet, name: str) -> list[tuple[Bucket, str]]:
    """By what it was told in all its lives."""
    return [
        (cast("Bucket", tell.fields["bucket"]), str(tell.fields["key"]))
        for tell in net.told(name, "agent.left-aside")
    ]


def finish(net: NodeNet, name: str, job: JobId) -> None:
    (key,) = [key for key, start in net.boxes[name].running.items() if start.job == job]
    net._finish(name, TaskEnded(key, 0, "", 5))


def test_of_many_the_first_are_told_one_by_one() -> None:
    assert told([]) == []
    many = [Unread("outbox", str(number), "x" * 2000) for number in range(TOLD_MAX + 5)]
    tells = told(many)
    assert [tell.text[:52] for tell in tells[:2]] == [
        "left aside, and kept as it is: outbox 0: " + "x" * 11,
        "left aside, and kept as it is: outbox 1: " + "x" * 11,
    ]
    assert max(len(tell.text) for tell in tells) < REASON_CHARS_MAX + 40
    assert len(tells) == TOLD_MAX + 1
    assert tells[-1].text == "left aside, and kept as they are: 5 more"
    assert len(told(many[:TOLD_MAX])) == TOLD_MAX


def test_a_job_that_an_earlier_version_took_is_left_aside_and_no_other_is(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    net = NodeNet("a", "b")
    for key, spec in (
        ("old", batch("old", on=["b"])),
        ("key", batch("new", on=["b"])),
        ("ops", ops("old", on=["b"])),
        ("", daemon("old")),
        ("", daemon("new")),
    ):
        net.submit("a", spec, key)
    net.run(3.0)
    names = [start.spec.name for start in net.boxes["b"].running.values()]
    assert sorted(names) == ["new", "new", "old", "old", "old"]
    (began,) = [key for key, it in net.boxes["b"].running.items() if it.job == net.job("old")]
    with refusing(monkeypatch, "old"):
        before = restart(net, "a", "b")
        for name in "ab":
            aside = left_aside(net, name)
            assert {bucket for bucket, _ in aside} >= {"job", "standing", "daemon"}
            assert all(WHY in tell.text for tell in net.told(name, "agent.left-aside"))
            assert {held.job.name for held in net[name].jobs.values()} == {"new"}
            net.run(2.0)
            disk = net.boxes[name].disk
            assert all(disk[of][key] == before[name][of][key] for of, key in aside)
        assert ("execution", began) in left_aside(net, "b")
        assert [start.spec.name for start in net.boxes["b"].running.values()] == ["new", "new"]
        finish(net, "b", net.job())
        net.until(lambda: net.held("a").done)
        restart(net, "b")
        assert began in net.boxes["b"].ended, "its output is not removed"
    told_before = len(net.told("b", "agent.left-aside"))
    restart(net, "a", "b")
    net.until(lambda: net.held("a", "old").done)
    names = ["new", "old"]
    running = net.boxes["b"].running
    net.until(lambda: sorted({start.spec.name for start in running.values()}) == names)
    assert len(net.told("b", "agent.left-aside")) == told_before


def test_what_is_refused_goes_once_it_is_old(monkeypatch: pytest.MonkeyPatch) -> None:
    short = NodeConfig(coordination=CoordinationConfig(retain_s=3600.0))
    net = NodeNet("a", configs={"a": short})
    net.submit("a", batch("old", on=["a"]), "old")
    net.run(2.0)
    (began,) = net.boxes["a"].running
    with refusing(monkeypatch, "old"):
        restart(net, "a")
        net.run(3600.0 - SWEEP_S)
        restart(net, "a")
        assert list(net.boxes["a"].ended) == list(net.boxes["a"].disk["execution"]) == [began]
        net.run(3 * SWEEP_S)
        assert not net.boxes["a"].ended and not net.boxes["a"].disk["execution"]


def test_the_output_of_a_daemon_that_is_refused_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    """Which of what nobody knows is the daemon's cannot be told: all that has ended stays."""
    net = NodeNet("a")
    net.submit("a", daemon("old"))
    net.run(2.0)
    net.end("a", 1)
    net.until(lambda: len(net.boxes["a"].started) == 2)
    first, second = (start.execution for start in net.boxes["a"].started)
    with refusing(monkeypatch, "old"):
        for _ in range(2):
            restart(net, "a")
            net.run(10.0)
            assert list(net.boxes["a"].ended) == [first, second]
        assert not net.boxes["a"].running, "what this version refuses does not run"
    restart(net, "a")
    net.run(10.0)
    assert list(net.boxes["a"].ended) == [first, second] and len(net.boxes["a"].running) == 1


def test_a_daemon_whose_row_is_damaged_begins_beside_what_it_left() -> None:
    net = NodeNet("a")
    net.submit("a", daemon())
    net.run(2.0)
    net.end("a", 1)
    net.until(lambda: len(net.boxes["a"].started) == 2)
    left = [start.execution for start in net.boxes["a"].started]
    (job,) = net.boxes["a"].disk["daemon"]
    net.boxes["a"].disk["daemon"][job] = b"\xff"
    restart(net, "a")
    net.run(10.0)
    assert list(net.boxes["a"].ended) == left
    assert net.boxes["a"].started[-1].execution not in left
    restart(net, "a")
    assert not net.boxes["a"].ended, "its row can be read again, and knows nothing of them"


def test_deleted_a_daemon_that_is_refused_keeps_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    net = NodeNet("a")
    net.submit("a", daemon("old"))
    net.run(2.0)
    (job,) = net["a"].steward.daemons.daemons
    with refusing(monkeypatch, "old"):
        restart(net, "a")
        net.run(2.0)
        assert len(net.boxes["a"].ended) == 1 and job in net.boxes["a"].disk["daemon"]
        net.stop("a", job, Desired.DELETED)
        net.run(2.0)
        assert job not in net.boxes["a"].disk["daemon"]
        restart(net, "a")
        assert not net.boxes["a"].ended


def test_a_daemon_runs_on_though_what_it_was_before_is_refused(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    net = NodeNet("a")
    net.submit("a", daemon(Priority=1))
    net.run(100.0)  # it has run well
    net.submit("a", daemon(Priority=2))
    net.run(5.0)
    (job,) = net["a"].steward.daemons.daemons
    before = net["a"].steward.daemons.daemons[job].before
    assert before is not None and before.spec.priority == 1
    running = list(net.boxes["a"].running)
    with refusing(monkeypatch, lambda spec: spec["Priority"] == 1):
        restart(net, "a")
        assert net["a"].steward.daemons.daemons[job].before is None
        net.run(10.0)
        assert net["a"].steward.daemons.daemons[job].attempt == 2
        assert list(net.boxes["a"].running) == running


def test_a_schedule_that_is_refused_fires_nothing_and_others_do(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    net = ScheduleNet("a", "b")
    net.ran("a", schedule("old", on=["b"]))
    net.ran("a", schedule("backup", on=["b"]))
    net.minute()
    assert sorted(held.job.name for held in net.runs()) == ["backup", "old"]
    with refusing(monkeypatch, "old"):
        restart(net, "a", "b")
        for name in "ab":
            assert "standing" in [bucket for bucket, _ in left_aside(net, name)]
            assert all(WHY in tell.text for tell in net.told(name, "agent.left-aside"))
        finish(net, "b", net.runs()[0].id)
        net.minute()
        assert [held.job.name for held in net.runs()] == ["backup", "backup"]
    restart(net, "a", "b")
    net.minute()
    assert [held.job.name for held in net.runs()].count("old") >= 2


def test_messages_of_a_template_that_is_refused_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    """So does the answer that is owed to who asked the same again."""
    net = TriggerNet("a")
    net.broker_up()
    net.put("a", look(Dedup={}, Answers="replies/+"))
    for reply in ("replies/first", "replies/me"):
        net.hear("a", key="one", reply=reply)
        net.run(1.0)
    assert len(net.starts()) == 1 and net.rows("a", "answer")
    with refusing(monkeypatch, "look"):
        before = restart(net, "a")
        net.broker_up()
        net.hear("a", key="two")
        net.run(60.0)
        assert (net.hearing(), net.runs(), len(net.starts())) == ([], [], 1)
        assert net.rows("a", "answer") == before["a"]["answer"]
    restart(net, "a")
    net.broker_up()
    net.run(10.0)
    assert net.hearing() == ["a"] and net.runs()
