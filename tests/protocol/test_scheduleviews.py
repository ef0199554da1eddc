"""Views of schedules and templates, put together from what several peers know."""

from __future__ import annotations

from typing import Any

from protocol.records import Desired
from protocol.scheduleviews import RUNS_SHOWN, joined_schedules
from protocol.shape import checked_view
from protocol.tree import Plain
from tests.protocol.nodenet import WALL
from tests.protocol.schedulenet import ScheduleNet, schedule
from tests.protocol.test_template import template


def view_of(net: ScheduleNet, name: str, job: str, detail: bool = True) -> dict[str, Any]:
    request = net.query(name, job, detail=detail)
    net.until(lambda: net.answered(name, request))
    views = net.reply(name, request).value["jobs"]
    assert isinstance(views, list)
    (view,) = views
    return checked_view(view)


def test_a_schedule_shows_its_next_time_and_its_runs_from_any_peer() -> None:
    net = ScheduleNet("a", "b", "c", "d")
    net.ran("a")
    net.minute()
    net.end(net.executors(job=net.runs()[0].id)[0], 0)
    net.minute()
    slot = int(WALL + net.now) // 60 * 60
    for name in "abcd":
        view = view_of(net, name, net.id)
        assert (view["type"], view["state"], view["reason"]) == ("batch", "scheduled", "")
        shown = view["schedule"]
        assert shown["next_ms"] == 1000 * (slot + 60)
        assert [run["slot_ms"] for run in shown["runs"]] == [1000 * slot, 1000 * (slot - 60)]
        assert [run["state"] for run in shown["runs"]] == ["running", "completed"]
        assert all(len(run["on"]) == 1 for run in shown["runs"])


def test_a_stopped_schedule_has_no_next_time() -> None:
    net = ScheduleNet("a")
    net.ran("a")
    net.controlled("a", Desired.STOPPED)
    view = view_of(net, "a", net.id)
    assert view["state"] == "stopped" and view["schedule"]["next_ms"] == 0


def test_how_a_run_ended() -> None:
    net = ScheduleNet("a")
    net.ran("a", schedule(Overlap="replace"))
    net.minute()
    net.end("a", 3)
    net.minute()
    net.minute(1, 5.0)
    view = view_of(net, "a", net.id)
    assert [run["state"] for run in view["schedule"]["runs"]] == ["running", "stopped", "failed"]
    run = view_of(net, "a", view["schedule"]["runs"][0]["job"])
    assert run["source"] == net.id


def test_a_template_is_ready_and_shows_what_it_asks_for() -> None:
    net = ScheduleNet("a", "b")
    net.ran("a", template())
    job = next(iter(net["a"].steward.standing.jobs))
    view = view_of(net, "b", job)
    assert (view["name"], view["type"], view["state"]) == ("say", "template", "ready")
    assert [each["Name"] for each in view["spec"]["Parameters"]] == ["what", "who"]


def shown(*runs: tuple[int, str]) -> dict[str, Plain]:
    views: list[Plain] = [
        {"job": f"job{slot}", "slot_ms": slot, "state": state, "on": []} for slot, state in runs
    ]
    return {"cron": "", "zone": "", "next_ms": 0, "problem": "", "runs": views}


def test_of_two_views_of_a_run_the_one_that_knows_its_end_counts() -> None:
    mine = shown((1, "running"), (2, "completed"))
    joint = joined_schedules(mine, shown((1, "failed"), (3, "running")))
    assert joint["runs"] == shown((3, "running"), (2, "completed"), (1, "failed"))["runs"]


def test_one_peer_that_knows_the_time_is_enough_for_a_schedule() -> None:
    """The head is the view with a reason: the one that fires nothing spoke for all."""
    fires = {**shown(), "next_ms": 60_000}
    rests = {**shown(), "problem": "the time is not known here"}
    for one, other in ((fires, rests), (rests, fires)):
        joint = joined_schedules(one, other)
        assert (joint["next_ms"], joint["problem"]) == (60_000, "")
    assert joined_schedules(rests, rests)["problem"] == "the time is not known here"
    net = ScheduleNet("a", "b", "c")
    net.ran("a")
    net.minute()
    assert view_of(net, "a", net.id)["reason"] == ""
    net.boxes["b"].trusted = False
    net.minute()
    for name in "ab":
        view = view_of(net, name, net.id)
        assert (view["state"], view["reason"]) == ("scheduled", "")
        assert view["schedule"]["next_ms"]
    for name in "ac":
        net.boxes[name].trusted = False
    net.minute()
    assert "the time is not known here" in view_of(net, "a", net.id)["reason"]


def test_the_latest_runs_are_shown() -> None:
    many = shown(*((slot, "failed") for slot in range(30)))
    runs = joined_schedules(many, shown())["runs"]
    assert isinstance(runs, list) and len(runs) == RUNS_SHOWN
    assert runs[0] == {"job": "job29", "slot_ms": 29, "state": "failed", "on": []}
