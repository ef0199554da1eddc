"""What the devices of one run share."""

from random import Random

from protocol.sim.run import build
from protocol.sim.trace import Trace


def test_devices_are_found_by_number_and_by_peer() -> None:
    world = build("lab", 5, Random(1), Trace())
    assert [device.index for device in world.devices] == [0, 1, 2, 3, 4]
    assert all(world.by_peer[device.peer] is device for device in world.devices)
    assert world.network.ports == world.devices


def test_what_happens_goes_into_the_trace() -> None:
    lines: list[str] = []
    world = build("lab", 2, Random(1), Trace(lines.append))
    before = world.trace.digest
    world.note(1, "power", "the power is cut")
    assert lines == ["    0.0000    1 the power is cut"]
    assert world.trace.digest != before
