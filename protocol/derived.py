"""Derived jobs: what one run of a schedule or template is, computed from its author's own record.

The spec of such a run is signed by nobody: it follows from the source, which the author signed, and
from the trigger. Whoever fires it, the same job comes out, with the same revision, in the author's
name; a peer that changes anything about it cannot say so in a record (DESIGN 4, Job id).
"""

from __future__ import annotations

import re
from functools import lru_cache
from typing import Final

import msgspec

from protocol.constraints import Constraint, Operator
from protocol.errors import JobSpecError, RemoteProtocolError, UnreadableSpec
from protocol.ids import JobId, PeerId, ShoalId, job_id
from protocol.job import JobSpec
from protocol.labels import PEER_LABEL
from protocol.question import Question
from protocol.records import STANDING, Derived, Heard, Keyring, Role, Spec
from protocol.schedule import Scope
from protocol.template import values_of
from protocol.trigger import matches
from protocol.wire import (
    Envelope,
    Sealed,
    decode_as,
    decode_record,
    encode_record,
    open_sealed,
    seal,
)

KIND: Final = "derived"  # of a spec record; part of the job's id
PRESSED: Final = "press:"  # before the key of a run that a press has begun
RUN_KEY_CHARS_MAX: Final = 128  # control.bodies.KEY_MAX; with the source's id well within a Key
_SLOT: Final = re.compile(r"(0|[1-9][0-9]{0,11})(/([A-Za-z0-9_-]{1,64}))?")


def slot_trigger(slot_s: int, peer: PeerId | None) -> str:
    """Of a schedule's run at this moment; with the peer where each runs its own."""
    return f"{slot_s}/{peer}" if peer is not None else str(slot_s)


def derived_id(shoal: ShoalId, namespace: str, source: JobId, trigger: str) -> JobId:
    return job_id(shoal, namespace, KIND, f"{source}/{trigger}")


def source_of(spec: Spec) -> JobId | None:
    """The schedule or template that this spec was derived from."""
    return JobId(spec.key.partition("/")[0]) if spec.kind == KIND else None


def is_pressed(spec: Spec) -> bool:
    """Whether a press on a topic has begun this run."""
    return spec.kind == KIND and spec.key.partition("/")[2].startswith(PRESSED)


def slot_of(spec: Spec) -> int:
    """The moment of a schedule's run in Unix seconds, zero for a template's."""
    match = _SLOT.fullmatch(spec.key.partition("/")[2])
    return int(match[1]) if match is not None else 0


def derive(
    source: bytes,
    trigger: str,
    inputs: dict[str, str],
    keyring: Keyring,
    message: Heard | None = None,
) -> Sealed:
    """Sign a run, and open it as anybody would. Raises RemoteProtocolError, or JobSpecError for
    inputs or a message that do not fit."""
    record = Derived(
        shoal=keyring.shoal, source=source, trigger=trigger, inputs=inputs, message=message
    )
    return _expanded(open_sealed(seal(record, keyring), keyring), keyring)


def open_spec(data: bytes, keyring: Keyring) -> Sealed:
    """Open a spec record, or what stands for one: the spec then, in the name of the source's
    author. Depends on the bytes alone. Raises RemoteProtocolError."""
    sealed = open_sealed(data, keyring)
    if not isinstance(sealed.record, Derived):
        return sealed
    try:
        return _expanded(sealed, keyring)
    except JobSpecError as error:
        raise RemoteProtocolError(f"not a run of its source: {error}") from None


def _expanded(sealed: Sealed, keyring: Keyring) -> Sealed:
    derived = sealed.record
    assert isinstance(derived, Derived)
    source = open_sealed(derived.source, keyring)
    spec = source.record
    if not isinstance(spec, Spec) or spec.kind != STANDING:
        raise RemoteProtocolError("only a schedule or template has runs")
    if not derived.shoal == spec.shoal == keyring.shoal:
        raise RemoteProtocolError("a run of another shoal")
    if spec.job != job_id(spec.shoal, spec.namespace, spec.kind, spec.key):
        raise RemoteProtocolError("a job id that its key does not give")
    inputs = tuple(sorted(derived.inputs.items()))
    job = _job_of(spec.body, derived.trigger, inputs, derived.message)
    _check_firer(sealed, spec, job, derived.trigger)
    record = Spec(
        job=derived_id(spec.shoal, spec.namespace, spec.job, derived.trigger),
        shoal=spec.shoal,
        namespace=spec.namespace,
        kind=KIND,
        key=f"{spec.job}/{derived.trigger}",
        generation=spec.generation,
        body=job.encode(),
    )
    body = encode_record(record)
    return Sealed(record, source.author, source.certificate, body, sealed.data, sealed.links)


