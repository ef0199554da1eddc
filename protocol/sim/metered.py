"""Metered links of a run: which devices are leaves, with two neighbours and no gossip."""

from __future__ import annotations

from dataclasses import replace
from random import Random

from protocol.config import MembershipConfig
from protocol.sim.world import World


def put_on_metered_links(world: World, leaves: int, rng: Random) -> None:
    """So many of the devices, of all there are at most."""
    metered = MembershipConfig.preset("metered")
    for device in rng.sample(world.devices, min(leaves, len(world.devices))):
        device.config = replace(device.config, membership=metered)
