"""Triggers on whole nodes: one job a message, whoever hears it and whoever dies."""

from __future__ import annotations

from dataclasses import replace

import pytest

from protocol.events import (
    BrokerChanged,
    SessionStarted,
    TopicWatched,
    TriggerHeard,
    TriggerRefused,
)
from protocol.job import JobSpec
from protocol.question import Question
from protocol.records import Desired, Heard, Role
from protocol.tree import Plain
from tests.protocol import nodenet
from tests.protocol.standingbook import StandingBook
from tests.protocol.test_trigger import mqtt, triggered
from tests.protocol.triggernet import ALLOW, TriggerNet, allowing, look

KEYED: dict[str, Plain] = {"Dedup": {}}


# ---- with a key ---------------------------------------------------------------------------------


def test_a_message_that_all_hear_is_one_job_fired_by_the_first_rank() -> None:
    net = TriggerNet("a", "b", "c")
    net.put("a")
    assert net.hearing() == ["a", "b", "c"]
    net.hear("a", "b", "c", key="m1")
    net.run(0.5)
    (run,) = net.runs()
    assert run.coordinator == net.ranks("m1")[0] and run.author == "a"
    assert run.job.fired is not None and run.job.fired.key == "m1"
    net.run(30.0)
    assert len(net.starts()) == len(net.runs()) == 1
    assert all(not net.rows(name) for name in net.boxes)


def test_it_is_on_disk_before_it_is_acknowledged() -> None:
    net = TriggerNet("a", "b", "c")
    net.put("a")
    last = net.ranks("m1")[-1]
    net.drop = lambda sender, to, message: True
    handles = net.hear(last, key="m1")
    assert net.boxes[last].kept == handles and len(net.rows(last)) == 1


def test_a_message_is_acknowledged_again_and_fires_no_more() -> None:
    net = TriggerNet("a", "b")
    net.put("a")
    first = net.ranks("m1")[0]
    handles = net.hear(first, first, key="m1") + net.hear("a", "b", key="m1")
    net.run(10.0)
    handles += net.hear("a", "b", key="m1")
    assert sorted(net.boxes["a"].kept + net.boxes["b"].kept) == handles
    net.run(10.0)
    assert len(net.starts()) == 1


def test_a_message_without_a_key_is_refused_where_each_has_one() -> None:
    net = TriggerNet("a")
    net.put("a")
    handles = net.hear("a")
    assert net.boxes["a"].kept == handles and not net.runs()
    (told,) = net.told("a", "trigger.refused")
    assert "brings no id" in told.text


# ---- without a key ------------------------------------------------------------------------------


def test_one_device_hears_a_topic_without_keys_and_each_message_is_a_job() -> None:
    net = TriggerNet("a", "b", "c")
    net.put("a", look())
    elected = net.elected[0]
    assert net.hearing() == [elected]
    net.hear(elected, elected)
    net.run(1.0)
    assert len(net.runs()) == len(net.starts()) == 2
    assert not net.rows(elected)


def test_what_the_broker_repeats_is_no_second_message() -> None:
    net = TriggerNet("a")
    net.put("a", look())
    net.hear("a", delivery="7")
    net.kill("a")
    net.boot("a")
    net.run(5.0)
    handles = net.hear("a", delivery="7", repeated=True)
    assert net.boxes["a"].kept[-1:] == handles
    net.run(5.0)
    assert len(net.runs()) == 1


def test_of_a_session_that_begins_anew_no_number_is_known() -> None:
    """The broker restarted without its memory: number 3 is another ON, sent twice."""
    net = TriggerNet("a")
    net.put("a", look())
    net.hear("a", "a", delivery="home/one/3")
    net.hear("a", delivery="home/two/3")
    net.run(1.0)
    net.handle("a", SessionStarted("home/one"))
    assert [key.partition("/")[2] for key in net.rows("a", "delivery")] == ["home/two/3"]
    net.kill("a")
    net.boot("a")
    net.run(5.0)
    handles = net.hear("a", delivery="home/one/3", repeated=True)
    net.hear("a", delivery="home/two/3", repeated=True)
    net.run(1.0)
    assert net.boxes["a"].kept[-2:-1] == handles and len(net.runs()) == 4


