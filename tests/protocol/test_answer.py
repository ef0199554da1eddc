"""Answers as messages: the fields of a result, and what they hold where there is none."""

from __future__ import annotations

import json

from protocol.answer import STDOUT_BYTES_MAX, answer_message, refusal_message
from protocol.heldjob import HeldJob
from protocol.ids import JobId, PeerId
from protocol.question import Question
from protocol.records import Acceptance, Fence, Keyring, Result, Verdict
from protocol.resultmessage import kept_output
from protocol.wire import seal
from tests.protocol.fakes import FakeShoal
from tests.protocol.nodenet import batch
from tests.protocol.test_resultmessage import message as result_of

QUESTION = Question("home", "replies/me", b"c1")


def ended(*outputs: bytes, verdict: Verdict = Verdict.SUCCESS) -> tuple[HeldJob, Keyring]:
    """A job of as many slots, each with this output."""
    keyring = FakeShoal().keyring("a")
    held = held_job(keyring, len(outputs))
    fence = Fence(1, PeerId("a"), 1)
    for slot, stdout in zip(held.slots, outputs, strict=True):
        result = Result(
            job=held.id, revision=held.revision, slot=slot.index, fence=fence,
            executor=PeerId("a"), verdict=verdict, exit_code=0, reason="", started_ms=1,
            ended_ms=3, duration_ms=2, stdout_tail=stdout,
        )  # fmt: skip
        choice = Acceptance(
            job=held.id, revision=held.revision, slot=slot.index, fence=fence, verdict=verdict,
            result=seal(result, keyring),
        )  # fmt: skip
        slot.offer_acceptance(choice, seal(choice, keyring))
    return held, keyring


def held_job(keyring: Keyring, count: int) -> HeldJob:
    from protocol.records import Spec
    from protocol.wire import open_sealed

    job = batch("look", count=count)
    spec = Spec(
        job=JobId("j" * 32), shoal=keyring.shoal, namespace="default", kind="one-off", key="k",
        generation=1, body=job.encode(),
    )  # fmt: skip
    sealed = open_sealed(seal(spec, keyring), keyring)
    return HeldJob.create(sealed, PeerId("a"), 1, 1, (PeerId("a"),))


def test_it_has_the_fields_of_a_result_and_says_how_the_run_ended() -> None:
    held, keyring = ended(b"21.5 \xc2\xb0C\n")
    message = answer_message(held, QUESTION, keyring)
    told = json.loads(message.payload)
    assert set(told) - {"state", "error"} == set(json.loads(result_of("json", b"").payload))
    assert (told["state"], told["error"], told["stdout"]) == ("completed", "", "21.5 °C\n")
    assert (message.topic, message.correlation, message.broker) == ("replies/me", b"c1", "home")
    assert message.answer and message.qos == 1 and not message.retain
    assert message.id == told["id"] != told["execution"]
    assert message.properties == (
        ("id", message.id), ("state", "completed"), ("outcome", "success"),
    )  # fmt: skip


def test_two_who_make_it_make_the_same() -> None:
    held, keyring = ended(b"x")
    held.coordinator, held.holders, held.accepted_ms = PeerId("b"), (PeerId("b"),), 7
    other, _ = ended(b"x")
    assert answer_message(held, QUESTION, keyring) == answer_message(other, QUESTION, keyring)


def test_of_many_slots_as_much_output_is_told_as_a_broker_takes() -> None:
    held, keyring = ended(*(bytes([65 + at]) * 16_000 for at in range(6)))
    told = json.loads(answer_message(held, QUESTION, keyring).payload)
    kept = [slot["stdout"] for slot in told["slots"]]
    assert len(kept) == 6 and sum(map(len, kept)) <= STDOUT_BYTES_MAX
    assert [bool(stdout) for stdout in kept] == [True] * 4 + [False] * 2
    assert told["slots"][5]["truncated"] is True


def test_a_refusal_has_the_same_fields() -> None:
    message = refusal_message(JobId("r" * 32), "look", "over the limit", QUESTION)
    told = json.loads(message.payload)
    held, keyring = ended(b"")
    assert set(told) == set(json.loads(answer_message(held, QUESTION, keyring).payload))
    assert (told["state"], told["error"], told["job"]) == ("refused", "over the limit", "")
    assert message.id == told["id"] and message.answer


def test_a_result_keeps_all_of_a_short_output_and_the_beginning_of_a_long_one() -> None:
    assert kept_output(b"short", 5, b"ort") == b"short"
    long = bytes(range(256)) * 400
    assert kept_output(long[:65536], len(long), long[-9:]) == long[:16384]
    assert kept_output(b"", 0, b"tail") == b"tail"
