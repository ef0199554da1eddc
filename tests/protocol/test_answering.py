"""Answers on whole nodes: whoever asks hears once what became of it, whoever dies meanwhile."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest

from protocol.answer import answer_id
from protocol.config import NodeConfig, PolicyConfig, ReportingConfig
from protocol.effects import Publish
from protocol.events import TaskEnded, TriggerRefused
from protocol.ids import ExecutionId
from protocol.question import Question, whole_key
from protocol.records import Desired, Heard
from protocol.tree import Plain
from protocol.wire import dumps, loads
from tests.protocol.nodenet import queue
from tests.protocol.test_trigger import mqtt, triggered
from tests.protocol.triggernet import TOPIC, TriggerNet, allowing, look

ASK: dict[str, Any] = {"reply": "replies/me", "correlation": b"\xff1"}


def body(publish: Publish) -> dict[str, Any]:
    assert publish.qos == 1 and not publish.retain
    assert publish.content_type == "application/json"
    found: dict[str, Any] = json.loads(publish.payload)
    assert found["id"] == publish.id == dict(publish.properties)["id"]
    return found


def one(net: TriggerNet, *names: str) -> Publish:
    (publish,) = net.answers(*names)
    assert (publish.broker, publish.topic, publish.correlation) == (
        "home", "replies/me", b"\xff1",
    )  # fmt: skip
    return publish


def finish(net: TriggerNet, code: int = 0, stdout: bytes = b"21.5\n", reason: str = "") -> None:
    for name, box in net.boxes.items():
        for start in list(box.running.values()):
            if box.node is not None:
                ended = TaskEnded(
                    ExecutionId(start.execution), code, reason, 5,
                    stdout_tail=stdout[-2048:], stdout=stdout, stdout_bytes=len(stdout),
                )  # fmt: skip
                net._finish(name, ended)


# ---- how it ended -------------------------------------------------------------------------------


def test_who_asks_hears_of_the_end_once_though_all_hear_the_question() -> None:
    net = TriggerNet("a", "b", "c")
    net.put("a")
    net.broker_up()
    net.hear("a", "b", "c", key="m1", **ASK)
    net.run(2.0)
    assert not net.answers()
    finish(net)
    net.run(5.0)
    (run,) = net.runs()
    told = body(one(net, net.ranks("m1")[0]))
    assert told["id"] == answer_id(run.id) and told["job"] == run.id and told["name"] == "look"
    assert (told["state"], told["error"], told["outcome"]) == ("completed", "", "success")
    assert (told["exit_code"], told["stdout"], told["truncated"]) == (0, "21.5\n", False)
    assert told["execution"] and told["peer"] in net.boxes
    net.run(60.0)
    assert len(net.answers()) == 1
    assert not any(net.rows(name, "answer") for name in net.boxes)


def test_who_does_not_ask_hears_nothing() -> None:
    net = TriggerNet("a")
    net.put("a")
    net.broker_up()
    net.hear("a", key="m1")
    net.run(1.0)
    finish(net)
    net.run(5.0)
    assert not net.answers() and not net.rows("a", "outbox")


def test_without_keys_each_question_has_its_answer() -> None:
    net = TriggerNet("a", "b")
    net.put("a", look())
    net.broker_up()
    elected = net.elected[0]
    for number in range(3):
        net.hear(elected, reply=f"replies/{number}")
    net.run(1.0)
    finish(net)
    net.run(5.0)
    net.puback_all(elected)
    assert sorted(each.topic for each in net.answers()) == ["replies/0", "replies/1", "replies/2"]
    assert len({each.id for each in net.answers()}) == 3


def test_a_task_that_fails_is_told_of() -> None:
    net = TriggerNet("a")
    net.put("a")
    net.broker_up()
    net.hear("a", key="m1", **ASK)
    net.run(1.0)
    finish(net, 3, b"half\n")
    net.run(5.0)
    told = body(one(net))
    assert (told["state"], told["outcome"], told["exit_code"]) == ("failed", "failure", 3)
    assert "exit code 3" in told["error"] and told["stdout"] == "half\n"


def test_a_run_that_nobody_takes_and_one_that_is_stopped_are_told_of() -> None:
    net = TriggerNet("a")
    spec = triggered(
        {"Mqtt": mqtt(Dedup={})},
        Constraints=[{"Key": "name", "Operator": "in", "Values": ["nobody"]}],
        Tasks=[{"Engine": {"Type": "process", "Params": {"Command": ["x"]}}, **queue(30)}],
    )
    net.put("a", spec)
    net.broker_up()
    net.hear("a", key="m1", **ASK)
    net.run(45.0)
    told = body(one(net))
    assert (told["state"], told["outcome"], told["exit_code"]) == ("failed", "fault", None)
    assert "QueueTimeout" in told["error"] and told["peer"] == told["execution"] == ""
    net.puback_all("a")
    net.hear("a", key="m2", reply="replies/stopped")
    net.run(1.0)
    run = next(run for run in net.runs() if not run.done)
    net.stop("a", run.id, Desired.STOPPED)
    net.run(5.0)
    told = body(net.answers()[-1])
    assert (told["state"], told["outcome"]) == ("stopped", "stopped") and told["error"]


def test_of_several_slots_the_one_that_tells_most_comes_first() -> None:
    net = TriggerNet("a", "b", "c")
    net.put("a", triggered({"Mqtt": mqtt(Dedup={})}, Count=3))
    net.broker_up()
    net.hear("a", "b", "c", key="m1", **ASK)
    net.run(1.0)
    starts = {start.slot: name for name, box in net.boxes.items() for start in box.started}
    for slot in range(3):
        box = net.boxes[starts[slot]]
        start = next(start for start in box.running.values() if start.slot == slot)
        code = 7 if slot == 1 else 0
        net._finish(
            starts[slot], TaskEnded(start.execution, code, "", 1, stdout=b"x", stdout_bytes=1)
        )
    net.run(5.0)
    told = body(one(net))
    assert (told["state"], told["slot"], told["exit_code"]) == ("failed", 1, 7)
    assert [slot["exit_code"] for slot in told["slots"]] == [0, 7, 0]
    assert told["slots"][2]["stdout"] == "x"


def test_of_much_output_the_beginning_is_sent_and_that_says_so() -> None:
    net = TriggerNet("a")
    net.put("a")
    net.broker_up()
    net.hear("a", key="m1", **ASK)
    net.run(1.0)
    finish(net, stdout=b"begin" + bytes(20_000) + b"end")
    net.run(5.0)
    publish = one(net)
    told = body(publish)
    assert told["truncated"] is True and len(told["stdout"]) == 16 * 1024
    assert told["stdout"].startswith("begin") and told["stdout_bytes"] is None
    assert dict(publish.properties)["truncated"] == "true"


# ---- over deaths --------------------------------------------------------------------------------


def test_an_answer_waits_for_its_broker_and_outlives_a_crash() -> None:
    net = TriggerNet("a", "b")
    net.put("a")
    first = net.ranks("m1")[0]
    net.hear("a", "b", key="m1", **ASK)
    net.run(1.0)
    finish(net)
    net.run(3.0)
    assert len(net.rows(first, "outbox")) == 1 and not net.answers()
    net.kill(first)
    net.boot(first)
    net.run(5.0)
    net.broker_up()
    publish = one(net)
    net.kill(first)  # before the broker has said that it has it
    net.boot(first)
    net.broker_up(first)
    again = net.answers(first)[-1]
    assert (again.id, again.payload) == (publish.id, publish.payload)
    net.puback(first, again)
    net.run(5.0)
    net.kill(first)
    net.boot(first)
    net.broker_up(first)
    net.run(30.0)
    assert len(net.answers()) == 2


def test_who_dies_between_the_end_and_the_answer_gives_it_when_back() -> None:
    """The end is on its disk, and no standby has said that it knows of it."""
    net = TriggerNet("a", "b")
    net.put("a")
    net.broker_up()
    first, second = net.ranks("m1")
    net.hear("a", "b", key="m1", **ASK)
    net.run(1.0)
    net.drop = lambda sender, to, message: sender == first
    box = net.boxes[first if net.boxes[first].running else second]
    finish(net)
    net.run(0.2)
    if box is net.boxes[first]:
        assert len(net.rows(first, "answer")) == 1 and not net.answers()
    net.kill(first)
    net.drop = lambda sender, to, message: False
    net.run(30.0)
    net.boot(first)
    net.broker_up(first)
    net.run(30.0)
    assert {each.id for each in net.answers()} == {answer_id(net.runs()[0].id)}
    assert len({each.payload for each in net.answers()}) == 1
    assert not net.rows(first, "answer")


def test_a_run_that_ended_while_its_device_was_away_is_answered() -> None:
    """Its end is known before anything else is, also what the device itself is."""
    net = TriggerNet("a")
    net.put("a")
    net.broker_up()
    net.hear("a", key="m1", **ASK)
    net.run(1.0)
    net.kill("a")
    box = net.boxes["a"]
    (start,) = box.running.values()
    del box.running[start.execution]
    box.ended[start.execution] = TaskEnded(start.execution, 0, stdout_tail=b"21.5\n")
    net.boot("a")
    net.broker_up("a")
    net.run(30.0)
    assert body(one(net))["state"] == "completed"


def test_who_takes_the_run_over_answers_and_who_comes_back_does_not() -> None:
    net = TriggerNet("a", "b", "c")
    net.put("a")
    net.broker_up()
    first = net.ranks("m1")[0]
    net.hear("a", "b", "c", key="m1", **ASK)
    net.run(1.0)
    net.kill(first)
    net.run(40.0)
    finish(net)
    net.run(30.0)
    one(net)
    net.boot(first)
    net.broker_up(first)
    net.run(30.0)
    finish(net)
    net.run(30.0)
    one(net)
    assert not net.answers(first)


def test_where_the_coordinator_has_no_broker_a_holder_that_has_it_answers() -> None:
    """It is made a holder when the run is fired, for no standby has the broker."""
    net = TriggerNet("a", "b", "c", "d", without_broker=("b", "c"))
    net.put("a")
    net.broker_up("a", "d")
    first = next(name for name in net.ranks("m1") if name in ("a", "d"))
    other = "d" if first == "a" else "a"
    net.hear("a", "d", key="m1", **ASK)
    net.run(1.0)
    (run,) = net.runs()
    assert other in run.holders
    net.kill(first)
    net.run(40.0)
    finish(net)
    net.run(30.0)
    one(net, other)
    assert {name for name in net.boxes if net.answers(name)} == {other}


def test_two_islands_give_one_answer_twice() -> None:
    net = TriggerNet("a", "b", "c", "d")
    net.put("a")
    net.broker_up()
    net.part(("a", "b"), ("c", "d"))
    net.run(10.0)
    net.hear("a", "b", "c", "d", key="m1", **ASK)
    net.run(40.0)
    finish(net)
    net.run(20.0)
    net.heal()
    net.run(60.0)
    assert len(net.answers()) == 2 and len({each.id for each in net.answers()}) == 1


# ---- asked again --------------------------------------------------------------------------------


def test_who_asks_the_same_again_hears_the_same_again() -> None:
    net = TriggerNet("a", "b")
    net.put("a")
    net.broker_up()
    net.hear("a", "b", key="m1", **ASK)
    net.run(1.0)
    net.hear("a", "b", key="m1", **ASK)
    finish(net)
    net.run(5.0)
    publish = one(net)
    net.puback(net.ranks("m1")[0], publish)
    net.hear("a", "b", key="m1", **ASK)
    net.run(5.0)
    first, second = net.answers()
    assert (first.id, first.payload) == (second.id, second.payload)


def test_two_who_ask_with_one_id_are_both_answered() -> None:
    net = TriggerNet("a", "b")
    net.put("a")
    net.broker_up()
    net.hear("a", "b", key="m1", **ASK)
    net.run(1.0)
    net.hear("a", "b", key="m1", reply="replies/other")
    first = net.ranks("m1")[0]
    net.run(1.0)
    net.kill(first)
    net.boot(first)
    net.broker_up()
    net.run(10.0)
    finish(net)
    net.run(5.0)
    for publish in net.answers():
        net.puback(first, publish)
    net.run(5.0)
    assert sorted(each.topic for each in net.answers()) == ["replies/me", "replies/other"]
    assert len(net.runs()) == 1


def test_who_asks_again_and_again_is_not_answered_without_end() -> None:
    net = TriggerNet("a", configs={"a": allowing(extra_answers_max=3)})
    net.put("a")
    net.broker_up()
    net.hear("a", key="m1", **ASK)
    net.run(1.0)
    finish(net)
    net.run(2.0)
    for _ in range(10):
        net.hear("a", key="m1", **ASK)
        for publish in net.answers():
            net.puback("a", publish)
    assert len(net.answers()) == 1 + 3
    net.run(61.0)
    net.hear("a", key="m1", **ASK)
    assert len(net.answers()) == 1 + 4


# ---- what runs nothing --------------------------------------------------------------------------


def refused(net: TriggerNet, *names: str) -> str:
    told = body(one(net, *names))
    assert (told["state"], told["outcome"], told["job"]) == ("refused", "refused", "")
    assert told["exit_code"] is None and told["stdout"] == "" and told["name"] == "look"
    return str(told["error"])


def test_a_message_over_the_limit_is_answered() -> None:
    net = TriggerNet("a")
    net.put("a", look(MaxPerMinute=1))
    net.broker_up()
    net.hear("a")
    net.hear("a", **ASK)
    assert "MaxPerMinute" in refused(net)


def test_a_message_that_all_refuse_is_answered_by_one() -> None:
    net = TriggerNet("a", "b", "c")
    net.put("a", look(Dedup={}, BytesMax=10))
    net.broker_up()
    net.hear("a", "b", "c", key="m1", payload=b"x" * 11, **ASK)
    assert "BytesMax" in refused(net)
    net.run(5.0)
    one(net, net.ranks("m1")[0])


def test_a_message_without_an_id_is_refused_by_all_and_answered_by_one() -> None:
    net = TriggerNet("a", "b", "c")
    net.put("a")
    net.broker_up()
    net.hear("a", "b", "c", **ASK)
    assert "brings no id" in refused(net)


def test_what_the_agent_refuses_is_answered_before_the_broker_is_told() -> None:
    net = TriggerNet("a", "b")
    net.put("a")
    net.broker_up()
    question = Question("home", "replies/me", b"\xff1")
    key = whole_key(Heard(TOPIC, b"{", question.reply, question.correlation))
    for handle, name in ((1001, "a"), (1002, "b")):
        event = TriggerRefused(net.id, "invalid JSON", handle, question, key, "home/3")
        net.handle(name, event)
        assert net.boxes[name].kept == [handle]
    assert refused(net) == "invalid JSON"


def test_a_template_that_goes_is_told_to_who_waits() -> None:
    net = TriggerNet("a", configs={"a": allowing(running_max=1)})
    net.put("a")
    net.broker_up()
    net.hear("a", key="m1")
    net.hear("a", key="m2", **ASK)
    net.run(1.0)
    net.delete("a")
    net.finish()
    net.run(10.0)
    assert "no messages (any more)" in refused(net)
    net.puback_all("a")
    net.hear("a", key="m3", delivery="home/4", reply="replies/late")
    assert net.answers()[-1].topic == "replies/late"


# ---- where an answer may go ---------------------------------------------------------------------


@pytest.mark.parametrize(
    ("ask", "says"),
    [
        ({"reply": "replies/+"}, "wildcard"),
        ({"reply": "$SYS/x"}, "of the broker's own"),
        ({"reply": "r" * 1025}, "over 1024 characters"),
        ({"reply": "replies", "correlation": bytes(257)}, "over 256 bytes"),
        ({"reply": "shoal/event"}, "among the shoal's own"),
        ({"reply": "home/hall/motion"}, "a response topic that runs look"),
    ],
)
def test_who_asks_for_what_may_not_be_is_not_answered_and_runs(
    ask: dict[str, Any], says: str
) -> None:
    net = TriggerNet("a")
    net.put("a")
    net.broker_up()
    handles = net.hear("a", key="m1", **ask)
    assert net.boxes["a"].kept == handles
    net.run(1.0)
    finish(net)
    net.run(5.0)
    assert len(net.starts()) == 1 and not net.answers()
    (told,) = net.told("a", "trigger.unanswered")
    assert says in told.text and told.text.startswith("look: a message was not answered: ")
    net.hear("a", key="", **ask)  # refused, and not answered either
    assert not net.answers() and not net.rows("a", "outbox")


def test_a_template_may_say_where_its_answers_go() -> None:
    net = TriggerNet("a")
    net.put("a", look(Dedup={}, Answers="replies/+"))
    net.broker_up()
    net.hear("a", key="m1", reply="lights/hall/set")
    net.hear("a", key="m2", **ASK)
    net.run(1.0)
    finish(net)
    net.run(5.0)
    one(net)
    (told,) = net.told("a", "trigger.unanswered")
    assert "none of replies/+ (Answers)" in told.text


def test_what_no_device_hears_may_be_answered_to() -> None:
    """A template that nobody lets run is no reason to leave others without answers."""
    net = TriggerNet("a")
    net.put("a")
    net.put("a", triggered({"Mqtt": mqtt(Topic="#", Dedup={})}, Name="all"))
    net.broker_up()
    net.hear("a", key="m1", **ASK)
    net.run(1.0)
    finish(net)
    net.run(5.0)
    one(net)


# ---- what an owner lets be published ------------------------------------------------------------


def narrow(*topics: str) -> NodeConfig:
    """A device whose owner names topics ([accept] topics)."""
    return replace(allowing(), policy=PolicyConfig(topics=topics))


def test_where_its_owner_lets_nothing_be_published_no_answer_goes() -> None:
    net = TriggerNet("a", configs={"a": narrow("alarms/#", "replies/+")})
    net.put("a", look(Dedup={}, BytesMax=4))
    net.broker_up()
    net.hear("a", key="m1", reply="homeassistant/switch/x/config")
    net.hear("a", key="m2", **ASK)
    net.run(1.0)
    finish(net)
    net.run(5.0)
    assert len(net.starts()) == 2
    one(net)
    (told,) = net.told("a", "trigger.unanswered")
    assert told.text == (
        "look: a message was not answered: a response topic that jobs may not publish to "
        '([accept] topics = ["alarms/#", "replies/+"])'
    )
    assert list(net.triggers("a").watches[net.id].tally.unanswered.values()) == [1]
    net.hear("a", key="m3", payload=b"x" * 5, reply="lights/hall/set")
    assert len(net.answers()) == 1, "nor that it runs nothing"


def test_no_answer_goes_where_home_assistant_reads_at_that_broker() -> None:
    told = ReportingConfig(discovery=(("home", "homeassistant"), ("far", "replies")))
    net = TriggerNet("a", configs={"a": replace(allowing(), reporting=told)})
    net.put("a")
    net.broker_up()
    net.hear("a", key="m1", reply="homeassistant/device/shoal_a/config")
    net.hear("a", key="m2", **ASK)
    net.run(1.0)
    finish(net)
    net.run(5.0)
    one(net)
    (refused,) = net.told("a", "trigger.unanswered")
    assert "that Home Assistant reads" in refused.text


def test_who_takes_a_run_over_asks_its_own_owner() -> None:
    net = TriggerNet("a", "b")
    net.put("a")
    net.broker_up()
    first, second = net.ranks("m1")
    net.hear("a", "b", key="m1", **ASK)
    net.run(1.0)
    net.kill(second)
    net.boxes[second].config = narrow("alarms/#")
    net.boot(second)
    net.broker_up(second)
    net.hear(second, key="m1", reply="alarms/ok")
    net.kill(first)
    net.run(40.0)
    net.hear(second, key="m1", reply="alarms/ok")
    finish(net)
    net.run(30.0)
    assert [each.topic for each in net.answers()] == ["alarms/ok"]
    (told,) = net.told(second, "trigger.unanswered")
    assert "([accept] topics" in told.text
    assert not net.rows(second, "answer")


# ---- bounds -------------------------------------------------------------------------------------


def test_an_answer_that_the_broker_refuses_is_dropped_and_told_of() -> None:
    net = TriggerNet("a")
    net.put("a", look())
    net.broker_up()
    for number in range(12):
        net.hear("a", reply=f"secret/{number}")
    net.run(1.0)
    finish(net)
    net.run(5.0)
    for at in range(12):
        net.puback("a", net.answers()[at], "not authorized", True)
    net.run(5.0)
    assert len(net.answers()) == 12 and not net["a"].publishing.outbox.messages
    told = net.told("a", "mqtt.unanswered")
    assert len(told) == 2 and "secret/0: not authorized; it is dropped (1 so far)" in told[0].text


def test_while_the_outbox_is_full_no_question_is_taken() -> None:
    net = TriggerNet("a")
    net.put("a")
    net.triggers("a").answering.outbox.size_bytes += 1 << 30
    handles = net.hear("a", key="m1", **ASK)
    assert net.boxes["a"].put_off == handles
    net.hear("a", key="m2")
    assert len(net.boxes["a"].kept) == 1


def test_a_row_of_a_later_version_is_read_as_far_as_this_one_knows_it() -> None:
    net = TriggerNet("a")
    net.put("a")
    net.hear("a", key="m1", reply="replies/first")
    net.run(1.0)
    net.hear("a", key="m1", **ASK)
    rows = net.rows("a", "answer")
    (run,) = rows
    net.kill("a")
    ended, questions = loads(rows[run])  # type: ignore[misc]
    net.boxes["a"].disk["answer"][run] = dumps([ended, [[*each, "x"] for each in questions], "x"])
    net.boot("a")
    net.broker_up()
    net.run(10.0)
    finish(net)
    net.run(5.0)
    for publish in net.answers():
        net.puback("a", publish)
    assert sorted(each.topic for each in net.answers()) == ["replies/first", "replies/me"]
    assert net["a"].unreadable == []


def test_a_row_that_cannot_be_read_is_told_of_and_one_of_a_forgotten_run_goes() -> None:
    net = TriggerNet("a")
    net.put("a")
    net.kill("a")
    question: list[Plain] = ["home", "r", ""]
    net.boxes["a"].disk["answer"] = {
        "x": b"\xff",
        "y": b"\x82\xf5\x80",
        "z": str(question).encode(),
    }
    net.boot("a")
    assert sorted(each.key for each in net["a"].unreadable) == ["x", "z"]
    assert "y" not in net.rows("a", "answer")
