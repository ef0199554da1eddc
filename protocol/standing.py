"""The standing jobs: a set of records that every peer holds, saved, merged and passed on.

What is new is offered to every neighbour (SyncItems without buckets: keys and versions), who asks
for what it lacks (SyncWant), saves it and says so (SyncHeld); an offer is repeated until then. Each
passes on what was news to it. Anti-entropy over the same messages, on connecting and from time to
time, finds what got lost all the same (DESIGN 5, Catalogue).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from random import Random
from typing import Final

from protocol.antientropy import Reconciler, check, version_of
from protocol.clock import NEVER, Now
from protocol.config import StandingConfig
from protocol.container import full_name
from protocol.courier import Courier
from protocol.effects import Bucket, Effect, Save, Send, Tell
from protocol.errors import RemoteProtocolError
from protocol.foreign import Foreign, gone, is_foreign, name_of
from protocol.ids import JobId, PeerId
from protocol.messages import (
    SyncBuckets,
    SyncHeld,
    SyncItems,
    SyncRecords,
    SyncRoot,
    SyncWant,
)
from protocol.records import Control, Desired, Keyring, Spec
from protocol.standingjob import StandingJob, verified_standing
from protocol.unread import Unread
from protocol.versions import Row, Versions
from protocol.wire import Sealed

DOMAIN: Final = 1  # in anti-entropy
SYNC_PAUSE_S: Final = 0.25  # between two exchanges: the first may settle what the second would
NEWS_MAX: Final = 64  # unoffered to one neighbour: comparing roots costs less than offering more
NO_ROOM: Final = "no room for more standing jobs on this peer; delete some"

SyncMessage = SyncRoot | SyncBuckets | SyncItems | SyncWant | SyncRecords | SyncHeld


@dataclass(frozen=True, slots=True)
class News:
    """A record was merged here: whose, and what it took the place of."""

    job: JobId
    sealed: Sealed
    before: Spec | Control | None  # of the same kind
    before_author: PeerId | None
    lost: bool = False  # it was not taken: ours stays


@dataclass(slots=True)
class Standing:
    """The one writer of standing jobs."""

    keyring: Keyring
    config: StandingConfig
    rng: Random
    sync_period_s: float
    partners: Callable[[Sequence[PeerId]], list[PeerId]] = list  # of neighbours, to compare with
    jobs: dict[JobId, StandingJob] = field(default_factory=dict)
    news: list[News] = field(default_factory=list)  # drained by the steward
    confirmed: list[tuple[JobId, PeerId]] = field(default_factory=list)  # drained by the steward
    couriers: dict[PeerId, Courier] = field(default_factory=dict)  # one for each connection
    reconciler: Reconciler = field(init=False)
    versions: Versions = field(init=False)
    foreign: Foreign = field(default_factory=Foreign)
    _bytes: int = 0
    _records: int = 0
    _known: dict[bytes, JobId] = field(default_factory=dict)  # the records held, byte for byte
    _asked: dict[str, tuple[bytes, float]] = field(default_factory=dict)  # version, until
    _to_sync: dict[PeerId, None] = field(default_factory=dict)
    _sync_next: float = 0.0  # not before
    _sync_at: float = NEVER  # with a neighbour at random
    _full_told: bool = False
    _rows: list[Row] = field(default_factory=list)  # of versions, for the save of the same merge

    def __post_init__(self) -> None:
        self.reconciler = Reconciler(DOMAIN, self._load)
        self.versions = Versions(self.keyring)

    @property
    def images(self) -> frozenset[str]:
        """Of all containers that standing jobs run, by container.full_name: stopped ones, too, and
        what each was before, which a device may go back to where there is no network."""
        now = [held.job for held in self.jobs.values()]
        before = [version.spec for job in self.jobs for version in self.versions.of(job)[-1:]]
        engines = [spec.task.engine for spec in (*now, *before) if spec is not None]
        containers = [engine.container for engine in engines if engine.type == "docker"]
        return frozenset(full_name(container.image) for container in containers)

    # ---- what the disk held ------------------------------------------------------------------

    def restore(self, disk: Mapping[Bucket, Mapping[str, bytes]]) -> list[Unread]:
        """Rebuild all of them; returns the rows that could not be read, or whose spec could not."""
        unreadable: list[Unread] = []
        rows = disk.get("standing", {})
        for key in sorted(rows):
            try:
                held = StandingJob.restore(key, rows[key], self.keyring)
            except (RemoteProtocolError, ValueError) as error:
                unreadable.append(Unread("standing", key, str(error)))
                continue
            if held.unreadable:
                unreadable.append(Unread("standing", key, f"{held.name}: {held.unreadable}"))
            self._hold(held)
        unreadable += self.foreign.restore(disk.get("foreign", {}), self.keyring)
        for key in self.foreign.records:
            self._hold_foreign(key)
        return unreadable + self.versions.restore(disk.get("version", {}))

    def _hold(self, held: StandingJob) -> None:
        """Count it in, as it is now."""
        self.jobs[held.id] = held
        self._bytes += held.size_bytes
        self._records += len(held.records)
        for data in held.records:
            self._known[data] = held.id
        self.reconciler.put(held.id, held.version)

    def _hold_foreign(self, key: JobId) -> None:
        data = self.foreign.records[key]
        self._known[data] = key
        self.reconciler.put(key, version_of(data))

    def _unhold(self, held: StandingJob) -> None:
        """Count it out, before it changes."""
        self._bytes -= held.size_bytes
        self._records -= len(held.records)
        for data in held.records:
            self._known.pop(data, None)

    def _load(self, key: str) -> tuple[bytes, ...]:
        held, other = self.jobs.get(JobId(key)), self.foreign.records.get(JobId(key))
        if held is None:
            return () if other is None else (other,)
        return held.records

    # ---- our own changes ---------------------------------------------------------------------

    def why_no_room(self, records: int, size_bytes: int) -> str:
        """Why so much more is not taken; empty where it is."""
        room = self._records + records <= self.config.records_max
        return "" if room and self._bytes + size_bytes <= self.config.bytes_max else NO_ROOM

    def put(self, records: list[Sealed], now: Now) -> list[Effect]:
        """A person's act here: merge, save, offer to every neighbour."""
        changed = self._merge(records, now)
        return [*self._save(changed), *self._spread(changed, None, now)]

    def _merge(self, records: list[Sealed], now: Now) -> dict[JobId, None]:
        """Take each record that wins; the jobs that changed. Controls come first: what was deleted
        and run again comes as two records, and the tombstone would not take the new spec."""
        changed: dict[JobId, None] = {}
        for sealed in sorted(records, key=lambda each: isinstance(each.record, Spec)):
            record = sealed.record
            assert isinstance(record, Spec | Control), record
            held = self.jobs.get(record.job) or StandingJob.of(record)
            spec = isinstance(record, Spec)
            before = held.spec if spec else held.control
            author = held.author if spec else held.control_author
            seen = held.seen
            data, since_ms = held.spec_data, held.since_ms
            self._unhold(held)
            taken = held.offer(sealed)
            self._hold(held)  # the first record of a job is always taken
            if taken or held.seen != seen:
                changed[held.id] = None
            if taken and spec:
                held.since_ms = max(0, now.wall_ms)
                self._rows += self.versions.keep(held.id, data, since_ms) if data else []
            elif taken and held.desired is Desired.DELETED:
                self._rows += self.versions.forget(held.id)
            self.news.append(News(record.job, sealed, before, author, lost=not taken))
        return changed

    def _save(self, changed: dict[JobId, None]) -> list[Effect]:
        rows = (*(self.jobs[job].row() for job in changed if job in self.jobs), *self._rows)
        self._rows = []
        return [Save(rows)] if rows else []

    def _spread(self, changed: dict[JobId, None], sender: PeerId | None, now: Now) -> list[Effect]:
        for peer, courier in self.couriers.items():
            if peer == sender:
                continue
            for job in changed:
                courier.add(job)
            if len(courier.fresh) > NEWS_MAX:
                courier.clear()
                self._sync_soon(peer)
        return self._push(now)

    # ---- connections -------------------------------------------------------------------------

    def boot(self, now: Now) -> list[Effect]:
        """Take up what an earlier version has kept without knowing it: all peers may have done so,
        and none sends it again."""
        self._sync_at = now.mono + self._sync_period()
        known, self.foreign.known = self.foreign.known, []
        self._rows += [gone(each) for each in known]
        return self._save(self._merge([each for each in known if self._stands(each)], now))

    def _stands(self, sealed: Sealed) -> bool:
        try:
            return verified_standing(sealed.data, self.keyring) is not None
        except RemoteProtocolError:
            return False

    def on_connected(self, peer: PeerId, now: Now) -> list[Effect]:
        """Compare everything. Who holds nothing waits to be asked: it has nothing to lose."""
        self.couriers[peer] = Courier()
        if len(self.reconciler):
            self._sync_soon(peer)
        return self._push(now)

    def on_disconnected(self, peer: PeerId) -> None:
        self.couriers.pop(peer, None)
        self._to_sync.pop(peer, None)

    # ---- messages ----------------------------------------------------------------------------

    def receive(self, sender: PeerId, message: SyncMessage, now: Now) -> list[Effect]:
        """Handle one of domain 1. Raises RemoteProtocolError."""
        match message:
            case SyncRecords():
                return self._on_records(sender, message, now)
            case SyncHeld():
                return self._on_held(sender, message)
            case SyncItems():
                return self._on_items(sender, message, now)
            case _:
                return [Send(sender, answer) for answer in self.reconciler.answer(message)]

    def _on_items(self, sender: PeerId, message: SyncItems, now: Now) -> list[Effect]:
        """What the sender holds of some buckets, or (of no bucket) what it offers."""
        check(message)
        equal = [
            (key, version)
            for key, version in message.items
            if self.reconciler.version(key) == version
        ]
        for key, _ in equal:
            self._settle(sender, JobId(key))
        effects: list[Effect] = []
        versions = dict(message.items)
        for answer in self.reconciler.answer(message):
            if not isinstance(answer, SyncWant):
                effects.append(Send(sender, answer))
            elif wanted := self._not_asked(sender, answer.keys, versions, now):
                effects.append(Send(sender, SyncWant(DOMAIN, wanted)))
        if equal and not message.buckets:
            effects.append(Send(sender, SyncHeld(DOMAIN, tuple(equal))))
        return effects

    def _not_asked(
        self, sender: PeerId, keys: tuple[str, ...], versions: dict[str, bytes], now: Now
    ) -> tuple[str, ...]:
        """Of `keys`, what nobody else was just asked for: all neighbours offer the same."""
        wanted: list[str] = []
        for key in keys:
            version, until = self._asked.get(key, (b"", 0.0))
            if version == versions[key] and until > now.mono:
                self._to_sync[sender] = None  # whoever was asked may fail us
                self._sync_next = max(self._sync_next, until)
                continue
            self._asked[key] = (versions[key], now.mono + self.config.want_s)
            wanted.append(key)
        return tuple(wanted)

    def _on_records(self, sender: PeerId, message: SyncRecords, now: Now) -> list[Effect]:
        """Merge what came, save it, say so, pass on what was news."""
        told: dict[JobId, list[bytes]] = {}  # what the sender showed that it holds
        fresh: list[Sealed] = []
        for data in message.records:
            job = self._known.get(data)
            if job is None:
                sealed = verified_standing(data, self.keyring)
                if sealed is None:
                    continue
                job = _key_of(sealed)
                fresh.append(sealed)
            told.setdefault(job, []).append(data)
        taken, refused = self._admitted(fresh)
        changed = self._merge([each for each in taken if not is_foreign(each)], now)
        changed |= self._keep([each for each in taken if is_foreign(each)])
        effects = self._save(changed)
        for job, datas in told.items():
            self._asked.pop(job, None)
            held = self._load(job)
            if not held or job in refused:
                continue
            if held == tuple(datas):
                self._settle(sender, job)
            elif sender in self.couriers:
                self.couriers[sender].add(job)
        effects += self._spread(changed, sender, now)
        if refused:
            effects += self._tell_full(sender)
        reason = NO_ROOM if refused else ""
        answer = SyncHeld(DOMAIN, self._versions(told), tuple(refused), reason)
        return [*effects, Send(sender, answer)]

    def _keep(self, records: list[Sealed]) -> dict[JobId, None]:
        """Foreign ones; what is new of them."""
        kept: dict[JobId, None] = {}
        for sealed in records:
            _, key, _ = row = self.foreign.take(sealed)
            self._hold_foreign(JobId(key))
            self._rows.append(row)
            kept[JobId(key)] = None
        return kept

    def _versions(self, keys: Iterable[JobId]) -> tuple[tuple[str, bytes], ...]:
        """Of what is held of these, as it is now."""
        found = [(key, self.reconciler.version(key)) for key in keys]
        return tuple((key, version) for key, version in found if version is not None)

    def _admitted(self, fresh: list[Sealed]) -> tuple[list[Sealed], dict[str, None]]:
        """Those there is room for. A control record of a job that is held always has some: else a
        full peer would never hear that it may stop something."""
        taken: list[Sealed] = []
        refused: dict[str, None] = {}
        records = size = 0
        for sealed in fresh:
            record = sealed.record
            if not isinstance(record, Spec | Control):
                if self.foreign.room(size + len(sealed.data)):
                    size += len(sealed.data)
                    taken.append(sealed)
                else:
                    refused[_key_of(sealed)] = None
                continue
            known = record.job in self.jobs
            more = 0 if known else 1  # a later generation takes the place of the one before
            free = known and isinstance(record, Control)
            if not free and self.why_no_room(records + more, size + len(sealed.data)):
                refused[record.job] = None
                continue
            records, size = records + more, size + len(sealed.data)
            taken.append(sealed)
        return taken, refused

    def _tell_full(self, sender: PeerId) -> list[Effect]:
        """Once in a life: it stays so, and the log is not to fill with it."""
        if self._full_told:
            return []
        self._full_told = True
        return [Tell("standing.full", NO_ROOM, peer=sender)]

    def _on_held(self, sender: PeerId, message: SyncHeld) -> list[Effect]:
        for key, version in message.items:
            if self.reconciler.version(key) == version:
                self._settle(sender, JobId(key))
        courier = self.couriers.get(sender)
        if courier is not None:
            for key in message.refused:
                courier.settle(JobId(key))
        return []

    def _settle(self, peer: PeerId, job: JobId) -> None:
        """The peer has just what we have, on its disk."""
        if peer in self.couriers:
            self.couriers[peer].settle(job)
            self.confirmed.append((job, peer))

    # ---- time --------------------------------------------------------------------------------

    @property
    def deadline(self) -> float:
        times = [courier.deadline for courier in self.couriers.values()]
        times.append(self._sync_next if self._to_sync else NEVER)
        return min([*times, self._sync_at])

    def on_deadline(self, now: Now) -> list[Effect]:
        if now.mono >= self._sync_at:
            self._sync_at = now.mono + self._sync_period()
            self._asked = {key: asked for key, asked in self._asked.items() if asked[1] > now.mono}
            if self.couriers and len(
                self.reconciler
            ):  # an idle shoal without standing jobs says nothing
                self._sync_soon(self.rng.choice(self.partners(list(self.couriers))))
        return self._push(now)

    def _sync_soon(self, peer: PeerId) -> None:
        self._to_sync[peer] = None

    def _sync_period(self) -> float:
        return self.sync_period_s * (0.75 + 0.5 * self.rng.random())

    def _push(self, now: Now) -> list[Effect]:
        """Send the offers that are due, and open the next exchange."""
        effects: list[Effect] = []
        for peer, courier in self.couriers.items():
            if courier.deadline > now.mono:
                continue
            jobs = courier.take(now.mono, self.config, self.rng)
            if items := self._versions(jobs):
                effects.append(Send(peer, SyncItems(DOMAIN, (), items)))
        if self._to_sync and now.mono >= self._sync_next:
            peer = next(iter(self._to_sync))
            del self._to_sync[peer]
            self._sync_next = now.mono + SYNC_PAUSE_S * (1 + self.rng.random())
            effects.append(Send(peer, self.reconciler.start()))
        return effects


def _key_of(sealed: Sealed) -> JobId:
    """What its item is called."""
    record = sealed.record
    return record.job if isinstance(record, Spec | Control) else name_of(sealed.data)
