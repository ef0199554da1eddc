"""foreign: what a later version holds on every peer is kept here, passed on, and never acted on."""

from __future__ import annotations

import pytest

from protocol import foreign
from protocol.foreign import Foreign, is_foreign, name_of
from protocol.ids import PeerId
from protocol.messages import Message, SyncHeld, SyncItems, SyncRecords, SyncRoot, SyncWant
from protocol.standing import DOMAIN, NO_ROOM
from protocol.wire import SIGNATURE_CONTEXT, dumps, open_sealed
from tests.protocol.fakes import FakeKeyring, FakeShoal
from tests.protocol.nodenet import NodeNet
from tests.protocol.standingbook import daemon

SYNC = (SyncRoot, SyncItems, SyncWant, SyncRecords, SyncHeld)


def later(keyring: FakeKeyring, *words: object) -> bytes:
    """A record of a kind that this version does not know, signed by a member."""
    body = dumps([4711, *words])
    return dumps([body, keyring.peer, keyring.sign(SIGNATURE_CONTEXT + body), keyring.certificate])


def held(net: NodeNet, name: str) -> list[bytes]:
    return list(net[name].steward.standing.foreign.records.values())


def said(net: NodeNet, name: str) -> list[tuple[PeerId, Message]]:
    sent = net.boxes[name].sent
    return [each for each in sent if isinstance(each[1], SYNC) and each[1].domain == DOMAIN]


def test_it_reaches_everybody_through_whoever_does_not_know_it() -> None:
    net = NodeNet("a", "b", "c")
    net.part("a", "c")  # and the other way round: b is between them
    data = later(net.boxes["c"].keyring, "revoked", {"who": "d"})
    net.send("a", "b", SyncRecords(DOMAIN, (data,)))
    net.until(lambda: held(net, "c") == [data])
    net.heal()
    net.until(lambda: held(net, "a") == [data])
    for name in "abc":
        assert net.boxes[name].disk["foreign"] == {name_of(data): data}
        assert net[name].messaging.malformed == {}


def test_it_outlives_a_restart_and_is_offered_again() -> None:
    net = NodeNet("a", "b")
    data = later(net.boxes["b"].keyring, "x")
    net.kill("b")
    net.send("b", "a", SyncRecords(DOMAIN, (data,)))
    net.kill("a")
    net.boot("a")
    assert held(net, "a") == [data]
    net.boot("b")
    net.until(lambda: held(net, "b") == [data])


def test_what_an_upgrade_has_come_to_know_is_acted_on() -> None:
    """It was kept as foreign by the version before, at all peers alike: nobody sends it again."""
    net = NodeNet("a", "b")
    net.submit("b", daemon())
    net.run(1.0)
    ((job, held_b),) = net["b"].steward.standing.jobs.items()
    kept = {name_of(held_b.spec_data): held_b.spec_data}
    for name in "ab":
        net.kill(name)
        net.boxes[name].disk["standing"] = {}
        net.boxes[name].disk["foreign"] = dict(kept)
    for name in "ab":
        net.boot(name)
    net.run(5.0)
    for name in "ab":
        assert list(net[name].steward.standing.jobs) == [job]
        assert held(net, name) == [] and net.boxes[name].disk["foreign"] == {}
        assert list(net.boxes[name].disk["standing"]) == [job]
        assert net.boxes[name].running, "and it runs"
    net.kill("a")
    net.boot("a")
    assert list(net["a"].steward.standing.jobs) == [job]


def test_those_who_hold_it_are_in_sync_and_silent() -> None:
    net = NodeNet("a", "b")
    net.submit("a", daemon())
    net.send("b", "a", SyncRecords(DOMAIN, (later(net.boxes["b"].keyring, "x"),)))
    net.until(lambda: len(held(net, "b")) == 1)  # by anti-entropy: it has "sent" it itself
    net.run(5.0)
    for name in "ab":
        net.boxes[name].sent.clear()
    net.run(300.0)
    told = [message for name in "ab" for _, message in said(net, name)]
    assert told
    assert all(isinstance(message, SyncRoot) for message in told)


def test_it_is_acknowledged_once_though_it_comes_twice() -> None:
    net = NodeNet("a", "b")
    data = later(net.boxes["b"].keyring, "x")
    for _ in range(2):
        net.send("b", "a", SyncRecords(DOMAIN, (data, data)))
    assert held(net, "a") == [data]
    version = net["a"].steward.standing.reconciler.version(name_of(data))
    assert version is not None
    answers = [message for _, message in said(net, "a") if isinstance(message, SyncHeld)]
    assert answers == [SyncHeld(DOMAIN, ((name_of(data), version),))] * 2


def test_what_a_stranger_signed_is_refused() -> None:
    net = NodeNet("a", "b")
    stranger = FakeShoal(id=type(net.shoal.id)("elsewhere")).keyring("b")
    net.send("b", "a", SyncRecords(DOMAIN, (later(stranger, "x"),)))
    assert held(net, "a") == []
    assert net["a"].messaging.malformed[PeerId("b")] == 1


def test_more_than_there_is_room_for_is_refused_and_the_sender_is_told(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(foreign, "RECORDS_MAX", 2)
    net = NodeNet("a", "b")
    records = [later(net.boxes["b"].keyring, number) for number in range(3)]
    for data in records:
        net.send("b", "a", SyncRecords(DOMAIN, (data,)))
    assert held(net, "a") == records[:2]
    answer = [message for _, message in said(net, "a") if isinstance(message, SyncHeld)][-1]
    assert (answer.refused, answer.reason) == ((name_of(records[2]),), NO_ROOM)
    net.submit("a", daemon())
    assert len(net["a"].steward.standing.jobs) == 1, "they take no room from jobs"


def test_bytes_are_bounded_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(foreign, "BYTES_MAX", 999)
    keyring = FakeShoal().keyring("a")
    kept = Foreign()
    sealed = open_sealed(later(keyring, "x" * 400), keyring)
    assert is_foreign(sealed)
    assert kept.room(len(sealed.data))
    kept.take(sealed)
    kept.take(sealed)
    assert len(kept.records) == 1
    assert not kept.room(len(sealed.data))


def test_a_row_that_is_none_is_told_of() -> None:
    keyring = FakeShoal().keyring("a")
    data = later(keyring, "x")
    kept = Foreign()
    unread = kept.restore({"bad": b"garbage", name_of(data): data}, keyring)
    assert [each.key for each in unread] == ["bad"]
    assert list(kept.records.values()) == [data]
