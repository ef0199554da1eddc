"""Pins: which device has the volumes of a slot, and so is the only one where the slot may run.

The award itself says it: the executor of the latest one has the volumes that it names. It counts
from the award on, and not from its answer: an executor that does not answer may have begun.
"""

from __future__ import annotations

from collections.abc import Callable

from protocol.bounds import KEPT_MAX
from protocol.heldjob import HeldJob, Slot
from protocol.ids import PeerId
from protocol.led import Led, Phase, Plan
from protocol.records import Assignment
from protocol.volumes import lost_on


def home_of(
    held: HeldJob, slot: Slot, plan: Plan, name_of: Callable[[PeerId], str]
) -> PeerId | None:
    """Who has the slot's volumes; None where it may begin anywhere, with empty ones."""
    award, wanted = slot.assignment, held.job.task.volumes
    if award is None:
        return None
    home = award.executor if _began(award, plan) else None
    if home is None or not any(volume.name in award.volumes for volume in wanted):
        names = [volume.name for volume in wanted]  # a volume of another name is another one
        home = next((peer for name, peer in award.kept if name in names), None)
    if home is None or said_lost(held, home, name_of):
        return None
    return home


def kept_of(slot: Slot, plan: Plan, names: tuple[str, ...]) -> tuple[tuple[str, PeerId], ...]:
    """What an award of `names` has to remember of the one before: an update may be gone back from,
    and what it left out is then looked for where it is."""
    before = slot.assignment
    if before is None:
        return ()
    found = dict(before.kept)
    if _began(before, plan):
        found |= dict.fromkeys(before.volumes, before.executor)
    return tuple((name, peer) for name, peer in found.items() if name not in names)[-KEPT_MAX:]


def _began(award: Assignment, plan: Plan) -> bool:
    """Whether its volumes exist, for all that is known."""
    return not (award.fresh and plan.untouched == award.fence)


def homes_of(led: Led, name_of: Callable[[PeerId], str]) -> dict[int, PeerId]:
    """By slot, of those that are to run and have one."""
    if not led.held.job.task.volumes:
        return {}
    found = {}
    for slot, plan in led.pairs():
        if plan.phase is Phase.DONE:
            continue
        home = home_of(led.held, slot, plan, name_of)
        if home is not None:
            found[slot.index] = home
    return found


def group_of(led: Led, waiting: list[int], homes: dict[int, PeerId]) -> list[int]:
    """Of the slots that wait, those that one round is about: all that go to the same device, or all
    that go anywhere. The one that has waited the longest comes first."""
    if not homes or not waiting:
        return waiting
    first = min(waiting, key=lambda index: (led.plans[index].due, index))
    return [index for index in waiting if homes.get(index) == homes.get(first)]


def said_lost(held: HeldJob, peer: PeerId, name_of: Callable[[PeerId], str]) -> bool:
    """Whether a person said that what the job kept there is lost."""
    return lost_on(held.job.task.volumes, peer, name_of(peer))


def volumes_named(held: HeldJob) -> str:
    """For people."""
    names = [volume.name for volume in held.job.task.volumes]
    return f"volume {names[0]}" if len(names) == 1 else f"volumes {', '.join(names)}"


def away(held: HeldJob, names: str) -> str:
    """Why nobody is asked, and the way out."""
    text = f"it has {names}, and is away"
    if held.service:
        return f"{text}; if it is gone for good, say so in the job file: Without: [its name]"
    return f"{text}; if it is gone for good, stop the job and run it again"
