"""Commands: what messages on the shoal's own topics do: switch a daemon, run a template.

Every device that hears a command acts by itself, with its own certificate: that somebody could
publish at the broker authorises no record. What several hear comes to one act. The first rank of
those who may act does so at once, and its record goes to all; a later rank that finds after its
wait that nothing has become of the switch acts in its place. A press has no name to be known by,
so that only the first rank runs the template, rather not at all than twice. Nothing of it waits for
who is away: a switch says what it is to be now, and its state topic tells what came of it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from random import Random
from typing import Final, assert_never

from protocol import listening
from protocol.bidding import DISK_FULL
from protocol.clock import NEVER, Now
from protocol.config import TriggersConfig
from protocol.coordination import Coordination
from protocol.derived import PRESSED, derived_id
from protocol.effects import Effect, Tell
from protocol.events import Commanded, CommandHeard
from protocol.fleet import Fleet
from protocol.hearing import reaches
from protocol.ids import JobId, PeerId, rendezvous
from protocol.job import JobType
from protocol.records import Advert, Desired, Keyring, Role
from protocol.refusals import Refusals
from protocol.standing import Standing
from protocol.standingacts import StandingActs
from protocol.standingjob import TEMPLATE, StandingJob, standing_id
from protocol.tree import NAME
from protocol.trigger import matches

ON: Final = b"ON"
OFF: Final = b"OFF"
PRESS: Final = b"PRESS"
EARLY_MAX: Final = 32  # commands that wait for this device to know who else is there
SWITCH_S: Final = 1.0  # between two acts on one daemon, each a record that goes to all
WAITING_MAX: Final = 256  # switches that another rank is to act upon first
NOT_LISTED: Final = "no device that hears it lists it ([mqtt] allow)"
NOBODY: Final = JobId("")  # names that there are not are told of together: who sends them has many
KEPT: Final = "the broker has kept it from earlier; send it without retain"


@dataclass(frozen=True, slots=True)
class Turn:
    """A switch that others come before, or that comes too soon after another, and what the daemon's
    record was when it was heard."""

    heard: CommandHeard
    due: float  # monotonic
    number: int


@dataclass(slots=True)
class Commands:
    """The one writer of switches that wait their turn, all of them in memory."""

    keyring: Keyring
    config: TriggersConfig
    grace_s: float  # after a start: who else is there is not known before
    root: str  # of the shoal's own topics
    rng: Random
    standing: Standing
    fleet: Fleet
    acts: StandingActs
    coordination: Coordination
    run: Callable[[StandingJob, str, Now], tuple[str, list[Effect]]]
    refusals: Refusals = field(init=False)
    turns: dict[JobId, Turn] = field(default_factory=dict)
    _acted: dict[JobId, float] = field(default_factory=dict)  # monotonic; when it was switched last
    _pressed: dict[JobId, dict[JobId, None]] = field(default_factory=dict)  # runs, in this life
    _early: list[CommandHeard] = field(default_factory=list)
    _ready_at: float = NEVER  # monotonic
    _ready: bool = False

    def __post_init__(self) -> None:
        self.refusals = Refusals(self.me, "command.refused")

    @property
    def me(self) -> PeerId:
        return self.keyring.peer

    def boot(self, now: Now) -> list[Effect]:
        self._ready_at = now.mono + self.grace_s
        return []

    # ---- who hears, and who may act ----------------------------------------------------------

    def listed(self, kind: Commanded, word: str) -> bool:
        """Whether this device's owner lets messages command it."""
        return listening.listed(self.config.allow, f"{kind.value}/{word}")

    def actors(self, held: StandingJob, broker: str) -> list[PeerId]:
        """Who hears commands to a daemon or template at that broker, is let act upon them by its
        owner, and has the certificate for it: the first acts. All who know the same peers name the
        same."""
        found = self._those_who_may(self.fleet.adverts(), held, broker)
        # One that does not reach the broker would be left every press, and hears none.
        reaching = [advert for advert in found if reaches(advert.labels, broker)]
        peers = [advert.peer for advert in reaching or found]
        steady = [peer for peer in peers if not self.fleet.is_leaf(peer)]
        return rendezvous(held.id, steady or peers)

    def commanded(self, held: StandingJob, broker: str) -> bool:
        """Whether commands to it at that broker are anybody's, be it that all of those are away for
        now: what is shown of it is not to come and go with each restart of a device."""
        return bool(self._those_who_may(self.fleet.expected(), held, broker))

    def _those_who_may(self, adverts: list[Advert], held: StandingJob, broker: str) -> list[Advert]:
        allows = listening.allows if held.kind == "template" else listening.switches
        return [
            advert
            for advert in adverts
            if listening.has_broker(advert.labels, broker)
            and allows(advert.labels, held.namespace, held.name)
            and self._may(advert, held)
        ]

    def _may(self, advert: Advert, held: StandingJob) -> bool:
        certificate = self.fleet.certificate_of(advert.peer)
        if certificate is None:
            return False
        if held.kind == "template":
            return certificate.holds(Role.SUBMIT, held.namespace)
        owns = advert.peer == (held.author or held.control_author)
        return owns or certificate.holds(Role.OPERATE, held.namespace)

    def button(self, held: StandingJob, broker: str, now: Now) -> str:
        """The topic on which PRESS at that broker runs a template; empty where none does.

        One with a trigger hears its own topic alone. Where messages need an id, or are chosen by
        what is in them, a press would run nothing.
        """
        spec = held.wanted(now)
        if held.kind != "template" or spec is None or not self.commanded(held, broker):
            return ""
        word = listening.word_of(held.namespace, held.name)
        topic = f"{self.root}/trigger/{word}"
        if spec.trigger is None:
            blank = any(each.default is None for each in spec.parameters or ())
            return "" if blank else topic
        mqtt = spec.trigger.mqtt
        if mqtt.broker != broker or mqtt.keyed or mqtt.when:
            return ""
        if matches(mqtt.topic, topic):
            return topic
        levels = mqtt.topic.split("/")
        return "" if "+" in levels or "#" in levels else mqtt.topic

    # ---- commands ----------------------------------------------------------------------------

    def on_event(self, event: CommandHeard, now: Now) -> list[Effect]:
        if not self._ready:
            self._early = [*self._early, event][-EARLY_MAX:]
            return []
        held = self._held(event)
        if held is None or held.desired is Desired.DELETED:
            reason = f"no {event.kind.value} of that name is known here"
            return self._refuse(NOBODY, event, reason, now)
        if not self.listed(event.kind, event.word):
            return [] if self.actors(held, event.broker) else self._unlisted(held, event, now)
        if event.retained:
            return self._refuse(held.id, event, KEPT, now)
        match event.kind:
            case Commanded.DAEMON:
                return self._switch(held, event, now)
            case Commanded.TEMPLATE:
                return self._press(held, event, now)
            case _:
                assert_never(event.kind)

    def _held(self, event: CommandHeard) -> StandingJob | None:
        namespace, name = listening.named(event.word)
        if not (NAME.fullmatch(namespace) and NAME.fullmatch(name)):
            return None
        key = TEMPLATE + name if event.kind is Commanded.TEMPLATE else name
        return self.standing.jobs.get(standing_id(self.keyring, namespace, key))

    def _unlisted(self, held: StandingJob, event: CommandHeard, now: Now) -> list[Effect]:
        """Who listens for others says so, where nobody acts upon it."""
        return self._refuse(held.id, event, NOT_LISTED, now)

    def _refuse(self, job: JobId, event: CommandHeard, reason: str, now: Now) -> list[Effect]:
        name = f"{event.kind.value} {event.word[:64]}"
        return self.refusals.add(job, name, reason, now.mono)

    # ---- daemons -----------------------------------------------------------------------------

    def _switch(self, held: StandingJob, event: CommandHeard, now: Now) -> list[Effect]:
        if reason := self._why_not_switch(held, event, now):
            return self._refuse(held.id, event, reason, now)
        ranked = self.actors(held, event.broker)
        if barred := self.acts.why_not_change(held, "switch"):
            return [] if ranked else self._refuse(held.id, event, barred, now)
        self.turns.pop(held.id, None)  # what was said before it counts no more
        if _is_so(held, event):
            return []
        rank = ranked.index(self.me) if self.me in ranked else len(ranked)
        wait_s = min(rank, self.config.rank_max) * self.config.rank_delay_s
        due = max(now.mono + wait_s, self._acted.get(held.id, -SWITCH_S) + SWITCH_S)
        if due <= now.mono or len(self.turns) >= WAITING_MAX:
            return self._act(held, event, now)
        self.turns[held.id] = Turn(event, due, held.number)
        return []

    def _why_not_switch(self, held: StandingJob, event: CommandHeard, now: Now) -> str:
        if event.payload not in (ON, OFF):
            return "its payload is neither ON nor OFF"
        if held.job is not None and held.job.type is not JobType.DAEMON:
            return f"it is {held.job.type.noun}, and only daemons are switched by messages"
        if held.job is None:
            return held.unreadable or "its spec is not known here"
        if event.payload == ON and held.expired(now):
            return "its NotAfter is over: it runs again once its file has a later one"
        return ""

    def _act(self, held: StandingJob, event: CommandHeard, now: Now) -> list[Effect]:
        self._acted.pop(held.id, None)
        self._acted[held.id] = now.mono
        if len(self._acted) > WAITING_MAX:
            del self._acted[next(iter(self._acted))]
        word = "on" if event.payload == ON else "off"
        text = f"{held.name} is switched {word} by a message at broker {event.broker}"
        tell = Tell("daemon.switched", text, held.id, self.me, {"name": held.name, "to": word})
        return [*self.acts.switch(held, event.payload == ON, now), tell]

    def _take_turn(self, job: JobId, turn: Turn, now: Now) -> list[Effect]:
        """Those before this peer have had their time. Whatever was done since then, by one of them
        or by a person, is later than the message."""
        held = self.standing.jobs.get(job)
        if held is None or held.number != turn.number or _is_so(held, turn.heard):
            return []
        reason = self._why_not_switch(held, turn.heard, now)
        if reason := reason or self.acts.why_not_change(held, "switch"):
            return self._refuse(job, turn.heard, reason, now)
        return self._act(held, turn.heard, now)

    # ---- templates ---------------------------------------------------------------------------

    def _press(self, held: StandingJob, event: CommandHeard, now: Now) -> list[Effect]:
        spec = held.wanted(now)
        if spec is not None and spec.trigger is not None:
            heard = matches(spec.trigger.mqtt.topic, f"{self.root}/trigger/{event.word}")
            reason = f"it is run by messages of {spec.trigger.mqtt.topic}"
            return [] if heard else self._refuse(held.id, event, reason, now)
        if event.payload != PRESS:
            return self._refuse(held.id, event, "its payload is not PRESS", now)
        if self.actors(held, event.broker)[:1] != [self.me]:
            certified = self.fleet.certificate.holds(Role.SUBMIT, held.namespace)
            reason = "this peer may not submit: its certificate lacks the role"
            return [] if certified else self._refuse(held.id, event, reason, now)
        if self.coordination.disk_full:
            return self._refuse(held.id, event, DISK_FULL, now)
        running = self._under_way(held.id)
        if len(running) >= self.config.running_max:
            reason = f"{len(running)} of its runs are under way, as many as presses begin"
            return self._refuse(held.id, event, reason, now)
        catalogue = self.coordination.catalogue
        room = self.coordination.forget_runs(self.config.runs_kept) if catalogue.full else []
        key = f"{PRESSED}{self.rng.getrandbits(128):032x}"
        refusal, effects = self.run(held, key, now)
        if refusal:
            return [*room, *self._refuse(held.id, event, refusal, now)]
        run = derived_id(self.keyring.shoal, held.namespace, held.id, key)
        running[run] = None
        text = f"{held.name}: a press at broker {event.broker} is job {run[:8]}"
        fields: dict[str, object] = {"job": run}
        return [*room, *effects, Tell("command.pressed", text, held.id, self.me, fields)]

    def _under_way(self, template: JobId) -> dict[JobId, None]:
        """Its runs that presses have begun here and that have not ended: a button may be stuck."""
        jobs = self.coordination.catalogue.jobs
        running = self._pressed.get(template, {})
        still = [run for run in running if run in jobs and not jobs[run].done]
        self._pressed[template] = dict.fromkeys(still)
        return self._pressed[template]

    # ---- time --------------------------------------------------------------------------------

    @property
    def deadline(self) -> float:
        ready = NEVER if self._ready else self._ready_at
        return min([ready, self.refusals.deadline, *(turn.due for turn in self.turns.values())])

    def on_deadline(self, now: Now) -> list[Effect]:
        effects = self.refusals.on_deadline(now.mono)
        if not self._ready and now.mono >= self._ready_at:
            self._ready = True
            early, self._early = self._early, []
            for event in early:
                effects += self.on_event(event, now)
        due = [(job, turn) for job, turn in self.turns.items() if turn.due <= now.mono]
        for job, turn in due:
            del self.turns[job]
            effects += self._take_turn(job, turn, now)
        return effects


def _is_so(held: StandingJob, event: CommandHeard) -> bool:
    return (held.desired is Desired.RUNNING) == (event.payload == ON)
