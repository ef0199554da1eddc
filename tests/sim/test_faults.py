"""Fault scripts: drawn from a seed, carried out, and taken back in the end."""

from random import Random

from protocol.sim.faults import HEAL_S, Faults, Script
from protocol.sim.network import Conditions
from protocol.sim.run import build
from protocol.sim.trace import Trace


def test_some_runs_are_clean_and_every_family_comes_up() -> None:
    drawn = [Faults.draw(Random(f"seed {seed}")) for seed in range(300)]
    clean = sum(faults.clean for faults in drawn)
    assert 30 < clean < 120
    families = {name for faults in drawn for name in faults.text.split(", ")}
    assert families == {
        "clean",
        "loss",
        "duplication",
        "reordering",
        "garbage",
        "crashes",
        "power cuts",
        "burials",
        "freezes",
        "partitions",
        "one-way cuts",
        "slow peers",
        "clock skew",
        "failed saves",
        "failed starts",
        "a lost database",
        "rogues",
        "NATs",
        "metered links",
        "a broker",
        "its outages",
    }


def test_the_same_seed_draws_the_same() -> None:
    assert Faults.draw(Random("x")) == Faults.draw(Random("x"))


def test_whatever_goes_wrong_is_whole_again_in_the_end() -> None:
    faults = Faults(
        conditions=Conditions(loss=0.1),
        crashes=5,
        power_cuts=3,
        burials=1,
        freezes=3,
        partitions=3,
        deaf=3,
        slow=2,
        skew_s=5.0,
        drift=0.01,
        untrusted=True,
        save_failures=0.01,
        start_failures=0.1,
        moods=6,
    )
    lines: list[str] = []
    world = build("lab", 8, Random(1), Trace(lines.append))
    Script(world, faults, Random(2)).schedule()
    world.heap.run(HEAL_S + 5.0)
    buried = [device for device in world.devices if device.buried]
    assert len(buried) == 1
    world.heap.run(HEAL_S + 20.0)
    for device in world.devices:
        assert not device.described.draining and device.described.labels["zone"] != "lost"
        assert device.responsive == (not device.buried)
        assert device.slowness == 0.0
        for other in world.devices:
            assert world.network.passes(device.index, other.index)
    assert world.network.conditions == Conditions()
    assert world.save_failures == world.start_failures == 0.0
    text = "\n".join(lines)
    for happened in ("killed", "power is cut", "SIGSTOP", "SIGCONT", "directions are cut"):
        assert happened in text
    assert len({device.clocks.rate for device in world.devices}) > 1
