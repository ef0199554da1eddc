"""Answering: whoever has asked by a message hears what became of it, once, whichever way it ends.

The question stands in the run's record, which each of its holders has on disk. When the run has
ended its coordinator owes the answer, as a row saved with the end, until a standby knows of it too;
then the answer is in the outbox, which is saved with the row's deletion. A coordinator that has no
such broker leaves it to the first holder that does. Answers are about the same records and have one
id, so whoever hears two, after a death at the wrong moment, hears the same twice.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Final

from protocol.answer import answer_message, refusal_message
from protocol.catalogue import Catalogue
from protocol.clock import NEVER, Now
from protocol.config import NodeConfig
from protocol.derived import question_of
from protocol.effects import Bucket, Effect, Save
from protocol.errors import RemoteProtocolError
from protocol.fleet import Fleet
from protocol.heldjob import HeldJob
from protocol.ids import JobId, PeerId
from protocol.listening import BROKER_LABEL
from protocol.outbox import Outbox
from protocol.question import Question, why_unanswerable
from protocol.records import Keyring
from protocol.trigger import matches
from protocol.unread import Unread
from protocol.wire import dumps, load_row

BUCKET: Final[Bucket] = "answer"
QUESTIONS_MAX: Final = 8  # of one run: the same message sent again and again
LOOK_AGAIN_S: Final = 10.0  # by then it is known whether who was to answer has died
MINUTE_S: Final = 60.0
Row = tuple[Bucket, str, bytes | None]
Kept = tuple[bool, list[Question]]  # as a row has it


@dataclass(slots=True)
class Owed:
    """Who is to be answered about a run: once it has ended, all; before, who asked after others."""

    questions: list[Question]
    ended: bool = False
    due: float = NEVER  # monotonic; of one that has ended

    def row(self, run: JobId) -> Row:
        asked = [[each.broker, each.reply, each.correlation] for each in self.questions]
        return (BUCKET, run, dumps([self.ended, asked]))


@dataclass(slots=True)
class Answering:
    """The one writer of what is owed. `leave` counts and tells of an answer that may not go out: by
    its template, and why."""

    keyring: Keyring
    config: NodeConfig
    catalogue: Catalogue
    fleet: Fleet
    outbox: Outbox
    leave: Callable[[JobId, str, Now], list[Effect]]
    owed: dict[JobId, Owed] = field(default_factory=dict)
    _extra: deque[float] = field(default_factory=deque)  # monotonic, of the last minute

    def restore(self, disk: Mapping[Bucket, Mapping[str, bytes]]) -> list[Unread]:
        """Rebuild from disk; returns the rows that could not be read."""
        unreadable: list[Unread] = []
        for key, value in disk.get(BUCKET, {}).items():
            try:
                ended, questions = load_row(value, Kept)
            except (RemoteProtocolError, ValueError) as error:
                unreadable.append(Unread(BUCKET, key, str(error)))
                continue
            self.owed[JobId(key)] = Owed(questions, ended)
        return unreadable

    def boot(self, now: Now) -> list[Effect]:
        """Who else is there has to be known first; what is kept of forgotten runs goes."""
        gone = [run for run in self.owed if run not in self.catalogue.jobs]
        for run in gone:
            del self.owed[run]
        for owed in self.owed.values():
            owed.due = now.mono + self.config.coordination.boot_grace_s if owed.ended else NEVER
        # A run that cannot be read is not forgotten: a later version may answer.
        rows = tuple((BUCKET, run, None) for run in gone if run not in self.catalogue.unread)
        return [Save(rows)] if rows else []

    # ---- a run's end -------------------------------------------------------------------------

    def on_ended(self, run: JobId, now: Now) -> list[Effect]:
        """A run that is held here has ended, by this peer's word or another's."""
        held = self.catalogue.jobs.get(run)
        if held is None or held.job.fired is None or not held.done:
            return []
        owed = self.owed.pop(run, Owed([]))
        question = question_of(held.spec_data)
        if question is not None and self.fleet.advert is None:
            # Its end came with the boot, before this device knows what it is itself.
            grace_s = self.config.coordination.boot_grace_s
            return self._owe(held, Owed([question, *owed.questions], True), grace_s, now)
        who = self._answerer(held, question.broker) if question is not None else None
        if question is not None and who == self.keyring.peer:
            owed.questions.insert(0, question)
        elif question is not None and who not in (held.coordinator, None):  # if that one is there
            return self._owe(held, Owed([question, *owed.questions], True), LOOK_AGAIN_S, now)
        if not owed.questions:
            return []
        owed.ended = True
        standbys = any(each != self.keyring.peer for each in self._alive(held))
        wait_s = self.config.coordination.standby_ack_s if standbys and self._leads(held) else 0.0
        return self._owe(held, owed, wait_s, now)

    def _owe(self, held: HeldJob, owed: Owed, wait_s: float, now: Now) -> list[Effect]:
        self.owed[held.id] = owed
        owed.due = now.mono + wait_s
        if not wait_s:
            return self._pay(held.id, now)
        return [Save((owed.row(held.id),))]

    def on_acked(self, run: JobId, now: Now) -> list[Effect]:
        """Another holder has more of a run on disk: nobody has to hear of its end alone."""
        owed, held = self.owed.get(run), self.catalogue.jobs.get(run)
        if owed is None or held is None or not owed.ended or not self._leads(held):
            return []
        if not self.catalogue.replicated(held, self.catalogue.version(held)):
            return []
        return self._pay(run, now)

    def _pay(self, run: JobId, now: Now) -> list[Effect]:
        """Put the answers into the outbox, unless it is another's to answer by now."""
        owed, held = self.owed.pop(run), self.catalogue.jobs.get(run)
        rows: list[Row] = [(BUCKET, run, None)]
        left: list[Effect] = []
        if held is not None and held.done:
            own = question_of(held.spec_data)
            for question in owed.questions:
                who = self._answerer(held, question.broker)
                if question == own and who != self.keyring.peer:
                    continue
                if why := self.why_not(question):  # who heard it has another owner, or list
                    left += self.leave(held.source or JobId(""), why, now)
                else:
                    rows.append(self.outbox.add(answer_message(held, question, self.keyring)))
        return [Save(tuple(rows)), *left, *self.outbox.due(now)]

    def why_not(self, question: Question) -> str:
        """Why this device publishes no answer there; empty where it does."""
        root, topics = self.outbox.config.root, self.config.policy.topics
        for broker, prefix in self.config.reporting.discovery:
            if broker == question.broker and matches(f"{prefix}/#", question.reply):
                return "a response topic that Home Assistant reads"
        return why_unanswerable(question.reply, question.correlation, root, topics)

    def _leads(self, held: HeldJob) -> bool:
        return held.coordinator == self.keyring.peer

    def _alive(self, held: HeldJob) -> list[PeerId]:
        ranked = dict.fromkeys((held.coordinator, *held.holders))
        return [peer for peer in ranked if self.fleet.alive(peer)]

    def _answerer(self, held: HeldJob, broker: str) -> PeerId | None:
        """The coordinator, or the first holder after it, that is there and has the broker."""
        label = f"{BROKER_LABEL}{broker}"
        having = {advert.peer: None for advert in self.fleet.adverts() if label in advert.labels}
        return next((peer for peer in self._alive(held) if peer in having), None)

    # ---- asked again, and refused ------------------------------------------------------------

    def again(self, run: JobId, question: Question, now: Now) -> list[Effect]:
        """A message whose run is known was heard once more: whoever sent it waits for an answer,
        and gets it from who answers the first one."""
        held = self.catalogue.jobs.get(run)
        if held is None or self._answerer(held, question.broker) != self.keyring.peer:
            return []
        owed = self.owed.get(run) or Owed([], held.done)
        known = question in owed.questions or len(owed.questions) >= QUESTIONS_MAX
        if known or (not held.done and question == question_of(held.spec_data)):
            return []
        if held.done and not self._allows_one_more(now):
            return []
        self.owed[run] = owed
        owed.questions.append(question)
        return self._owe(held, owed, 0.0, now) if held.done else [Save((owed.row(run),))]

    def refuse(
        self, run: JobId, template: str, reason: str, question: Question, now: Now
    ) -> list[Effect] | None:
        """Answer that a message has run nothing; None where there were too many of them lately."""
        if not self._allows_one_more(now):
            return None
        row = self.outbox.add(refusal_message(run, template, reason, question))
        return [Save((row,)), *self.outbox.due(now)]

    def _allows_one_more(self, now: Now) -> bool:
        """Of answers that cost no run: what asks for them may come as fast as it likes."""
        while self._extra and self._extra[0] <= now.mono - MINUTE_S:
            self._extra.popleft()
        if self.outbox.full or len(self._extra) >= self.config.triggers.extra_answers_max:
            return False
        self._extra.append(now.mono)
        return True

    # ---- time --------------------------------------------------------------------------------

    @property
    def deadline(self) -> float:
        return min((owed.due for owed in self.owed.values()), default=NEVER)

    def on_deadline(self, now: Now) -> list[Effect]:
        due = [run for run, owed in self.owed.items() if owed.due <= now.mono]
        return [effect for run in due for effect in self._pay(run, now)]
