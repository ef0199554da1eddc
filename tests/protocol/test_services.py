"""services: one service from the act to its slots, through whole nodes."""

from __future__ import annotations

from dataclasses import replace

import msgspec
import pytest

from protocol.config import MembershipConfig, NodeConfig
from protocol.events import FactsSampled, HealthChanged
from protocol.ids import PeerId, rendezvous
from protocol.messages import Award, Facts, Message, Renew, Renewal, SlotState
from protocol.records import Desired, Role
from protocol.tree import Plain
from tests.protocol.servicenet import ServiceNet, service

WORKING = (Role.COMPUTE,)


def running(net: ServiceNet, count: int) -> bool:
    return len(net.on()) == count


# ---- placing -----------------------------------------------------------------------------------


def test_its_slots_run_on_different_peers() -> None:
    net = ServiceNet("a", "b", "c")
    reply = net.ran("a", service(3))
    assert (reply.error, reply.value["generation"], reply.value["job"]) == ("", 1, net.id)
    assert net.until(lambda: running(net, 3)) < 1.0
    assert net.where() == ["a", "b", "c"]
    assert net.coordinators() == ["a"]


def test_slots_that_need_not_be_spread_may_share_a_peer() -> None:
    net = ServiceNet("a", "b", cpu_m={"b": 50})
    net.ran("a", service(3, Spread=False))
    net.until(lambda: running(net, 3))
    assert net.where() == ["a", "a", "a"]


def test_a_slot_that_no_peer_fits_waits_and_is_placed_when_one_comes() -> None:
    net = ServiceNet("a", "b", "c")
    net.kill("c")
    net.run(10.0)
    net.ran("a", service(3))
    net.until(lambda: running(net, 2))
    net.run(2000.0)
    assert net.where() == ["a", "b"]
    waiting = net.told("a", "job.waiting")
    assert "slot" in waiting[-1].text and "of it runs there" in waiting[-1].text
    net.boot("c")
    assert net.until(lambda: running(net, 3)) < 5.0
    assert net.where() == ["a", "b", "c"]


def test_a_task_s_timeouts_are_ignored() -> None:
    net = ServiceNet("a")
    spec = service()
    net.ran("a", spec)
    net.until(lambda: running(net, 1))
    (start,) = net.boxes["a"].running.values()
    assert start.timeout_s is None
    assert net["a"].coordination.led[net.id].total_due == float("inf")


# ---- restarts ----------------------------------------------------------------------------------


def test_a_task_that_ends_is_started_again_where_it_was_whatever_its_exit_code() -> None:
    net = ServiceNet("a", "b")
    net.ran("a", service())
    net.until(lambda: running(net, 1))
    (name,) = net.where()
    for code in (0, 3):
        net.run(100.0)
        net.end(name, code)
        assert net.where() == []
        assert net.until(lambda: running(net, 1)) < 2.0
        assert net.where() == [name]
    ids = [start.execution for start in net.boxes[name].started]
    assert len(set(ids)) == 3


def test_one_that_ends_soon_again_and_again_is_placed_elsewhere_and_goes_on_for_ever() -> None:
    net = ServiceNet("a", "b")
    net.ran("a", service())
    seen: list[str] = []
    for _ in range(12):
        net.until(lambda: running(net, 1), bound_s=700.0)
        seen += net.where()
        net.end(net.where()[0], 1)
    first, second = seen[0], seen[3]
    assert seen[:3] == [first] * 3 and seen[3:6] == [second] * 3 and first != second
    net.until(lambda: running(net, 1), bound_s=700.0)


def test_the_output_of_the_last_runs_is_kept_and_no_more() -> None:
    net = ServiceNet("a")
    net.ran("a", service())
    for _ in range(6):
        net.until(lambda: running(net, 1))
        net.run(100.0)
        net.end("a")
    net.until(lambda: running(net, 1))
    ended = [e for e in net["a"].executor.executions.values() if e.ended]
    assert [e.run for e in ended] == [3, 4, 5]


# ---- loss --------------------------------------------------------------------------------------


def test_a_slot_is_placed_again_when_its_peer_dies() -> None:
    net = ServiceNet("a", "b", "c", cpu_m={"a": 50})
    net.ran("a", service())
    net.until(lambda: running(net, 1))
    (name,) = net.where()
    net.kill(name)
    net.boxes[name].running.clear()
    net.until(lambda: running(net, 1), bound_s=5.0)
    assert net.where() != [name]


