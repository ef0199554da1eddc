"""pins: a slot goes back to the device that has its volumes, and nowhere else."""

from __future__ import annotations

from dataclasses import replace

import pytest

from protocol.events import TaskEnded
from protocol.ids import PeerId
from protocol.job import JobSpec
from protocol.messages import Award, Declined, Message, ResultOffer
from protocol.pins import group_of, home_of
from protocol.records import Result
from protocol.tree import Plain
from protocol.wire import open_sealed
from tests.protocol.nodenet import NodeNet, batch, retry
from tests.protocol.servicenet import ServiceNet, service

DATA: Plain = [{"Name": "data", "Target": "data"}]
NOT_A: Plain = [{"Key": "name", "Operator": "!=", "Values": ["a"]}]


def keeping(count: int = 1, name: str = "data", without: str = "", **fields: Plain) -> JobSpec:
    """A service whose slots keep a volume of that name."""
    volume: dict[str, Plain] = {"Name": name, "Target": "data"}
    if without:
        volume["Without"] = [without]
    tree = dict(service(count, **fields).to_plain())
    task: Plain = {**service(count, **fields).task.to_plain(), "Volumes": [volume]}
    return JobSpec.from_plain({**tree, "Tasks": [task]})


def started(count: int = 1, **fields: Plain) -> tuple[ServiceNet, str]:
    """And where slot 0 runs."""
    net = ServiceNet("a", "b", "c", "d")
    net.ran("a", keeping(count, Constraints=NOT_A, **fields))
    net.until(lambda: len(net.on()) == count)
    return net, next(each[1:] for each in net.on() if each[0] == "0")


def waits(net: ServiceNet, home: str, name: str = "a") -> bool:
    plans = net.coordination(name).led[net.id].plans
    return f"volume data is on {home}: it has volume data, and is away" in plans[0].reason


def test_a_slot_waits_for_the_device_that_has_its_volume() -> None:
    net, home = started()
    net.kill(home)
    lost = list(net.boxes[home].running)
    net.until(lambda: waits(net, home))
    net.run(600.0)
    assert [name for name in net.where() if name != home] == []
    (waiting,) = net.told("a", "job.waiting")
    assert waiting.text == (
        f"waiting: volume data is on {home}: it has volume data, and is away; if it is gone for "
        "good, say so in the job file: Without: [its name]"
    )
    net.boot(home, lost=lost)
    net.until(lambda: net.where() == [home])


def test_what_runs_on_is_taken_up_again_where_it_is() -> None:
    net, home = started()
    before = list(net.boxes[home].running)
    net.part([home], [name for name in net.boxes if name != home])
    net.until(lambda: waits(net, home))
    net.heal()
    net.run(30.0)
    assert net.where() == [home] and list(net.boxes[home].running) == before


def test_a_successor_knows_where_the_volume_is() -> None:
    net, home = started()
    net.run(1.0)
    holders = [name for name in net.boxes if net.id in net[name].jobs and name not in ("a", home)]
    net.kill("a", home)
    net.until(lambda: any(name in holders for name in net.coordinators()))
    (next_one,) = [name for name in net.coordinators() if name != "a"]
    net.until(lambda: waits(net, home, next_one))
    net.run(120.0)
    assert net.where() == [home], "as it was left there, and nowhere else"


def test_a_batch_slot_is_retried_where_its_volume_is() -> None:
    net = NodeNet("a", "b", "c", "d")
    causes = retry(4, "failure", "lost")
    net.submit("a", batch(on="bcd", task={"Volumes": DATA}, **causes))
    net.until(lambda: len(net.executors()) == 1)
    home = net.executor()
    for _ in range(2):
        net.end(home, 3)
        net.until(lambda: net.executors() == [home])
    net.kill(home)
    net.run(900.0)  # longer than QueueTimeout
    assert net.executors() == [home] and not net.held("a").done
    net.boot(home)
    net.run(5.0)
    net.end(home)
    net.until(lambda: net.held("a").done)


def test_the_next_attempt_starts_once_the_one_before_has_stopped() -> None:
    net = NodeNet("a", "b")
    net.submit("a", batch(on="b", task={"Volumes": DATA}, **retry(5, "lost")))
    net.until(lambda: net.executors() == ["b"])
    (before,) = net.boxes["b"].running
    net.drop = lambda sender, to, message: sender == "b" and to == "a"
    net.until(lambda: "no word from b" in net.led("a").plans[0].reason, 120.0)
    net.drop = lambda sender, to, message: False
    net.run(60.0)
    assert len(net.boxes["b"].running) == 1
    assert before in net.boxes["b"].running or before in net.boxes["b"].ended


