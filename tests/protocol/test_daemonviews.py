"""Views of daemons as they are followed: which there are; nothing changes by the second."""

from __future__ import annotations

import pytest

from protocol import daemonviews
from protocol.daemonviews import DaemonView, daemon_views, is_daemon
from protocol.job import JobSpec
from protocol.records import Desired
from tests.protocol.daemonnet import DaemonNet
from tests.protocol.nodenet import batch
from tests.protocol.standingbook import daemon


def views(net: DaemonNet, name: str) -> list[DaemonView]:
    steward = net[name].steward
    return daemon_views(steward.standing, steward.daemons, net[name].name_of, net.clock(name))


def test_what_runs_here_is_told_and_what_does_not_is_not() -> None:
    net = DaemonNet("a", "b")
    on_b = [{"Key": "name", "Operator": "=", "Values": ["b"]}]
    net.ran("a", daemon(Constraints=on_b))  # type: ignore[arg-type]
    net.until(lambda: net.on() == ["b"])
    (here,), (there,) = views(net, "a"), views(net, "b")
    assert here.on and here.part is None and here.word == "collect"
    assert there.part is not None and there.part["state"] == "running"
    assert there.id == net.id and there.part["reason"] == ""


def test_a_stopped_one_is_off_and_a_deleted_one_gone() -> None:
    net = DaemonNet("a")
    net.ran("a")
    net.controlled("a")
    net.run(1.0)
    (view,) = views(net, "a")
    assert not view.on and view.part is not None and view.part["state"] == "stopped"
    net.controlled("a", Desired.DELETED)
    assert views(net, "a") == []
    (held,) = net["a"].steward.standing.jobs.values()
    assert is_daemon(held)


def test_nothing_changes_while_it_waits_to_be_started_again() -> None:
    net = DaemonNet("a")
    net.ran("a", daemon(Retry={"Backoff": "60s"}))
    net.end("a", 1)
    before = views(net, "a")
    net.run(5.0)
    assert views(net, "a") == before
    part = before[0].part
    assert part is not None and part["state"] == "restarting" and part["exit_code"] == 1


def test_templates_and_services_are_none_and_there_is_a_bound(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(daemonviews, "DAEMONS_MAX", 2)
    net = DaemonNet("a")
    net.submit("a", JobSpec.from_plain({**batch("tidy").to_plain(), "Parameters": []}))
    service = {**daemon("web").to_plain(), "Type": "service", "Count": 1}
    net.submit("a", JobSpec.from_plain(service))
    for name in ("c", "a", "b"):
        net.submit("a", daemon(name))
    assert [view.word for view in views(net, "a")] == ["a", "b"]
