"""Turns on whole nodes: who fires a message first, who steps in, and never two of them."""

from __future__ import annotations

import math
from collections.abc import Iterable

import pytest

from protocol import turns
from protocol.derived import derived_id
from protocol.events import TopicWatched
from protocol.ids import PeerId, rendezvous
from protocol.messages import JobQuery, JobReport, JobSync
from tests.protocol.triggernet import TriggerNet, allowing


def test_when_only_a_later_rank_hears_it_that_one_fires() -> None:
    net = TriggerNet("a", "b", "c")
    net.put("a")
    first, second, third = net.ranks("m1")
    net.hear(third, key="m1")
    net.run(5.0)
    assert not net.runs()  # the two before it might still have it
    net.until(lambda: bool(net.runs()))
    assert net.runs()[0].coordinator == third
    net.hear(first, second, key="m1")
    net.run(20.0)
    assert len(net.starts()) == 1


def test_the_next_rank_steps_in_when_the_first_is_dead() -> None:
    net = TriggerNet("a", "b", "c")
    net.put("a")
    first, second, third = net.ranks("m1")
    net.hear(second, third, key="m1")
    net.kill(first)
    net.until(lambda: bool(net.runs()))
    assert net.runs()[0].coordinator == second
    net.run(30.0)
    assert len(net.starts()) == 1


