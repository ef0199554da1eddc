"""views: what people and other peers are told of jobs and peers."""

from __future__ import annotations

from msgspec.structs import replace

from protocol.auction import Answer, Auction
from protocol.config import AuctionConfig
from protocol.heldjob import HeldJob
from protocol.ids import PeerId
from protocol.inquiry import packed
from protocol.led import Led, Phase, Plan
from protocol.messages import Bid, Facts
from protocol.records import Desired, Verdict
from protocol.roster import Peer, State
from protocol.story import ASKED_MAX, Attempt, Story
from protocol.tree import Plain
from protocol.views import View, facts_view, job_view, own_view, peer_view
from protocol.wire import load_plain
from tests.protocol.jobs import WALL_MS, Book, at, fence, task_spec
from tests.protocol.nodenet import NodeNet, batch, queue

FIRST = fence(1, "a", 1)


def shown(
    book: Book,
    held: HeldJob,
    led: Led | None = None,
    story: Story | None = None,
    detail: bool = False,
) -> View:
    return job_view(held, led, story, lambda peer: f"<{peer}>", book.keyring("a"), detail)


def award(book: Book, held: HeldJob, slot: int = 0, number: int = 1) -> None:
    of = fence(1, "a", number)
    held.slots[slot].offer_assignment(book.assignment(of, slot), book.awarded(of, slot))


def settle(book: Book, held: HeldJob, verdict: Verdict, slot: int = 0) -> None:
    bare = verdict is Verdict.STOPPED
    result = b"" if bare else book.resulted(FIRST, verdict, slot)
    reason = "" if verdict is Verdict.SUCCESS else "it did not go well"
    acceptance = replace(book.acceptance(FIRST, verdict, slot, result), reason=reason)
    held.slots[slot].offer_acceptance(acceptance, book.accepted(FIRST, verdict, slot))


def only(view: View, key: str = "slots") -> View:
    (found,) = items(view, key)
    return found


def items(view: View, key: str) -> list[View]:
    value = view[key]
    assert isinstance(value, list)
    return [each for each in value if isinstance(each, dict)]


# ---- a job


def test_a_job_that_waits_says_for_what() -> None:
    book = Book()
    view = shown(book, book.held("a", "b"), None, Story(waiting="nobody fits"))
    assert (view["id"], view["state"], view["reason"]) == (book.id, "pending", "nobody fits")
    assert (view["coordinator"], view["coordinator_name"]) == ("a", "<a>")
    assert (view["holders"], view["created_ms"], view["control"]) == (["a", "b"], WALL_MS, 0)
    slot = only(view)
    assert (slot["state"], slot["executor"], slot["attempt"]) == ("pending", "", 0)
    assert "executions" not in view
    assert shown(book, book.held("a"))["reason"] == ""


def test_a_slot_is_as_its_coordinator_plans_or_as_the_records_say() -> None:
    book = Book()
    held = book.held("a")
    award(book, held)
    assert (shown(book, held)["state"], only(shown(book, held))["state"]) == ("running", "running")
    for phase, state in (
        (Phase.OFFERED, "starting"),
        (Phase.RUNNING, "running"),
        (Phase.WAITING, "pending"),
    ):
        led = Led(held, {0: Plan(phase, 1.0, 0.0, failures=2, reason="why")})
        slot = only(shown(book, held, led))
        assert (slot["state"], slot["failures"], slot["reason"]) == (state, 2, "why")
        assert (slot["executor"], slot["executor_name"]) == ("executor", "<executor>")
        assert (slot["term"], slot["attempt"]) == (1, 1)


def test_a_slot_that_ended_tells_of_the_result_that_counts() -> None:
    book = Book(task_spec(2))
    held = book.held("a")
    award(book, held, 0, 2)  # the second attempt, and then the first one succeeded
    settle(book, held, Verdict.SUCCESS)
    slot = items(shown(book, held), "slots")[0]
    assert (slot["state"], slot["exit_code"], slot["verdict"]) == ("completed", 0, "success")
    assert (slot["attempt"], slot["execution"]) == (1, held.execution_at(held.slots[0], FIRST))
    assert (slot["executor"], slot["duration_ms"]) == ("executor", 1000)
    assert shown(book, held)["state"] == "running"


def test_the_state_of_a_job_follows_from_its_slots() -> None:
    for verdict, state, code in (
        (Verdict.SUCCESS, "completed", 0),
        (Verdict.FAILURE, "failed", 3),
        (Verdict.FAULT, "failed", None),
        (Verdict.STOPPED, "stopped", None),
    ):
        book = Book()
        held = book.held("a")
        settle(book, held, verdict)
        view = shown(book, held)
        assert (view["state"], only(view)["exit_code"]) == (state, code)
        assert view["reason"] == ("" if state == "completed" else "it did not go well")
    book = Book()
    held = book.held("a")
    data = book.controlled("author")
    held.offer_control(held.checked_control(data, book.keyring("a")), data)
    view = shown(book, held)
    assert (view["state"], view["desired"], view["control"]) == (
        "stopping",
        Desired.STOPPED.name.lower(),
        1,
    )


def test_executions_are_those_remembered_and_those_on_record() -> None:
    """Who placed the slots forgets attempts, and a successor never knew those before it."""
    book = Book(task_spec(3))
    held = book.held("a")
    award(book, held, 0)
    award(book, held, 1)
    view = shown(book, held, None, None, True)
    assert [each["peer"] for each in items(view, "executions")] == ["executor", "executor"]
    story = Story()
    story.add_attempt(Attempt(held.execution_of(held.slots[1]), 1, PeerId("x"), 1, 1, "lost", 5))
    story.add_attempt(Attempt("earlier", 1, PeerId("x"), 1, 0, "lost", 5))
    executions = items(shown(book, held, None, story, True), "executions")
    assert [each["id"] for each in executions] == [
        held.execution_of(held.slots[1]),
        "earlier",
        held.execution_of(held.slots[0]),
    ]
    assert [each["peer_name"] for each in executions] == ["<x>", "<x>", "<executor>"]


