"""Publishing: what an execution's life means to outbox and streams, and what refuses work."""

from __future__ import annotations

import json

from msgspec.structs import replace

from protocol.config import OutboxConfig
from protocol.effects import Publish, StreamLines
from protocol.events import BrokerChanged, LinesPublished, MessagePublished, TaskEnded
from protocol.ids import ExecutionId, JobId, PeerId
from protocol.job import JobSpec
from protocol.publishing import Publishing
from protocol.tree import Plain
from protocol.trigger import Fired, Input
from tests.protocol.jobs import at
from tests.protocol.test_resultmessage import result

E = ExecutionId("e" * 32)
J = JobId("j" * 32)


def spec(kind: str = "batch", **params: Plain) -> JobSpec:
    publisher: Plain = {"Type": "mqtt", "Params": {"Broker": "home", **params}}
    engine: Plain = {"Type": "process", "Params": {"Command": ["true"]}}
    task: Plain = {"Engine": engine, "Publisher": publisher if params != {"none": 1} else {}}
    return JobSpec.from_plain({"Name": "n", "Type": kind, "Tasks": [task]})


def publishing(**config: int) -> Publishing:
    return Publishing(PeerId("me"), OutboxConfig("shoal/home", **config))  # type: ignore[arg-type]


def test_a_result_is_a_row_and_goes_out_when_the_broker_is_there() -> None:
    made = publishing()
    assert made.start(E, J, 2, spec()) == []
    (row,) = made.result(E, result(), spec(), TaskEnded(E, 0, stdout=b"out", stdout_bytes=3))
    assert row[0] == "outbox" and row[2]
    (publish,) = made.on_event(BrokerChanged("home", True), at(0.0))
    assert isinstance(publish, Publish)
    assert publish.topic == f"shoal/home/job/{J}/result/2" and publish.retain
    assert publish.expiry_s == 7 * 86_400
    assert json.loads(publish.payload)["stdout"] == "out"
    made.on_event(MessagePublished(publish.key, publish.id), at(0.0))
    assert not made.outbox.messages


def test_the_result_of_a_templates_run_says_which_template_a_message_ran() -> None:
    made = publishing()
    fired = replace(spec(), fired=Fired(topic="a", key="k", input=Input.FILE))
    for each in (replace(fired, namespace="lab"), fired, spec()):
        made.result(E, result(), each, TaskEnded(E, 0))
    told = [dict(each.properties).get("template") for each in made.outbox.messages.values()]
    assert told == ["lab/n", "n", None]


def test_other_jobs_have_nothing_to_do_with_it() -> None:
    made, local = publishing(), spec(none=1)
    assert made.start(E, J, 0, local) == []
    assert made.result(E, result(), local, TaskEnded(E, 0)) == []
    assert made.forget(E, J, 0, local, 1) == []


def test_lines_are_streamed_and_are_no_result() -> None:
    made, lines = publishing(), spec(Lines=True)
    (row,) = made.start(E, J, 0, lines)
    assert row[:2] == ("stream", E)
    (effect,) = made.begun(E)
    assert isinstance(effect, StreamLines) and effect.topic == f"shoal/home/job/{J}/log/me"
    assert made.result(E, result(), lines, TaskEnded(E, 0)) == []
    made.on_event(LinesPublished(E, 9, over=True), at(0.0))
    assert not made.streams.streams


def test_a_disk_gives_both_back() -> None:
    made = publishing()
    rows = made.start(E, J, 0, spec(Lines=True))
    rows += made.result(ExecutionId("f" * 32), result(), spec(), TaskEnded(E, 0))
    again = publishing()
    disk = {"outbox": {}, "stream": {}}  # type: ignore[var-annotated]
    for bucket, key, value in rows:
        disk[bucket][key] = value
    assert again.restore(disk) == []
    assert [type(effect) for effect in again.boot()] == [StreamLines]
    assert len(again.outbox.messages) == 1


def cleared(made: Publishing) -> list[tuple[str, bytes]]:
    return [(each.topic, each.payload) for each in made.outbox.messages.values()]


def test_what_is_retained_in_the_shoals_tree_is_taken_back_once_its_job_is_forgotten() -> None:
    """However soon its execution is, by the number of others."""
    made = publishing()
    (row,) = made.forget(E, J, 2, spec(), ended_ms=1000)
    assert not made.outbox.messages and made.sweep(1000) == []
    again = publishing()
    assert row[2] is not None and again.restore({row[0]: {row[1]: row[2]}}) == []
    gone, message = again.sweep(1001)
    assert gone == (row[0], row[1], None) and message[0] == "outbox"
    assert cleared(again) == [(f"shoal/home/job/{J}/result/2", b"")]
    assert again.sweep(1 << 50) == []
    assert made.forget(E, J, 2, spec(Topic="own/topic", Retain=True), 1000) == []
    assert made.forget(E, J, 2, spec(Retain=False), 1000) == []


def test_what_is_to_be_taken_back_leaves_room_for_results() -> None:
    made = publishing(messages_max=10)
    for slot in range(20):
        made.forget(E, J, slot, spec(), ended_ms=1)
    made.sweep(100)
    assert len(made.outbox.messages) == 5
    made.sweep(100)
    assert len(made.outbox.messages) == 5


def test_an_ops_job_has_a_place_for_each_peer() -> None:
    made = publishing()
    made.result(E, result(), spec("ops"), TaskEnded(E, 0))
    (message,) = made.outbox.messages.values()
    assert message.topic == f"shoal/home/job/{J}/result/me"


def test_a_full_outbox_hinders_what_would_add_to_it_alone() -> None:
    made = publishing(messages_max=1)
    assert made.hindrance(("broker home",)) == ""
    made.result(E, result(), spec(), TaskEnded(E, 0))
    assert "results wait for broker home" in made.hindrance(("network none", "broker home"))
    assert made.hindrance(("network none",)) == ""


def test_results_that_wait_for_their_buckets_hinder_what_would_add_to_them_alone() -> None:
    made = publishing()
    made.backlog = "2000 MiB wait for their bucket"
    assert made.hindrance(("bucket minio.lan/r:rw",)) == "busy: 2000 MiB wait for their bucket"
    assert made.hindrance(("bucket minio.lan/r", "broker home", "directory /srv:rw")) == ""


def test_what_was_held_back_is_due_later() -> None:
    made = publishing()
    made.result(E, result(), spec(), TaskEnded(E, 0))
    (publish,) = made.on_event(BrokerChanged("home", True), at(0.0))
    assert isinstance(publish, Publish)
    made.on_event(MessagePublished(publish.key, publish.id, "no room"), at(0.0))
    assert made.deadline == 1.0 and made.due(at(0.5)) == []
    assert len(made.on_deadline(at(1.0))) == 1