def test_what_a_node_that_is_built_anew_hears_again_is_no_second_message() -> None:
    """It was saved, and the agent had not heard of that: it tells of it as it came."""
    net = TriggerNet("a", configs={"a": allowing(running_max=1)})
    net.put("a", look())
    for drawn in ("d1", "d2", "d3"):  # one fires, two wait
        net.hear("a", delivery="home/7", drawn=drawn)
    net.kill("a")
    net.boot("a")
    net.run(5.0)
    for drawn in ("d1", "d2", "d3"):
        handles = net.hear("a", delivery="home/7", drawn=drawn)
        assert net.boxes["a"].kept[-1:] == handles
    for _ in range(5):
        net.run(2.0)
        net.finish()
    assert len(net.runs()) == 3 and net.fired("a") == 3


def test_a_number_that_comes_again_is_another_message() -> None:
    net = TriggerNet("a")
    net.put("a", look())
    net.hear("a", delivery="7")
    net.hear("a", delivery="7")  # no repetition, so the broker has seen the first acknowledged
    net.hear("a", delivery="7", payload=b"OFF", repeated=True)  # and this is of neither
    net.run(1.0)
    assert len(net.runs()) == 3


def test_what_was_taken_is_known_however_often_others_are_put_off_meanwhile() -> None:
    """Its acknowledgement is lost, and a minute later the broker sends it again."""
    net = TriggerNet("a", configs={"a": allowing(running_max=1, rows_max=1, rows_sure=0)})
    net.put("a", look())
    net.hear("a", payload=b"first", delivery="home/s/1", number=1)
    net.hear("a", payload=b"next", delivery="home/s/2", number=2)
    late = [(f"home/s/{number}", f"d{number}", number) for number in range(3, 67)]
    for _ in range(60):  # each is told of again, as it came
        for delivery, drawn, number in late:
            net.hear("a", delivery=delivery, drawn=drawn, number=number)
        net.run(1.0)
    assert len(net.boxes["a"].put_off) == 60 * 64
    handles = net.hear("a", payload=b"first", delivery="home/s/1", repeated=True, number=66)
    assert net.boxes["a"].kept[-1:] == handles
    for _ in range(3):
        net.finish()
        net.run(3.0)
    assert len(net.runs()) == len(net.starts()) == 2


def test_all_that_are_remembered_are_known_when_they_are_sent_again() -> None:
    net = TriggerNet("a")
    net.put("a", look())
    most = net.boxes["a"].config.triggers.deliveries_max
    for number in range(most):
        net.hear("a", delivery=f"home/s/{number}", number=number)
        net.finish()
    net.run(5.0)
    runs = net.fired("a")
    for number in range(most):
        net.hear("a", delivery=f"home/s/{number}", repeated=True, number=most)
    net.run(5.0)
    assert net.fired("a") == runs == most


def test_a_name_that_comes_anew_is_another_message_also_where_there_is_no_room_for_it() -> None:
    """Some brokers give the lowest number that is free: it comes again at once, and with the next
    connection as one that was sent before."""
    net = TriggerNet("a", configs={"a": allowing(running_max=1, rows_max=1, rows_sure=0)})
    net.put("a", look())
    net.hear("a", delivery="home/s/1", number=1)
    net.hear("a", delivery="home/s/2", number=2)
    (handle,) = net.hear("a", delivery="home/s/1", number=3)  # word for word the same
    assert net.boxes["a"].put_off == [handle]
    net.kill("a")
    net.boot("a")
    net.run(5.0)
    for _ in range(2):
        net.finish()
        net.run(3.0)
    net.hear("a", delivery="home/s/1", repeated=True, number=1)
    net.hear("a", delivery="home/s/2", repeated=True, number=1)
    net.run(1.0)
    assert len(net.runs()) == 3


