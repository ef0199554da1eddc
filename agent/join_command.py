"""`shoal join`, the part that needs the network: dial the inviter, ask, and save what it gave."""

from __future__ import annotations

import os
from pathlib import Path
from random import Random

import trio

from agent import durable
from agent.clock import Clock
from agent.identity import IdentityKeyring, load_or_create_identity
from agent.join import Joined, JoinError, check_may_join, join, save_joined
from agent.jointoken import JoinToken, read_token
from agent.membership import device_name, name_problem
from protocol.errors import ShoalError

QUEUE = 16  # of events that a joining device has no use for


def join_shoal(
    data_dir: Path, argument: str, *, name: str | None = None, new_identity: bool = False
) -> dict[str, str]:
    """Join by a token, or by a file that holds one; returns shoal, shoal_name, peer and name.

    Raises ShoalError with a sentence for whatever stands in the way.
    """
    return trio.run(join_here, data_dir, argument, name, new_identity)


async def join_here(
    data_dir: Path, argument: str, wanted: str | None, new_identity: bool
) -> dict[str, str]:
    """The same, within a program that runs trio already."""
    name = wanted or device_name(os.uname().nodename)
    if problem := name_problem(name):
        raise JoinError(f"--name: {problem}")
    token = read_token(argument, Clock().now())
    durable.make_directory(data_dir)
    if not new_identity:
        check_may_join(data_dir, token)
    keyring = IdentityKeyring.generate() if new_identity else load_or_create_identity(data_dir)
    joined = await _ask(token, keyring, name)
    save_joined(data_dir, joined, new_identity=new_identity)
    return {
        "shoal": joined.membership.shoal,
        "shoal_name": joined.membership.shoal_name,
        "peer": joined.keyring.peer,
        "name": joined.certificate.name,
    }


async def _ask(token: JoinToken, keyring: IdentityKeyring, name: str) -> Joined:
    """Over a transport that listens nowhere and lives as long as the question."""
    # Loading libp2p takes seconds on a small board; a wrong token is told of without.
    from agent.transport import Transport, TransportEvent, TransportSettings

    send, _receive = trio.open_memory_channel[TransportEvent](QUEUE)
    transport = Transport(keyring, TransportSettings(listen=(), gossip=False), send)
    outcome: list[Joined | ShoalError] = []
    async with trio.open_nursery() as nursery:
        await nursery.start(transport.run)
        try:
            random = Random(os.urandom(16))
            outcome.append(await join(token, keyring, name, transport.dial_for_join, random))
        except ShoalError as error:  # raised below, where no nursery wraps it in a group
            outcome.append(error)
        nursery.cancel_scope.cancel()
    if isinstance(outcome[0], ShoalError):
        raise outcome[0]
    return outcome[0]
