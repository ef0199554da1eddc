"""NATs of a run: which devices stand behind one, and whom all start from."""

from __future__ import annotations

from random import Random
from typing import Final

from protocol.sim.world import World

PUBLIC_MIN: Final = 3  # one may go dark for good and another be down, and a way is left


def put_behind(world: World, nats: int, rng: Random) -> None:
    """Two devices in three go behind one of so many NATs; the others stay public.

    Everybody is configured with addresses of public ones: those of others lead nowhere.
    """
    devices = list(world.devices)
    rng.shuffle(devices)
    split = max(PUBLIC_MIN, len(devices) // 3)
    public, private = devices[:split], devices[split:]
    for device in private:
        world.network.behind[device.index] = rng.randint(1, nats)
    for device in devices:
        others = [other.index for other in public if other is not device]
        device.bootstrap = tuple(rng.sample(others, min(2, len(others))))
