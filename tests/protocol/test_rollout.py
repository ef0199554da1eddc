"""rollout: a service's slots go to another revision in waves, and back where that fails."""

from __future__ import annotations

import pytest

from protocol.tree import Plain
from tests.protocol.servicenet import ServiceNet, service

PAUSE: dict[str, Plain] = {"Update": {"OnFailure": "pause"}}


def started(*names: str, count: int = 3, **more: Plain) -> ServiceNet:
    """The first generation, `one`, runs and has settled."""
    net = ServiceNet(*(names or ("a", "b", "c", "d")))
    net.ran("a", service(count, command="one", **more))
    net.until(lambda: len(net.on()) == count)
    net.until(lambda: net.service("a").settled)
    return net


def test_one_slot_after_the_other_is_replaced_where_it_runs() -> None:
    net = started()
    before = net.on()
    net.ran("a", service(3, command="two", Update={"HealthyAfter": "20s"}))
    seen = []
    for moment in (10, 30, 50):
        net.run(moment - (seen[-1][0] if seen else 0))
        seen.append((moment, net.commands().count("two")))
    assert seen == [(10, 1), (30, 2), (50, 3)]
    net.until(lambda: net.service("a").settled)
    assert net.on() == before
    assert [tell.text for tell in net.told("a", "service.updated")] == [
        "web: every slot runs generation 2"
    ]


def test_slots_that_shared_a_device_part_once_they_are_to_be_spread() -> None:
    here: list[Plain] = [{"Key": "name", "Operator": "=", "Values": ["b"]}]
    net = started(Spread=False, Constraints=here)
    assert net.where() == ["b", "b", "b"]
    net.ran("a", service(3, command="two"))
    net.until(lambda: net.commands() == ["two"] * 3 and len(set(net.where())) == 3)
    net.run(30.0)
    assert len(set(net.where())) == 3 == len(net.on())


def test_as_many_at_a_time_as_the_file_says() -> None:
    net = started()
    net.ran("a", service(3, command="two", Update={"MaxParallel": 2, "HealthyAfter": "20s"}))
    net.run(5.0)
    assert net.commands() == ["one", "two", "two"]


def test_the_new_task_starts_once_the_old_one_has_stopped() -> None:
    net = started("a", count=1)
    (old,) = net.boxes["a"].running
    net.ran("a", service(1, command="two"))
    net.until(lambda: net.commands() == ["two"])
    assert old in net.boxes["a"].ended
    assert net["a"].executor.reserved.cpu_m == 100


def test_a_device_that_has_room_for_one_only_is_updated_too() -> None:
    net = ServiceNet("a")
    net.ran("a", service(1, command="one", cpu="3000m"))
    net.until(lambda: net.service("a").settled)
    net.ran("a", service(1, command="two", cpu="3500m"))
    net.until(lambda: net.commands() == ["two"])
    assert net["a"].executor.reserved.cpu_m == 3500


def fail(net: ServiceNet, command: str = "two") -> None:
    """Whatever runs the command ends with an error."""
    for name, box in net.boxes.items():
        for start in list(box.running.values()):
            if start.spec.task.engine.process.command[0] == command:
                net.end(name, 1, int(start.environment["SHOAL_PARTITION_INDEX"]))


@pytest.mark.parametrize("when", [0.5, 8.0])
def test_one_that_ends_early_takes_all_back(when: float) -> None:
    net = started()
    net.ran("a", service(3, command="two"))
    net.until(lambda: "two" in net.commands())
    net.run(when)
    fail(net)
    net.until(lambda: net.commands() == ["one"] * 3)
    net.run(300.0)
    assert net.commands() == ["one"] * 3
    assert [tell.text for tell in net.told("a", "service.rolled-back")] == [
        "web: generation 2 ended early; back to the one before"
    ]
    net.ran("a", service(3, command="three"))
    net.until(lambda: net.commands() == ["three"] * 3)


def test_or_stops_there_if_the_file_says_so() -> None:
    net = started()
    net.ran("a", service(3, command="two", **PAUSE))
    net.until(lambda: "two" in net.commands())
    fail(net)
    net.run(300.0)
    assert net.commands() == ["one", "one", "two"]
    assert net.told("a", "service.update-failed")


def test_a_second_wave_that_fails_takes_the_first_back_as_well() -> None:
    net = started()
    net.ran("a", service(3, command="two"))
    net.until(lambda: net.commands().count("two") == 2)
    fail(net)
    net.until(lambda: net.commands() == ["one"] * 3)


def test_a_successor_goes_on_where_its_predecessor_was() -> None:
    net = started("a", "b", "c", "d", "e", count=2)
    net.ran("a", service(2, command="two", Update={"HealthyAfter": "30s"}))
    net.until(lambda: "two" in net.commands())
    hosts = net.where()
    net.run(1.0)
    net.kill("a")
    if "a" in hosts:
        net.boxes["a"].running.clear()
    net.until(lambda: net.commands() == ["two"] * 2, bound_s=200.0)


def test_a_successor_knows_what_to_go_back_to() -> None:
    net = started("a", "b", "c", "d", count=2, Constraints=elsewhere())
    net.ran("a", service(2, command="two", Constraints=elsewhere()))
    net.until(lambda: "two" in net.commands())
    net.kill("a")
    net.until(lambda: bool(net.coordinators()))
    fail(net)
    net.until(lambda: net.commands() == ["one"] * 2)


def elsewhere() -> Plain:
    return [{"Key": "name", "Operator": "!=", "Values": ["a"]}]


def test_a_restart_long_after_an_update_takes_nothing_back() -> None:
    net = started()
    net.ran("a", service(3, command="two"))
    net.until(lambda: net.service("a").settled)
    fail(net)
    net.run(60.0)
    assert net.commands() == ["two"] * 3


def test_more_slots_are_placed_and_fewer_stopped() -> None:
    net = started()
    net.ran("a", service(4, command="one"))
    net.until(lambda: len(net.on()) == 4)
    net.ran("a", service(1, command="one"))
    net.until(lambda: len(net.on()) == 1)
    net.run(60.0)
    assert [each[0] for each in net.on()] == ["0"]


def test_what_can_no_longer_run_where_it_did_finds_another_place() -> None:
    net = started("a", "b", count=1)
    (host,) = net.where()
    other = "b" if host == "a" else "a"
    where: Plain = [{"Key": "name", "Operator": "=", "Values": [other]}]
    net.ran("a", service(1, command="two", Constraints=where))
    net.until(lambda: net.on() == [f"0{other}"])
    assert net.commands() == ["two"]


@pytest.mark.parametrize(("before", "after"), [(1, 3), (3, 1)])
def test_going_back_is_to_as_many_slots_as_there_were(before: int, after: int) -> None:
    net = started(count=before)
    net.ran("a", service(after, command="two"))
    net.until(lambda: "two" in net.commands())
    while "two" in net.commands():
        fail(net)
        net.run(0.5)
    net.until(lambda: net.commands() == ["one"] * before)
    net.run(60.0)
    assert net.commands() == ["one"] * before