def test_numbers_are_not_remembered_for_ever() -> None:
    net = TriggerNet("a", configs={"a": allowing(deliveries_max=2)})
    net.put("a", look())
    for number in range(5):
        net.hear("a", delivery=str(number))
    assert [key.partition("/")[2] for key in net.rows("a", "delivery")] == ["3", "4"]
    net.delete("a")
    assert not net.rows("a", "delivery")


def test_the_next_device_hears_it_when_the_elected_one_dies() -> None:
    net = TriggerNet("a", "b", "c")
    net.put("a", look())
    first, second, _ = net.elected
    net.kill(first)
    net.until(lambda: net.hearing() == [second])


def test_who_has_lost_the_broker_steps_back_and_comes_again() -> None:
    """Its password was changed, say: it has the broker by its configuration all the while."""
    net = TriggerNet("a", "b", "c")
    net.put("a", look())
    first, second, _ = net.elected
    net.handle(first, BrokerChanged("home", False))
    net.run(25.0)
    assert net.hearing() == [first]  # the broker may restart
    net.run(10.0)
    # It would be the one, so it goes on trying: nobody else knows when it is back.
    assert net.hearing() == sorted([first, second])
    net.hear(second)
    net.run(1.0)
    assert len(net.runs()) == 1
    net.handle(first, BrokerChanged("home", True))
    net.run(60.0)
    assert net.hearing() == [first]


def test_who_is_denied_the_topic_steps_back_for_that_template_alone() -> None:
    net = TriggerNet("a", "b", "c")
    net.put("a", look())
    first, second, _ = net.elected
    net.handle(first, TopicWatched(net.id, "not authorized"))
    net.run(35.0)
    assert net.hearing() == sorted([first, second])
    net.handle(first, TopicWatched(net.id))
    net.run(60.0)
    assert net.hearing() == [first]


def test_when_all_have_lost_the_broker_the_first_hears_it_all_the_same() -> None:
    net = TriggerNet("a", "b", "c")
    net.put("a", look())
    for name in net.boxes:
        net.handle(name, BrokerChanged("home", False))
        net.run(1.0)
    net.run(60.0)
    assert net.hearing() == net.elected[:1]
    for name in reversed(net.elected):  # they find it again one after the other
        net.handle(name, BrokerChanged("home", True))
        net.run(5.0)
    net.run(60.0)
    assert net.hearing() == net.elected[:1]


def test_with_keys_a_device_that_hears_nothing_is_not_waited_for() -> None:
    net = TriggerNet("a", "b", "c")
    net.put("a")
    first, second, third = net.ranks("m1")
    for name in (first, second):
        net.handle(name, BrokerChanged("home", False))
    net.run(35.0)
    net.hear(third, key="m1")
    net.run(1.0)
    assert [run.coordinator for run in net.runs()] == [third]


def test_who_is_elected_no_longer_hears_on_for_a_while() -> None:
    net = TriggerNet("a", "b", "c")
    first, second, _ = net.elected
    net.kill(first)
    net.run(5.0)
    alive = next(name for name in net.boxes if name != first)
    net.put(alive, look())
    assert net.hearing() == [second]
    net.boot(first)
    net.until(lambda: sorted(net.hearing()) == sorted([first, second]))
    net.run(12.0)
    assert net.hearing() == [first]


def test_an_id_counts_also_where_one_device_hears() -> None:
    net = TriggerNet("a", "b")
    net.put("a", look())
    elected = net.elected[0]
    net.hear(elected, key="m1")
    net.hear(elected, key="m1")
    net.run(10.0)
    assert len(net.runs()) == 1


# ---- who may ------------------------------------------------------------------------------------


def test_nothing_is_heard_where_the_owner_lists_nothing() -> None:
    net = TriggerNet("a", "b", configs={"b": allowing("template/other")})
    net.put("a")
    assert net.hearing() == ["a"]
    net.hear("b", key="m1")
    net.run(10.0)
    assert not net.runs()
    (told,) = net.told("b", "trigger.refused")
    assert "[mqtt] allow" in told.text


