"""What people do to standing jobs: run a file, stop, delete; each makes the next record.

An answer goes out once the record is on this disk, and waits a little for the word of others.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from protocol.clock import NEVER, Now
from protocol.effects import Effect, Reply, Tell
from protocol.events import ControlRequested, SubmitRequested
from protocol.ids import JobId, PeerId
from protocol.inquiry import Inquiries, View
from protocol.job import JobSpec
from protocol.records import Certificate, Control, Desired, Keyring, Role, Spec
from protocol.slots import Cron, why_wrong
from protocol.standing import Standing
from protocol.standingjob import KIND, NUMBER_MAX, StandingJob, standing_id, standing_key
from protocol.standingviews import effect_of
from protocol.wire import Sealed, open_sealed, seal

WAITING_MAX = 256
STOPS_S = 0.5  # from the record to the question what it brought about
ALONE = "accepted, on this peer only"


@dataclass(slots=True)
class Act:
    """An act that is durable here, and waits for others to have heard of it."""

    request: int
    job: JobId
    value: dict[str, object]
    due: float
    wanted: int  # so many neighbours' words end the wait
    number: int = 0  # of the control record, whose effect is asked after then
    heard: dict[PeerId, None] = field(default_factory=dict)

    def answer(self) -> Reply:
        durable_on = len(self.heard) + 1
        warning = ALONE if durable_on < 2 else ""
        return Reply(self.request, {**self.value, "durable_on": durable_on, "warning": warning})


@dataclass(slots=True)
class StandingActs:
    """Each request is answered by exactly one Reply."""

    keyring: Keyring
    certificate: Certificate
    standing: Standing
    inquiries: Inquiries
    absent: Callable[[], list[PeerId]]  # peers that are expected back
    name_of: Callable[[PeerId], str]
    cron: Cron
    waiting: list[Act] = field(default_factory=list)

    # ---- running a file ----------------------------------------------------------------------

    def submit(self, event: SubmitRequested, now: Now) -> list[Effect]:
        """Make the first or the next generation of the job of this name."""
        spec, request = event.spec, event.request
        key = standing_key(spec)
        job = standing_id(self.keyring, spec.namespace, key)
        held = self.standing.jobs.get(job)
        refusal = self._why_not_run(event, now)
        if refusal:
            return [Reply(request, error=refusal)]
        if held is not None and held.spec is not None and held.wanted(now) == spec:
            return [Reply(request, {**_value(held), "durable_on": 1, "warning": ""})]
        refusal = "" if held is None else self.why_not_change(held, "change")
        if refusal:
            return [Reply(request, error=refusal)]
        generation = 1 if held is None else held.generation + 1
        record = Spec(
            job=job,
            shoal=self.keyring.shoal,
            namespace=spec.namespace,
            kind=KIND,
            key=key,
            generation=generation,
            body=spec.encode(),
        )
        records = [open_sealed(seal(record, self.keyring), self.keyring)]
        if held is not None and held.desired is not Desired.RUNNING:
            # Both rise: who forgot the spec of what was deleted must not wait for the old one.
            records.append(self._control(held, Desired.RUNNING, generation, now))
        more = 1 if held is None else 0  # a later generation takes the place of the one before
        full = self.standing.why_no_room(more, sum(len(each.data) for each in records))
        if full:
            return [Reply(request, error=full)]
        effects = self.standing.put(records, now)
        if held is None:  # every later record is told of where it is merged
            effects.append(Tell("job.accepted", f"{spec.name} accepted", job))
        value = {**_value(self.standing.jobs[job]), "unchanged": False}
        return effects + self._wait(Act(request, job, value, 0.0, 1), now)

    def _why_not_run(self, event: SubmitRequested, now: Now) -> str:
        spec = event.spec
        if not self.certificate.holds(Role.SUBMIT, spec.namespace):
            return (
                f"this peer may not submit in namespace {spec.namespace}: its certificate lacks "
                "the role; invite it anew with --role compute,submit"
            )
        if spec.task.result_paths and spec.type.standing:
            return (
                f"{spec.type.noun} does not end, so it brings no files home: leave ResultPaths out"
            )
        wrong = why_wrong(self.cron, spec.schedule) if spec.schedule is not None else ""
        if wrong:
            return wrong
        if event.repeatable:
            return f"a {self._noun(spec)} is known by its name, which makes it one: leave --key out"
        if spec.not_after_s is not None and now.wall_trusted and now.wall >= spec.not_after_s:
            return "NotAfter has passed already: nothing would ever run"
        return ""

    def _noun(self, spec: JobSpec) -> str:
        if spec.schedule is not None:
            return "schedule"
        return "template" if spec.parameters is not None else spec.type.value

    def why_not_change(self, held: StandingJob, verb: str) -> str:
        """Why this peer may not sign the job's next record; a deleted name is anybody's."""
        if held.generation >= NUMBER_MAX or held.number >= NUMBER_MAX:
            return f"{held.name} has been changed as often as can be counted: take another name"
        if held.desired is Desired.DELETED and verb == "change":
            return ""
        owner = held.author or held.control_author
        if owner == self.keyring.peer or self.certificate.holds(Role.OPERATE, held.namespace):
            return ""
        by = self.name_of(owner) if owner is not None else "whoever"
        return f"only {by}, who runs {held.name}, or a peer with role operate may {verb} it"

    def _control(self, held: StandingJob, desired: Desired, generation: int, now: Now) -> Sealed:
        record = Control(
            job=held.id,
            shoal=self.keyring.shoal,
            number=held.number + 1,
            desired=int(desired),
            generation=generation,
            namespace=held.namespace,
            created_ms=max(0, now.wall_ms),
            key=held.key,
        )
        return open_sealed(seal(record, self.keyring), self.keyring)

    # ---- stopping and deleting ---------------------------------------------------------------

    def control(self, event: ControlRequested, now: Now) -> list[Effect]:
        """Stop or delete a job that is held; everybody holds all of them."""
        held = self.standing.jobs[event.job]
        word = {Desired.STOPPED: "stopped", Desired.DELETED: "deleted"}.get(held.desired)
        if held.desired >= event.desired:
            note = f"it is {word} already" if word else "it is running"
            return [Reply(event.request, {"job": held.id, "note": note})]
        verb = "delete" if event.desired is Desired.DELETED else "stop"
        refusal = self.why_not_change(held, verb)
        if refusal:
            return [Reply(event.request, error=refusal)]
        record = self._control(held, event.desired, held.generation, now)
        effects = self.standing.put([record], now)
        value: dict[str, object] = {"job": held.id, "name": held.name}
        everybody = len(self.standing.couriers)
        act = Act(event.request, held.id, value, 0.0, everybody, held.number)
        return effects + self._wait(act, now)

    def switch(self, held: StandingJob, on: bool, now: Now) -> list[Effect]:
        """Have a daemon that is stopped run again as it was, or stop it. Only the control record is
        another then: it goes on with the generation that it has. Who calls has asked
        `why_not_change`."""
        desired = Desired.RUNNING if on else Desired.STOPPED
        return self.standing.put([self._control(held, desired, held.generation, now)], now)

    # ---- the answer --------------------------------------------------------------------------

    def _wait(self, act: Act, now: Now) -> list[Effect]:
        if act.number:  # a task needs a moment to end
            act.due = now.mono + STOPS_S
        elif not self.standing.couriers:
            return [act.answer()]
        else:
            act.due = now.mono + self.standing.config.ack_s
        if len(self.waiting) >= WAITING_MAX:
            return [act.answer()]
        self.waiting.append(act)
        return []

    def confirmed(self, job: JobId, peer: PeerId, now: Now) -> list[Effect]:
        """A neighbour has the job's records as they are here."""
        effects: list[Effect] = []
        for act in [act for act in self.waiting if act.job == job]:
            act.heard[peer] = None
            if len(act.heard) >= act.wanted and not act.number:
                effects += self._answer(act, now)
        return effects

    @property
    def deadline(self) -> float:
        return min((act.due for act in self.waiting), default=NEVER)

    def on_deadline(self, now: Now) -> list[Effect]:
        effects: list[Effect] = []
        for act in [act for act in self.waiting if act.due <= now.mono]:
            effects += self._answer(act, now)
        return effects

    def _answer(self, act: Act, now: Now) -> list[Effect]:
        self.waiting.remove(act)
        if not act.number:
            return [act.answer()]

        def found(views: list[View], silent: list[PeerId], later: Now) -> list[Effect]:
            return [self._effect(act, views, silent)]

        return self.inquiries.ask(act.job, 1, False, found, now)

    def _effect(self, act: Act, views: list[View], silent: list[PeerId]) -> Reply:
        """On how many peers it took effect, and who has yet to hear of it."""
        quiet, stopping, unheard = effect_of(views[0] if views else None, act.number)
        away = dict.fromkeys([*silent, *self.absent()])
        unheard += [self.name_of(peer) for peer in away]
        act.value |= {"quiet": len(quiet), "stopping": stopping, "unheard": unheard}
        return act.answer()


def _value(held: StandingJob) -> dict[str, object]:
    return {
        "job": held.id,
        "name": held.name,
        "revision": held.revision,
        "generation": held.generation,
        "unchanged": True,
    }