def test_a_volume_of_another_name_is_another_volume() -> None:
    net, home = started()
    net.kill(home)
    net.until(lambda: waits(net, home))
    net.ran("a", keeping(name="fresh"))
    net.until(lambda: [name for name in net.where() if name != home] != [])


def test_a_person_may_give_a_device_up_for_one_slot() -> None:
    net, home = started(count=2)
    (other,) = [each[1:] for each in net.on() if each[0] == "1"]
    net.kill(home)
    net.until(lambda: waits(net, home))
    net.ran("a", keeping(2, without=home))
    net.until(lambda: len([each for each in net.on() if each[0] == "0"]) == 2)
    net.run(60.0)
    assert f"1{other}" in net.on(), "the other slot stays with its own"
    net.boot(home)
    net.until(lambda: len(net.on()) == 2)
    assert home not in net.where()


def test_a_slot_does_not_take_the_place_of_another_that_comes_back() -> None:
    """Spread: no peer runs two, so who keeps slot 0 runs no other while that is away."""
    net, home = started(count=3)
    beside = [each for each in net.on() if each[0] != "0"]
    assert "a" not in net.where()
    net.kill(home)
    net.until(lambda: waits(net, home))
    lost = list(net.boxes[home].running)
    net.ran("a", keeping(4, Constraints=NOT_A))
    net.boot(home, lost=lost)
    net.until(lambda: f"0{home}" in net.on())
    net.run(60.0)
    assert net.on() == [f"0{home}", *beside], "slot 3 has nowhere to go"
    plans = net.coordination("a").led[net.id].plans
    assert "runs there" in plans[3].reason or "keeps its volumes there" in plans[3].reason


def test_slots_that_wait_for_two_devices_are_told_of_once_each() -> None:
    net, home = started(count=2)
    (other,) = [each[1:] for each in net.on() if each[0] == "1"]
    lost = {name: list(net.boxes[name].running) for name in (home, other)}
    net.kill(home, other)
    net.run(600.0)
    told = [tell.text for tell in net.told("a", "job.waiting") if "and is away" in tell.text]
    assert sorted(text.split(" is on ")[1][0] for text in told) == sorted([home, other])
    for name in (home, other):
        net.boot(name, lost=lost[name])
    net.until(lambda: net.on() == sorted([f"0{home}", f"1{other}"]))


def test_a_slot_that_is_not_to_run_keeps_no_device_from_the_others() -> None:
    net, home = started(count=3)
    net.ran("a", keeping(2, Constraints=NOT_A))
    net.until(lambda: len(net.on()) == 2)
    (third,) = {"b", "c", "d"} - set(net.where())
    net.ran("a", keeping(2, name="other", without="", Constraints=NOT_A))
    net.until(lambda: net.service("a").settled)
    net.kill(home)
    net.until(lambda: "is away" in str(net.coordination("a").led[net.id].plans[0].reason))
    net.ran("a", keeping(2, name="other", without=home, Constraints=NOT_A))
    net.until(lambda: f"0{third}" in net.on())


def test_a_drained_device_keeps_what_it_has() -> None:
    net, home = started()
    net.boxes[home].described = replace(net.boxes[home].described, draining=True)
    net.handle(home, net.boxes[home].described)
    net.run(60.0)
    assert net.where() == [home]


def test_an_award_that_is_not_answered_may_have_begun() -> None:
    net = ServiceNet("a", "b", "c")
    silenced: dict[str, None] = {}

    def drop(sender: str, to: str, message: Message) -> bool:
        if isinstance(message, Award) and not silenced:
            silenced[to] = None
        return sender in silenced and not isinstance(message, Declined)

    net.drop = drop
    net.ran("a", keeping(Constraints=NOT_A))
    net.until(lambda: bool(silenced))
    net.run(30.0)
    (home,) = silenced
    assert net.where() == [home], "the other is not asked"
    net.drop = lambda sender, to, message: False
    net.run(10.0)
    assert net.where() == [home] and net.service("a").slots[0].assignment is not None


def test_one_that_never_got_the_award_does_not_keep_the_slot() -> None:
    net = ServiceNet("a", "b", "c")
    deaf: dict[str, None] = {}

    def drop(sender: str, to: str, message: Message) -> bool:
        if isinstance(message, Award) and not deaf:
            deaf[to] = None
        return isinstance(message, Award) and to in deaf

    net.drop = drop
    net.ran("a", keeping(Constraints=NOT_A))
    net.until(lambda: bool(deaf))
    net.run(3.0)
    assert net.where() == []
    (first,) = deaf
    net[first].executor.bidder.draining = True  # it declines what it hears of now
    net.drop = lambda sender, to, message: False
    net.until(lambda: len(net.where()) == 1)
    assert net.where() != [first]
    assert net.sent(first, Declined)