@pytest.mark.parametrize("allow", [ALLOW, ("template/*",), ("template/lo*",)])
def test_a_list_names_one_or_many(allow: tuple[str, ...]) -> None:
    net = TriggerNet("a", configs={"a": allowing(*allow)})
    net.put("a")
    assert net.hearing() == ["a"]


def test_only_devices_that_may_and_have_the_broker_are_elected() -> None:
    configs = {"b": allowing("daemon/look")}
    roles = {"d": (Role.COMPUTE,)}
    net = TriggerNet("a", "b", "c", "d", without_broker=("c",), configs=configs, roles=roles)
    net.put("a", look())
    assert net.hearing() == ["a"]
    assert "broker home is configured" in net.told("c", "trigger.unheard")[0].text
    assert "lacks the role" in net.told("d", "trigger.unheard")[0].text
    assert not net.told("b", "trigger.unheard")  # its owner wants it so


def test_other_topics_and_longer_payloads_are_refused() -> None:
    net = TriggerNet("a")
    net.put("a", look(Dedup={}, BytesMax=10))
    net.hear("a", key="m1", topic="home/porch/door")
    net.hear("a", key="m2", payload=b"x" * 11)
    net.hear("a", key="m3", payload=b"x" * 10)
    net.run(61.0)
    assert [run.job.fired.key for run in net.runs() if run.job.fired] == ["m3"]
    told = [tell.text for tell in net.told("a", "trigger.refused")]
    assert any("is none of" in text for text in told) and any("BytesMax" in text for text in told)


# ---- how many -----------------------------------------------------------------------------------


def test_one_within_the_debounce_is_dropped() -> None:
    net = TriggerNet("a")
    net.put("a", look(Debounce=5))
    net.hear("a", "a")
    net.run(4.0)
    net.hear("a")
    net.run(1.5)
    net.hear("a")
    net.run(1.0)
    assert len(net.runs()) == 2


def late_for(net: TriggerNet, key: str) -> str:
    """A device that has not heard the message, and knows its run."""
    return next(n for n in net.ranks(key)[1:] if any(j.source for j in net[n].jobs.values()))


@pytest.mark.parametrize("limit", [{"Debounce": 5}, {"MaxPerMinute": 1}])
def test_who_hears_a_message_after_its_run_was_begun_counts_it_as_well(
    limit: dict[str, Plain],
) -> None:
    net = TriggerNet("a", "b", "c")
    net.put("a", look(Dedup={}, **limit))
    net.hear(net.ranks("m1")[0], key="m1")
    net.run(1.0)
    late = late_for(net, "m1")
    others = [name for name in net.boxes if name not in (late, net.ranks("m1")[0])]
    net.hear(late, *others, key="m1")
    net.run(0.5)
    bounce = next(f"m{at}" for at in range(2, 99) if net.ranks(f"m{at}")[0] == late)
    net.hear("a", "b", "c", key=bounce)
    net.run(30.0)
    assert len(net.runs()) == 1
    net.run(40.0)
    net.hear("a", "b", "c", key="m100")
    net.run(20.0)
    assert len(net.runs()) == 2


def test_a_message_of_an_hour_ago_that_comes_again_holds_up_no_other() -> None:
    net = TriggerNet("a", "b")
    net.put("a", look(Dedup={}, Debounce=5))
    net.hear("a", "b", key="m1")
    net.run(3600.0)
    net.hear("a", "b", key="m1")
    net.hear("a", "b", key="m2")
    net.run(20.0)
    assert len(net.runs()) == 2


def test_a_message_that_comes_often_counts_once() -> None:
    net = TriggerNet("a")
    net.put("a", look(Dedup={}, Debounce=5))
    for _ in range(4):
        net.hear("a", key="m1")
        net.run(2.0)
    net.hear("a", key="m2")
    net.run(5.0)
    assert len(net.runs()) == 2


