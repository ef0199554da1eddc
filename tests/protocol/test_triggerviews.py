"""Views of triggers: who hears, what came, and why not, put together from all devices."""

from __future__ import annotations

from typing import Any

from protocol.events import TopicWatched, TriggerFiltered
from protocol.records import Desired
from protocol.shape import checked_view
from protocol.triggerviews import NOT_YET, joined_triggers, own_trigger
from tests.protocol.triggernet import TriggerNet, allowing, look


def shown(net: TriggerNet, name: str, detail: bool = True) -> dict[str, Any]:
    request = net.query(name, net.id, detail=detail)
    net.until(lambda: net.answered(name, request))
    views = net.reply(name, request).value["jobs"]
    assert isinstance(views, list)
    return checked_view(views[0])


def parts(view: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {part["peer"]: part for part in view["trigger"]["devices"]}


def test_it_says_who_hears_and_of_those_who_do_not_why() -> None:
    configs = {"b": allowing("template/other")}
    net = TriggerNet("a", "b", "c", without_broker=("c",), configs=configs)
    net.put("a")
    net.handle("a", TopicWatched(net.id))
    for name in "abc":
        view = shown(net, name)
        trigger = view["trigger"]
        assert (trigger["broker"], trigger["topic"]) == ("home", "home/+/motion")
        assert trigger["keyed"] is True and trigger["hearers"] == ["a"]
        found = parts(view)
        assert [found[peer]["hears"] for peer in "abc"] == [True, False, False]
        assert found["a"]["problem"] == "" and "[mqtt] allow" in found["b"]["problem"]
        assert "no MQTT broker home" in found["c"]["problem"]
    assert "trigger" not in shown(net, "a", detail=False)


def test_one_without_ids_is_heard_by_whoever_is_elected() -> None:
    net = TriggerNet("a", "b", "c")
    net.put("a", look())
    first = net.elected[0]
    view = shown(net, "a")
    assert view["trigger"]["hearers"] == [first]
    assert [peer for peer, part in parts(view).items() if part["elected"]] == [first]
    assert parts(view)[first]["problem"] == NOT_YET
    net.handle(first, TopicWatched(net.id, "not authorized"))
    found = parts(shown(net, "b"))[first]
    assert (found["hears"], found["problem"]) == (False, "not authorized")


def test_a_full_disk_is_why_messages_wait() -> None:
    net = TriggerNet("a")
    net.put("a")
    net.handle("a", TopicWatched(net.id))
    net.fill("a")
    assert "disk is full" in parts(shown(net, "a"))["a"]["problem"]
    net.fill("a", full=False)
    assert parts(shown(net, "a"))["a"]["problem"] == ""


def test_what_came_is_counted_by_what_became_of_it() -> None:
    net = TriggerNet("a", "b")
    net.put("a", look(MaxPerMinute=2))
    first, second = net.elected
    for _ in range(4):
        net.hear(first)
    net.hear(first, topic="garden/gate")
    net.handle(first, TriggerFiltered(net.id, 7))
    net.run(1.0)
    found = parts(shown(net, second))
    part = found[first]
    assert (part["heard"], part["filtered"], part["fired"]) == (12, 7, 2)
    assert sum(part["refused"].values()) == 3 and len(part["refused"]) == 2
    assert any("MaxPerMinute" in reason for reason in part["refused"])
    assert part["last_fired_ms"] > 0 and part["waiting"] == 0 and part["unanswered"] == {}
    assert net.triggers(first).answers == {"taken": 2, "filtered": 7, "refused": 3}
    assert found[second]["heard"] == 0


def test_who_is_not_answered_and_what_waits_is_counted() -> None:
    net = TriggerNet("a", configs={"a": allowing(running_max=1)})
    net.put("a", look())
    net.hear("a", "a", reply="answers/#")
    part = parts(shown(net, "a"))["a"]
    assert part["unanswered"] == {"a response topic with a wildcard": 2} and part["waiting"] == 1


def test_what_is_known_outlives_a_change_of_the_template_and_not_its_end() -> None:
    net = TriggerNet("a")
    net.put("a", look())
    net.hear("a")
    net.run(1.0)
    net.put("a", look(BytesMax=10))
    assert parts(shown(net, "a"))["a"]["fired"] == 1
    net.delete("a", Desired.STOPPED)
    assert "trigger" not in shown(net, "a")


def test_a_peer_speaks_of_itself_alone() -> None:
    net = TriggerNet("a", "b")
    net.put("a")
    view = shown(net, "a")["trigger"]
    own = own_trigger(view, net["b"].keyring.peer)
    assert [part["peer"] for part in own["devices"]] == ["b"]  # type: ignore[index,call-overload,union-attr]
    assert joined_triggers(own, view) == view


def test_the_last_run_is_told_by_whoever_coordinates_it() -> None:
    net = TriggerNet("a", "b")
    net.put("a")
    net.hear("a", "b", key="m1")
    net.run(1.0)
    (run,) = net.runs()
    first, second = net.ranks("m1")
    last = net[first].views.last_run(run.id)
    assert last is not None and net[second].views.last_run(run.id) is None
    assert (last["template"], last["job"], last["state"]) == ("look", run.id, "running")
    assert last["trigger"] == {"by": "message", "topic": "home/porch/motion", "id": "m1"}
    net.finish()
    net.run(1.0)
    ended = net[first].views.last_run(run.id)
    assert ended is not None and ended["state"] == "completed" and ended["ended_ms"]
    assert net[first].views.last_run(net.id) is None
    net.delete("a")
    assert net[first].views.last_run(run.id) is None
