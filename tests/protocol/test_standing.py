"""standing: a record reaches everybody, is durable before it is acknowledged, and costs little."""

from __future__ import annotations

from dataclasses import replace

import pytest

from protocol.config import NodeConfig, StandingConfig
from protocol.courier import Courier
from protocol.effects import Effect, Save, Send
from protocol.errors import RemoteProtocolError
from protocol.events import FrameReceived
from protocol.ids import JobId, PeerId
from protocol.messages import (
    Message,
    SyncHeld,
    SyncItems,
    SyncRecords,
    SyncRoot,
    SyncWant,
)
from protocol.records import Departure, Desired
from protocol.standing import DOMAIN, NEWS_MAX, NO_ROOM, Standing
from protocol.standingjob import StandingJob
from protocol.tree import Plain
from protocol.wire import encode_message, seal
from tests.protocol.nodenet import NodeNet
from tests.protocol.standingbook import StandingBook, daemon

SYNC = (SyncRoot, SyncItems, SyncWant, SyncRecords, SyncHeld)


def standing(net: NodeNet, name: str) -> Standing:
    return net[name].steward.standing


def versions(net: NodeNet, name: str) -> dict[JobId, bytes]:
    return {job: held.version for job, held in standing(net, name).jobs.items()}


def book_of(net: NodeNet, name: str = "collect") -> StandingBook:
    return StandingBook(name, shoal=net.shoal)


def give(net: NodeNet, to: str, *records: bytes, sender: str = "b") -> list[Effect]:
    return net.send(sender, to, SyncRecords(DOMAIN, records))


def said(net: NodeNet, name: str) -> list[tuple[PeerId, Message]]:
    """What a node has sent in the domain of standing jobs."""
    return [
        (peer, message)
        for peer, message in net.boxes[name].sent
        if isinstance(message, SYNC) and message.domain == DOMAIN
    ]


# ---- reaching everybody


def test_a_record_reaches_everybody_at_once_and_is_on_their_disks() -> None:
    net = NodeNet("a", "b", "c", "d")
    net.submit("a", daemon())
    took = net.until(lambda: all(versions(net, name) == versions(net, "a") for name in "bcd"))
    assert took < 0.1
    for name in "abcd":
        assert list(net.boxes[name].disk["standing"]) == [book_of(net).id]


def test_a_record_is_sent_once_to_each_neighbour_and_then_there_is_silence() -> None:
    net = NodeNet("a", "b", "c", "d")
    net.submit("a", daemon())
    net.run(5.0)
    sent = [m for name in "abcd" for _, m in said(net, name) if isinstance(m, SyncRecords)]
    assert len(sent) == 3
    for name in "abcd":
        net.boxes[name].sent.clear()
    net.run(300.0)
    told = [message for name in "abcd" for _, message in said(net, name)]
    assert all(isinstance(message, SyncRoot) for message in told)
    assert len(told) <= 4 * 300 / 40


def test_a_shoal_without_standing_jobs_says_nothing_of_them() -> None:
    net = NodeNet("a", "b", "c")
    net.run(600.0)
    assert [each for name in "abc" for each in said(net, name)] == []


def test_whoever_joins_gets_everything_once() -> None:
    net = NodeNet("a", "b", "c", "d")
    net.kill("d")
    net.boxes["d"].disk.clear()
    net.run(5.0)
    for number in range(5):
        net.submit("a", daemon(f"d{number}"))
    net.run(5.0)
    for name in "abc":
        net.boxes[name].sent.clear()
    net.boot("d")
    assert net.until(lambda: versions(net, "d") == versions(net, "a")) < 0.2
    net.run(10.0)
    given = [
        record
        for name in "abc"
        for peer, message in said(net, name)
        if isinstance(message, SyncRecords) and peer == "d"
        for record in message.records
    ]
    assert len(given) <= 2 * 5  # by the one who was asked, and perhaps by one who saw it lacked


def test_what_was_cut_off_learns_of_it_on_coming_back() -> None:
    net = NodeNet("a", "b", "c")
    net.part("ab", "c")
    net.submit("a", daemon())
    net.run(1.0)
    assert versions(net, "c") == {}
    net.heal()
    assert net.until(lambda: versions(net, "c") == versions(net, "a")) < 1.0


def test_islands_that_both_ran_a_file_mean_one_job() -> None:
    net = NodeNet("a", "b", "c", "d")
    net.part("ab", "cd")
    net.submit("a", daemon(Priority=1))
    net.submit("d", daemon(Priority=2))
    net.submit("c", daemon("other"))
    net.run(1.0)
    net.heal()
    net.run(3.0)
    assert len({tuple(sorted(versions(net, name).items())) for name in "abcd"}) == 1
    assert len(versions(net, "a")) == 2