def test_more_than_so_many_a_minute_are_counted_and_told_once_a_minute() -> None:
    net = TriggerNet("a")
    net.put("a", look(MaxPerMinute=3))
    for _ in range(10):
        net.hear("a")
    assert len(net.boxes["a"].kept) == 10
    assert len(net.told("a", "trigger.refused")) == 1
    net.run(61.0)
    assert len(net.runs()) == 3
    told = net.told("a", "trigger.refused")
    assert sum(int(str(tell.fields["count"])) for tell in told) == 7 and len(told) == 2
    assert net.triggers("a").answers == {"taken": 3, "filtered": 0, "refused": 7}
    net.hear("a")
    net.run(1.0)
    assert len(net.runs()) == 4


def test_of_a_burst_the_broker_keeps_what_there_is_no_room_for() -> None:
    net = TriggerNet("a", configs={"a": allowing(rows_max=5, rows_sure=0, running_max=2)})
    net.put("a", look())
    handles = [net.hear("a", delivery=str(at))[0] for at in range(20)]
    box = net.boxes["a"]
    assert len(box.kept) == 7 and len(box.put_off) == 13
    assert len(net.runs()) == 2 and len(net.rows("a")) == 5
    while box.put_off:
        again = [handles.index(handle) for handle in box.put_off]
        box.put_off.clear()
        for at in again:
            handle = net.hear("a", delivery=str(at))[0]
            handles[at] = handle
        net.run(0.5)
        net.finish()
        net.run(1.5)
    for _ in range(10):
        net.finish()
        net.run(2.0)
    assert len(net.starts()) == len(net.runs()) == 20
    assert not net.rows("a")


def test_on_a_full_disk_what_comes_stays_the_brokers() -> None:
    net = TriggerNet("a")
    net.put("a", look())
    box = net.boxes["a"]
    box.put_off.clear()
    net.fill("a")
    saves = {bucket: dict(rows) for bucket, rows in box.disk.items()}
    handles = net.hear("a", delivery="1") + net.hear("a", delivery="2")
    net.run(10.0)
    assert box.put_off == handles and not box.kept and not net.runs()
    assert {bucket: dict(rows) for bucket, rows in box.disk.items()} == saves
    net.fill("a", full=False)
    handles = net.hear("a", delivery="1") + net.hear("a", delivery="2")
    net.run(1.0)
    assert box.kept == handles and len(net.starts()) == 2


def test_on_a_full_disk_what_was_heard_before_waits_and_runs_then() -> None:
    net = TriggerNet("a", configs={"a": allowing(running_max=1)})
    net.put("a", look())
    for at in range(3):
        net.hear("a", delivery=str(at))
    assert len(net.rows("a")) == 2 and len(net.starts()) == 1
    net.fill("a")
    net.finish()
    net.run(30.0)
    assert len(net.rows("a")) == 2 and len(net.starts()) == 1, "none begins, none is lost"
    net.fill("a", full=False)
    for _ in range(3):
        net.run(3.0)
        net.finish()
    assert len(net.starts()) == 3 and not net.rows("a")


def test_where_the_first_ranks_disk_is_full_the_next_one_fires_and_it_is_one_job() -> None:
    net = TriggerNet("a", "b")
    net.put("a")
    first, second = net.ranks("m1")
    net.fill(first)
    net.hear(first, second, key="m1")
    net.until(lambda: bool(net.runs()))
    assert net.runs()[0].coordinator == second and not net.boxes[first].kept
    net.fill(first, full=False)
    handles = net.hear(first, key="m1")
    net.run(20.0)
    assert net.boxes[first].kept == handles and len(net.starts()) == 1


def test_who_is_no_keeper_of_a_message_writes_nothing_of_it_on_a_full_disk() -> None:
    net = TriggerNet("a", "b", configs={name: allowing(keepers_max=1) for name in "ab"})
    net.put("a")
    _, second = net.ranks("m1")
    (handle,) = net.hear(second, key="m1")  # the first one does not
    net.fill(second)
    net.run(30.0)
    box = net.boxes[second]
    assert not net.rows(second) and not net.runs() and handle not in box.kept
    net.fill(second, full=False)
    net.run(10.0)
    assert box.kept == [handle] and len(net.runs()) == 1


