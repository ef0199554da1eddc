"""standingacts: what people do to standing jobs, who may, and what they are told."""

from __future__ import annotations

import pytest

from protocol.effects import Reply
from protocol.events import SubmitRequested
from protocol.ids import PeerId
from protocol.job import JobSpec
from protocol.messages import SyncHeld, SyncItems, SyncRecords
from protocol.records import Desired, Role
from protocol.standing import DOMAIN
from protocol.standingacts import ALONE, WAITING_MAX
from protocol.standingjob import NUMBER_MAX, StandingJob
from tests.protocol.nodenet import NodeNet
from tests.protocol.standingbook import StandingBook, daemon

WORKING = (Role.COMPUTE,)
OPERATING = (Role.COMPUTE, Role.SUBMIT, Role.OPERATE)


def ran(net: NodeNet, name: str, spec: JobSpec | None = None) -> Reply:
    request = net.submit(name, spec or daemon())
    net.until(lambda: net.answered(name, request), 20.0)
    return net.reply(name, request)


def controlled(net: NodeNet, name: str, desired: Desired = Desired.STOPPED) -> Reply:
    request = net.stop(name, book(net).id, desired)
    net.until(lambda: net.answered(name, request), 20.0)
    return net.reply(name, request)


def book(net: NodeNet) -> StandingBook:
    return StandingBook(shoal=net.shoal)


def held(net: NodeNet, name: str) -> StandingJob:
    return net[name].steward.standing.jobs[book(net).id]


# ---- running a file


def test_the_first_run_makes_the_first_generation() -> None:
    net = NodeNet("a", "b")
    reply = ran(net, "a")
    assert reply.error == ""
    job = held(net, "a")
    assert (job.generation, job.author, job.control, job.job) == (1, "a", None, daemon())
    assert [tell.text for tell in net.told("a", "job.accepted")] == ["collect accepted"]
    assert net.told("b", "job.accepted") == []
    assert reply.value == {
        "job": book(net).id,
        "name": "collect",
        "revision": job.revision,
        "generation": 1,
        "unchanged": False,
        "durable_on": 2,
        "warning": "",
    }


def test_running_another_file_of_the_name_makes_the_next_generation() -> None:
    net = NodeNet("a", "b")
    first = ran(net, "a").value["revision"]
    reply = ran(net, "a", daemon(Priority=7))
    assert (reply.value["generation"], reply.value["unchanged"]) == (2, False)
    assert reply.value["revision"] != first
    net.run(0.1)
    assert held(net, "b").job == daemon(Priority=7)


def test_the_same_file_again_changes_nothing_wherever_it_is_run() -> None:
    net = NodeNet("a", "b")
    ran(net, "a")
    net.run(0.1)
    before = held(net, "b").version
    for name in "ab":
        reply = ran(net, name)
        assert (reply.value["unchanged"], reply.value["generation"]) == (True, 1)
    assert held(net, "b").version == before


def test_alone_it_is_accepted_at_once_and_says_so() -> None:
    net = NodeNet("a")
    request = net.submit("a", daemon())
    reply = net.reply("a", request)
    assert (reply.value["durable_on"], reply.value["warning"]) == (1, ALONE)


def test_a_neighbour_that_says_nothing_is_waited_for_a_second() -> None:
    net = NodeNet("a", "b")
    net.drop = lambda sender, to, message: isinstance(message, SyncItems)
    request = net.submit("a", daemon())
    assert not net.answered("a", request)
    assert 0.9 < net.until(lambda: net.answered("a", request)) < 1.1
    assert net.reply("a", request).value["warning"] == ALONE


def test_only_so_many_answers_wait() -> None:
    net = NodeNet("a", "b")
    net.drop = lambda sender, to, message: isinstance(message, SyncHeld)
    requests = [net.submit("a", daemon(f"d{number}")) for number in range(WAITING_MAX + 1)]
    assert [net.answered("a", request) for request in (requests[0], requests[-1])] == [False, True]


@pytest.mark.parametrize("desired", [Desired.STOPPED, Desired.DELETED])
def test_running_the_name_again_raises_both_records(desired: Desired) -> None:
    net = NodeNet("a", "b")
    ran(net, "a")
    controlled(net, "a", desired)
    reply = ran(net, "a")
    assert (reply.value["generation"], reply.value["unchanged"]) == (2, False)
    net.run(0.1)
    for name in "ab":
        job = held(net, name)
        assert (job.desired, job.generation, job.number) == (Desired.RUNNING, 2, 2)
        assert job.control is not None and job.control.generation == 2
        assert job.wanted(net.clock(name)) == daemon()


def test_a_deleted_name_may_be_anybodys() -> None:
    net = NodeNet("a", "b")
    ran(net, "a")
    controlled(net, "a", Desired.DELETED)
    assert ran(net, "b").error == ""
    net.run(0.1)
    assert held(net, "a").author == "b"


