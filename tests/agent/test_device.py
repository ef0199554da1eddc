"""The device: labels, offer and facts of whatever these tests run on, and of a made-up one."""

from __future__ import annotations

import logging
import time
from pathlib import Path

import psutil
import pytest

from agent.archives import Archives
from agent.clock import utc_offset_s
from agent.conditions import Conditions
from agent.config import S3 as Settings
from agent.config import Config, Offer
from agent.device import Device
from agent.engines.presence import Presence
from agent.engines.wasm import Wasm
from agent.hardware import Hardware
from agent.s3 import S3

CPUS = Hardware().cpus()


def here(path: Path) -> tuple[Presence, Archives, Wasm, S3]:
    presence, archives = Presence(path / "docker.sock"), Archives(path / "archives")
    return presence, archives, Wasm(path / "wasm", None), S3(Settings())


def described(path: Path, invited: dict[str, str] | None = None, **settings: object) -> Device:
    config = Config(data_dir=path, **settings)  # type: ignore[arg-type]
    addresses = ("/ip4/192.0.2.1/tcp/4747",)
    return Device(
        config, invited or {}, lambda: addresses, Conditions(path), Hardware(path), *here(path)
    )


def test_it_offers_the_share_that_its_owner_set(tmp_path: Path) -> None:
    offer = Offer(cpu="50%", memory="100Mi", disk="1Mi")
    said = described(tmp_path, offer=offer).describe()
    assert said.cpu_m == CPUS * 500
    assert (said.memory_bytes, said.disk_bytes) == (100 << 20, 1 << 20)
    assert said.addresses == ("/ip4/192.0.2.1/tcp/4747",)


def test_the_offer_of_disk_does_not_change_with_what_is_written(tmp_path: Path) -> None:
    it = described(tmp_path)
    before = it.describe()
    (tmp_path / "big").write_bytes(bytes(20 << 20))
    assert it.describe() == before


def test_labels_come_from_the_hardware_the_invite_the_owner_and_what_was_set_live(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING)
    (tmp_path / "conditions.json").write_text('{"labels": {"camera": "yes"}}')
    invited = {"floor": "top", "room": "attic", "gpu": "big", "os": "plan9"}
    it = described(tmp_path, invited, labels={"room": "kitchen"})
    labels = it.describe().labels
    assert (labels["floor"], labels["room"], labels["camera"]) == ("top", "kitchen", "yes")
    assert labels["cpus"] == str(CPUS) and labels["os"] == "linux" and "gpu" not in labels
    assert it.labels()["camera"].source == "set"
    assert "labels that are too many or the agent's own: gpu, os" in caplog.text


async def test_what_changes_is_described_anew(tmp_path: Path) -> None:
    conditions = Conditions(tmp_path)
    it = Device(
        Config(data_dir=tmp_path), {}, lambda: (), conditions, Hardware(tmp_path), *here(tmp_path)
    )
    before = it.describe()
    assert before == it.describe() and not before.draining
    await conditions.change({"room": "attic"}, [])
    await conditions.drain(True)
    (tmp_path / "dev").mkdir()
    (tmp_path / "dev/ttyUSB0").touch()
    after = it.describe()
    assert after.draining and set(after.labels) - set(before.labels) == {"room", "device.ttyUSB0"}


def test_engines_and_their_labels_are_those_that_are_here(tmp_path: Path) -> None:
    presence, archives, wasm, s3 = here(tmp_path)
    it = Device(
        Config(data_dir=tmp_path),
        {},
        lambda: (),
        Conditions(tmp_path),
        Hardware(tmp_path),
        presence,
        archives,
        wasm,
        s3,
    )
    assert it.describe().engines == ("process",)
    assert "engine.wasm" not in it.labels()
    presence.present, wasm.version = True, "50.0"
    said = it.describe()
    assert said.engines == ("process", "docker", "wasm")
    assert said.labels["engine.wasm"] == "true"
    assert said.labels["storage.s3"] == "true"
    s3.present = False
    assert "storage.s3" not in it.labels()


def test_facts_are_of_now(tmp_path: Path) -> None:
    facts = described(tmp_path).facts(3)
    assert facts.running == 3
    assert 0 <= facts.cpu_free_m <= CPUS * 1000
    assert 0 < facts.memory_free_bytes <= psutil.virtual_memory().total
    assert facts.disk_free_bytes > 0 and facts.load_permille >= 0
    assert (facts.temperature_mc, facts.battery_percent, facts.mains) == (-1, -1, -1)


def test_a_sample_says_why_nothing_more_is_to_be_published(tmp_path: Path) -> None:
    it = described(tmp_path)
    assert it.sample(0).backlog == ""
    it.backlog = lambda: "much waits"
    assert it.sample(0).backlog == "much waits"


def test_a_sample_says_that_the_disk_is_full(tmp_path: Path) -> None:
    it = described(tmp_path)
    assert it.sample(0).disk_full is False
    it.disk_full = lambda: True
    assert it.sample(0).disk_full is True


def test_a_sample_knows_what_time_it_is_here(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TZ", "Shoal-05:30")
    time.tzset()
    try:
        assert described(tmp_path).sample(0).utc_offset_s == utc_offset_s() == 19_800
    finally:
        monkeypatch.undo()
        time.tzset()
