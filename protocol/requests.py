"""Requests: what a person or program asks of this peer: submit, control, find."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import cast

from protocol.acceptance import submitted
from protocol.bounds import clipped
from protocol.catalogue import Catalogue
from protocol.clock import Now
from protocol.config import CoordinationConfig
from protocol.coordination import Coordination
from protocol.derived import RUN_KEY_CHARS_MAX, derive
from protocol.effects import Effect, Reply, Send
from protocol.errors import JobSpecError, RemoteProtocolError
from protocol.events import ControlRequested, QueryRequested, RunRequested, SubmitRequested
from protocol.heldjob import HeldJob, stoppers_of
from protocol.ids import JobId, PeerId, job_id, revision_of
from protocol.inquiry import Inquiries, View
from protocol.job import JobSpec
from protocol.messages import ControlAnswer, ControlRequest
from protocol.moment import format_moment
from protocol.records import Certificate, Control, Desired, Keyring, Role, Spec
from protocol.standingjob import StandingJob
from protocol.wire import Sealed, encode_record, open_sealed, seal

KEY_CHARS_MAX = 256  # bounds.Key
ID_CHARS = 32
NOT_HEARD = "its records have not come to this peer yet; try again"


@dataclass(slots=True)
class Requests:
    """Each request is answered by exactly one Reply, here or once others have answered."""

    keyring: Keyring
    certificate: Certificate
    config: CoordinationConfig
    catalogue: Catalogue
    coordination: Coordination
    inquiries: Inquiries
    name_of: Callable[[PeerId], str]

    def submit(self, event: SubmitRequested, now: Now) -> list[Effect]:
        spec, request = event.spec, event.request
        refusal = self._why_not_submit(event)
        if refusal:
            return [Reply(request, error=refusal)]
        shoal = self.keyring.shoal
        job = job_id(shoal, spec.namespace, "one-off", event.key)
        if event.repeatable and job not in self.catalogue.jobs:

            def found(views: list[View], silent: list[PeerId], later: Now) -> list[Effect]:
                return self._submit(event, job, views, later)

            return self.inquiries.ask(job, 1, False, found, now)
        return self._submit(event, job, [], now)

    def run_template(self, event: RunRequested, template: StandingJob, now: Now) -> list[Effect]:
        """Run a template that is held: one job for each key, at whatever peer it is asked for."""
        request, namespace = event.request, template.namespace
        refusal = self._why_not_author(namespace) or self._why_not_run(event, template, now)
        if refusal:
            return [Reply(request, error=refusal)]
        try:
            sealed = derive(template.spec_data, event.key, event.inputs, self.keyring)
        except JobSpecError as error:
            return [Reply(request, error=str(error))]
        spec = sealed.record
        assert isinstance(spec, Spec)

        def found(views: list[View], silent: list[PeerId], later: Now) -> list[Effect]:
            known = self.catalogue.jobs.get(spec.job)
            if known is not None or views:
                revision = str(known.revision if known is not None else views[0]["revision"])
                return [_run_before(request, template.name, sealed, revision)]
            return self._accept(sealed, request, later)

        if event.repeatable and spec.job not in self.catalogue.jobs:
            return self.inquiries.ask(spec.job, 1, False, found, now)
        return found([], [], now)

    def press(self, template: StandingJob, key: str, now: Now) -> tuple[str, list[Effect]]:
        """Run a template without anybody who waits for an answer: why not, and what follows."""
        event = RunRequested(0, template.id, key, {})
        refusal = self._why_not_author(template.namespace)
        refusal = refusal or self._why_not_run(event, template, now)
        if refusal:
            return refusal, []
        try:
            sealed = derive(template.spec_data, key, {}, self.keyring)
        except JobSpecError as error:
            return str(error), []
        held, refusal = self._made(sealed, now)
        return refusal, [] if refusal else self.coordination.accept(held, None, now)

    def _why_not_run(self, event: RunRequested, template: StandingJob, now: Now) -> str:
        if template.spec is None or template.wanted(now) is None:
            why = "its NotAfter is over" if template.expired(now) else template.desired.name.lower()
            return f"template {template.name} is not to be run: {template.unreadable or why}"
        if not 1 <= len(event.key) <= RUN_KEY_CHARS_MAX or not _is_key(event.key):
            return f"a key is 1 to {RUN_KEY_CHARS_MAX} characters, none of them half of a pair"
        return self._why_full()

    def _why_not_author(self, namespace: str) -> str:
        if self.certificate.holds(Role.SUBMIT, namespace):
            return ""
        return (
            f"this peer may not submit in namespace {namespace}: its certificate lacks "
            "the role; invite it anew with --role compute,submit"
        )

    def _why_full(self) -> str:
        if self.catalogue.full:
            return "this peer holds as many jobs as it can; submit at another one"
        return ""

    def _accept(self, sealed: Sealed, request: int, now: Now) -> list[Effect]:
        held, refusal = self._made(sealed, now)
        if refusal:
            return [Reply(request, error=refusal)]
        return self.coordination.accept(held, request, now)

    def _made(self, sealed: Sealed, now: Now) -> tuple[HeldJob, str]:
        """A job as it begins here, with the list of peers where it has one; or why it cannot."""
        assert isinstance(sealed.record, Spec)
        holders = self.coordination.standbys_of(sealed.record.job)
        held = HeldJob.create(sealed, self.keyring.peer, 1, now.wall_ms, holders)
        if not held.listed:
            return held, ""
        return held, self._too_late(held.job, now) or self.coordination.direct.freeze(held, now)

    def _submit(
        self, event: SubmitRequested, job: JobId, elsewhere: list[View], now: Now
    ) -> list[Effect]:
        """Accept it, unless the same call was accepted before, here or elsewhere."""
        spec, request, shoal = event.spec, event.request, self.keyring.shoal
        known = self.catalogue.jobs.get(job)
        if known is not None:
            if known.job != spec:
                error = f"key {event.key!r} was used for another job, {job}; use a new one"
                return [Reply(request, error=error)]
            return [Reply(request, submitted(known, 1, repeated=True))]
        record = Spec(
            job=job,
            shoal=shoal,
            namespace=spec.namespace,
            kind="one-off",
            key=event.key,
            generation=1,
            body=spec.encode(),
        )
        if elsewhere:
            return [self._accepted_before(event, record, elsewhere[0])]
        return self._accept(open_sealed(seal(record, self.keyring), self.keyring), request, now)

    def _too_late(self, spec: JobSpec, now: Now) -> str:
        end_s = spec.not_after_s
        if end_s is None or not now.wall_trusted or now.wall < end_s:
            return ""
        return f"NotAfter {format_moment(end_s)} is over; name a later moment"

    def _accepted_before(self, event: SubmitRequested, record: Spec, view: View) -> Reply:
        """Another peer has accepted this call; of another job under its key nothing is made."""
        revision = revision_of(encode_record(record))
        if view["revision"] != revision:
            error = f"key {event.key!r} was used for another job, {record.job}; use a new one"
            return Reply(event.request, error=error)
        answer = {"job": record.job, "name": event.spec.name, "revision": revision}
        return Reply(event.request, {**answer, "unchanged": True, "durable_on": 1, "warning": ""})

    def _why_not_submit(self, event: SubmitRequested) -> str:
        spec = event.spec
        refusal = self._why_not_author(spec.namespace)
        if refusal:
            return refusal
        if not _is_key(event.key):
            return f"a key is 1 to {KEY_CHARS_MAX} characters, none of them half of a pair"
        return self._why_full()

    def control(self, event: ControlRequested, now: Now) -> list[Effect]:
        if event.desired is Desired.DELETED:
            error = (
                "a one-off job is not deleted: stop it; it is forgotten seven days after its end"
            )
            return [Reply(event.request, error=error)]
        held = self.catalogue.jobs.get(event.job)
        if held is not None and held.service:  # its records will say who may, and what it is
            return [Reply(event.request, error=NOT_HEARD)]
        if held is not None and held.coordinator == self.keyring.peer:
            if held.done:
                return [Reply(event.request, {"job": held.id, "note": "it has ended already"})]
            namespace, owner = held.spec.namespace, self.name_of(held.author)
            refusal = self._why_not_control(held.author, namespace, owner, held.stoppers)
            if refusal:
                return [Reply(event.request, error=refusal)]
            return self._end(held, event.desired, [Reply(event.request, {"job": held.id})], now)

        def found(views: list[View], silent: list[PeerId], later: Now) -> list[Effect]:
            return self._control_elsewhere(event, views, later)

        return self.inquiries.ask(event.job, 1, False, found, now)

    def end_run(self, held: HeldJob, now: Now) -> list[Effect]:
        """Stop a run of a schedule, whoever coordinates it: the record finds its way there."""
        return self._end(held, Desired.STOPPED, [], now)

    def _end(self, held: HeldJob, desired: Desired, answer: list[Effect], now: Now) -> list[Effect]:
        number = held.control.number + 1 if held.control is not None else 1
        data = self._sealed_control(held.id, held.spec.namespace, number, desired, now)
        return self._apply_control(held, data, answer, now)

    def _why_not_control(
        self, author: object, namespace: str, owner: str, roles: tuple[Role, ...]
    ) -> str:
        """Why this peer may not sign a control record of the job, empty where it may."""
        holds = any(self.certificate.holds(role, namespace) for role in roles)
        if author == self.keyring.peer or holds:
            return ""
        return f"only {owner}, who submitted it, or a peer with role operate may stop it"

    def _sealed_control(
        self, job: JobId, namespace: str, number: int, desired: Desired, now: Now
    ) -> bytes:
        record = Control(
            job=job,
            shoal=self.keyring.shoal,
            number=number,
            desired=int(desired),
            generation=1,
            namespace=namespace,
            created_ms=now.wall_ms,
        )
        return seal(record, self.keyring)

    def _control_elsewhere(
        self, event: ControlRequested, views: list[View], now: Now
    ) -> list[Effect]:
        view = next((view for view in views if view["id"] == event.job), None)
        if view is None:
            return [Reply(event.request, error=f"no peer that answered knows job {event.job}")]
        if view["ended_ms"]:
            return [Reply(event.request, {"job": event.job, "note": "it has ended already"})]
        namespace = str(view["namespace"])
        roles = stoppers_of("source" in view)
        refusal = self._why_not_control(view["author"], namespace, str(view["author_name"]), roles)
        if refusal:
            return [Reply(event.request, error=refusal)]
        number = cast(int, view["control"]) + 1
        data = self._sealed_control(event.job, namespace, number, event.desired, now)
        holder = PeerId(str(view["coordinator"]))
        return self.inquiries.control(event.request, event.job, holder, data, now)

    def on_control(self, sender: PeerId, message: ControlRequest, now: Now) -> list[Effect]:
        record = open_sealed(message.control, self.keyring).record
        if not isinstance(record, Control):
            raise RemoteProtocolError("a control record is needed")
        held = self.catalogue.jobs.get(record.job)
        if held is not None and held.service:
            return [Send(sender, ControlAnswer(message.seq, NOT_HEARD))]
        if held is None or held.coordinator != self.keyring.peer:
            error = "the job is coordinated by another peer now; try again"
            return [Send(sender, ControlAnswer(message.seq, error))]
        try:
            held.checked_control(message.control, self.keyring)
        except RemoteProtocolError as error:
            return [Send(sender, ControlAnswer(message.seq, clipped(str(error))))]
        answer: list[Effect] = [Send(sender, ControlAnswer(message.seq))]
        return self._apply_control(held, message.control, answer, now)

    def _apply_control(
        self, held: HeldJob, data: bytes, answer: list[Effect], now: Now
    ) -> list[Effect]:
        """Save the person's wish, act on it, and answer once that is durable."""
        control = held.checked_control(data, self.keyring)
        if not held.offer_control(control, data):
            return answer  # a later one is known, or this very one
        effects = self.catalogue.changed(held, [], now)
        led = self.coordination.led.get(held.id)
        if led is not None and held.desired is not Desired.RUNNING:
            effects += self.coordination.acceptances.stop_slots(led, now)
        return effects + answer

    def query(self, event: QueryRequested, now: Now) -> list[Effect]:
        def found(views: list[View], silent: list[PeerId], later: Now) -> list[Effect]:
            names = [self.name_of(peer) for peer in silent]
            return [Reply(event.request, {"jobs": views, "silent": names})]

        if not event.prefix.isascii() or len(event.prefix) > ID_CHARS:  # no id begins so
            return found([], [], now)
        return self.inquiries.ask(event.prefix, event.limit, event.detail, found, now)


def _is_key(key: str) -> bool:
    """Whether a record can hold it."""
    try:
        key.encode()
    except UnicodeEncodeError:
        return False
    return 1 <= len(key) <= KEY_CHARS_MAX


def _run_before(request: int, name: str, sealed: Sealed, revision: str) -> Reply:
    """The run of this key that there is already, and whether it is the one that was asked for."""
    assert isinstance(sealed.record, Spec)
    same = revision == revision_of(sealed.body)
    warning = "" if same else "this key was used before, for other parameters or another generation"
    answer = {"job": sealed.record.job, "name": name, "revision": revision}
    return Reply(request, {**answer, "unchanged": True, "durable_on": 1, "warning": warning})
