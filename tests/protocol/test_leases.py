"""leases: what an executor hears that still runs something, and what is learnt from it."""

from __future__ import annotations

from typing import cast

import msgspec

from protocol.effects import Send
from protocol.ids import PeerId
from protocol.leases import PROGRESS, RENEWALS_MAX
from protocol.led import Phase
from protocol.messages import (
    Accepted,
    Award,
    Bid,
    JobSync,
    Renew,
    RenewAck,
    Renewal,
    RenewAnswer,
)
from protocol.placement import Placement
from protocol.records import Fence
from protocol.tree import Plain
from protocol.wire import FRAME_BYTES_MAX, encode_message
from tests.protocol.jobs import Book, fence
from tests.protocol.nodenet import NodeNet, batch, queue

SPEC = batch(on=["b"], task=queue(600))
FIRST = fence(1, "a", 1)


def awarded() -> NodeNet:
    """`a` awarded the slot to `b`; what `b` says from now on is the test's."""
    net = NodeNet("a", "b", "c")
    net.drop = lambda sender, to, message: isinstance(message, Award)
    net.submit("a", SPEC)
    net.run(0.4)  # past the later standby, within half of what an award is given
    net.send("b", "a", Accepted(net.job(), 0, FIRST))
    return net


def book(net: NodeNet) -> Book:
    return Book(SPEC, author="a", shoal=net.shoal)


def renewal(net: NodeNet, of: Fence = FIRST, slot: int = 0, award: bytes = b"") -> Renewal:
    it = book(net)
    return Renewal(it.id, it.revision, slot, of, "running", award)


def renew(net: NodeNet, sender: str, *items: Renewal, to: str = "a") -> list[RenewAnswer]:
    effects = net.send(sender, to, Renew(items))
    answers = [e.message for e in effects if isinstance(e, Send) and e.peer == sender]
    acks = [message for message in answers if isinstance(message, RenewAck)]
    return list(acks[0].items) if acks else []


def verdict(net: NodeNet, sender: str, item: Renewal, to: str = "a") -> str:
    (answer,) = renew(net, sender, item, to=to)
    return answer.verdict


def placement(net: NodeNet) -> Placement:
    return net.coordination("a").placement


def test_a_renewal_prolongs_the_lease_and_names_the_holders() -> None:
    net = awarded()
    net.run(5.0)
    (answer,) = renew(net, "b", renewal(net))
    assert (answer.verdict, answer.coordinator, answer.holders) == (
        "kept",
        "a",
        net.held("a").holders,
    )
    assert net.led("a").plans[0].due == net.now + 15.0


def test_what_is_not_the_executors_to_run_is_over() -> None:
    net = awarded()
    it = renewal(net)
    other = Book(batch(count=2), author="a", shoal=net.shoal)
    assert verdict(net, "c", it) == "over"
    assert verdict(net, "b", renewal(net, fence(0, "zz", 9))) == "over"
    assert verdict(net, "b", renewal(net, slot=3)) == "over"
    assert verdict(net, "b", Renewal(it.job, other.revision, 0, FIRST, "running")) == "over"


def test_a_slot_that_has_ended_is_over_even_long_after() -> None:
    net = NodeNet("a", "b", "c")
    net.submit("a", SPEC)
    net.run(0.2)
    net.end("b")
    net.run(3.0)
    net["a"].coordination._retire()
    assert net.coordination("a").led == {}
    assert verdict(net, "b", renewal(net)) == "over"


def test_who_does_not_answer_for_the_job_says_who_does() -> None:
    net = awarded()
    (answer,) = renew(net, "b", renewal(net), to="c")
    assert (answer.verdict, answer.coordinator, answer.holders) == ("unknown", "a", ())
    stranger = Renewal(net.job("other"), renewal(net).revision, 0, FIRST, "running")
    (answer,) = renew(net, "b", stranger)
    assert (answer.verdict, answer.coordinator) == ("unknown", None)


def test_a_holder_that_knows_a_later_award_says_that_it_is_over() -> None:
    """The executor may reach it, and for long not the coordinator."""
    net = awarded()
    earlier = fence(0, "zz", 9)
    assert earlier < FIRST == net.held("c").slots[0].assignment.fence
    assert verdict(net, "b", renewal(net, earlier), to="c") == "over"
    assert verdict(net, "b", renewal(net, slot=3), to="c") == "unknown"