def test_a_round_tells_who_was_asked_and_what_was_said() -> None:
    book = Book()
    auction = Auction(1, AuctionConfig(), 1, [PeerId("later")], 0.0, WALL_MS)
    auction.ask(0, 0.0)
    auction.answers[PeerId("c")] = Answer("refused", reason="busy")
    auction.answers[PeerId("b")] = Answer()
    auction.on_bid(PeerId("b"), Bid(1, 700, 1, 1000, Facts(cpu_free_m=5)), 0.0)
    auction.answers[PeerId("b")].given.append(0)
    story = Story(rounds=[auction])
    why = only(shown(book, book.held("a"), None, story, True), "why")
    assert (why["round"], why["note"]) == (1, "1 more were not asked")
    bid, refusal = items(why, "asked")
    assert (bid["peer"], bid["answer"], bid["score"], bid["awarded"]) == ("b", "bid", 700, [0])
    assert bid["facts"] == {"cpu_free_m": 5, "running": 0, "inputs_here": 0}
    assert (refusal["name"], refusal["reason"], refusal["facts"]) == ("<c>", "busy", {})


def test_a_round_of_very_many_shows_the_bids_first() -> None:
    book = Book()
    auction = Auction(1, AuctionConfig(), 1, [], 0.0, WALL_MS)
    for number in range(ASKED_MAX + 10):
        auction.answers[PeerId(f"p{number:03d}")] = Answer("filtered", reason="no")
    auction.answers[PeerId("z")] = Answer("bid", score=1)
    why = only(shown(book, book.held("a"), None, Story(rounds=[auction]), True), "why")
    asked = items(why, "asked")
    assert len(asked) == ASKED_MAX
    assert asked[-1]["peer"] == "z"
    assert why["note"] == "11 more answers are not shown"


def test_the_largest_view_is_one_that_peers_can_read() -> None:
    """The deepest part of a job file is seven levels down, a view adds one more."""
    archive: Plain = {"Type": "archive", "Params": {"Digest": "ab" * 32, "Size": 9}}
    net = NodeNet("a", "b", "c", "d", "e")
    task: dict[str, Plain] = {"InputSources": [{"Target": "/in", "Source": archive}], **queue(99)}
    net.submit("a", batch(count=40, on=["nobody"], task=task))
    net.run(3.0)
    outsider = next(name for name in "bcde" if net.job() not in net[name].jobs)
    request = net.query(outsider, net.job(), detail=True)
    net.run(0.1)
    answer = net.reply(outsider, request).value
    (view,) = answer["jobs"]  # type: ignore[misc]
    assert view["coordinator"] == "a"
    assert len(view["slots"]) == 40
    assert view["why"]
    assert load_plain(packed(view, 96 * 1024))["id"] == net.job()
    assert all(net[name].messaging.malformed == {} for name in "abcde")


def test_the_coordinators_own_view_counts_among_holders() -> None:
    """A standby takes an award on record for a run; the coordinator knows that it was declined."""
    net = NodeNet("a", "b", "c")
    net.submit("a", batch(on=["b"], task=queue(99)))
    net.run(0.3)
    net.led("a").plans[0].phase = Phase.OFFERED
    request = net.query("c", net.job())
    net.run(0.1)
    (view,) = net.reply("c", request).value["jobs"]  # type: ignore[misc]
    assert view["slots"][0]["state"] == "starting"


# ---- facts and peers


def test_facts_that_are_not_known_are_left_out() -> None:
    assert facts_view(Facts()) == {"running": 0, "inputs_here": 0}
    assert facts_view(Facts(temperature_mc=41_000, mains=0))["temperature_mc"] == 41_000


def test_a_peer_as_it_is_known() -> None:
    net = NodeNet("a", "b")
    me, other = net["a"].views.peers(net.clock("a"))
    assert (me["id"], me["self"], me["state"], me["connected"]) == ("a", True, "alive", True)
    assert me["incarnation"] == net["a"].membership.incarnation > 0
    assert me["draining"] is other["draining"] is False
    assert (other["id"], other["self"], other["state"], other["name"]) == ("b", False, "alive", "b")
    assert other["roles"] == ["compute", "submit"]
    assert (other["labels"], other["cpu_m"], other["engines"]) == ({"name": "b"}, 4000, ["process"])
    net.kill("b")
    net.run(5.0)
    _, other = net["a"].views.peers(net.clock("a"))
    assert (other["state"], other["connected"], other["since_s"]) == ("dead", False, 4)


def test_a_peer_of_which_next_to_nothing_is_known() -> None:
    view = peer_view(Peer(PeerId("somebody"), State.UNHEARD, 200.0), at(100.0))
    assert (view["name"], view["roles"], view["since_s"]) == ("somebody", [], 0)
    assert (view["addresses"], view["version"], view["draining"]) == ([], "", False)
    keyring = Book().keyring("a")
    own = own_view(None, "me", keyring, ("submit",))
    assert (own["id"], own["name"], own["incarnation"], own["engines"]) == ("a", "me", 0, [])
    advert = NodeNet("a")["a"].advert
    assert advert is not None
    assert own_view(replace(advert, incarnation=7), "me", keyring, ())["incarnation"] == 7