def test_a_slot_whose_awards_end_devices_is_offered_on_and_that_is_forgiven() -> None:
    net = ServiceNet("a", *"bcdefgh", cpu_m={"a": 50})
    ended: list[str] = []

    def end(by: str, to: str, message: Message) -> bool:
        if isinstance(message, Award) and len(ended) < 5:
            ended.append(to)
            net.kill(to)
        return to in ended

    net.drop = end
    net.ran("a", service())
    net.until(lambda: running(net, 1))
    plan = net.coordination("a").led[net.id].plans[0]
    assert (plan.untaken, plan.failures) == (3, 2)
    net.until(lambda: (plan.untaken, plan.failures, plan.failed_on) == (0, 0, {}), 200.0)
    assert running(net, 1)


def test_its_coordinator_s_death_ends_nothing() -> None:
    net = ServiceNet("a", "b", "c", "d", cpu_m={"a": 50})
    net.ran("a", service(2))
    net.until(lambda: running(net, 2))
    before = net.on()
    started = sum(len(box.started) for box in net.boxes.values())
    net.kill("a")
    net.until(lambda: bool(net.coordinators()))
    net.run(120.0)
    assert net.on() == before
    assert sum(len(box.started) for box in net.boxes.values()) == started
    (successor,) = net.coordinators()
    assert net.service(successor).term == 2


def test_one_whose_every_holder_is_gone_is_taken_up_by_the_first_of_the_others() -> None:
    names = [f"n{index}" for index in range(8)]
    net = ServiceNet(*names)
    host = rendezvous(net.id, [PeerId(name) for name in names[1:]])[-1]
    box = net.boxes[host]
    where: Plain = [{"Key": "name", "Operator": "=", "Values": [host]}]
    net.ran("n0", service(Constraints=where))
    net.until(lambda: running(net, 1))
    net.run(1.0)
    holders = [name for name in names if net.id in net[name].jobs]
    others = [name for name in names if name not in holders]
    assert net.where() == [host] and host in others
    net.kill(*holders)
    net.until(lambda: bool(net.coordinators()), bound_s=60.0)
    net.run(120.0)
    assert len(box.started) == 1 and net.where() == [host]
    (successor,) = net.coordinators()
    assert successor in others
    held = net.service(successor)
    assert held.slots[0].assignment is not None and held.slots[0].assignment.executor == host


def test_a_partition_runs_it_on_both_sides_and_healing_leaves_count() -> None:
    net = ServiceNet("a", "b", "c", "d")
    net.ran("a", service(2, command="x", cpu="3000m"))
    net.until(lambda: running(net, 2))
    side = net.where()
    net.part(side, [name for name in "abcd" if name not in side])
    net.run(120.0)
    assert len(net.on()) == 4
    net.heal()
    net.run(60.0)
    assert sorted(each[0] for each in net.on()) == ["0", "1"]
    assert len(net.coordinators()) == 1
    assert [t for name in "abcd" for t in net.told(name, "execution.stopped-here")]
    twice = [tell.text for name in "abcd" for tell in net.told(name, "service.ran-twice")]
    assert twice and all("as well, and is stopped there" in text for text in twice)


@pytest.mark.parametrize("alone", ["a", "b"])  # its coordinator, and another
def test_one_that_stops_when_cut_off_stays_so_until_its_device_meets_somebody(alone: str) -> None:
    net = ServiceNet("a", "b", "c", cpu_m={name: 400 * (name == alone) for name in "abc"})
    net.ran("a", service(Disconnect={"StopAfter": 12}))
    net.run(1.0)
    assert net.where() == [alone]
    others = [name for name in "abc" if name != alone]
    for name in others:  # which have room only now
        net.handle(name, replace(net.boxes[name].described, cpu_m=400))
        net.handle(name, FactsSampled(Facts(cpu_free_m=400)))
    net.run(1.0)
    net.part([alone], others)
    net.run(40.0)
    assert len(net.where()) == 1 and alone not in net.where(), "it runs on the other side"
    net.run(120.0)
    assert alone not in net.where(), "nor does this side take it up anew"
    net.heal()
    net.run(40.0)
    assert len(net.where()) == 1


def test_a_device_that_knows_no_others_is_not_cut_off() -> None:
    net = ServiceNet("a")
    net.ran("a", service(Disconnect={"StopAfter": 12}))
    net.run(100.0)
    assert net.where() == ["a"]


def test_what_an_update_replaces_in_its_place_has_not_run_beside_it() -> None:
    """Its lease is renewed just as the later award is on its way."""
    net = ServiceNet("a", "b")
    net.ran("a", service())
    net.run(1.0)
    (host,) = net.where()
    old = net.service("a").slots[0].assignment
    assert old is not None
    net.ran("a", service(command="better"))
    net.run(1.0)
    new = net.service("a").slots[0].assignment
    assert new is not None and new.fence > old.fence and net.where() == [host]
    net.send(host, "a", Renew((Renewal(net.id, old.revision, 0, old.fence, "running"),)))
    assert not net.told("a", "service.ran-twice")