def _run_of(source: JobSpec, trigger: str, message: Heard) -> JobSpec:
    """No message of another topic, or a longer one, runs the template, whoever says so."""
    assert source.trigger is not None
    mqtt = source.trigger.mqtt
    if not matches(mqtt.topic, message.topic) or len(message.payload) > mqtt.bytes_max:
        raise RemoteProtocolError("a message that its source does not hear")
    return source.filled_by(message, trigger)


def heard_by(spec_data: bytes) -> tuple[PeerId, Heard] | None:
    """Who fired a run, and for what message, where it was one: of a record verified before."""
    envelope = decode_as(spec_data, Envelope)
    record = decode_record(envelope.body)
    if not isinstance(record, Derived) or record.message is None:
        return None
    return envelope.author, record.message


def question_of(spec_data: bytes) -> Question | None:
    """Where the answer to a run goes, if its message wants one: of a record verified before."""
    envelope = decode_as(spec_data, Envelope)
    record = decode_record(envelope.body)
    if not isinstance(record, Derived) or record.message is None or not record.message.reply:
        return None
    source = decode_record(decode_as(record.source, Envelope).body)
    trigger = JobSpec.decode(source.body).trigger if isinstance(source, Spec) else None
    if trigger is None:
        return None
    return Question(trigger.mqtt.broker, record.message.reply, record.message.correlation)


def _check_firer(sealed: Sealed, spec: Spec, job: JobSpec, trigger: str) -> None:
    """Whoever may coordinate may fire a schedule; run templates, for a message too, whoever may
    submit where they are; every peer may fire what it runs itself."""
    if trigger.endswith(f"/{sealed.author}") and _pinned(job, sealed.author):
        return
    namespace = None if JobSpec.decode(spec.body).schedule is not None else spec.namespace
    if not sealed.author_holds(Role.SUBMIT, namespace):
        raise RemoteProtocolError(f"{sealed.author} may not fire {spec.key}")


def _pinned(job: JobSpec, peer: PeerId) -> bool:
    return job.count == 1 and _here(peer) in job.constraints


def _here(peer: PeerId) -> Constraint:
    return Constraint(key=PEER_LABEL, operator=Operator.EQUAL, values=(peer,))


@lru_cache(maxsize=64)  # an award, a copy and a result of one run each bring it along
def _job_of(
    body: bytes, trigger: str, inputs: tuple[tuple[str, str], ...], message: Heard | None
) -> JobSpec:
    """Raises RemoteProtocolError for a trigger that the source has not, JobSpecError for inputs."""
    try:
        source = JobSpec.decode(body)
    except JobSpecError as error:
        raise UnreadableSpec(f"this version cannot read its source: {error}") from None
    if message is not None and (source.trigger is None or inputs):
        raise RemoteProtocolError("a message that its source does not hear")
    if source.parameters is not None:
        if not 1 <= len(trigger) <= RUN_KEY_CHARS_MAX:
            raise RemoteProtocolError("a run's key is too short or too long")
        if message is not None:
            return _run_of(source, trigger, message)
        return source.filled(values_of(source.parameters, dict(inputs)))
    match = _SLOT.fullmatch(trigger)
    if source.schedule is None or match is None or inputs:
        raise RemoteProtocolError("a run that its source does not have")
    if (source.schedule.scope is Scope.EACH) != (match[3] is not None):
        raise RemoteProtocolError("a run of another scope than its schedule's")
    if match[3] is None:
        return source.one_off
    # An ops job's list is that one peer then: no other matches.
    here = _here(PeerId(match[3]))
    constraints = tuple(sorted({*source.constraints, here}))
    return msgspec.structs.replace(source.one_off, count=1, constraints=constraints)
