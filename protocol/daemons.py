"""The daemons: each peer decides for itself, from the records it holds, what runs on it.

At most one execution for each job; started, restarted for ever, changed to another revision when
its wave comes, stopped. None of it needs another peer, a network or the right time (DESIGN 6).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from random import Random

from protocol.bidding import Bidder
from protocol.clock import NEVER, Now
from protocol.config import StandingConfig
from protocol.daemon import Daemon, Running, environment
from protocol.effects import (
    Bucket,
    CheckTask,
    Effect,
    RemoveTask,
    Save,
    StartTask,
    StopTask,
    Tell,
)
from protocol.errors import RemoteProtocolError
from protocol.events import HealthChanged, TaskEnded, TaskFound
from protocol.execution import State
from protocol.ids import ExecutionId, JobId, PeerId
from protocol.job import JobSpec, JobType, OnFailure
from protocol.led import needs_of
from protocol.publishing import Publishing
from protocol.records import Advert, Desired, Keyring
from protocol.standing import Standing
from protocol.standingjob import StandingJob
from protocol.unread import Unread
from protocol.waves import wave_delay_s

SOURCES_MAX = 16  # peers that are asked for a shipped archive
UPDATED = "updated"
GONE_BACK = "gone back"
CUT_OFF = "cut off from all others for longer than StopAfter"


@dataclass(slots=True)
class Daemons:
    """The one writer of what runs here of daemons. Nothing starts before the device is described:
    which jobs match is not known until then."""

    keyring: Keyring
    config: StandingConfig
    rng: Random
    standing: Standing
    bidder: Bidder
    start_max_s: float
    adverts: Callable[[], list[Advert]]  # of whoever is alive
    connected: Callable[[], list[PeerId]]
    publishing: Publishing
    daemons: dict[JobId, Daemon] = field(default_factory=dict)
    unread: dict[JobId, None] = field(default_factory=dict)  # rows on disk of another version
    unfit: dict[JobId, str] = field(default_factory=dict)  # why a job that is to run is not here
    ready: bool = False
    alone_since: float = NEVER  # monotonic; since when nobody is connected, NEVER while somebody is
    _expiries: dict[JobId, float] = field(default_factory=dict)  # monotonic
    # Found at the start, and perhaps of a row that is unread: no start takes the id of one.
    _left: dict[ExecutionId, None] = field(default_factory=dict)

    @property
    def me(self) -> PeerId:
        return self.keyring.peer

    # ---- what the disk held, and what the device says ----------------------------------------

    def restore(self, disk: Mapping[Bucket, Mapping[str, bytes]]) -> list[Unread]:
        """Rebuild from disk; returns the rows that could not be read."""
        unreadable: list[Unread] = []
        rows = disk.get("daemon", {})
        for key in sorted(rows):
            try:
                self.daemons[JobId(key)] = Daemon.restore(key, rows[key], self.keyring)
            except (RemoteProtocolError, ValueError) as error:
                unreadable.append(Unread("daemon", key, str(error)))
                self.unread[JobId(key)] = None
        return unreadable

    def boot(self, found: tuple[TaskFound, ...], now: Now) -> tuple[list[Effect], list[TaskFound]]:
        """Adopt what still runs, learn what ended; gives back what is none of a daemon's."""
        self.alone_since = now.mono
        tasks = {task.execution: task for task in found}
        effects: list[Effect] = []
        for daemon in self.daemons.values():
            for ended in daemon.past:
                task = tasks.pop(ExecutionId(ended[0]), None)
                if task is not None and task.running:  # it was given up for lost once
                    effects.append(StopTask(task.execution, "a later start took its place"))
            task = tasks.pop(daemon.execution(self.me), None)
            if daemon.active:
                effects += self._adopt(daemon, task, now)
            else:
                daemon.next_at = now.mono
        self._left = dict.fromkeys(tasks) if self.unread else {}
        return effects, list(tasks.values())

    def _adopt(self, daemon: Daemon, task: TaskFound | None, now: Now) -> list[Effect]:
        key = daemon.execution(self.me)
        if task is None:
            reason = "the device lost it: a power cut, or its supervisor was killed"
            effects = self._ended(daemon, State.LOST, TaskEnded(key, None, reason), now)
            daemon.next_at = now.mono
            return effects
        if not task.running:
            return self.on_ended(task.as_ended(), now)
        self.bidder.adopt(key, daemon.now.spec.task.resources)
        daemon.state, daemon.ports = State.RUNNING, task.ports
        self._begun(daemon, now)
        text = f"{daemon.now.spec.name} still runs"
        tell = self._tell(daemon, "daemon.adopted", text)
        if daemon.stopping:
            return [tell, StopTask(key, daemon.stopping)]
        return [tell, *self._check(daemon), *self.publishing.begun(key)]

    def described(self, now: Now) -> list[Effect]:
        """What the device is or offers changed: attach what matches now, detach what does not."""
        self.ready = True
        return self.review_all(now)

    def met(self, now: Now) -> list[Effect]:
        """Somebody is connected: what was stopped for want of that comes back."""
        self.alone_since = NEVER
        jobs = [job for job, daemon in self.daemons.items() if daemon.waiting == CUT_OFF]
        for job in jobs:
            self.daemons[job].waiting, self.daemons[job].next_at = "", now.mono
        return [effect for job in jobs for effect in self.review(job, now)]

    def parted(self, now: Now) -> None:
        """A connection is gone, perhaps the last."""
        if self.alone_since == NEVER and not self.connected():
            self.alone_since = now.mono

    def _cut_off_at(self, spec: JobSpec) -> float:
        """When a job that says so runs here no longer; on this device's own monotonic clock."""
        after_s = spec.disconnect.stop_after_s
        return NEVER if after_s is None else self.alone_since + after_s

    def review_all(self, now: Now) -> list[Effect]:
        jobs = dict.fromkeys([*self.standing.jobs, *self.daemons])
        return [effect for job in jobs for effect in self.review(job, now)]

    def sampled(self, now: Now) -> list[Effect]:
        """With each sample of facts: the clock may be trusted now, or stand elsewhere."""
        expiring = [
            job
            for job, held in self.standing.jobs.items()
            if held.job is not None and held.job.not_after_s is not None
        ]
        return [effect for job in expiring for effect in self.review(job, now)]

    # ---- deciding ----------------------------------------------------------------------------

    def review(self, job: JobId, now: Now) -> list[Effect]:
        """Bring what runs here of a job to what its records and this device's owner want."""
        if not self.ready:
            return []
        held, daemon = self.standing.jobs.get(job), self.daemons.get(job)
        self.unfit.pop(job, None)
        self._note_expiry(job, held, now)
        if held is None or (held.desired is Desired.RUNNING and held.job is None):
            # Its spec is not here (yet), or of a later version: what runs is left alone.
            if daemon is not None:
                daemon.switch_to, daemon.switch_at = None, NEVER
                if not daemon.active:
                    daemon.park()
            if held is not None and held.unreadable:
                self.unfit[job] = held.unreadable
            return []
        spec = held.wanted(now)
        if spec is None:
            return self._over(daemon, held)
        if daemon is None and not spec.type.standing:
            return []  # a schedule or template; what comes of those is none of ours
        reason = self._why_unfit(held, spec)
        if reason:
            self.unfit[job] = reason
            return self._stop(daemon, reason)
        assert held.author is not None and held.revision is not None
        target = Running(held.spec_data, held.author, held.revision, spec)
        if daemon is None:
            daemon = self.daemons[job] = Daemon(job, target, next_at=now.mono)
        if daemon.parked:
            daemon.parked, daemon.next_at = False, now.mono
        return self._steer(daemon, target, now)

    def _note_expiry(self, job: JobId, held: StandingJob | None, now: Now) -> None:
        """When the clock will have reached NotAfter, if it goes on as it does."""
        end_s = held.job.not_after_s if held is not None and held.job is not None else None
        if end_s is not None and now.wall_trusted and end_s > now.wall:
            self._expiries[job] = now.mono + (end_s - now.wall)
        else:
            self._expiries.pop(job, None)

    def _why_unfit(self, held: StandingJob, spec: JobSpec) -> str:
        """Why it does not belong here at all; what forbids it for now only makes it wait."""
        if spec.type is not JobType.DAEMON:
            return f"it is {spec.type.noun} now"
        assert held.author is not None
        roles, name = held.author_roles, held.author_name
        reason = self.bidder.unwelcome(spec, held.author, roles, name)
        return reason or self.bidder.unfit(needs_of(spec))

    def _steer(self, daemon: Daemon, target: Running, now: Now) -> list[Effect]:
        """Start it, leave it alone, or have it change to `target` when its wave comes."""
        if target.revision == daemon.refused and daemon.before is not None:
            target = daemon.before
        if self._cut_off_at(target.spec) <= now.mono:
            if daemon.active:
                return self._stop(daemon, CUT_OFF)
            daemon.waiting, daemon.next_at = CUT_OFF, NEVER
            return []
        if not daemon.active:
            changed = target.revision != daemon.now.revision  # which may well be the cure
            return self._start(daemon, target, now) if changed or daemon.next_at <= now.mono else []
        if daemon.stopping:
            return []  # what comes next is decided once it has ended
        if target.revision == daemon.now.revision:
            if target.data != daemon.now.data:  # the same, signed by another peer
                daemon.now = target
            daemon.switch_to, daemon.switch_at = None, NEVER
            return []
        if daemon.switch_to != target.revision:
            delay = wave_delay_s(self.me, target.revision, target.spec, self.adverts())
            daemon.switch_to, daemon.switch_at = target.revision, now.mono + delay
        return self._stop(daemon, UPDATED) if daemon.switch_at <= now.mono else []

    def _start(self, daemon: Daemon, target: Running, now: Now) -> list[Effect]:
        """Journal it, then start it; or wait where there is no room or no leave for now."""
        changed = target.revision != daemon.now.revision
        trial = Daemon(daemon.job, target, attempt=daemon.attempt + 1)
        while trial.execution(self.me) in self._left:
            trial.attempt += 1
        key, resources = trial.execution(self.me), target.spec.task.resources
        daemon.waiting = (
            self.bidder.unwell()
            or self.bidder.hindered(target.spec)
            or self.bidder.why_no_room(resources)
        )
        if daemon.waiting or not self.bidder.take(self.me, 0, key, resources):
            daemon.next_at = now.mono + self.config.wait_s * (0.75 + 0.5 * self.rng.random())
            return []
        if changed:
            daemon.restarts = daemon.failures = 0
        elif daemon.attempt:
            daemon.restarts += 1
        daemon.now, daemon.attempt, daemon.state = target, trial.attempt, State.STARTING
        daemon.stopping, daemon.started_ms, daemon.next_at = "", now.wall_ms, NEVER
        daemon.ports, daemon.doing = (), ""
        daemon.switch_to, daemon.switch_at = None, NEVER
        self._begun(daemon, now)
        daemon.start_by = now.mono + self.start_max_s
        start = StartTask(
            key,
            daemon.job,
            target.spec,
            environment(daemon, self.me),
            None,  # a daemon's timeouts are ignored
            tuple(dict.fromkeys((target.author, *self.connected()[:SOURCES_MAX]))),
        )
        rows = (daemon.row(), *self.publishing.start(key, daemon.job, 0, target.spec))
        return [Save(rows), start]

    def _begun(self, daemon: Daemon, now: Now) -> None:
        daemon.began_at, daemon.sick = now.mono, ""
        daemon.passing = daemon.now.spec.check is None
        self._await_health(daemon, now)

    def _await_health(self, daemon: Daemon, now: Now) -> None:
        """It counts as a good one once it has been well for so long."""
        after_s = daemon.now.spec.update.healthy_after_s
        daemon.healthy_at = now.mono + after_s if daemon.passing else NEVER

    def _check(self, daemon: Daemon) -> list[Effect]:
        check = daemon.now.spec.check
        return [] if check is None else [CheckTask(daemon.execution(self.me), check)]

    def _stop(self, daemon: Daemon | None, reason: str) -> list[Effect]:
        if daemon is None:
            return []
        if not daemon.active:
            daemon.park()
        if not daemon.active or daemon.stopping:
            return []
        daemon.stopping, daemon.switch_at = reason, NEVER
        return [Save((daemon.row(),)), StopTask(daemon.execution(self.me), reason)]

    def _over(self, daemon: Daemon | None, held: StandingJob) -> list[Effect]:
        """It is not to run any more. Once it is deleted, nothing is kept of it."""
        deleted = held.desired is Desired.DELETED
        if daemon is None:
            if not deleted or held.id not in self.unread:
                return []
            del self.unread[held.id]  # what it left goes at the next start, as nobody's
            return [Save((("daemon", held.id, None),))]
        if not daemon.active and deleted:
            del self.daemons[daemon.job]
            removed = [RemoveTask(ExecutionId(ended[0])) for ended in daemon.past]
            return [Save((("daemon", daemon.job, None),)), *removed]
        if held.desired is Desired.RUNNING:
            return self._stop(daemon, "it has expired (NotAfter)")
        return self._stop(daemon, "deleted" if deleted else "stopped")

    # ---- the task's life ---------------------------------------------------------------------

    def find(self, execution: ExecutionId) -> Daemon | None:
        """Whose present execution this is."""
        for daemon in self.daemons.values():
            if daemon.active and daemon.execution(self.me) == execution:
                return daemon
        return None

    def over(self, execution: ExecutionId) -> bool:
        """Whether it is one of a daemon's that has ended, or was given up."""
        past = (ended for daemon in self.daemons.values() for ended in daemon.past)
        return any(ended[0] == execution for ended in past)

    def on_started(
        self, execution: ExecutionId, now: Now, ports: tuple[tuple[str, int], ...] = ()
    ) -> list[Effect]:
        daemon = self.find(execution)
        if daemon is None:  # it was given up
            return [StopTask(execution, "it started too late")]
        if daemon.state is not State.STARTING:
            return []
        daemon.state, daemon.start_by, daemon.ports = State.RUNNING, NEVER, ports
        daemon.doing = ""
        kind = "daemon.restarted" if daemon.restarts else "daemon.started"
        again = f" again ({daemon.restarts} restarts)" if daemon.restarts else ""
        tell = self._tell(daemon, kind, f"{daemon.now.spec.name} runs here{again}")
        return [tell, *self._check(daemon), *self.publishing.begun(execution)]

    def on_progress(self, execution: ExecutionId, text: str) -> None:
        """Shown to whoever asks; nothing of it is kept."""
        daemon = self.find(execution)
        if daemon is not None and daemon.state is State.STARTING:
            daemon.doing = text

    def on_health(self, event: HealthChanged, now: Now) -> list[Effect]:
        """Its checks pass, or fail: what runs and is not well is started again."""
        daemon = self.find(event.execution)
        if daemon is None or daemon.stopping or daemon.sick:
            return []
        name = daemon.now.spec.name
        if event.healthy:
            daemon.passing = True
            self._await_health(daemon, now)
            return [self._tell(daemon, "daemon.healthy", f"{name} is well")]
        daemon.passing, daemon.healthy_at = False, NEVER
        daemon.sick = f"unhealthy: {event.reason}"
        tell = self._tell(daemon, "daemon.unhealthy", f"{name} is {daemon.sick}")
        return [tell, StopTask(event.execution, daemon.sick)]

    def on_ended(self, event: TaskEnded, now: Now) -> list[Effect]:
        daemon = self.find(event.execution)
        if daemon is None:
            return []
        if daemon.stopping:
            effects = self._ended(daemon, State.STOPPED, event, now)
            daemon.next_at, daemon.failures = now.mono, 0
            return effects + self.review(daemon.job, now)
        state = State.COMPLETED if event.exit_code == 0 else State.FAILED
        if daemon.sick:
            state, event = State.FAILED, replace(event, reason=daemon.sick)
        proved = daemon.healthy_at <= now.mono
        ran_s = now.mono - daemon.began_at
        trial = daemon.before is not None and daemon.before.revision != daemon.now.revision
        effects = self._ended(daemon, state, event, now)
        if trial and not proved:
            effects += self._update_failed(daemon, now)
        elif ran_s >= self.config.settled_s:
            daemon.failures = 0
        if daemon.next_at == NEVER:
            daemon.next_at = now.mono + self._pause(daemon)
            daemon.failures += 1
        return effects + self.review(daemon.job, now)

    def _pause(self, daemon: Daemon) -> float:
        first = max(1, daemon.now.spec.retry.backoff_s)
        doubled: float = first * 2 ** min(daemon.failures, 16)
        return min(doubled, self.config.restart_max_s) * (0.75 + 0.5 * self.rng.random())

    def _update_failed(self, daemon: Daemon, now: Now) -> list[Effect]:
        """The new revision did not last: go back, or stay with it, as its author said."""
        spec = daemon.now.spec
        if spec.update.on_failure is OnFailure.PAUSE:
            text = f"{spec.name}: the new revision ended early here; it is kept and started again"
            return [self._tell(daemon, "daemon.update-failed", text)]
        daemon.refused, daemon.next_at = daemon.now.revision, now.mono
        text = f"{spec.name}: the new revision ended early here; back to the one before"
        return [Save((daemon.row(),)), self._tell(daemon, "daemon.rolled-back", text)]

    def _ended(self, daemon: Daemon, state: State, event: TaskEnded, now: Now) -> list[Effect]:
        """The present execution is over; the save may wait, see Daemon."""
        code = -1 if event.exit_code is None else event.exit_code
        reason = daemon.stopping or event.reason[:200]
        past = (event.execution, code, reason, daemon.started_ms, now.wall_ms)
        kept = (*daemon.past, past)[-self.config.kept :]
        gone = [ended[0] for ended in daemon.past if ended not in kept]
        daemon.past, daemon.state, daemon.healthy_at = kept, state, NEVER
        daemon.next_at = daemon.start_by = NEVER
        self.bidder.free_up(event.execution)
        how = f" with exit code {code}" if code >= 0 and not daemon.stopping else ""
        because = f": {reason}" if reason else ""
        verb = "stopped" if daemon.stopping else "ended"
        text = f"{daemon.now.spec.name} {verb} here{how}{because}"
        return [
            Save((daemon.row(),), lazy=True),
            self._tell(daemon, f"daemon.{verb}", text),
            *self.publishing.begun(event.execution),
            *(RemoveTask(ExecutionId(key)) for key in gone),
        ]

    # ---- time --------------------------------------------------------------------------------

    @property
    def deadline(self) -> float:
        if not self.ready:
            return NEVER
        times = list(self._expiries.values())
        for daemon in self.daemons.values():
            if daemon.active:
                times += [daemon.healthy_at, daemon.switch_at]
                if not daemon.stopping:
                    times.append(self._cut_off_at(daemon.now.spec))
                times.append(daemon.start_by if daemon.state is State.STARTING else NEVER)
            else:
                times.append(daemon.next_at)
        return min(times, default=NEVER)

    def on_deadline(self, now: Now) -> list[Effect]:
        effects: list[Effect] = []
        due: dict[JobId, None] = {job: None for job, at in self._expiries.items() if at <= now.mono}
        for job, daemon in list(self.daemons.items()):
            if daemon.state is State.STARTING and daemon.start_by <= now.mono:
                effects += self._never_started(daemon, now)
            if daemon.active and daemon.healthy_at <= now.mono:
                effects += self._healthy(daemon)
            if (daemon.switch_at if daemon.active else daemon.next_at) <= now.mono:
                due[job] = None
            if daemon.active and self._cut_off_at(daemon.now.spec) <= now.mono:
                effects += self._stop(daemon, CUT_OFF)
        return effects + [effect for job in due for effect in self.review(job, now)]

    def _never_started(self, daemon: Daemon, now: Now) -> list[Effect]:
        """The engine took it and nothing came of it."""
        key = daemon.execution(self.me)
        reason = f"the device did not start it within {self.start_max_s:.0f} s"
        return [StopTask(key, reason), *self.on_ended(TaskEnded(key, None, reason), now)]

    def _healthy(self, daemon: Daemon) -> list[Effect]:
        """This revision is what a later one may go back to."""
        daemon.healthy_at = NEVER
        if daemon.before is not None and daemon.before.revision == daemon.now.revision:
            return []
        daemon.before = daemon.now
        return [Save((daemon.row(),), lazy=True)]

    def _tell(self, daemon: Daemon, kind: str, text: str) -> Tell:
        fields: dict[str, object] = {
            "name": daemon.now.spec.name,
            "execution": daemon.execution(self.me),
            "restarts": daemon.restarts,
        }
        return Tell(kind, text, daemon.job, self.me, fields)