@pytest.mark.parametrize("desired", [Desired.STOPPED, Desired.DELETED])
def test_an_update_that_met_a_stop_on_its_way_is_not_run(desired: Desired) -> None:
    operating = (Role.COMPUTE, Role.SUBMIT, Role.OPERATE)
    net = ServiceNet("a", "b", "c", "d", roles={"a": operating})
    net.ran("c", service(2, command="x"))
    net.until(lambda: running(net, 2))
    net.part(["a", "b"], ["c", "d"])
    net.submit("c", service(2, command="y"))
    net.stop("a", net.id, desired)
    net.until(lambda: "y" in net.commands())
    net.heal()
    net.run(90.0)
    assert {net[name].steward.standing.jobs[net.id].desired for name in "abcd"} == {desired}
    assert net.on() == []
    assert all(net[name].executor.reserved.cpu_m == 0 for name in "abcd")


@pytest.mark.parametrize("number", range(6))
def test_of_two_islands_updates_all_remember_the_one_that_counts(number: int) -> None:
    """Whichever of the two revisions has the higher hash, as a record and as an update."""
    operating = (Role.COMPUTE, Role.SUBMIT, Role.OPERATE)
    net = ServiceNet("a", "b", "c", "d", roles={"c": operating})
    net.ran("a", service(1, command="x"))
    net.until(lambda: net.service("a").settled)
    net.part(["a", "b"], ["c", "d"])
    net.run(30.0)
    for name in ("a", "c"):
        net.ran(name, service(1, command=f"{name}{number}"))
    net.run(60.0)
    net.heal()
    net.run(60.0)
    held = [net.service(name) for name in "abcd" if net.id in net[name].jobs]
    assert len(held) > 1 and len({each.fingerprint() for each in held}) == 1
    assert all(each.settled for each in held)


def test_a_service_that_has_outlived_many_peers_finds_new_standbys() -> None:
    names = [f"n{index:02}" for index in range(20)]
    net = ServiceNet(*names)
    net.ran("n00", service())
    net.until(lambda: running(net, 1))
    for name in names[1:18]:
        net.kill(name)
        net.run(5.0)
    held = net.service("n00")
    assert {"n18", "n19"} <= {*held.holders}
    assert net.service("n19").holders == net.service("n18").holders == held.holders


# ---- stopping ----------------------------------------------------------------------------------


@pytest.mark.parametrize("desired", [Desired.STOPPED, Desired.DELETED])
def test_it_can_be_stopped_from_any_peer_without_its_coordinator(desired: Desired) -> None:
    operating = (Role.COMPUTE, Role.SUBMIT, Role.OPERATE)
    net = ServiceNet("a", "b", "c", "d", roles={"d": operating}, cpu_m={"a": 50})
    net.ran("a", service(2))
    net.until(lambda: running(net, 2))
    net.run(1.0)
    net.kill("a")
    reply = net.controlled("d", desired)
    assert reply.error == ""
    net.run(2.0)
    assert net.on() == []
    net.boot("a")
    net.run(120.0)
    assert net.on() == [] and net.coordinators() == []
    held = [name for name in "abcd" if net.id in net[name].jobs]
    assert bool(held) is (desired is Desired.STOPPED)


@pytest.mark.parametrize("desired", [Desired.STOPPED, Desired.DELETED])
@pytest.mark.parametrize("by", ["a", "d"])
def test_it_can_be_run_again(desired: Desired, by: str) -> None:
    operating = (Role.COMPUTE, Role.SUBMIT, Role.OPERATE)
    net = ServiceNet("a", "b", "c", "d", roles={"d": operating})
    net.ran("a", service(2))
    net.until(lambda: running(net, 2))
    net.controlled("a", desired)
    net.run(2.0)
    assert net.on() == []
    reply = net.ran(by, service(2))
    assert reply.error == "" and reply.value["generation"] == 2
    assert net.until(lambda: running(net, 2)) < 5.0
    net.run(60.0)
    assert len(net.on()) == 2 and len(net.coordinators()) == 1


def test_what_missed_the_stop_stops_when_it_comes_back() -> None:
    net = ServiceNet("a", "b", cpu_m={"a": 50})
    net.ran("a", service())
    net.until(lambda: net.where() == ["b"])
    net.kill("b")
    net.run(5.0)
    net.controlled("a")
    net.boot("b")
    net.run(5.0)
    assert net.on() == []
    assert net["b"].executor.reserved.cpu_m == 0


# ---- restarts of the agent ---------------------------------------------------------------------


