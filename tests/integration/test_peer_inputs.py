"""Results of one job as inputs of another, on whatever device that is."""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.lab import Device, Lab, process_job
from tests.leftovers import leftovers

WAIT_S = 120.0


def on(device: Device) -> list[dict[str, Any]]:
    return [{"Key": "shoal/peer", "Operator": "=", "Values": [device.peer]}]


def made(lab: Lab, device: Device, name: str, script: str) -> tuple[str, int]:
    """Digest and size of what a job on this device has left in `out`."""
    paths = {"ResultPaths": [{"Name": "out", "Path": "out"}]}
    spec = process_job("sh", "-c", script, name=name, Constraints=on(device), Task=paths)
    slot = ended(lab, device, spec)
    assert slot["state"] == "completed" and slot["archive"], slot
    return slot["archive"], slot["archive_bytes"]


def user(
    device: Device, name: str, source: tuple[str, int], script: str, **more: Any
) -> dict[str, Any]:
    """A job on this device that has such a result as its input, and is tried once."""
    params = {"Digest": source[0], "Size": source[1]}
    inputs = [{"Source": {"Type": "peer", "Params": params}, "Target": "in"}]
    once = {"Retry": {"Attempts": 1}, **more}
    return process_job(
        "sh",
        "-c",
        script,
        name=name,
        Constraints=on(device),
        Task={"InputSources": inputs},
        **once,
    )


def used(lab: Lab, device: Device, name: str, source: tuple[str, int], script: str) -> Any:
    return ended(lab, lab[0], user(device, name, source, script))


def ended(lab: Lab, device: Device, spec: dict[str, Any]) -> dict[str, Any]:
    with device.client() as client:
        job = client.submit(spec)["job"]
    return over(lab, device, job)


def over(lab: Lab, device: Device, job: str) -> dict[str, Any]:
    """Its one slot, at its end."""
    with device.client() as client:
        ends = ("completed", "failed")
        lab.until(lambda: client.job(job)["state"] in ends, f"{job} ended", WAIT_S)
        (slot,) = client.job(job)["slots"]
    return dict(slot)


def test_a_result_on_another_device_is_fetched_from_there(lab: Lab) -> None:
    source = made(lab, lab[1], "peer-made", "mkdir out; echo made > out/file")
    assert not (lab[2].data_dir / "results" / source[0]).exists()
    slot = used(lab, lab[2], "peer-used", source, "cat in/out/file")
    assert (slot["state"], slot["stdout_tail"]) == ("completed", "made\n"), slot
    kept = lab[2].data_dir / "results" / source[0]
    assert hashlib.sha256(kept.read_bytes()).hexdigest() == source[0]
    lab.until(lambda: not leftovers(lab), "nothing is left behind")


def test_as_much_as_a_device_keeps_of_a_result_can_be_an_input(lab: Lab) -> None:
    source = made(lab, lab[1], "peer-large", "mkdir out; truncate -s 900M out/hole")
    slot = used(lab, lab[2], "peer-large-used", source, "stat -c %s in/out/hole")
    assert (slot["state"], slot["stdout_tail"]) == ("completed", f"{900 << 20}\n"), slot
    lab.until(lambda: not leftovers(lab), "nothing is left behind")


def test_a_holder_that_has_something_else_by_now_is_told_of_and_nothing_is_left(
    lab: Lab, tmp_path: Path
) -> None:
    source = made(lab, lab[1], "peer-spoilt", "mkdir out; echo spoilt > out/file")
    kept = lab[1].data_dir / "results" / source[0]
    data = bytearray(kept.read_bytes())
    data[-1] ^= 1  # as a card that fails
    kept.write_bytes(data)
    slot = used(lab, lab[2], "peer-spoilt-used", source, "true")
    assert slot["state"] == "failed"
    assert "sent other bytes than the digest names" in slot["reason"], slot
    described = lab.shoal(lab[0], "job", "describe", "peer-spoilt-used", "--json").out
    assert "sent other bytes" in json.loads(described)["slots"][0]["reason"]
    kept.unlink()
    lab.until(lambda: not leftovers(lab), "nothing is left behind")