def test_what_has_expired_may_be_run_again() -> None:
    net = NodeNet("a")
    spec = daemon(NotAfter="2027-01-15T08:03:20Z")  # 100 s after the net's beginning
    assert ran(net, "a", spec).error == ""
    assert ran(net, "a", spec).value["unchanged"] is True
    net.run(200.0)
    assert "NotAfter has passed" in ran(net, "a", spec).error
    assert ran(net, "a").value["generation"] == 2


# ---- who may, and what may be


def test_another_submitter_may_not_touch_it_and_an_operator_may() -> None:
    net = NodeNet("a", "b", "o", roles={"o": OPERATING})
    ran(net, "a")
    net.run(0.1)
    assert "only a, who runs collect, or a peer with role operate may change it" in (
        ran(net, "b", daemon(Priority=1)).error
    )
    assert "may stop it" in controlled(net, "b").error
    assert ran(net, "o", daemon(Priority=1)).error == ""
    assert controlled(net, "o", Desired.DELETED).error == ""
    net.run(0.1)
    assert held(net, "a").desired is Desired.DELETED


def test_who_only_knows_that_it_was_stopped_may_still_delete_it() -> None:
    net = NodeNet("a", "b", "o", roles={"o": OPERATING})
    book(net)
    net.send("b", "a", _records(book(net).control(by="a")))
    assert controlled(net, "a", Desired.DELETED).error == ""
    net.send("b", "o", _records(book(net).control(by="a")))
    assert controlled(net, "o", Desired.DELETED).error == ""


def _records(*datas: bytes) -> SyncRecords:
    return SyncRecords(DOMAIN, datas)


def refused(net: NodeNet, spec: JobSpec, *, again: bool = False) -> str:
    request = net.submit("a", spec, again=again)
    return net.reply("a", request).error


def test_what_cannot_be_meant_is_refused_by_name() -> None:
    net = NodeNet("a", roles={"a": (Role.COMPUTE, Role.SUBMIT)})
    paths = daemon(task={"ResultPaths": [{"Name": "a", "Path": "out"}]})
    assert "leave ResultPaths out" in refused(net, paths)
    assert "leave --key out" in refused(net, daemon(), again=True)
    assert "NotAfter has passed" in refused(net, daemon(NotAfter="2020-01-01T00:00:00Z"))
    assert net["a"].steward.standing.jobs == {}


def test_on_a_clock_that_is_not_trusted_no_moment_has_passed() -> None:
    net = NodeNet("a")
    net.boxes["a"].trusted = False
    assert refused(net, daemon(NotAfter="2020-01-01T00:00:00Z")) == ""


def test_without_the_role_nothing_is_signed() -> None:
    net = NodeNet("a", roles={"a": WORKING})
    assert "its certificate lacks the role" in refused(net, daemon())


def test_numbers_that_were_forged_to_their_end_are_left_alone() -> None:
    net = NodeNet("a", "b")
    net.send("b", "a", _records(book(net).spec("a", NUMBER_MAX)))
    assert "take another name" in refused(net, daemon(Priority=1))


# ---- stopping and deleting


def test_a_stop_is_heard_everywhere_and_a_second_one_changes_nothing() -> None:
    net = NodeNet("a", "b", "c")
    ran(net, "a")
    reply = controlled(net, "a")
    assert (reply.value["job"], reply.value["durable_on"]) == (book(net).id, 3)
    assert {held(net, name).desired for name in "abc"} == {Desired.STOPPED}
    assert controlled(net, "a").value["note"] == "it is stopped already"
    assert controlled(net, "a", Desired.DELETED).error == ""
    assert controlled(net, "a").value["note"] == "it is deleted already"
    assert held(net, "a").number == 2


def test_a_stop_says_where_it_took_effect_and_who_has_not_heard_of_it() -> None:
    net = NodeNet("a", "b", "c", "d")
    ran(net, "a")
    net.run(0.5)
    net.kill("d")
    net.run(2.0)
    net.drop = lambda sender, to, message: to == "c" and isinstance(message, SyncItems)
    value = controlled(net, "a").value
    assert (value["quiet"], value["stopping"], value["unheard"]) == (2, [], ["c", "d"])


def test_alone_a_stop_is_answered_too() -> None:
    net = NodeNet("a")
    ran(net, "a")
    value = controlled(net, "a").value
    assert (value["quiet"], value["unheard"], value["warning"]) == (1, [], ALONE)


def test_what_runs_cannot_be_asked_to_run() -> None:
    net = NodeNet("a")
    ran(net, "a")
    assert controlled(net, "a", Desired.RUNNING).value["note"] == "it is running"


def test_a_repeated_event_makes_no_second_generation() -> None:
    net = NodeNet("a")
    for request in (901, 902):
        net.handle("a", SubmitRequested(request, daemon(), "key"))
    assert held(net, "a").generation == 1
    assert PeerId("a") == held(net, "a").author
