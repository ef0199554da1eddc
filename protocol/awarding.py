"""Awarding: the awards that a coordinator writes, each with a fence above all before, and sends."""

from __future__ import annotations

from dataclasses import dataclass

from protocol.catalogue import Catalogue
from protocol.clock import Now
from protocol.config import AuctionConfig, CoordinationConfig
from protocol.effects import Effect, Send, Tell
from protocol.fleet import Fleet
from protocol.heldjob import Slot
from protocol.ids import PeerId
from protocol.led import Confirmation, Led, Phase
from protocol.messages import Award, Withdraw
from protocol.pins import home_of, kept_of
from protocol.records import Assignment, Fence, Keyring
from protocol.story import Attempt, Stories
from protocol.wire import seal

AWARDS_PER_MESSAGE = 16  # of 3 KiB at most, beside a spec of 66: a frame is 128


@dataclass(slots=True)
class Awarding:
    """Writes, sends and takes back the awards of slots. To whom they go is decided elsewhere."""

    keyring: Keyring
    auction_config: AuctionConfig
    config: CoordinationConfig
    catalogue: Catalogue
    fleet: Fleet
    stories: Stories

    def assign(self, led: Led, index: int, peer: PeerId, now: Now) -> list[Effect]:
        """Write the award of one slot; an older executor of it is told that it is superseded."""
        slot, plan = led.held.slots[index], led.plans[index]
        before = slot.assignment
        attempt = before.fence.attempt + 1 if before is not None else 1
        home = home_of(led.held, slot, plan, self.fleet.name)
        names = tuple(volume.name for volume in led.held.job.task.volumes)
        assert home in (None, peer), (led.held.id, index, home, peer)
        assignment = Assignment(
            job=led.held.id,
            revision=led.held.revision,
            slot=index,
            fence=Fence(led.held.term, self.keyring.peer, attempt),
            executor=peer,
            lease_ms=int(self.config.lease_s * 1000),
            failures=plan.failures,
            volumes=names,
            fresh=bool(names) and home is None,
            kept=kept_of(slot, plan, names),
            untaken=plan.untaken,
        )
        taken = slot.offer_assignment(assignment, seal(assignment, self.keyring))
        assert taken, (led.held.id, index, before, assignment)
        plan.phase, plan.repeated, plan.late = Phase.OFFERED, False, False
        plan.ports, plan.doing = (), ""
        plan.silent.pop(peer, None)
        plan.boot = self.fleet.boot(peer)
        plan.offered, plan.due = now.mono, now.mono + self.auction_config.accept_s / 2
        self.stories.of(led.held.id).add_attempt(
            Attempt(
                led.held.execution_of(slot),
                index,
                peer,
                assignment.fence.term,
                attempt,
                "awarded",
                now.wall_ms,
            )
        )
        name = self.fleet.name(peer)
        place = f" slot {index}" if len(led.plans) > 1 else ""
        effects: list[Effect] = [
            Tell(
                "job.awarded",
                f"awarded{place} to {name}",
                led.held.id,
                peer,
                {"slot": index, "name": name, "execution": led.held.execution_of(slot)},
            )
        ]
        if before is not None and before.executor not in (peer, plan.leaving):
            effects.append(self.withdraw(slot, before.executor, "superseded by a later award"))
        return effects

    def send(self, led: Led, peer: PeerId, auction: int, slots: list[int]) -> list[Effect]:
        held = led.held
        return [
            Send(
                peer,
                Award(
                    auction,
                    tuple(
                        held.slots[slot].assignment_data
                        for slot in slots[at : at + AWARDS_PER_MESSAGE]
                    ),
                    held.spec_data,
                    held.control_data,
                    held.holders,
                ),
            )
            for at in range(0, len(slots), AWARDS_PER_MESSAGE)
        ]

    def once_known(self, led: Led, awards: list[Effect], now: Now) -> list[Effect]:
        """Where volumes begin to exist, or exist, a successor has to know it: the award waits until
        a standby has it on disk, as far as one answers before the award would be repeated."""
        if not awards or not led.held.job.task.volumes:
            return awards
        version, due = self.catalogue.version(led.held), now.mono + self.auction_config.accept_s / 2
        others = [peer for peer in led.held.holders if peer != self.keyring.peer]
        alone = not any(self.fleet.reachable(peer) for peer in others)
        if alone or self.catalogue.replicated(led.held, version):
            return awards
        led.confirmations.append(Confirmation(version, due, awards))
        return []

    def withdraw(self, slot: Slot, executor: PeerId, reason: str) -> Send:
        assert slot.assignment is not None
        assignment = slot.assignment
        return Send(executor, Withdraw(assignment.job, slot.index, assignment.fence, reason))

    def stop(self, led: Led, index: int, reason: str) -> list[Effect]:
        """Tell the slot's executor, if there may be one, to stop."""
        slot, plan = led.held.slots[index], led.plans[index]
        if slot.assignment is None or plan.phase is Phase.DONE:
            return []
        fence = slot.assignment.fence
        above = Fence(led.held.term, self.keyring.peer, fence.attempt + 1)
        above = max(above, Fence(fence.term, fence.coordinator, fence.attempt + 1))
        withdraw = Withdraw(led.held.id, index, above, reason)
        return [Send(slot.assignment.executor, withdraw)]
