"""The jobs this peer holds: saved, merged with other holders' copies, and brought to them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field

from protocol.clock import NEVER, Now
from protocol.config import CoordinationConfig
from protocol.effects import Bucket, Effect, Save, Send
from protocol.errors import RemoteProtocolError, UnreadableSpec
from protocol.heldjob import HOLDERS_MAX, HeldJob, Merged, saved_slot
from protocol.heldservice import HeldService, created
from protocol.ids import JobId, PeerId
from protocol.messages import JobDigests, JobSync, JobSyncAck, JobWant, SlotState
from protocol.records import Keyring
from protocol.replication import Replica
from protocol.unread import Unread

DIGESTS_PER_MESSAGE = 500
SPEC_BYTES_MAX = 64 * 1024 * 1024  # of all specs together (DESIGN 12)


@dataclass(slots=True)
class Catalogue:
    """One writer of job records; whoever changes a HeldJob tells `changed` in the same call."""

    keyring: Keyring
    config: CoordinationConfig
    reachable: Callable[[PeerId], bool]
    jobs: dict[JobId, HeldJob] = field(default_factory=dict)
    merged: list[tuple[HeldJob, Merged]] = field(default_factory=list)  # drained by the node
    acked: list[tuple[JobId, PeerId]] = field(default_factory=list)  # drained by the node
    unread: dict[JobId, None] = field(default_factory=dict)  # on disk, and nothing this can read
    _spec_bytes: int = 0
    _versions: dict[JobId, int] = field(default_factory=dict)
    _replicas: dict[JobId, dict[PeerId, Replica]] = field(default_factory=dict)
    _pending: dict[tuple[JobId, PeerId], Replica] = field(default_factory=dict)
    seq: int = 0  # of the latest sync; begins anywhere, so that no life takes another's acks

    # ---- what the disk held ------------------------------------------------------------------

    def restore(self, disk: Mapping[Bucket, Mapping[str, bytes]]) -> list[Unread]:
        """Rebuild all jobs; returns the rows of those that could not be read."""
        slots: dict[str, list[SlotState]] = {}
        unreadable: list[Unread] = []
        for key in sorted(disk.get("slot", {})):
            job, _, index = key.partition("/")
            try:
                slots.setdefault(job, []).append(saved_slot(disk["slot"][key], int(index)))
            except (RemoteProtocolError, ValueError) as error:
                unreadable.append(Unread("slot", key, str(error)))
        for key in sorted(disk.get("job", {})):
            try:
                service = disk.get("service", {}).get(key)
                held = (HeldJob if service is None else HeldService).restore(
                    disk["spec"][key],
                    disk["job"][key],
                    disk.get("control", {}).get(key, b""),
                    slots.get(key, []),
                    self.keyring,
                )
                if isinstance(held, HeldService) and service is not None:
                    held.recall(service, self.keyring)
            except (RemoteProtocolError, KeyError, ValueError) as error:
                why = "its spec is not there" if isinstance(error, KeyError) else str(error)
                unreadable.append(Unread("job", key, why))
                self.unread[JobId(key)] = None
                continue
            self._hold(held)
        return unreadable

    def _hold(self, held: HeldJob) -> None:
        self.jobs[held.id] = held
        self._versions[held.id] = 0
        self._spec_bytes += len(held.spec.body)

    @property
    def full(self) -> bool:
        """Whether it holds as many jobs, or bytes of them, as it may (DESIGN 12)."""
        return len(self.jobs) >= self.config.jobs_max or self._spec_bytes >= SPEC_BYTES_MAX

    # ---- our own changes ---------------------------------------------------------------------

    def add(self, held: HeldJob, now: Now) -> list[Effect]:
        """Hold a new job: save it, and send it to the other holders."""
        self._hold(held)
        return self.changed(held, held.slots.indices, now)

    def changed(
        self, held: HeldJob, slots: list[int], now: Now, head: bool = True, wait_s: float = 0.0
    ) -> list[Effect]:
        """Save what changed and send it to the other holders, within `wait_s`.

        The first that can be reached is who is waited for; the others may hear a little later.
        """
        self._versions[held.id] += 1
        rows = [*(held.head_rows() if head else []), *held.slot_rows(slots)]
        effects: list[Effect] = [Save(tuple(rows))]
        first = True
        for peer in self._copies(held):
            wait = wait_s if first else max(wait_s, self.config.second_wait_s)
            self._replica(held, peer).touch(slots, head, now.mono + wait)
            first = first and not self.reachable(peer)
        return effects + self._push(held, now)

    def forget(self, held: HeldJob) -> list[Effect]:
        del self.jobs[held.id]
        self._spec_bytes -= len(held.spec.body)
        del self._versions[held.id]
        for peer in self._replicas.pop(held.id, {}):
            self._pending.pop((held.id, peer), None)
        return [Save(tuple(held.forget_rows()))]

    def version(self, held: HeldJob) -> int:
        """Counts the changes of a job in this life; see `replicated`."""
        return self._versions[held.id]

    def replicated(self, held: HeldJob, version: int) -> int:
        """How many other holders are known to have `version` on disk."""
        replicas = self._replicas.get(held.id, {})
        return sum(1 for replica in replicas.values() if replica.acked >= version)

    # ---- messages ----------------------------------------------------------------------------

    def on_sync(self, sender: PeerId, sync: JobSync, now: Now) -> list[Effect]:
        """Merge another holder's copy, save it, acknowledge it. Raises RemoteProtocolError."""
        held = self.jobs.get(sync.job)
        if held is None and not sync.spec:
            return [Send(sender, JobSyncAck(sync.seq, sync.job, b"", want_spec=True))]
        if held is None:
            if self.keyring.peer not in sync.holders:
                raise RemoteProtocolError("a job that is not meant for this peer")
            if self.full:
                return []  # not acknowledged: its coordinator picks another standby when we fail it
            coordinator, term = sync.coordinator, sync.term
            try:
                held = created(
                    sync.spec, self.keyring, coordinator, term, sync.accepted_ms, sync.holders
                )
            except UnreadableSpec:
                return []  # of a later version: as above
            merged = held.merge(sync, self.keyring)
            if len(held.slots) >= sync.held:  # of a list the first part may have come, all answered
                held.end(now.wall_ms, fetched=True)
            self._hold(held)
            merged.head, merged.slots = True, held.slots.indices
        else:
            merged = held.merge(sync, self.keyring)
        many = len(held.holders) >= HOLDERS_MAX
        if held.service and many and sender == held.coordinator and sync.holders != held.holders:
            held.holders, merged.head = sync.holders, True  # which has forgotten some
        return self._after_merge(held, merged, sender, sync, now)

    def _after_merge(
        self, held: HeldJob, merged: Merged, sender: PeerId, sync: JobSync, now: Now
    ) -> list[Effect]:
        effects: list[Effect] = []
        merged.ended = len(held.slots) >= sync.held and held.end(now.wall_ms)
        merged.head |= merged.ended
        if merged:
            self._versions[held.id] += 1
            rows = [*(held.head_rows() if merged.head else []), *held.slot_rows(merged.slots)]
            effects.append(Save(tuple(rows)))
            self.merged.append((held, merged))
            self._spread(held, merged, sender, now)
        mine = held.fingerprint()
        if mine == sync.fingerprint:
            self._set(held, sender, Replica.equal(self._versions[held.id]))
        elif (held.id, sender) not in self._pending:
            # It lacks something, which it learns before our acknowledgement; or it has just more
            # parts to send, and then it is compared again a little later.
            replica = self._replica(held, sender)
            replica.differs(held.slots.indices, False, now.mono, self.config)
            if len(sync.slots) == len(held.slots) and replica.unequal == 1:
                replica.next_at = now.mono
            self._pending[(held.id, sender)] = replica
        if sender == self._hub(held) and self._lacks(held, sync):
            self._replica(held, sender).touch([], True, now.mono)
        effects += self._push(held, now)
        return [*effects, Send(sender, JobSyncAck(sync.seq, held.id, mine))]

    def _lacks(self, held: HeldJob, sync: JobSync) -> bool:
        """Whether who sent it does not know a holder, as of two copies that became one (fired
        twice): that one would never hear of the end (seed 3 with triggers)."""
        unknown = any(peer not in sync.holders for peer in held.holders)
        return unknown and len(sync.holders) < HOLDERS_MAX

    def _spread(self, held: HeldJob, merged: Merged, sender: PeerId, now: Now) -> None:
        """The coordinator is the hub: what it learns all holders learn, what others learn, it."""
        hub = self._hub(held)
        copies = self._copies(held) if hub == self.keyring.peer else [hub]
        for peer in copies:
            if peer not in (sender, self.keyring.peer):
                self._replica(held, peer).touch(merged.slots, merged.head, now.mono)

    def _hub(self, held: HeldJob) -> PeerId:
        """The coordinator; once that is out of reach, the first holder that is not."""
        ranked = (held.coordinator, *held.holders)
        here = (peer for peer in ranked if peer == self.keyring.peer or self.reachable(peer))
        return next(here, self.keyring.peer)

    def on_ack(self, sender: PeerId, ack: JobSyncAck, now: Now) -> list[Effect]:
        held = self.jobs.get(ack.job)
        if held is None:
            return []
        replica = self._replicas.get(held.id, {}).get(sender)
        if replica is None:
            return []
        if ack.want_spec:
            if replica.seq and ack.seq == replica.seq and not replica.with_spec:
                replica.again(held.slots.indices, True, now.mono)
            return self._push(held, now)
        if not replica.ack(ack.seq, now.mono):
            return []
        if ack.fingerprint == held.fingerprint():
            replica.unequal = 0
        elif not replica.unsent:
            replica.differs(held.slots.indices, True, now.mono, self.config)
        self._set(held, sender, replica)
        self.acked.append((held.id, sender))
        return self._push(held, now)

    def on_digests(self, sender: PeerId, digests: JobDigests, now: Now) -> list[Effect]:
        """Another holder came back and says what it has: exchange only what differs."""
        effects: list[Effect] = []
        want: list[JobId] = []
        for job, fingerprint in dict(digests.items).items():  # each once, however often listed
            held = self.jobs.get(job)
            if held is None or held.fingerprint() != fingerprint:
                want.append(job)
            if held is None:
                continue
            if held.fingerprint() == fingerprint:
                self._set(held, sender, Replica.equal(self._versions[job]))
                self.acked.append((job, sender))
            else:
                self._replica(held, sender).again(held.slots.indices, False, now.mono)
                self._pending[(job, sender)] = self._replica(held, sender)
                effects += self._push(held, now)
        return [*effects, Send(sender, JobWant(tuple(want)))] if want else effects

    def on_want(self, sender: PeerId, want: JobWant, now: Now) -> list[Effect]:
        effects: list[Effect] = []
        for job in dict.fromkeys(want.jobs):
            held = self.jobs.get(job)
            if held is not None and sender in held.holders:
                replica = self._replica(held, sender)
                replica.again(held.slots.indices, True, now.mono)
                self._pending[(job, sender)] = replica
                effects += self._push(held, now)
        return effects

    def on_peer_back(self, peer: PeerId, now: Now) -> list[Effect]:
        """A peer is reachable again: compare the jobs that both should hold, but for those that
        this connection was made to bring."""
        shared = list(self.shared_with(peer))
        late = [held for held in shared if not self._replica(held, peer).on_its_way(now.mono)]
        return self._compare(peer, late, now)

    def on_peer_gone(self, peer: PeerId, now: Now) -> list[Effect]:
        """A job's hub is gone, perhaps before it had told everybody: the next one compares."""
        mine = [
            held
            for held in self.jobs.values()
            if held.coordinator == peer and self._hub(held) == self.keyring.peer
        ]
        others = {other: None for held in mine for other in self._copies(held)}
        effects: list[Effect] = []
        for other in others:
            if self.reachable(other):
                shared = (held for held in mine if other in self._copies(held))
                effects += self._compare(other, shared, now)
        return effects

    def _compare(self, peer: PeerId, jobs: Iterable[HeldJob], now: Now) -> list[Effect]:
        items: list[tuple[JobId, bytes]] = []
        for held in jobs:
            replica = self._replica(held, peer)
            replica.restart(now.mono + self.config.resend_first_s)
            self._pending[(held.id, peer)] = replica
            items.append((held.id, held.fingerprint()))
        return [
            Send(peer, JobDigests(tuple(items[at : at + DIGESTS_PER_MESSAGE])))
            for at in range(0, len(items), DIGESTS_PER_MESSAGE)
        ]

    def shared_with(self, peer: PeerId) -> Iterator[HeldJob]:
        return (held for held in self.jobs.values() if peer in held.holders)

    # ---- time --------------------------------------------------------------------------------

    @property
    def deadline(self) -> float:
        return min(
            (
                replica.next_at
                for (_, peer), replica in self._pending.items()
                if self.reachable(peer)
            ),
            default=NEVER,
        )

    def on_deadline(self, now: Now) -> list[Effect]:
        due = [
            job
            for (job, peer), replica in self._pending.items()
            if replica.next_at <= now.mono and self.reachable(peer)
        ]
        effects: list[Effect] = []
        for job in dict.fromkeys(due):
            effects += self._push(self.jobs[job], now)
        return effects

    # ---- replicas ----------------------------------------------------------------------------

    def _copies(self, held: HeldJob) -> list[PeerId]:
        """Its holders, and whoever else has shown that it has a copy."""
        peers = dict.fromkeys((*held.holders, *self._replicas.get(held.id, {})))
        return [peer for peer in peers if peer != self.keyring.peer]

    def _replica(self, held: HeldJob, peer: PeerId) -> Replica:
        replicas = self._replicas.setdefault(held.id, {})
        if peer not in replicas:
            replicas[peer] = Replica.empty(held.slots.indices)
        return replicas[peer]

    def _set(self, held: HeldJob, peer: PeerId, replica: Replica) -> None:
        self._replicas.setdefault(held.id, {})[peer] = replica
        if replica.pending:
            self._pending[(held.id, peer)] = replica
        else:
            self._pending.pop((held.id, peer), None)

    def _push(self, held: HeldJob, now: Now) -> list[Effect]:
        """Send to every reachable copy that is kept up to date from here what is due for it.

        Those are all of a coordinator's; a standby leaves its fellows to the coordinator.
        """
        effects: list[Effect] = []
        for peer, replica in self._replicas.get(held.id, {}).items():
            if replica.pending:
                self._pending[(held.id, peer)] = replica
            if not replica.pending or replica.next_at > now.mono or not self.reachable(peer):
                continue
            self.seq += 1
            beside = len(held.control_data) + (len(held.spec_data) if replica.with_spec else 0)
            version = self._versions[held.id]
            slots = replica.take(self.seq, version, now.mono, self.config, held.weigh, beside)
            effects.append(Send(peer, held.sync(self.seq, slots, replica.with_spec)))
        return effects