def test_an_offer_that_gets_lost_goes_out_again() -> None:
    net = NodeNet("a", "b")
    lost: list[Message] = []

    def drop(sender: str, to: str, message: Message) -> bool:
        if isinstance(message, SYNC) and len(lost) < 3:
            lost.append(message)
            return True
        return False

    net.drop = drop
    net.submit("a", daemon())
    net.until(lambda: versions(net, "b") == versions(net, "a"), 20.0)
    assert len(lost) == 3


def test_news_of_many_is_compared_and_not_listed() -> None:
    net = NodeNet("a", "b", "c")
    net.part("ab", "c")
    for number in range(NEWS_MAX + 10):
        net.submit("a", daemon(f"d{number}"))
        net.run(0.02)
    net.boxes["c"].sent.clear()
    net.boxes["b"].sent.clear()
    net.cut.clear()
    net.connect("b", "c")  # and not with a: c is to pass nothing on item by item
    net.connect("a", "c")
    net.until(lambda: versions(net, "c") == versions(net, "a"), 10.0)
    net.run(5.0)
    offers = [m for _, m in said(net, "c") if isinstance(m, SyncItems) and not m.buckets]
    assert sum(len(offer.items) for offer in offers) <= NEWS_MAX


# ---- durable before acknowledged


def test_a_record_is_saved_before_it_is_acknowledged() -> None:
    net = NodeNet("a", "b")
    book = book_of(net)
    effects = give(net, "a", book.spec("b"), book.control(by="b"))
    kinds = [type(e) if isinstance(e, Save) else type(e.message) for e in effects
             if isinstance(e, Save | Send)]  # fmt: skip
    assert kinds.index(Save) < kinds.index(SyncHeld)
    held = standing(net, "a").jobs[book.id]
    assert Send(PeerId("b"), SyncHeld(DOMAIN, ((book.id, held.version),))) in effects


def test_the_same_again_is_acknowledged_and_changes_nothing() -> None:
    net = NodeNet("a", "b")
    book = book_of(net)
    give(net, "a", book.spec("b"))
    effects = give(net, "a", book.spec("b"))
    assert [type(effect.message) for effect in effects if isinstance(effect, Send)] == [SyncHeld]
    assert not any(isinstance(effect, Save) for effect in effects)


def test_whoever_shows_an_older_record_is_offered_the_newer() -> None:
    net = NodeNet("a", "b")
    book = book_of(net)
    give(net, "a", book.spec("b", 2), book.control(by="b"))
    effects = give(net, "a", book.spec("b", 1))
    version = standing(net, "a").jobs[book.id].version
    assert Send(PeerId("b"), SyncItems(DOMAIN, (), ((book.id, version),))) in effects


def test_an_offer_of_what_is_held_is_acknowledged() -> None:
    net = NodeNet("a", "b")
    book = book_of(net)
    give(net, "a", book.spec("b"))
    offer = SyncItems(DOMAIN, (), ((book.id, standing(net, "a").jobs[book.id].version),))
    effects = net.send("b", "a", offer)
    assert Send(PeerId("b"), SyncHeld(DOMAIN, offer.items)) in effects


def test_what_one_was_asked_for_no_other_is_asked_for_a_while() -> None:
    net = NodeNet("a", "b", "c")
    net.drop = lambda sender, to, message: sender == "a"
    offer = SyncItems(DOMAIN, (), ((book_of(net).id, b"12345678"),))
    wanted = Send(PeerId("b"), SyncWant(DOMAIN, (book_of(net).id,)))
    assert wanted in net.send("b", "a", offer)
    assert not any(isinstance(effect, Send) for effect in net.send("c", "a", offer))
    net.run(StandingConfig().want_s + 0.1)  # b never answers: c is turned to
    roots = [peer for peer, message in said(net, "a") if isinstance(message, SyncRoot)]
    assert roots == ["c"]
    assert net.send("c", "a", offer) != []
    net.run(200.0)
    assert standing(net, "a")._asked == {}


# ---- bounds


def full(records_max: int, bytes_max: int = 1 << 26) -> dict[str, NodeConfig]:
    limits = replace(StandingConfig(), records_max=records_max, bytes_max=bytes_max)
    return {"a": NodeConfig(standing=limits)}


def test_what_is_over_the_bound_is_refused_with_a_reason_and_not_offered_again() -> None:
    net = NodeNet("a", "b", configs=full(1))
    net.submit("b", daemon("one"))
    net.run(1.0)
    net.submit("b", daemon("two"))
    net.run(1.0)
    assert list(versions(net, "a")) == [book_of(net, "one").id]
    assert len(versions(net, "b")) == 2
    told = [m for _, m in said(net, "a") if isinstance(m, SyncHeld) and m.refused]
    assert told == [SyncHeld(DOMAIN, (), (book_of(net, "two").id,), NO_ROOM)]
    assert standing(net, "b").couriers[PeerId("a")] == Courier()
    assert [tell.text for tell in net.told("a", "standing.full")] == [NO_ROOM]
    give(net, "a", book_of(net, "three").spec("b"))
    assert len(net.told("a", "standing.full")) == 1


