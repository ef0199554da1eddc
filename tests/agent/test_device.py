"""The device: labels, offer and facts of whatever these tests run on, and of a made-up one."""

from __future__ import annotations

from pathlib import Path

import psutil
import pytest

from agent import device
from agent.config import Config, Offer
from agent.device import Device, cpus, found_labels, power, temperature_mc


def described(path: Path, invited: dict[str, str] | None = None, **settings: object) -> Device:
    config = Config(data_dir=path, **settings)  # type: ignore[arg-type]
    return Device(config, invited or {}, lambda: ("/ip4/192.0.2.1/tcp/4747",))


def test_it_offers_the_share_that_its_owner_set(tmp_path: Path) -> None:
    offer = Offer(cpu="50%", memory="100Mi", disk="1Mi")
    said = described(tmp_path, offer=offer).describe()
    assert said.cpu_m == cpus() * 500
    assert (said.memory_bytes, said.disk_bytes) == (100 << 20, 1 << 20)
    assert said.addresses == ("/ip4/192.0.2.1/tcp/4747",)


def test_the_offer_of_disk_does_not_change_with_what_is_written(tmp_path: Path) -> None:
    it = described(tmp_path)
    before = it.describe()
    (tmp_path / "big").write_bytes(bytes(20 << 20))
    assert it.describe() == before


def test_labels_of_the_owner_come_over_those_of_the_invite_and_those_found(tmp_path: Path) -> None:
    invited = {"floor": "top", "room": "attic", "os": "invited"}
    labels = described(tmp_path, invited, labels={"room": "kitchen"}).describe().labels
    assert labels["floor"] == "top" and labels["room"] == "kitchen" and labels["os"] == "invited"
    assert labels["cpus"] == str(cpus())


def test_the_labels_found_can_be_asked_for() -> None:
    labels = found_labels()
    assert labels["os"] == "linux" and labels["arch"] in ("amd64", "arm64", "arm")
    assert int(labels["memory"]) == psutil.virtual_memory().total >> 20
    assert all(len(value) <= 63 for value in labels.values())


def test_facts_are_of_now(tmp_path: Path) -> None:
    facts = described(tmp_path).facts(3)
    assert facts.running == 3
    assert 0 <= facts.cpu_free_m <= cpus() * 1000
    assert 0 < facts.memory_free_bytes <= psutil.virtual_memory().total
    assert facts.disk_free_bytes > 0 and facts.load_permille >= 0


@pytest.fixture
def sysfs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name, folder in (("_ZONES", "thermal"), ("_SUPPLIES", "power_supply")):
        (tmp_path / folder).mkdir()
        monkeypatch.setattr(device, name, tmp_path / folder)
    return tmp_path


def put(root: Path, **files: str) -> None:
    root.mkdir(parents=True)
    for name, text in files.items():
        (root / name).write_text(text)


def test_what_a_device_cannot_tell_is_minus_one(sysfs: Path) -> None:
    assert temperature_mc() == -1
    assert power() == (-1, -1)


def test_the_hottest_zone_counts(sysfs: Path) -> None:
    put(sysfs / "thermal/thermal_zone0", temp="41000\n")
    put(sysfs / "thermal/thermal_zone1", temp="63500\n")
    put(sysfs / "thermal/thermal_zone2", temp="broken\n")
    put(sysfs / "thermal/cooling_device0", temp="99000\n")
    assert temperature_mc() == 63_500


def test_battery_and_mains(sysfs: Path) -> None:
    put(sysfs / "power_supply/AC", type="Mains\n", online="0\n")
    put(sysfs / "power_supply/BAT0", type="Battery\n", capacity="57\n")
    assert power() == (57, 0)
    put(sysfs / "power_supply/usb", type="USB\n", online="1\n")
    assert power() == (57, 1)
