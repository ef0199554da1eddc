"""A device on a metered link: alive to all, works like any other, and says hardly anything."""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest

from tests.lab import Device, Lab, alive_at, process_job

IDLE_S = 20.0
FRAMES_MAX = 8  # in that time: an exchange with each anchor, and a comparison with one
QUIET_S = 150.0  # within which a connection that nobody keeps is closed


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    """Three as usual, and the last one metered."""
    made = Lab(4)
    made[3].flags = ["--preset", "metered", "--label", "link=metered"]
    with made:
        yield made


def connected(device: Device) -> int:
    with device.client() as client:
        return sum(bool(peer["connected"]) for peer in client.peers() if not peer["self"])


def counted(device: Device) -> dict[str, int]:
    with device.client() as client:
        counters: dict[str, int] = client.status()["counters"]
        return counters


def test_it_is_alive_to_all_and_keeps_two_connections(lab: Lab) -> None:
    wanted = {device.peer for device in lab.devices}
    assert all(wanted <= set(alive_at(device)) for device in lab.devices)
    lab.until(lambda: connected(lab[3]) == 2, "its connections to others are closed", QUIET_S)
    assert connected(lab[0]) >= 2, "the others are connected to one another"


def test_it_says_hardly_anything(lab: Lab) -> None:
    lab.until(lambda: connected(lab[3]) == 2, "nobody else is connected to it", QUIET_S)
    before, usual = counted(lab[3]), counted(lab[0])
    time.sleep(IDLE_S)
    after, then = counted(lab[3]), counted(lab[0])
    assert after["frames_out"] - before["frames_out"] <= FRAMES_MAX
    assert after["bytes_out"] - before["bytes_out"] < 1000
    assert then["frames_out"] - usual["frames_out"] > 2 * FRAMES_MAX, "the others do talk"


def test_it_runs_a_job_that_others_submit_and_the_result_comes_back(lab: Lab) -> None:
    words = ("run", "--constraint", "link=metered", "--", "sh", "-c", "echo on $SHOAL_PEER_ID")
    for device in lab.devices[:3]:
        done = lab.shoal(device, *words)
        assert (done.code, done.out) == (0, f"on {lab[3].peer}\n"), done


def test_a_job_submitted_there_runs_elsewhere(lab: Lab) -> None:
    words = ("run", "--constraint", "link!=metered", "--", "sh", "-c", "echo on $SHOAL_PEER_ID")
    done = lab.shoal(lab[3], *words)
    assert done.code == 0 and done.out.removeprefix("on ").strip() in {
        d.peer for d in lab.devices[:3]
    }


def test_a_command_on_every_device_reaches_it(lab: Lab) -> None:
    done = lab.shoal(lab[0], "exec", "--where", "link=metered", "--", "echo", "here")
    assert done.code == 0 and "here" in done.out, done


def test_a_daemon_starts_there_at_once(lab: Lab) -> None:
    spec = {**process_job("/bin/sleep", "600", name="metering"), "Type": "daemon"}
    del spec["Count"]
    with lab[0].client() as client, lab[3].client() as its:
        client.submit(spec)

        def runs() -> bool:
            return any(event["kind"] == "daemon.started" for event in its.events())

        lab.until(runs, "it runs on the metered device", 60)


def test_its_death_by_kill_is_known_at_once(lab: Lab) -> None:
    lab.kill(lab[3])
    for device in lab.devices[:3]:
        lab.until(lambda d=device: lab[3].peer not in alive_at(d), "it is known to be dead", 60)
    lab.start(lab[3])
    wanted = {device.peer for device in lab.devices}
    lab.until(lambda: all(wanted <= set(alive_at(d)) for d in lab.devices), "it is back", 60.0)