def test_where_nobody_has_it_the_reason_says_how_many_were_asked(lab: Lab) -> None:
    slot = used(lab, lab[2], "peer-nowhere", ("cd" * 32, 100), "true")
    assert slot["state"] == "failed"
    assert re.search(r"none of \d devices has them: .*is not here", slot["reason"]), slot


# ---- whoever has it is lost midway -------------------------------------------------------------

SIZE_BYTES = 64 << 20  # more than what is under way between two agents
HELD_BYTES = 4 << 20
RANDOM = f"mkdir out; head -c {SIZE_BYTES} /dev/urandom | tee out/file | sha256sum > out/digest"
CHECKED = "sha256sum < in/out/file | cmp - in/out/digest && echo whole"


@contextmanager
def lost_midway(lab: Lab, spec: dict[str, Any], digest: str) -> Iterator[tuple[str, Device]]:
    """Whoever the third device fetches a job's input from dies in the middle of it; the job's id,
    and who that was, which runs again afterwards."""
    with lab[2].client() as client:
        job = str(client.submit(spec)["job"])
    lab.until(lambda: arrived(lab[2]) > 0, "it comes", WAIT_S)
    lab.freeze(lab[2])
    try:
        assert 0 < arrived(lab[2]) < SIZE_BYTES - HELD_BYTES
        (sender,) = (device for device in lab.devices[:2] if sends(device, digest))
        lab.kill(sender)
    finally:
        lab.thaw(lab[2])
    try:
        yield job, sender
    finally:
        if sender.process is None:
            lab.start(sender)


def arrived(device: Device) -> int:
    """Bytes of what is being fetched."""
    return sum(path.stat().st_size for path in (device.data_dir / "results").glob("*.part"))


def sends(device: Device, digest: str) -> bool:
    """Whether it has that archive open."""
    opened = list(Path(f"/proc/{device.pid}/fd").iterdir())
    return any(os.path.realpath(each).endswith(f"/results/{digest}") for each in opened)


def test_an_input_whose_device_is_lost_as_it_is_fetched_is_told_of_and_no_part_is_left(
    lab: Lab,
) -> None:
    source = made(lab, lab[1], "peer-lost", RANDOM)
    spec = user(lab[2], "peer-lost-used", source, CHECKED)
    with lost_midway(lab, spec, source[0]) as (job, sender):
        assert sender is lab[1]
        slot = over(lab, lab[2], job)
        assert (slot["state"], slot["exit_code"]) == ("failed", None), slot
        reason = f"the files ({source[0][:12]}) could not be fetched: none of "
        assert reason in slot["reason"] and f"{lab[1].peer[-8:]}: " in slot["reason"], slot
        assert slot["reason"] in lab.shoal(lab[0], "job", "describe", job).out
        lab.until(lambda: not leftovers(lab), "nothing is left behind")
        assert not (lab[2].data_dir / "results" / source[0]).exists()


def test_an_input_whose_device_is_lost_as_it_is_fetched_comes_once_that_is_back(lab: Lab) -> None:
    source = made(lab, lab[1], "peer-back", RANDOM)
    again = {"Retry": {"Attempts": 20, "Backoff": "1s"}}
    spec = user(lab[2], "peer-back-used", source, CHECKED, **again)
    with lost_midway(lab, spec, source[0]) as (job, sender):
        with lab[2].client() as client:
            lab.until(lambda: client.job(job)["slots"][0]["attempt"] > 1, "it is tried again")
        lab.start(sender)
        slot = over(lab, lab[2], job)
    assert (slot["state"], slot["stdout_tail"]) == ("completed", "whole\n"), slot
    lab.until(lambda: not leftovers(lab), "nothing is left behind")


def test_an_input_whose_device_is_lost_as_it_is_fetched_comes_from_another_that_has_it(
    lab: Lab,
) -> None:
    source = made(lab, lab[1], "peer-twice", RANDOM)
    first = used(lab, lab[0], "peer-twice-here", source, CHECKED)
    assert first["stdout_tail"] == "whole\n", first
    spec = user(lab[2], "peer-twice-used", source, CHECKED)
    with lost_midway(lab, spec, source[0]) as (job, _):
        slot = over(lab, lab[2], job)
        assert (slot["state"], slot["stdout_tail"]) == ("completed", "whole\n"), slot
        assert slot["attempt"] == 1
    lab.until(lambda: not leftovers(lab), "nothing is left behind")
