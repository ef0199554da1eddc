"""Scenarios: what a run of the simulator is about, each with a name to ask for it.

`mixed` draws a few families of faults together; each of the others holds one kind of bad luck up
to the light, harder than `mixed` would. All keep the same promises at every step, and at the end.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from random import Random
from typing import Final

from protocol.config import CoordinationConfig, NodeConfig
from protocol.sim.faults import Faults
from protocol.sim.network import Conditions

MIXED: Final = "mixed"
YEARS_S: Final = 5 * 365 * 86_400.0


@dataclass(frozen=True, slots=True)
class Scenario:
    name: str
    text: str
    faults: Callable[[Random], Faults]
    peers: int = 0  # zero: as many as asked for
    every: int = 1  # of so many rounds through all scenarios it takes part in one
    boot_s: float = 2.0  # within this all devices are switched on
    volumes: bool = False  # batch jobs and services keep volumes
    config: NodeConfig = field(default_factory=NodeConfig)


def _noisy(rng: Random) -> Faults:
    return Faults(Conditions(loss=0.2, duplicate=0.1, reorder=0.2))


def _parted(rng: Random) -> Faults:
    return Faults(partitions=rng.randint(1, 3), part_s=(60.0, 180.0), heal_s=240.0)


def _flapping(rng: Random) -> Faults:
    return Faults(flaps=rng.randint(4, 10), deaf=rng.randint(0, 2))


def _at_boundaries(rng: Random) -> Faults:
    return Faults(boundaries=rng.randint(8, 16))


def _out_of_time(rng: Random) -> Faults:
    skew = rng.choice((180.0, 3600.0, YEARS_S))
    return Faults(power_cuts=rng.randint(2, 4), skew_s=skew, drift=0.01, forgetful=0.4)


def _slow(rng: Random) -> Faults:
    return Faults(Conditions(delay_s=(0.05, 0.4)), slow=rng.randint(2, 4))


def _natted(rng: Random) -> Faults:
    """Relays are what goes down here; whoever they were between has nothing wrong with it."""
    return Faults(nats=rng.randint(2, 3), crashes=rng.randint(0, 6), power_cuts=rng.randint(0, 3))


def _metered(rng: Random) -> Faults:
    """Half of the shoal or all of it pays for each byte, and some of it goes down."""
    leaves = rng.choice((3, 4, 5, 99))
    return Faults(leaves=leaves, crashes=rng.randint(0, 5), power_cuts=rng.randint(0, 3))


def _broken(rng: Random) -> Faults:
    """A broker that comes and goes under devices that crash, lose power and fail to save."""
    return Faults(
        broker=True,
        outages=rng.randint(1, 6),
        crashes=rng.randint(0, 8),
        power_cuts=rng.randint(0, 4),
        boundaries=rng.randint(0, 8),
        save_failures=rng.choice((0.0, 0.01)),
    )


def _swallowing(rng: Random) -> Faults:
    return Faults(black_holes=0.2, heal_s=90.0)


def _away(rng: Random) -> Faults:
    return Faults(absences=rng.randint(1, 2), heal_s=240.0)


def _restarting(rng: Random) -> Faults:
    return Faults(
        Conditions(loss=rng.choice((0.0, 0.05))),
        crashes=rng.randint(2, 8),
        power_cuts=rng.randint(1, 6),
        freezes=rng.randint(0, 1),
        start_failures=rng.choice((0.0, 0.1)),
    )


def _none(rng: Random) -> Faults:
    return Faults()


_ALL: Final = (
    Scenario(MIXED, "some families of faults together", Faults.draw),
    Scenario("clean", "nothing goes wrong", _none),
    Scenario("noise", "20 % loss, 10 % duplication, reordering", _noisy),
    Scenario("partitions", "10 to 50 % of the shoal cut off for minutes", _parted),
    Scenario("flapping", "links and single directions that come and go", _flapping),
    Scenario("boundaries", "crashes before and after a save, a send, a start", _at_boundaries),
    Scenario("clocks", "off by minutes or years, and back in 1970 at boot", _out_of_time),
    Scenario("slow", "slow links, and some devices that are slower", _slow),
    Scenario(
        "black-holes",
        "a fifth of the devices win and never start",
        _swallowing,
        config=NodeConfig(coordination=CoordinationConfig(start_max_s=15.0)),
    ),
    # However long: what is deleted stays so for ever, and no promise here depends on a clock.
    Scenario("away", "devices that are off while jobs end, are stopped and deleted", _away),
    Scenario("nats", "two in three behind NATs, relays that go down", _natted),
    Scenario("metered", "half of the shoal or all of it on metered links", _metered),
    Scenario(
        "volumes", "slots that keep something, on devices that go down", _restarting, volumes=True
    ),
    Scenario("broker", "results go to a broker that comes and goes", _broken),
    Scenario("crowd", "a hundred devices join within ten seconds", _none, 100, 20, 10.0),
)
SCENARIOS: Final = {scenario.name: scenario for scenario in _ALL}


def scenario_of(seed: int) -> str:
    """Which one a seed is about where none is asked for: half of all are mixed."""
    turn, which = divmod(seed, 2 * (len(_ALL) - 1))
    if which % 2 == 0:
        return MIXED
    scenario = _ALL[1 + which // 2]
    return scenario.name if turn % scenario.every == 0 else MIXED
