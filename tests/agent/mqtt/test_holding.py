"""What is held between a broker and the node: bounds for each session, and lines that go on."""

from __future__ import annotations

import pytest

from agent.mqtt import holding
from agent.mqtt.holding import AGAIN_MAX, HELD_MAX, Held, Holding
from protocol.config import TriggersConfig
from protocol.events import TriggerHeard
from protocol.ids import JobId
from protocol.records import Heard
from tests.agent.mqtt import desknet
from tests.agent.mqtt.desknet import DeskNet

HOME = ("home", "s")


def held(handle: int, size: int = 1, source: tuple[str, str] = HOME) -> Held:
    event = TriggerHeard(handle, JobId("look"), Heard("t", b""), "", f"home/s/{handle}")
    return Held(event, lambda: None, source, size)


def test_a_line_gives_its_oldest_first_whatever_came_when() -> None:
    kept = Holding()
    each = [held(handle) for handle in range(30)]
    for one in each:
        kept.add(one, again=False)
    for one in reversed(each):
        kept.put_off(one)
        kept.put_off(one)
    line = each[0].line
    assert kept.told() == [] and kept.pop(3) is each[3] and kept.pop(3) is None
    found = [event.handle for _ in range(4) for event in kept.front(line)]
    assert found == [handle for handle in range(30) if handle != 3] and len(found) < 4 * AGAIN_MAX
    assert not kept.waits(line) and kept.front(line) == []


def test_room_is_what_a_session_itself_leaves() -> None:
    kept = Holding()
    for handle in range(HELD_MAX):
        assert kept.room(HOME)
        kept.add(held(handle), again=False)
    assert not kept.room(HOME) and not kept.few(HOME) and kept.count(HOME) == HELD_MAX
    assert kept.room(("home", "other")) and kept.few(("home", "other"))
    kept.leave(HOME)
    assert kept.room(HOME) and kept.few(HOME) and kept.told() == []


def test_more_are_remembered_than_can_be_taken_before_a_broker_hears_of_one() -> None:
    config = TriggersConfig()
    assert config.deliveries_max >= config.running_max + config.rows_max + HELD_MAX


# ---- with a whole node --------------------------------------------------------------------------


def test_whatever_one_template_is_behind_with_anothers_messages_come_through() -> None:
    net = DeskNet(running_max=4)
    slow, fast = net.template("slow"), net.template("fast")
    slow.publish(*(b"%d" % number for number in range(2000)))
    net.run(5.0)
    assert len(slow.queue) > HELD_MAX, "more than there is room for, of runs that take long"
    fast.publish(b"now")
    net.run(1.0)
    assert net.ran(fast) == [b"now"] and not fast.queue
    theirs = sorted(b"%d" % number for number in range(60))
    fast.publish(*theirs)
    for _ in range(20):
        for execution, start in list(net.boxes["a"].running.items()):
            if net["a"].jobs[start.job].source == fast.id:
                net.end_of("a", execution)
        net.run(1.0)
    assert net.ran(fast) == sorted([b"now", *theirs]) and not fast.queue


def test_a_burst_that_is_larger_than_all_room_runs_each_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It connects anew again and again for what it had let go of."""
    monkeypatch.setattr(holding, "HELD_MAX", 64)
    monkeypatch.setattr(holding, "HELD_FEW", 16)
    net = DeskNet(running_max=16, rows_max=32)
    session = net.template("look")
    payloads = sorted(b"%d" % number for number in range(400))
    session.publish(*payloads)
    for _ in range(40):
        net.finish()
        net.run(1.0)
    assert net.ran(session) == payloads and not session.queue
    assert session.connection > 2


@pytest.mark.parametrize("alike", [False, True])
def test_a_connection_that_is_lost_while_messages_are_put_off_costs_none_and_doubles_none(
    alike: bool,
) -> None:
    """A link stalls: none of the acknowledgements arrives, and for a minute nobody knows. What
    waited longest by then was told of again sixty times."""
    net = DeskNet(running_max=16, rows_max=32)
    session = net.template("look")
    session.unheard = True
    count = 16 + 32 + 100
    payloads = [b"ON" if alike else b"%d" % number for number in range(count)]
    session.publish(*payloads)
    net.run(60.0)
    assert len(session.queue) == count and len(net.rows("a")) == 32
    session.renew()
    for _ in range(20):
        net.finish()
        net.run(1.0)
    assert net.ran(session) == sorted(payloads) and not session.queue
    assert len(net.starts()) == count


def test_what_a_connection_that_is_over_brings_late_is_no_second_message(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It was read before, and the loop takes it after. It waits for its second to be over as that
    of the next connection comes, and finds room."""
    monkeypatch.setattr(desknet, "CONNECT_S", 0.5)
    net = DeskNet(running_max=1, rows_max=1, rows_sure=1)
    session = net.template("look")
    session.publish(b"1", b"2")
    net.run(0.5)
    session.publish(b"3")
    net.run(1.2)
    (message,) = session.queue.values()
    session.renew()
    net.triggering.heard(session.watch, message)
    net.finish()
    for _ in range(10):
        net.run(2.0)
        net.finish()
    assert net.ran(session) == [b"1", b"2", b"3"] and not session.queue


def test_what_waits_for_room_costs_a_few_looks_a_second_however_much_it_is() -> None:
    net = DeskNet(rows_max=32)
    session = net.template("look")
    session.publish(*(b"%d" % number for number in range(500)))
    net.run(5.0)
    before = net.told_of
    net.run(60.0)
    assert 0 < net.told_of - before <= 61 * AGAIN_MAX
