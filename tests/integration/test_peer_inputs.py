"""Results of one job as inputs of another, on whatever device that is."""

from __future__ import annotations

import hashlib
import json
import re
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


def used(lab: Lab, device: Device, name: str, source: tuple[str, int], script: str) -> Any:
    params = {"Digest": source[0], "Size": source[1]}
    inputs = [{"Source": {"Type": "peer", "Params": params}, "Target": "in"}]
    task = {"InputSources": inputs}
    spec = process_job(
        "sh", "-c", script, name=name, Constraints=on(device), Task=task, Retry={"Attempts": 1}
    )
    return ended(lab, lab[0], spec)


def ended(lab: Lab, device: Device, spec: dict[str, Any]) -> dict[str, Any]:
    with device.client() as client:
        job = client.submit(spec)["job"]
        over = ("completed", "failed")
        lab.until(lambda: client.job(job)["state"] in over, f"{spec['Name']} ended", WAIT_S)
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
