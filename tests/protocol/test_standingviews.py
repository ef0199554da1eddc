"""standingviews: each peer speaks for itself, and whoever asks sees the whole."""

from __future__ import annotations

from typing import cast, get_type_hints

import pytest

from protocol.ids import PeerId
from protocol.inquiry import View
from protocol.messages import JobQuery, JobReport, SyncRecords
from protocol.records import Desired, Role
from protocol.shape import JobShape, PartShape, checked_view
from protocol.standing import DOMAIN
from protocol.standingviews import effect_of, joined, own_part, settled
from protocol.tree import Plain
from protocol.wire import dumps
from tests.protocol.daemonnet import DaemonNet
from tests.protocol.nodenet import reported
from tests.protocol.standingbook import StandingBook, daemon


def asked(net: DaemonNet, name: str, prefix: str = "", *, detail: bool = True) -> list[View]:
    request = net.query(name, prefix, detail=detail)
    net.until(lambda: net.answered(name, request))
    return cast("list[View]", net.reply(name, request).value["jobs"])


def view(net: DaemonNet, name: str = "a") -> View:
    (found,) = asked(net, name, net.id)
    assert checked_view(found) is found
    return found


def parts(of: View) -> dict[str, View]:
    return {str(part["peer"]): part for part in cast("list[View]", of["parts"])}


def test_the_whole_is_seen_from_everywhere() -> None:
    net = DaemonNet("a", "b", "w", roles={"w": (Role.SUBMIT,)})
    net.ran("a")
    net.run(0.5)
    for name in "abw":
        seen = view(net, name)
        assert (seen["state"], seen["type"], seen["desired"]) == ("running", "daemon", "running")
        assert {peer: part["state"] for peer, part in parts(seen).items()} == {
            "a": "running",
            "b": "running",
            "w": "absent",
        }
        slots = cast("list[View]", seen["slots"])
        assert [(slot["slot"], slot["executor"]) for slot in slots] == [(0, "a"), (1, "b")]
        assert [slot["execution"] for slot in slots] == [net.execution("a"), net.execution("b")]
        assert set(seen) <= set(get_type_hints(JobShape))
        assert set(parts(seen)["a"]) == set(get_type_hints(PartShape))


def test_why_says_who_runs_it_and_why_others_do_not() -> None:
    net = DaemonNet("a", "w", roles={"w": (Role.SUBMIT,)})
    net.ran("a")
    net.run(0.5)
    (told,) = cast("list[View]", view(net)["why"])
    answers = {peer["peer"]: peer for peer in cast("list[View]", told["asked"])}
    assert answers["a"]["answer"] == "running"
    assert answers["w"]["answer"] == "refused"
    assert "engine process is not here" in str(answers["w"]["reason"])


def test_who_does_not_answer_is_named() -> None:
    net = DaemonNet("a", "b")
    net.ran("a")
    net.run(0.5)
    net.drop = lambda sender, to, message: isinstance(message, JobReport)
    request = net.query("a", net.id)
    net.until(lambda: net.answered("a", request))
    assert net.reply("a", request).value["silent"] == ["b"]


def test_what_keeps_ending_shows_its_ends_and_when_it_starts_again() -> None:
    net = DaemonNet("a")
    net.ran("a")
    net.run(0.1)
    first = net.execution("a")
    net.end("a", 3, reason="broken")
    part = parts(view(net))["a"]
    assert (part["state"], part["exit_code"], part["restarts"]) == ("restarting", 3, 0)
    assert str(part["reason"]).startswith("ended with exit code 3: broken; started again in ")
    seen = view(net)
    assert seen["state"] == "pending"
    assert [each["id"] for each in cast("list[View]", seen["executions"])] == [first]
    net.until(lambda: net.on() == ["a"])
    net.run(0.1)
    seen = view(net)
    ids = [each["id"] for each in cast("list[View]", seen["executions"])]
    attempts = [each["attempt"] for each in cast("list[View]", seen["executions"])]
    assert (ids, attempts) == ([first, net.execution("a")], [1, 2])
    assert parts(seen)["a"]["restarts"] == 1
    net.end("a", None)
    assert str(parts(view(net))["a"]["reason"]).startswith("ended; started again in ")


def test_what_waits_says_what_for() -> None:
    net = DaemonNet("a")
    net.sample("a", temperature_mc=90_000)
    net.ran("a")
    assert parts(view(net))["a"]["state"] == "waiting"
    assert "temperature_max_c" in str(view(net)["reason"])


def test_where_nothing_matches_it_is_pending() -> None:
    net = DaemonNet("a")
    net.ran("a", daemon(Constraints=[{"Key": "gpu", "Operator": "exists"}]))
    seen = view(net)
    assert (seen["state"], seen["slots"]) == ("pending", [])
    assert "gpu" in str(seen["reason"])