def test_on_a_full_disk_no_answer_is_owed_for_what_is_refused() -> None:
    """A row in the outbox, which waits for who asks as the message does."""
    net = TriggerNet("a")
    net.put("a", look(BytesMax=4))
    net.fill("a")
    (handle,) = net.hear("a", payload=b"too long", delivery="1", reply="r/1")
    box = net.boxes["a"]
    assert box.put_off[-1] == handle and not box.kept and not net.rows("a", "outbox")
    question = Question("home", "r/1", b"")
    net.handle("a", TriggerRefused(net.id, "no JSON", 901, question, "key", "home/s/2"))
    assert box.put_off[-1] == 901 and not net.rows("a", "outbox")
    net.fill("a", full=False)
    net.handle("a", TriggerRefused(net.id, "no JSON", 902, question, "key", "home/s/2"))
    assert box.kept == [902] and len(net.rows("a", "outbox")) == 1


def test_the_messages_of_one_template_take_no_room_of_anothers() -> None:
    net = TriggerNet("a", configs={"a": allowing("template/*", rows_max=20, running_max=2)})
    net.put("a", look())
    other = StandingBook("template/other", shoal=net.shoal).id
    spec = JobSpec.from_plain({**look(Topic="garden/#").to_plain(), "Name": "other"})
    request = net.submit("a", spec)
    net.until(lambda: net.answered("a", request))
    net.run(1.0)
    for number in range(50):  # more than fit, of runs that take long
        net.hear("a", delivery=f"home/one/{number}")
    box = net.boxes["a"]
    assert len(box.put_off) == 50 - 2 - 20
    box.kept.clear()
    net.handle("a", TriggerHeard(9999, other, Heard("garden/gate", b"FIRE"), "", "home/two/1"))
    net.run(1.0)
    assert box.kept == [9999] and len(net.runs()) == 3


