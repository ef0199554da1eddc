"""A rogue: a member without `submit` that orders work all the same, past its own node.

It also brings letters that another is said to have written.
"""

from __future__ import annotations

from random import Random

from protocol.ids import job_id, revision_of
from protocol.messages import Accused, Award, JobSync, Letter, Relayed, SlotState, SyncRecords
from protocol.records import Assignment, Control, Desired, Fence, Role, Spec
from protocol.relay import CONTEXT
from protocol.sim.device import Device
from protocol.sim.faults import FIRST_S, HEAL_S
from protocol.sim.keepers import draw_daemon
from protocol.sim.people import draw_spec
from protocol.sim.world import World
from protocol.standing import DOMAIN
from protocol.standingjob import KIND
from protocol.wire import encode_message, encode_record, seal


def schedule_rogue(world: World, rng: Random) -> None:
    """Let one member without `submit` misbehave once, where there is one."""
    weak = [device for device in world.devices if not _may_submit(device)]
    if weak:
        rogue, victim = rng.choice(weak), rng.choice(world.devices)
        world.heap.at(rng.uniform(FIRST_S, HEAL_S), _order, world, rogue, victim, rng)


def _may_submit(device: Device) -> bool:
    return device.keyring.issued is not None and device.keyring.issued.holds(Role.SUBMIT)


def _order(world: World, rogue: Device, victim: Device, rng: Random) -> None:
    """Give the victim a job of the rogue's own to hold and a slot of it to run."""
    if not world.network.stands(rogue.index, victim.index):
        return
    keyring, key = rogue.keyring, f"rogue-{rng.getrandbits(32)}"
    job = job_id(keyring.shoal, "default", "one-off", key)
    spec = Spec(
        job=job,
        shoal=keyring.shoal,
        namespace="default",
        kind="one-off",
        key=key,
        generation=1,
        body=draw_spec(0, rng).encode(),
    )
    assignment = Assignment(
        job=job,
        revision=revision_of(encode_record(spec)),
        slot=0,
        fence=Fence(1, keyring.peer, 1),
        executor=victim.peer,
        lease_ms=15_000,
    )
    sealed, award = seal(spec, keyring), seal(assignment, keyring)
    holders = (keyring.peer, victim.peer)
    slots = (SlotState(0, award),)
    for message in (
        Award(1, (award,), sealed, b"", holders),
        JobSync(1, job, sealed, b"", 1, keyring.peer, 0, slots, holders, b"x" * 12),
        JobSync(2, job, sealed, b"", 1, victim.peer, 0, (), holders, b"x" * 12),
        SyncRecords(DOMAIN, (_daemon(rogue, rng),)),
        SyncRecords(DOMAIN, (_stop(rogue, rng),)),
    ):
        world.network.send(rogue.index, victim.index, encode_message(message))
    _forge(world, rogue, victim)


def _forge(world: World, rogue: Device, victim: Device) -> None:
    """Bring a letter of a third one, which the rogue has signed in its place."""
    third = world.devices[(victim.index + 1) % len(world.devices)]
    if third is rogue or rogue.node is None:
        return
    number = 1 << 40  # above all that were ever written
    frame = encode_message(Accused(0))
    letter = Letter(third.peer, victim.peer, rogue.peer, 1 << 20, 1 << 20, number, frame)
    body = encode_message(letter)
    signature = rogue.keyring.sign(CONTEXT + body)
    for certificate in (b"", third.keyring.certificate):
        forged = encode_message(Relayed(body, signature, certificate))
        world.network.send(rogue.index, victim.index, forged)


def _daemon(rogue: Device, rng: Random) -> bytes:
    """The next generation of everybody's first daemon, by somebody who may author none."""
    keyring, name = rogue.keyring, "daemon-0"
    spec = Spec(
        job=job_id(keyring.shoal, "default", KIND, name),
        shoal=keyring.shoal,
        namespace="default",
        kind=KIND,
        key=name,
        generation=rng.randint(1, 20),
        body=draw_daemon(name, 99, rng).encode(),
    )
    return seal(spec, keyring)


def _stop(rogue: Device, rng: Random) -> bytes:
    keyring, name = rogue.keyring, "daemon-0"
    control = Control(
        job=job_id(keyring.shoal, "default", KIND, name),
        shoal=keyring.shoal,
        number=rng.randint(1, 20),
        desired=Desired.DELETED,
        generation=20,
        namespace="default",
        created_ms=0,
        key=name,
    )
    return seal(control, keyring)