def test_a_peer_that_was_given_up_and_is_back_keeps_its_slot() -> None:
    net = awarded()
    net.drop = lambda sender, to, message: isinstance(message, Bid | Award)
    net.until(lambda: net.led("a").plans[0].phase is Phase.BIDDING, 30.0)
    assert verdict(net, "b", renewal(net)) == "kept"
    assert net.led("a").plans[0].phase is Phase.BIDDING
    net.until(lambda: net.led("a").plans[0].phase is Phase.WAITING)
    assert verdict(net, "b", renewal(net)) == "kept"
    assert net.led("a").plans[0].phase is Phase.RUNNING


def test_a_renewal_stands_for_an_acceptance_that_was_lost() -> None:
    net = NodeNet("a", "b")
    net.drop = lambda sender, to, message: isinstance(message, Award)
    net.submit("a", SPEC)
    net.run(0.1)
    assert net.led("a").plans[0].phase is Phase.OFFERED
    assert verdict(net, "b", renewal(net)) == "kept"
    assert net.led("a").plans[0].phase is Phase.RUNNING
    assert net.led("a").auction is None


def waiting() -> NodeNet:
    """Nobody is known to run the slot, and `0` was a coordinator of the job once."""
    net = NodeNet("a", "b", "c")
    net.drop = lambda sender, to, message: isinstance(message, Bid | JobSync)
    net.submit("a", SPEC)
    net.until(lambda: net.led("a").plans[0].phase is Phase.WAITING)
    net.held("a").add_holders((PeerId("0"), PeerId("z")))
    return net


def test_an_award_of_a_predecessor_is_learnt_from_its_executor() -> None:
    net = waiting()
    of = fence(1, "0", 4)
    assert verdict(net, "b", renewal(net, of)) == "unknown"
    award = book(net).awarded(of, 0, "b")
    assert verdict(net, "b", renewal(net, of, award=award)) == "kept"
    assert net.led("a").plans[0].phase is Phase.RUNNING
    assert net.slot("a").assignment_data == award
    assert net.boxes["a"].disk["slot"]


def test_what_a_predecessor_counted_is_learnt_with_its_award() -> None:
    net = waiting()
    it, of = book(net), fence(1, "0", 4)
    counted = msgspec.structs.replace(it.assignment(of, 0, "b"), failures=1, untaken=3)
    award = it.sign(counted, "0")
    assert verdict(net, "b", renewal(net, of, award=award)) == "kept"
    assert (net.led("a").plans[0].failures, net.led("a").plans[0].untaken) == (1, 3)


def test_an_award_of_somebody_who_never_held_the_job_is_not() -> None:
    net = waiting()
    of = fence(1, "c9", 4)
    award = book(net).awarded(of, 0, "b")
    assert verdict(net, "b", renewal(net, of, award=award)) == "unknown"
    assert net.slot("a").assignment is None


def test_an_award_that_is_not_the_renewed_one_is_refused() -> None:
    net = waiting()
    it, of = book(net), fence(1, "0", 4)
    forged = it.sign(it.assignment(of, 0, "b"), "c")
    for award in (
        it.awarded(fence(1, "0", 5), 0, "b"),
        it.awarded(of, 0, "c"),  # to somebody else
        forged,
        it.spec_data,
        b"garbage",
    ):
        assert renew(net, "b", renewal(net, of, award=award)) == []
    assert net["a"].messaging.malformed == {"b": 5}
    assert net.slot("a").assignment is None


def test_an_award_is_not_learnt_while_the_slot_is_awarded_anew() -> None:
    net = NodeNet("a", "b", "c")
    net.drop = lambda sender, to, message: isinstance(message, Bid)
    net.submit("a", SPEC)
    net.held("a").add_holders((PeerId("0"),))
    assert net.led("a").plans[0].phase is Phase.BIDDING
    of = fence(1, "0", 4)
    award = book(net).awarded(of, 0, "b")
    assert verdict(net, "b", renewal(net, of, award=award)) == "unknown"