def test_what_was_acknowledged_is_run_however_long_the_others_take(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A clock that jumps by a day, once NTP is heard, changes nothing about it."""
    net = TriggerNet("a", configs={"a": allowing(running_max=1)})
    net.put("a", look())
    net.hear("a", "a", "a")
    net.run(2 * 3600.0)
    monkeypatch.setattr(nodenet, "WALL", nodenet.WALL + 86_400.0)
    net.run(10.0)
    assert len(net.rows("a")) == 2 and not net.told("a", "trigger.refused")
    for _ in range(3):
        net.finish()
        net.run(3.0)
    assert len(net.starts()) == 3


def test_what_waits_outlives_a_restart() -> None:
    net = TriggerNet("a", configs={"a": allowing(running_max=1)})
    net.put("a", look())
    net.hear("a", "a", "a")
    net.kill("a")
    net.boot("a")
    for _ in range(5):
        net.run(2.0)
        net.finish()
    assert len(net.starts()) == len(net.runs()) == 3


@pytest.mark.parametrize("keyed", [False, True])
@pytest.mark.parametrize("desired", [Desired.STOPPED, Desired.DELETED])
def test_a_template_that_goes_takes_what_waits_with_it_and_says_so(
    desired: Desired, keyed: bool
) -> None:
    """At once, however long those take that run."""
    net = TriggerNet("a", configs={"a": allowing(running_max=1)})
    net.put("a", look(Dedup={}) if keyed else look())
    for number in range(3):
        net.hear("a", key=f"m{number}" if keyed else "")
        net.run(1.0)
    assert len(net.rows("a")) == 2
    net.delete("a", desired)
    assert net.hearing() == []
    net.run(70.0)
    assert not net.rows("a") and len(net.runs()) == len(net.starts()) == 1
    told = [tell.text for tell in net.told("a", "trigger.refused")]
    assert told and all("no messages (any more)" in text for text in told)
    counts = [tell.fields["count"] for tell in net.told("a", "trigger.refused")]
    assert sum(int(str(count)) for count in counts) == 2
    assert net.hear("a") == net.boxes["a"].kept[-1:]


@pytest.mark.parametrize("keyed", [False, True])
def test_what_waits_runs_nothing_once_its_owner_has_taken_the_template_off_the_list(
    keyed: bool,
) -> None:
    """Also while as many of its runs as may are under way; whoever has asked hears why."""
    net = TriggerNet("a", configs={"a": allowing(running_max=1)})
    net.put("a", look(Dedup={}) if keyed else look())
    for number in range(4):
        reply = "r/last" if number == 3 else ""
        net.hear("a", key=f"m{number}" if keyed else "", delivery=f"home/s/{number}", reply=reply)
        net.run(1.0)
    assert len(net.rows("a")) == 3 and len(net.starts()) == 1
    net.kill("a")
    net.boxes["a"].config = allowing("template/other", running_max=1)
    net.boot("a")
    net.run(70.0)
    assert not net.rows("a") and len(net.runs()) == 1, "what began goes on"
    told = net.told("a", "trigger.refused")
    assert told and all("[mqtt] allow" in tell.text for tell in told)
    assert sum(int(str(tell.fields["count"])) for tell in told) == 3
    net.broker_up("a")
    assert [answer.topic for answer in net.answers("a")] == ["r/last"]
    for _ in range(5):
        net.finish()
        net.run(2.0)
    assert len(net.starts()) == len(net.runs()) == 1


def test_what_no_longer_fits_a_changed_template_is_told_of() -> None:
    net = TriggerNet("a", configs={"a": allowing(running_max=1)})
    net.put("a", look())
    net.hear("a", "a")
    net.put("a", look(Topic="garden/#"))
    net.finish()
    net.run(5.0)
    assert not net.rows("a") and len(net.runs()) == 1
    assert net.told("a", "trigger.refused")


def test_ended_runs_make_room_in_a_full_catalogue() -> None:
    config = allowing(runs_kept=2)
    config = replace(config, coordination=replace(config.coordination, jobs_max=5))
    net = TriggerNet("a", configs={"a": config})
    net.put("a", look())
    for _ in range(12):
        net.hear("a")
        net.run(1.0)
        net.finish()
        net.run(0.5)
    assert len(net.starts()) == 12 and len(net["a"].jobs) <= 5


def test_a_row_that_cannot_be_read_is_told_of_and_costs_nothing_else() -> None:
    net = TriggerNet("a")
    net.put("a", look())
    net.kill("a")
    net.boxes["a"].disk["trigger"] = {"x": b"\xff"}
    net.boot("a")
    assert [each.key for each in net["a"].unreadable] == ["x"]
    net.run(5.0)
    assert net.hearing() == ["a"]


def test_before_it_knows_what_it_hears_a_message_stays_the_brokers() -> None:
    net = TriggerNet("a")
    net.put("a")
    fleet = net["a"].fleet
    advert, fleet.advert = fleet.advert, None
    handles = net.hear("a", key="m1")
    assert net.boxes["a"].put_off == handles and not net.boxes["a"].kept
    fleet.advert = advert


def test_topics_are_watched_as_the_template_says() -> None:
    net = TriggerNet("a")
    net.put("a")
    assert net.boxes["a"].watched is not None
    (watch,) = net.boxes["a"].watched
    assert (watch.template, watch.name, watch.mqtt.topic) == (net.id, "look", "home/+/motion")


# ---- near the trigger ---------------------------------------------------------------------------


def near(*, prefer: bool) -> JobSpec:
    words: dict[str, Plain] = {"Prefer": {"NearTrigger": True}} if prefer else {}
    return triggered({"Mqtt": mqtt(), **words})


@pytest.mark.parametrize("prefer", [True, False])
def test_a_run_may_prefer_the_device_that_heard_its_message(prefer: bool) -> None:
    """It is half as large as the others, and would win nothing by its own score."""
    sizes = {"a": 500, "b": 4000, "c": 4000}
    net = TriggerNet("a", "b", "c", without_broker=("b", "c"), cpu_m=sizes)
    net.put("a", near(prefer=prefer))
    for _ in range(6):
        net.hear("a")
        net.run(1.0)
        net.finish()
    starts = {name: len(box.started) for name, box in net.boxes.items()}
    assert sum(starts.values()) == 6
    assert starts["a"] == (6 if prefer else 0)
