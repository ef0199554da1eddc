"""Peers of a later version: whatever they add where things may grow, a shoal goes on as before.

Each test runs a whole shoal of nodes in which every message and record carries what a later
version may add, and holds it to the ends that it has without.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from protocol import wire
from protocol.effects import BUCKETS
from protocol.events import FrameReceived, GossipReceived
from protocol.ids import PeerId
from protocol.job import JobSpec
from protocol.messages import Message, Rumours
from protocol.records import Desired, Record
from protocol.wire import decode_message, dumps, encode_message, encode_record, loads
from tests.protocol import nodenet
from tests.protocol.nodenet import NodeNet, batch, ops
from tests.protocol.standingbook import daemon
from tests.vectors.generate import LATER

SEALED = ("spec", "control", "peer", "meta", "foreign", "delivery")  # bytes of others, or no array


def grown(data: bytes) -> bytes:
    items = loads(data)
    assert isinstance(items, list)
    return dumps([*items, *LATER])


@pytest.fixture(autouse=True)
def later(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """What is said on connections, and what is signed, has more at its end."""

    def message(value: Message) -> bytes:
        return grown(encode_message(value))

    def record(value: Record) -> bytes:
        return grown(encode_record(value))

    monkeypatch.setattr(nodenet, "encode_message", message)
    monkeypatch.setattr(wire, "encode_record", record)
    yield


def well(net: NodeNet) -> None:
    for box in net.boxes.values():
        assert [tell for tell in box.tells if tell.kind == "peer.malformed"] == []
        assert box.node is None or (box.node.messaging.malformed, box.node.unreadable) == ({}, [])


def test_a_batch_job_runs_to_its_end_over_the_loss_of_its_coordinator() -> None:
    net = NodeNet("a", "b", "c")
    net.submit("a", batch(count=2, on=["b", "c"]))
    net.until(lambda: len(net.executors(0)) == len(net.executors(1)) == 1)
    net.kill("a")
    for slot in (0, 1):
        net.end(net.executor(slot), slot=slot)
    net.until(lambda: all(net.held(name).done for name in "bc"))
    well(net)


def test_an_ops_job_runs_once_on_each() -> None:
    net = NodeNet("a", "b")
    net.submit("a", ops())
    net.until(lambda: all(net.boxes[name].running for name in "ab"))
    for name in "ab":
        net.end(name)
    net.until(lambda: net.states("a") == {"a": "completed", "b": "completed"})
    well(net)


def test_a_daemon_starts_everywhere_and_after_a_restart_and_stops() -> None:
    net = NodeNet("a", "b")
    net.submit("a", daemon())
    net.until(lambda: all(net.boxes[name].running for name in "ab"))
    net.kill("b")
    net.run(1.0)
    net.boot("b")
    net.run(2.0)
    assert len(net.boxes["b"].running) == 1
    (job,) = net["a"].steward.standing.jobs
    net.stop("a", job, Desired.STOPPED)
    net.until(lambda: all(box.stopping for box in net.boxes.values()))
    well(net)


def test_rows_of_a_later_version_are_read_after_a_downgrade() -> None:
    """Every row that is an array has more at its end."""
    net = NodeNet("a", "b")
    net.submit("a", daemon())
    net.submit("a", batch(on=["b"]))
    net.submit("a", ops("other", on=["b"]), "ops")
    net.until(lambda: len(net.boxes["b"].running) == 3)
    net.kill("b")
    seen = []
    for bucket, rows in net.boxes["b"].disk.items():
        assert bucket in BUCKETS
        for key, value in rows.items():
            if bucket not in SEALED and value[:1] >= b"\x80":
                rows[key] = grown(value)
                seen.append(bucket)
    assert set(seen) >= {"execution", "fence", "standing", "daemon", "ops"}
    net.boot("b")
    assert net["b"].unreadable == []
    assert len(net["b"].executor.executions) == 2
    assert len(net["b"].steward.daemons.daemons) == 1


def test_a_job_that_this_version_cannot_read_is_declined_and_runs_elsewhere(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    net = NodeNet("a", "b", "c")
    spec = batch(on=["b"], count=1)
    read = JobSpec.decode.__func__  # type: ignore[attr-defined]

    def older(cls: type[JobSpec], body: bytes, *more: object) -> JobSpec:
        if net.at == "b":
            body = dumps({"Name": "job", "Type": "batch", "Later": True, "Tasks": []})
        return read(cls, body, *more)  # type: ignore[no-any-return]

    handle = net.handle

    def noting(name: str, event: object) -> object:
        net.at = name  # type: ignore[attr-defined]
        return handle(name, event)  # type: ignore[arg-type]

    net.at = ""  # type: ignore[attr-defined]
    monkeypatch.setattr(JobSpec, "decode", classmethod(older))
    monkeypatch.setattr(net, "handle", noting)
    net.submit("a", spec)
    net.until(lambda: any("cannot read its spec" in text for text in reasons(net)))
    well(net)


def reasons(net: NodeNet) -> list[str]:
    rounds = net["a"].views.job(net.held("a")).get("why", [])
    return [str(each) for each in rounds] if isinstance(rounds, list) else []


def test_a_message_or_rumour_of_an_unknown_kind_is_nothing() -> None:
    net = NodeNet("a", "b")
    for frame in (dumps([9_999, *LATER]), dumps([2**62])):
        assert decode_message(frame) is None
        assert net.handle("a", FrameReceived(PeerId("b"), frame)) == []
        assert net.handle("a", GossipReceived(frame)) == []
    well(net)


def test_a_rumour_of_an_unknown_kind_beside_a_known_one_hinders_nothing() -> None:
    net = NodeNet("a", "b", "c")
    keyring = net.boxes["b"].keyring
    body = dumps([77, *LATER])
    signature = keyring.sign(wire.SIGNATURE_CONTEXT + body)
    unknown = dumps([body, keyring.peer, signature, keyring.certificate])
    (advert,) = [peer.data for peer in net["c"].membership.peers() if peer.id == "b"]
    net.handle("a", GossipReceived(grown(encode_message(Rumours((unknown, advert))))))
    well(net)