def test_a_successors_award_hands_the_job_over() -> None:
    """An honest partition: the successor awarded, and its executor turns to the predecessor."""
    net = awarded()
    net.held("a").add_holders((PeerId("c"), PeerId("z")))
    of = fence(2, "c", 2)
    award = book(net).awarded(of, 0, "b")
    (answer,) = renew(net, "b", renewal(net, of, award=award))
    assert (answer.verdict, answer.coordinator) == ("unknown", "c")
    assert (net.held("a").term, net.held("a").coordinator) == (2, "c")
    assert net.coordination("a").led == {}


def test_a_successor_that_is_dead_is_succeeded_again() -> None:
    net = waiting()
    net.run(10.0)
    of = fence(7, "z", 2)
    award = book(net).awarded(of, 0, "b")
    (answer,) = renew(net, "b", renewal(net, of, award=award))
    assert (answer.verdict, answer.coordinator) == ("unknown", None)
    net.until(lambda: net.held("a").coordinator == "a", 10.0)
    assert net.held("a").term == 8
    assert verdict(net, "b", renewal(net, of, award=award)) == "kept"
    # And when that is lost too, the next award is above it.
    net.drop = lambda sender, to, message: isinstance(message, Renew)
    net.until(lambda: net.executors() == ["b"], 60.0)
    assignment = net.slot("a").assignment
    assert assignment is not None
    assert assignment.fence == fence(8, "a", 3)


def test_a_flood_of_renewals_gets_an_answer_that_fits_a_frame() -> None:
    net = awarded()
    net.held("a").add_holders(tuple(PeerId(f"{n:064d}") for n in range(16)))
    answers = renew(net, "b", *[renewal(net)] * 500)
    assert len(answers) == RENEWALS_MAX
    assert len(encode_message(RenewAck(tuple(answers)))) < FRAME_BYTES_MAX


def test_where_its_task_is_reached_is_what_the_executor_says_last() -> None:
    net = awarded()
    assert shown(net) == {}
    renew(net, "b", msgspec.structs.replace(renewal(net), ports=(("web", 20_001),)))
    assert shown(net) == {"web": 20_001}
    renew(net, "b", msgspec.structs.replace(renewal(net), ports=(("web", 20_007),)))
    assert shown(net) == {"web": 20_007}
    net.boxes["a"].node = None
    net.boot("a")
    assert shown(net) == {}, "nobody keeps it"
    renew(net, "b", msgspec.structs.replace(renewal(net), ports=(("web", 20_007),)))
    assert shown(net) == {"web": 20_007}


def shown(net: NodeNet) -> Plain:
    (slot,) = cast("list[dict[str, Plain]]", net["a"].views.job(net.held("a"))["slots"])
    return slot["ports"]


def test_what_takes_long_is_told_to_whoever_looks_on_and_kept_nowhere() -> None:
    net = awarded()
    pulls = msgspec.structs.replace(renewal(net), state="starting", doing="pulling x, 1 of 2 MB")
    rows = str(net.boxes["a"].disk)
    renew(net, "b", pulls)
    renew(net, "b", pulls)
    (told,) = net.told("a", PROGRESS)
    assert (told.text, told.fleeting) == ("on b: pulling x, 1 of 2 MB", True)
    assert told.fields == {"slot": 0, "doing": "pulling x, 1 of 2 MB"}
    assert doing(net) == ("starting", "pulling x, 1 of 2 MB")
    assert str(net.boxes["a"].disk) == rows
    renew(net, "b", renewal(net))
    assert doing(net) == ("running", "")


def doing(net: NodeNet) -> tuple[Plain, Plain]:
    (slot,) = cast("list[dict[str, Plain]]", net["a"].views.job(net.held("a"))["slots"])
    return slot["state"], slot["reason"]


def test_a_slot_whose_results_are_published_is_shown_so_until_it_runs_anew() -> None:
    net = awarded()

    def shown() -> tuple[Plain, dict[str, str]]:
        return net["a"].views.job(net.held("a"))["state"], net.states("a")

    assert verdict(net, "b", msgspec.structs.replace(renewal(net), state="publishing")) == "kept"
    assert shown() == ("running", {"b": "publishing"})
    assert verdict(net, "b", msgspec.structs.replace(renewal(net), state="publishing")) == "kept"
    assert [tell.text for tell in net.told("a", "execution.publishing")] == [
        "results are being published by b"
    ]
    assert verdict(net, "b", renewal(net)) == "kept"
    assert shown() == ("running", {"b": "running"})