def test_a_full_peer_still_hears_that_it_may_stop_something() -> None:
    book = StandingBook()
    net = NodeNet("a", "b", configs=full(9, len(book.spec("b")) + 9))
    book = book_of(net)
    give(net, "a", book.spec("b"))
    give(net, "a", book.control(by="b"), book.spec("b", 2))
    held = standing(net, "a").jobs[book.id]
    assert (held.desired, held.generation) == (Desired.STOPPED, 1)


def test_an_edit_of_what_is_held_takes_no_more_room() -> None:
    net = NodeNet("a", "b", configs=full(1))
    book = book_of(net)
    give(net, "a", book.spec("a"))
    give(net, "a", book.spec("a", 2))
    request = net.submit("a", daemon(Priority=1))
    net.until(lambda: net.answered("a", request))
    assert net.reply("a", request).error == ""
    assert standing(net, "a").jobs[book.id].generation == 3


def test_a_full_peer_takes_no_act_of_its_own() -> None:
    net = NodeNet("a", configs=full(0))
    request = net.submit("a", daemon())
    assert net.reply("a", request).error == NO_ROOM


def test_what_is_deleted_gives_its_room_back() -> None:
    net = NodeNet("a", "b", configs=full(1))
    book = book_of(net)
    give(net, "a", book.spec("b"))
    give(net, "a", book.control(Desired.DELETED, by="b"))
    here = standing(net, "a")
    assert here._records == 1
    assert here._bytes == here.jobs[book.id].size_bytes
    assert here._known == {book.control(Desired.DELETED, by="b"): book.id}


# ---- what is malformed


def test_one_bad_record_spoils_its_message_and_nothing_else() -> None:
    net = NodeNet("a", "b")
    book = book_of(net)
    give(net, "a", book.spec("b"), b"garbage")
    assert versions(net, "a") == {}
    assert net["a"].messaging.malformed[PeerId("b")] == 1
    with pytest.raises(RemoteProtocolError):
        here = standing(net, "a")
        here.receive(PeerId("b"), SyncItems(DOMAIN, (99,), ()), net.clock("a"))


def test_a_record_of_an_unknown_kind_is_left_alone() -> None:
    net = NodeNet("a", "b")
    keyring = net.boxes["b"].keyring
    other = seal(Departure(peer=keyring.peer, incarnation=9), keyring)
    effects = give(net, "a", other)
    assert effects == [Send(PeerId("b"), SyncHeld(DOMAIN, ()))]


def test_an_answer_from_whom_nothing_was_offered_changes_nothing() -> None:
    net = NodeNet("a", "b")
    book = book_of(net)
    give(net, "a", book.spec("b"))
    version = standing(net, "a").jobs[book.id].version
    held = SyncHeld(DOMAIN, ((book.id, version), (book.id, b"12345678")), ("x",))
    frame = FrameReceived(PeerId("stranger"), encode_message(held))
    assert net.handle("a", frame) == []
    records = SyncRecords(DOMAIN, (book.spec("b", 1),))
    assert net.handle("a", FrameReceived(PeerId("stranger"), encode_message(records))) != []


def test_a_domain_of_a_later_version_is_left_alone() -> None:
    net = NodeNet("a", "b")
    assert net.send("b", "a", SyncRoot(7, b"")) == []
    assert net.send("b", "a", SyncHeld(0, ())) == []


def test_what_is_wanted_and_not_there_is_not_given() -> None:
    net = NodeNet("a", "b")
    assert net.send("b", "a", SyncWant(DOMAIN, ("nothing",))) == []
    assert standing(net, "a")._load("nothing") == ()


# ---- on disk


def test_a_restart_finds_them_all_and_names_what_it_cannot_read() -> None:
    net = NodeNet("a")
    net.submit("a", daemon())
    before = versions(net, "a")
    net.boxes["a"].disk["standing"]["x"] = b"garbage"
    net.kill("a")
    net.boot("a")
    assert versions(net, "a") == before
    assert [each.key for each in net["a"].unreadable] == ["x"]
    assert isinstance(standing(net, "a").jobs[book_of(net).id], StandingJob)


# ---- images


def test_images_of_all_that_stands_are_known_whether_or_not_it_runs() -> None:
    net = NodeNet("a", "b")
    engine: Plain = {"Type": "docker", "Params": {"Image": "busybox:1.37.0"}}
    net.submit("a", daemon())
    assert standing(net, "a").images == frozenset()
    net.submit("a", daemon("boxed", task={"Engine": engine}))
    net.until(lambda: len(versions(net, "b")) == 2)
    assert standing(net, "b").images == {"docker.io/library/busybox:1.37.0"}
    later: Plain = {"Type": "docker", "Params": {"Image": "busybox:2"}}
    net.submit("a", daemon("boxed", task={"Engine": later}))
    net.until(lambda: "docker.io/library/busybox:2" in standing(net, "b").images)
    assert "docker.io/library/busybox:1.37.0" in standing(net, "b").images, "to go back to"