def test_a_task_that_never_began_leaves_its_slot_free() -> None:
    net = NodeNet("a", "b", "c", "d")
    net.submit("a", batch(on="bcd", task={"Volumes": DATA}, **retry(4, "system")))
    net.until(lambda: len(net.executors()) == 1)
    first = net.executor()
    (key,) = net.boxes[first].running
    net._finish(first, TaskEnded(key, None, "no such image", untouched=True))
    net.until(lambda: len(net.executors()) == 1)
    assert net.executor() != first, "a peer that failed comes last"
    ((_, offer),) = net.sent(first, ResultOffer)
    assert isinstance(offer, ResultOffer)
    record = open_sealed(offer.result, net.boxes["a"].keyring).record
    assert isinstance(record, Result) and record.untouched


def test_slots_of_one_round_go_to_one_place() -> None:
    net = NodeNet("a", "b")
    net.submit("a", batch(count=4, on=["nobody"]))
    led = net.led("a")
    homes = {1: PeerId("b"), 3: PeerId("b")}
    for index, plan in led.plans.items():
        plan.due = float(10 - index)
    assert group_of(led, [0, 1, 2, 3], homes) == [1, 3]
    led.plans[0].due = 0.0
    assert group_of(led, [0, 1, 2, 3], homes) == [0, 2]
    assert group_of(led, [0, 1, 2, 3], {}) == [0, 1, 2, 3] and group_of(led, [], homes) == []
    slot = led.held.slots[0]
    assert home_of(led.held, slot, led.plans[0], str) is None


def test_what_is_awarded_is_at_a_standby_first() -> None:
    net = ServiceNet("a", "b", "c")
    order: list[str] = []

    def drop(sender: str, to: str, message: Message) -> bool:
        order.append(type(message).__name__)
        return False

    net.run(1.0)
    net.drop = drop
    net.ran("a", keeping(Constraints=NOT_A))
    net.until(lambda: len(net.on()) == 1)
    assert "JobSyncAck" in order[: order.index("Award")]


def test_what_an_update_leaves_out_is_looked_for_where_it_was_once_it_is_gone_back_from() -> None:
    net, home = started()
    net.ran("a", service(1, Constraints=NOT_A))  # no volumes: it may run anywhere
    net.run(60.0)
    assert net.where() == [home], "it is replaced where it runs"
    lost = list(net.boxes[home].running)
    net.kill(home)
    net.until(lambda: len(net.where()) == 2)
    (away,) = (name for name in net.where() if name != home)
    net.ran("a", keeping(Constraints=NOT_A))
    net.until(lambda: waits(net, home))
    net.run(120.0)
    (runs,) = net.boxes[away].running.values()
    assert not runs.spec.task.volumes, "it runs on as it was, and does not begin with an empty one"
    net.boot(home, lost=lost)
    net.until(lambda: net.where() == [home])


def test_a_device_that_is_given_up_while_it_runs_the_slot_is_left() -> None:
    net, home = started()
    net.ran("a", keeping(without=home, Constraints=NOT_A))
    net.until(lambda: len(net.where()) == 1 and net.where() != [home], 120.0)
    net.run(60.0)
    (place,) = net.where()
    award = net["a"].jobs[net.id].slots[0].assignment
    assert award is not None and (award.executor, award.fresh) == (place, True)


@pytest.mark.parametrize("untouched", [True, False])
def test_a_successor_hears_again_whether_a_task_began(untouched: bool) -> None:
    """Its predecessor had heard that, and had not yet placed the slot again."""
    net = NodeNet("a", "b", "c", "d", "e")
    causes = retry(9, "system", "lost", backoff="90s")
    net.submit("a", batch(on="bc", task={"Volumes": DATA}, **causes))
    net.until(lambda: len(net.executors()) == 1)
    net.run(1.0)
    first = net.executor()
    (key,) = net.boxes[first].running
    net._finish(first, TaskEnded(key, None, "no such image", untouched=untouched))
    net.until(lambda: net.led("a").plans[0].ended is not None)
    net.run(2.0)
    net.kill("a")
    net.until(lambda: len(net.executors()) == 1, 300.0)
    assert (net.executor() != first) == untouched


def test_a_device_that_is_given_up_is_kept_while_there_is_no_other() -> None:
    net, home = started(count=3)
    beside = [each for each in net.on() if each[0] != "0"]
    net.until(lambda: net.service("a").settled)
    net.ran("a", keeping(3, without=home, Constraints=NOT_A, command="two"))
    net.run(60.0)
    assert net.on() == [f"0{home}", *beside] and net.commands() == ["serve"] * 3
    assert net.coordination("a").led[net.id].plans[0].leaving == home
    net.ran("a", keeping(3, Constraints=NOT_A, command="three"))
    net.until(lambda: net.commands() == ["three"] * 3, 200.0)
    assert net.on() == [f"0{home}", *beside]