def test_a_change_ranks_those_anew_alone_that_wait_for_who_is_gone(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Ranking a thousand peers takes a millisecond, and 256 messages may wait."""
    configs = {"a": allowing(rank_delay_s=600, look_s=600)}
    net = TriggerNet("a", "b", "c", "d", without_broker=("d",), configs=configs)
    net.put("a")
    for number in range(30):
        net.hear("a", key=f"m{number}")
    waiters = net.triggers("a").waiting.waiters
    peers = [PeerId(name) for name in ("a", "b", "c")]
    after_b = [run for run in waiters if rendezvous(run, peers).index(PeerId("b")) == 0]
    ranked: list[str] = []

    def counting(key: str, peers: Iterable[PeerId]) -> list[PeerId]:
        ranked.append(key)
        return rendezvous(key, peers)

    monkeypatch.setattr(turns, "rendezvous", counting)
    net.kill("d")
    net.until(lambda: PeerId("d") not in net["a"].membership.alive())
    assert len(waiters) > len(after_b) > 3 and not set(ranked) & set(waiters)
    net.kill("b")
    net.until(lambda: PeerId("b") not in net["a"].membership.alive())
    assert set(after_b) <= set(ranked) and len(set(ranked) & set(waiters)) < len(waiters)


def queries(net: TriggerNet) -> list[str]:
    """Who asks whom from now on."""
    asked: list[str] = []

    def note(sender: str, to: str, message: object) -> bool:
        if isinstance(message, JobQuery):
            asked.append(f"{sender}{to}")
        return False

    net.drop = note
    return asked


def test_of_many_that_hear_it_the_first_few_write_it_down() -> None:
    names = "abcdefghijkl"
    net = TriggerNet(*names)
    net.put("a")
    asked = queries(net)
    order = net.ranks("m1")
    handles = dict(zip(names, net.hear(*names, key="m1"), strict=True))
    for rank, name in enumerate(order):
        assert len(net.rows(name)) == (1 if rank < 4 else 0)
        assert (handles[name] in net.boxes[name].kept) == (rank < 4)
    net.run(3.0)
    assert all(not net.rows(name) for name in names)
    assert all(net.boxes[name].kept == [handles[name]] for name in names)
    assert len(net.starts()) == len(net.runs()) == 1
    late = [each for each in asked if each[0] in order[4:]]
    assert sorted(late) == sorted(f"{name}{order[0]}" for name in order[4:])


def test_what_none_before_it_has_heard_a_late_rank_writes_down_and_fires() -> None:
    names = "abcdef"
    net = TriggerNet(*names)
    net.put("a")
    last = net.ranks("m1")[-1]
    first, again = net.hear(last, last, key="m1")
    box = net.boxes[last]
    assert not net.rows(last) and not box.kept, "the broker has it"
    net.until(lambda: bool(box.kept))
    assert box.kept == [first, again] and len(net.rows(last)) == 1
    net.until(lambda: bool(net.runs()))
    assert net.runs()[0].coordinator == last and not net.rows(last)


def test_a_late_rank_that_is_the_first_of_a_sudden_writes_it_down_before_it_fires() -> None:
    names = "abcdef"
    net = TriggerNet(*names, configs={name: allowing(look_s=600) for name in names})
    net.put("a")
    last = net.ranks("m1")[-1]
    (handle,) = net.hear(last, key="m1")
    net.kill(*(name for name in names if name != last))
    net.until(lambda: bool(net.runs()))
    assert net.boxes[last].kept == [handle] and net.fired(last) == 1


def test_who_dies_between_journal_and_run_fires_it_after_its_restart() -> None:
    net = TriggerNet("a", "b")
    net.put("a")
    last = net.ranks("m1")[-1]
    net.hear(last, key="m1")
    rows = net.rows(last)
    net.kill("a", "b")
    net.boot(last)
    assert net.rows(last) == rows and len(rows) == 1
    net.until(lambda: bool(net.runs()))
    net.run(10.0)
    assert len(net.starts()) == 1


def test_who_comes_back_later_and_hears_it_then_fires_nothing() -> None:
    """Its broker session has kept what the others had long fired without it."""
    net = TriggerNet("a", "b", "c")
    net.put("a")
    first, second, third = net.ranks("m1")
    net.kill(first)
    net.run(5.0)
    net.hear(second, third, key="m1")
    net.run(20.0)
    net.finish()
    net.run(5.0)
    net.boot(first)
    net.run(5.0)
    net.hear(first, key="m1")
    net.run(20.0)
    assert len(net.starts()) == 1 and net.fired(first) == 0


def test_two_islands_fire_one_job_of_one_id() -> None:
    net = TriggerNet("a", "b", "c", "d")
    net.put("a")
    net.part(("a", "b"), ("c", "d"))
    net.run(10.0)
    net.hear("a", "b", "c", "d", key="m1")
    net.run(40.0)
    assert len(net.runs()) == 1 and len(net.starts()) == 2
    net.heal()
    net.run(30.0)
    net.finish()
    net.run(10.0)
    held = [
        net[name].jobs[net.runs()[0].id] for name in net.boxes if net.runs()[0].id in net[name].jobs
    ]
    assert len({each.fingerprint() for each in held}) == 1 and held[0].done


def test_a_burst_of_one_key_is_one_job() -> None:
    net = TriggerNet("a", "b")
    net.put("a")
    for _ in range(50):
        net.hear("a", "b", key="m1")
    net.run(10.0)
    assert len(net.starts()) == 1


def test_a_burst_of_many_keys_is_asked_for_in_turn() -> None:
    net = TriggerNet("a", "b")
    net.put("a")
    for number in range(100):
        net.hear("a", "b", key=f"m{number}")
    for _ in range(30):
        net.run(0.5)
        net.finish()
    net.run(10.0)
    assert len(net.starts()) == len(net.runs()) == 100
    assert not net.rows("a") and not net.rows("b")
    assert not net.triggers("a").turns._asking and not net.triggers("b").turns._asking


@pytest.mark.parametrize("free_at_s", [2.5, 3.2, 3.5, 3.97, 4.2])
@pytest.mark.parametrize("names", ["abc", "abcde"])
def test_who_has_room_again_as_the_next_steps_in_fires_once_with_it(
    names: str, free_at_s: float
) -> None:
    """Both ask all around at one moment, and each hears that the other knows no such run."""
    net = TriggerNet(*names, configs={name: allowing(running_max=1) for name in names})
    net.put("a")
    first = net.ranks("m0")[0]
    second = next(key for key in map(str, range(60)) if net.ranks(key)[0] == first)
    net.hear(*names, key="m0")
    net.run(0.5)
    net.hear(*names, key=second)
    net.run(free_at_s)
    net.finish()
    net.run(30.0)
    assert len(net.runs()) == len(net.starts()) == 2
    assert sum(net.fired(name) for name in names) == 2
    assert not any(net.rows(name) for name in names)


def test_who_asks_first_fires_though_a_better_rank_asks_meanwhile() -> None:
    """A third says nothing, so that each asks for a second; the one is no holder for the other."""
    net = TriggerNet("a", "b", "c", without_broker=("c",))
    net.put("a")
    first, second = (name for name in net.ranks("m1") if name != "c")
    net.drop = lambda sender, to, message: (
        (isinstance(message, JobQuery) and to == "c")
        or (isinstance(message, JobSync) and to == first)
    )
    net.hear(second, key="m1")
    (waiter,) = net.triggers(second).waiting.waiters.values()
    net.run(waiter.turn - net.now)
    net.run(0.5)
    assert waiter.asking and not net.runs()
    net.hear(first, key="m1")
    net.run(10.0)
    assert len(net.starts()) == 1 and (net.fired(first), net.fired(second)) == (0, 1)


def quiet(net: TriggerNet, first: str, second: str, seconds: float) -> None:
    """The first is busy for so long: what it says of jobs reaches the second no sooner."""
    end = net.now + seconds
    net.drop = lambda sender, to, message: (
        (sender, to) == (first, second)
        and net.now < end
        and isinstance(message, JobReport | JobSync)
    )


@pytest.mark.parametrize("seconds", [6.0, 10.0, 14.0])
def test_who_may_have_fired_it_is_waited_for_while_it_lives(seconds: float) -> None:
    net = TriggerNet("a", "b")
    net.put("a")
    first, second = net.ranks("m1")
    quiet(net, first, second, seconds)
    net.hear(first, second, key="m1")
    net.run(30.0)
    assert (net.fired(first), net.fired(second)) == (1, 0)
    assert len(net.starts()) == 1 and not net.rows(second)


def test_who_says_nothing_for_ever_is_not_waited_for() -> None:
    net = TriggerNet("a", "b")
    net.put("a")
    first, second = net.ranks("m1")
    quiet(net, first, second, math.inf)
    net.hear(second, key="m1")
    assert 4.0 < net.until(lambda: net.fired(second) == 1) < 25.0


@pytest.mark.parametrize("behind_s", [4.2, 4.6, 5.0, 8.0, 17.0, 20.0])
@pytest.mark.parametrize("lag_s", [0.0, 1.6])
def test_two_busy_devices_fire_a_message_once_however_late_the_first_hears_it(
    behind_s: float, lag_s: float
) -> None:
    """In a burst an answer takes longer than a second, and one device is behind the other."""
    net = TriggerNet("a", "b")
    net.put("a")
    first, second = net.ranks("m1")
    net.lag_s = {first: 0.5, second: lag_s}
    net.hear(second, key="m1")
    net.run(4.1)  # it has asked whether it may fire
    net.lag_s = {first: 0.5, second: 1.6}
    net.run(behind_s - 4.1)
    net.hear(first, key="m1")
    net.run(40.0)
    assert net.fired(first) + net.fired(second) == len(net.starts()) == 1
    assert not net.rows(first) and not net.rows(second)


def test_who_comes_back_to_its_broker_waits_for_those_that_may_have_fired_meanwhile() -> None:
    """What the first rank hears is no news to the others then."""
    net = TriggerNet("a", "b")
    net.put("a")
    first, second = net.ranks("m1")
    for problem in ("broker home is not connected", ""):
        net.handle(first, TopicWatched(net.id, problem))
    quiet(net, second, first, 5.0)
    net.hear(first, key="m1")
    net.run(3.0)
    assert not net.runs()
    net.run(10.0)
    assert net.fired(first) == len(net.starts()) == 1


def test_what_was_heard_in_an_earlier_life_is_no_news_to_the_others() -> None:
    """They have fired it while the first rank was down, and are slow to say so."""
    net = TriggerNet("a", "b", "c")
    net.put("a")
    first, *others = net.ranks("m1")
    net.drop = lambda sender, to, message: sender == first
    net.hear(first, *others, key="m1")
    net.kill(first)
    net.drop = lambda sender, to, message: False
    net.until(lambda: any(net.fired(name) for name in others))
    end = net.now + 8.0
    net.drop = lambda sender, to, message: (
        to == first and net.now < end and isinstance(message, JobReport | JobSync)
    )
    net.boot(first)
    net.run(30.0)
    assert net.fired(first) == 0 and len(net.starts()) == 1 and not net.rows(first)


def test_what_was_asked_for_is_remembered_within_bounds() -> None:
    net = TriggerNet("a", "b")
    net.put("a")
    for number in range(turns.ASKED_FOR_MAX + 5):
        run = derived_id(net.shoal.id, "default", net.id, str(number))
        net.send("b", "a", JobQuery(number, run, 1, False))
    assert len(net.triggers("a").turns._asked_for) == turns.ASKED_FOR_MAX