def test_an_update_says_when_its_wave_comes_and_what_was_gone_back_from() -> None:
    net = DaemonNet("a", "b")
    slow: dict[str, Plain] = {"Update": {"HealthyAfter": 5}}
    net.ran("a", daemon(**slow))
    net.run(6.0)
    net.ran("a", daemon(Priority=1, **slow))
    net.run(0.5)
    reasons = sorted(str(part["reason"]) for part in parts(view(net)).values())
    assert reasons[0] == "" and reasons[1].startswith("changes to the next revision in ")
    (moved,) = [name for name in "ab" if net.daemon(name).now.spec.priority == 1]
    net.end(moved, 1)
    net.run(0.5)
    assert "gone back" in str(parts(view(net))[moved]["reason"])


def test_a_stop_is_seen_as_it_goes_on() -> None:
    net = DaemonNet("a")
    net.ran("a")
    net.run(0.1)
    net.stop("a", net.id)
    assert (view(net)["state"], parts(view(net))["a"]["reason"]) == ("stopping", "stopped")
    net.run(1.0)
    assert (view(net)["state"], parts(view(net))["a"]["state"]) == ("stopped", "stopped")


def test_what_is_deleted_is_shown_to_whoever_asks_for_its_id_alone() -> None:
    net = DaemonNet("a")
    net.ran("a")
    net.run(0.1)
    net.stop("a", net.id, Desired.DELETED)
    assert [seen["state"] for seen in asked(net, "a")] == ["stopping"]
    net.run(1.0)
    assert asked(net, "a") == []
    seen = view(net)
    assert (seen["state"], seen["name"], seen["spec"]) == ("deleted", "collect", {})


def test_what_has_expired_says_so() -> None:
    net = DaemonNet("a")
    net.ran("a", daemon(NotAfter="2027-01-15T08:03:20Z"))
    net.run(120.0)
    seen = view(net)
    assert (seen["state"], seen["reason"]) == ("stopped", "it has expired (NotAfter)")


def test_a_spec_that_cannot_be_read_is_shown_all_the_same() -> None:
    net = DaemonNet("a")
    book = StandingBook(shoal=net.shoal)
    body = dumps({"Name": "collect", "Type": "swarm"})
    net.send("a", "a", SyncRecords(DOMAIN, (book.spec_of(body, "z"),)))
    seen = view(net)
    assert (seen["author"], seen["author_name"]) == ("z", "z")
    assert "cannot read its spec" in str(seen["reason"])


# ---- putting parts together


def told(peer: str, state: str = "running", *, control: int = 0, generation: int = 1) -> View:
    texts = dict.fromkeys(("reason", "revision", "execution"), "")
    numbers = dict.fromkeys(("attempt", "restarts", "started_ms", "ended_ms"), 0)
    part: View = {**texts, **numbers, "peer": peer, "peer_name": peer, "state": state,
                  "generation": generation, "control": control, "exit_code": None,
                  "past": []}  # fmt: skip
    return reported(parts=[part], control=control, generation=generation, revision=f"r{generation}")


def test_the_head_that_knows_more_counts_and_every_part() -> None:
    one, other = told("b", generation=2), told("c", control=1)
    for both in (joined(one, other), joined(other, one)):
        assert (both["control"], both["generation"]) == (1, 1)
        assert list(parts(both)) == ["b", "c"]


def test_nobody_speaks_for_another() -> None:
    assert own_part(told("b"), PeerId("c"))["parts"] == []
    assert list(parts(own_part(told("b"), PeerId("b")))) == ["b"]


def test_a_job_of_the_other_sort_under_its_id_changes_nothing() -> None:
    net = DaemonNet("a", "b")
    net.ran("a")
    net.run(0.5)
    net.drop = lambda sender, to, message: isinstance(message, JobQuery)
    request = net.query("a", net.id)
    seq = net["a"].inquiries._seq
    lie = reported(net.id, term=99, coordinator="b")
    net.send("b", "a", JobReport(seq, (dumps(lie),)))
    assert list(parts(cast("list[View]", net.reply("a", request).value["jobs"])[0])) == ["a"]


def test_a_part_under_a_one_off_jobs_id_changes_nothing() -> None:
    net = DaemonNet("a", "b")
    net.submit("a", daemon())
    inquiries = net["a"].inquiries
    found: list[View] = []
    inquiries.ask("z" * 32, 5, False, lambda v, s, n: found.extend(v) or [], net.clock("a"))
    seq = inquiries._seq
    views = (dumps(reported("z" * 32)), dumps({**told("b"), "id": "z" * 32}), dumps(reported()))
    inquiries.on_report(PeerId("b"), JobReport(seq, views), net.clock("a"))
    assert [("parts" in each, each["id"]) for each in found] == [(False, "z" * 32)]


@pytest.mark.parametrize(
    ("desired", "state", "whole"),
    [
        ("running", "running", "running"),
        ("running", "absent", "pending"),
        ("stopped", "running", "stopping"),
        ("deleted", "stopped", "deleted"),
    ],
)
def test_the_state_follows_from_the_parts(desired: str, state: str, whole: str) -> None:
    assert settled({**told("b", state), "desired": desired})["state"] == whole


def test_what_a_record_brought_about() -> None:
    both = joined(joined(told("b", "stopped", control=2), told("c", control=2)), told("d"))
    assert effect_of(both, 2) == (["b"], ["c"], ["d"])
    assert effect_of(None, 2) == ([], [], [])
