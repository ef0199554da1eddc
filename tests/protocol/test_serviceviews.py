"""serviceviews: what any peer is told of a service, whoever holds its slots or runs them."""

from __future__ import annotations

from typing import cast

import pytest

from protocol.records import Desired, Role
from protocol.shape import checked_view
from protocol.standingviews import View
from protocol.tree import Plain
from tests.protocol.servicenet import ServiceNet, service

OPERATING = (Role.COMPUTE, Role.SUBMIT, Role.OPERATE)


def view(net: ServiceNet, name: str, *, detail: bool = False) -> View:
    request = net.query(name, net.id, detail=detail)
    net.until(lambda: net.answered(name, request))
    (found,) = cast("list[View]", net.reply(name, request).value["jobs"])
    return checked_view(found)


def column(of: View, key: str, rows: str = "slots") -> list[Plain]:
    return [row[key] for row in cast("list[View]", of[rows])]


def started(count: int = 2, **more: Plain) -> ServiceNet:
    net = ServiceNet("a", "b", "c", "d", "e", roles={"e": OPERATING})
    net.ran("a", service(count, **more))
    net.until(lambda: len(net.on()) == count)
    net.run(1.0)
    return net


def outsider(net: ServiceNet) -> str:
    """Who neither holds its slots nor runs any."""
    held = [name for name in net.boxes if net.id in net[name].jobs]
    return next(name for name in net.boxes if name not in held and name not in net.where())


def test_everybody_tells_the_same_of_it() -> None:
    net = started()
    for name in ("a", outsider(net)):
        seen = view(net, name)
        assert (seen["state"], seen["count"], seen["type"]) == ("running", 2, "service")
        assert (seen["coordinator"], seen["term"], seen["reason"]) == ("a", 1, "")
        assert column(seen, "state") == ["running"] * 2
        assert sorted(map(str, column(seen, "executor"))) == net.where()


def test_a_slot_s_execution_is_the_one_that_runs_now() -> None:
    net = started(1)
    (host,) = net.where()
    net.run(100.0)
    net.end(host, 3)
    assert column(view(net, outsider(net)), "state") == ["restarting"]
    net.until(lambda: len(net.on()) == 1)
    net.run(1.0)
    seen = view(net, outsider(net), detail=True)
    (running,) = net.boxes[host].running
    assert column(seen, "execution") == [running] and column(seen, "failures") == [1]
    assert column(seen, "state", "executions") == ["failed", "running"]
    assert column(seen, "id", "executions")[1] == running
    assert seen["spec"] and seen["why"]


def test_a_slot_that_waits_says_why() -> None:
    net = ServiceNet("a", "b")
    net.ran("a", service(3))
    net.until(lambda: len(net.on()) == 2)
    net.run(5.0)
    for name in "ab":
        seen = view(net, name)
        assert seen["state"] == "running"
        assert column(seen, "state").count("pending") == 1
        assert "of it runs there" in str(seen["reason"])


def test_one_that_nobody_fits_is_pending() -> None:
    net = ServiceNet("a")
    net.ran("a", service(1, cpu="9000m"))
    net.run(3.0)
    seen = view(net, "a")
    assert seen["state"] == "pending" and "too small" in str(seen["reason"])


def test_one_that_nobody_coordinates_says_so() -> None:
    net = started(1)
    others = [name for name in net.boxes if net.id not in net[name].jobs]
    net.kill(*[name for name in net.boxes if name not in others])
    net.run(5.0)
    seen = view(net, others[0])
    assert seen["slots"] == [] and "coordinates it" in str(seen["reason"])


@pytest.mark.parametrize("desired", [Desired.STOPPED, Desired.DELETED])
def test_a_stop_tells_where_it_took_effect(desired: Desired) -> None:
    net = started()
    reply = net.controlled("e", desired)
    assert (reply.value["quiet"], reply.value["stopping"], reply.value["unheard"]) == (5, [], [])
    word = {Desired.STOPPED: "stopped", Desired.DELETED: "deleted"}[desired]
    assert view(net, "a")["state"] == word


def test_one_that_expired_says_so() -> None:
    net = started(1, NotAfter="2027-01-15T08:03:00Z")
    net.run(300.0)
    seen = view(net, "a")
    assert seen["state"] in ("stopping", "stopped") and "NotAfter" in str(seen["reason"])


def test_what_became_of_an_update_is_told() -> None:
    net = started(1)
    net.until(lambda: net.service("a").settled)
    for failure in ("rollback", "pause"):
        net.ran("a", service(1, command=failure, Update={"OnFailure": failure}))
        net.until(lambda f=failure: net.commands() == [f])  # type: ignore[misc]
        net.end(net.where()[0], 1)
        net.run(2.0)
        wanted = {"rollback": "gone back", "pause": "paused"}[failure]
        assert wanted in str(view(net, "a")["reason"])
        net.run(60.0)


def test_a_holder_may_speak_of_more_slots_than_there_are_plans_for() -> None:
    net = started(1)
    net["a"].jobs[net.id].slots.add(3)  # a copy from before the service had fewer
    assert column(view(net, "a"), "state") == ["running"]