def test_an_agent_that_starts_again_takes_up_what_runs_and_starts_what_was_lost() -> None:
    net = ServiceNet("a", "b")
    net.ran("a", service(2))
    net.until(lambda: running(net, 2))
    net.kill("a", "b")
    net.boot("a")
    (lost,) = net.boxes["b"].running
    net.boot("b", lost=[lost])
    net.run(60.0)
    assert net.where() == ["a", "b"]
    assert [len(net.boxes[name].started) for name in "ab"] == [1, 2]


# ---- draining and checks -----------------------------------------------------------------------


def drain(net: ServiceNet, name: str, draining: bool = True) -> None:
    box = net.boxes[name]
    box.described = replace(box.described, draining=draining)
    net.handle(name, box.described)


@pytest.mark.parametrize("of", ["coordinator", "other"])
def test_a_slot_is_moved_off_a_peer_that_drains_once_it_runs_elsewhere(of: str) -> None:
    net = ServiceNet("a", "b", "c", "d")
    net.ran("a", service(2))
    net.until(lambda: running(net, 2))
    net.run(70.0)
    hosts = net.where()
    leaver = hosts[0] if of == "other" or "a" not in hosts else "a"
    drain(net, leaver)
    low = 2
    while leaver in net.where():
        net.run(0.01)
        low = min(low, len(net.on()))
    net.run(60.0)
    assert low == 2 and len(net.on()) == 2 and leaver not in net.where()


def test_where_nobody_else_fits_it_stays_where_it_drains() -> None:
    net = ServiceNet("a", "b")
    net.ran("a", service(2))
    net.until(lambda: running(net, 2))
    net.run(70.0)
    drain(net, "b")
    net.run(300.0)
    assert net.where() == ["a", "b"]
    drain(net, "b", False)
    net.run(300.0)
    assert net.where() == ["a", "b"]
    net.kill("b")
    net.boxes["b"].running.clear()
    net.run(10.0)
    net.boot("b")
    assert net.until(lambda: running(net, 2)) < 60.0


def test_one_that_drains_and_dies_is_placed_again() -> None:
    net = ServiceNet("a", "b", "c")
    net.ran("a", service(3))
    net.until(lambda: running(net, 3))
    net.run(70.0)
    drain(net, "b")
    net.run(10.0)
    net.kill("b")
    net.boxes["b"].running.clear()
    net.run(10.0)
    drain(net, "b", False)
    net.boot("b")
    net.until(lambda: net.where() == ["a", "b", "c"])


CHECK: Plain = {"Tcp": "127.0.0.1:80"}


def test_one_that_is_not_well_is_started_again() -> None:
    net = ServiceNet("a")
    net.ran("a", service(1, Check=CHECK))
    net.until(lambda: running(net, 1))
    (first,) = net.boxes["a"].running
    net.run(1.0)
    assert net.boxes["a"].checked == [first]
    net.handle("a", HealthChanged(first, True))
    net.run(100.0)
    net.handle("a", HealthChanged(first, False, "refused"))
    net.until(lambda: running(net, 1) and first not in net.boxes["a"].running)
    assert [tell.text for tell in net.told("a", "execution.unhealthy")] == [
        "web is unhealthy: refused"
    ]
    assert net.handle("a", HealthChanged(first, False, "refused")) == []


def test_an_update_goes_on_once_its_checks_pass() -> None:
    net = ServiceNet("a", "b")
    net.ran("a", service(2, command="one"))
    net.until(lambda: net.service("a").settled)
    net.ran("a", service(2, command="two", Check=CHECK))
    net.until(lambda: "two" in net.commands())
    net.run(300.0)
    assert net.commands() == ["one", "two"]
    for name in "ab":
        for execution in net.boxes[name].checked:
            net.handle(name, HealthChanged(execution, True))
    net.until(lambda: net.commands() == ["two", "two"])


def test_a_holder_that_speaks_of_slots_there_are_not_breaks_nothing() -> None:
    net = ServiceNet("a", "b")
    net.ran("a", service(1))
    net.until(lambda: running(net, 1))
    net.run(1.0)
    sync = net.service("b").sync(1, [0], with_spec=False)
    empty = SlotState(5)
    net.send("b", "a", msgspec.structs.replace(sync, slots=(*sync.slots, empty)))
    assert len(net.service("a").slots) == 6
    net.run(60.0)
    assert net.where() and len(net.on()) == 1


# ---- devices on metered links


def test_a_service_is_taken_up_by_no_leaf_while_another_can() -> None:
    metered = NodeConfig(membership=MembershipConfig.preset("metered"))
    net = ServiceNet("a", "b", "c", "d", configs={"b": metered, "c": metered})
    net.ran("a", service(1))
    for name in "abcd":
        assert net[name].steward.services.first_rank(net.id) in ("a", "d")
    net.kill("a")
    net.until(lambda: net.coordinators() == ["d"], 30.0)
