"""The hardware: a board as its kernel shows it, from a tree of files in its likeness."""

from __future__ import annotations

import socket
from pathlib import Path

import psutil
import pytest

from agent.hardware import Hardware


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path


def put(directory: Path, **files: str) -> Path:
    directory.mkdir(parents=True, exist_ok=True)
    for name, text in files.items():
        (directory / name).write_text(text)
    return directory


def test_a_board_that_tells_nothing(root: Path) -> None:
    it = Hardware(root)
    assert it.power() == (-1, -1) and it.temperature_mc() == -1
    assert it.devices() == {} and it.gpu() == "" and it.model() == ""
    assert it.docker() is False


def test_processors_and_memory_are_those_of_this_machine(root: Path) -> None:
    assert Hardware(root).memory_bytes() == psutil.virtual_memory().total
    assert 1 <= Hardware(root).cpus() <= (psutil.cpu_count() or 1)


def test_the_model_of_a_single_board_computer(root: Path) -> None:
    put(root / "proc/device-tree", model="Raspberry Pi 4 Model B Rev 1.4\0")
    assert Hardware(root).model() == "Raspberry Pi 4 Model B Rev 1.4"


# ---- heat and power ---------------------------------------------------------------------------


def test_the_hottest_zone_counts(root: Path) -> None:
    thermal = root / "sys/class/thermal"
    put(thermal / "thermal_zone0", temp="41000\n")
    put(thermal / "thermal_zone1", temp="63500\n")
    put(thermal / "thermal_zone2", temp="broken\n")
    put(thermal / "thermal_zone3")
    put(thermal / "cooling_device0", temp="99000\n")
    assert Hardware(root).temperature_mc() == 63_500


def test_battery_and_mains(root: Path) -> None:
    supplies, it = root / "sys/class/power_supply", Hardware(root)
    put(supplies / "AC", type="Mains\n", online="0\n")
    put(supplies / "BAT0", type="Battery\n", capacity="57\n", status="Charging\n")
    assert it.power() == (57, 0), "what the supply itself says comes before what the battery does"
    put(supplies / "usb", type="USB\n", online="1\n")
    assert it.power() == (57, 1)


@pytest.mark.parametrize(
    ("status", "mains"),
    [("Discharging", 0), ("Charging", 1), ("Full", 1), ("Not charging", 1), ("Unknown", -1)],
)
def test_a_board_with_nothing_but_a_battery(root: Path, status: str, mains: int) -> None:
    supply = root / "sys/class/power_supply/bat"
    put(supply, type="Battery\n", capacity="88\n", status=f"{status}\n")
    assert Hardware(root).power() == (88, mains)


def test_the_battery_of_a_mouse_is_not_the_boards(root: Path) -> None:
    supplies = root / "sys/class/power_supply"
    put(supplies / "mouse", type="Battery\n", scope="Device\n", capacity="3\n",
        status="Discharging\n")  # fmt: skip
    assert Hardware(root).power() == (-1, -1)


# ---- devices ----------------------------------------------------------------------------------


def test_device_files_that_tasks_want_are_found_by_name(root: Path) -> None:
    files = ("video0", "video10", "i2c-1", "spidev0.0", "ttyUSB0", "ttyACM3", "gpiochip0")
    others = ("video", "videos1", "tty0", "ttyS0", "i2c-x", "sda", "null", "gpiochip0p1")
    put(root / "dev", **dict.fromkeys((*files, *others), ""))
    assert Hardware(root).devices() == dict.fromkeys(sorted(files), "true")


def test_a_device_has_the_name_that_the_kernel_gives_it(root: Path) -> None:
    put(root / "dev", **dict.fromkeys(("video0", "i2c-1", "gpiochip0", "video1"), ""))
    classes = root / "sys/class"
    put(classes / "video4linux/video0", name="USB Camera: \x1b[31m1080p\n")
    put(classes / "video4linux/video1", name="\n")
    put(classes / "i2c-dev/i2c-1", name="bcm2835 (i2c@7e804000)\n")
    put(classes / "gpio/gpiochip0", label="pinctrl-bcm2711\n")
    assert Hardware(root).devices() == {
        "gpiochip0": "pinctrl-bcm2711",
        "i2c-1": "bcm2835 (i2c@7e804000)",
        "video0": "USB Camera: [31m1080p",
        "video1": "true",
    }


def test_a_device_that_is_plugged_in_later_is_found_then(root: Path) -> None:
    it = Hardware(root)
    put(root / "dev", ttyUSB0="")
    assert list(it.devices()) == ["ttyUSB0"]
    (root / "dev/ttyUSB0").unlink()
    assert it.devices() == {}


def card(root: Path, name: str, vendor: str = "", driver: str = "") -> None:
    device = put(root / "sys/class/drm" / name / "device", **({"vendor": vendor} if vendor else {}))
    if driver:
        (device / "driver").symlink_to(put(root / "sys/bus/drivers" / driver))


def test_a_graphics_core_on_the_chip_is_known_by_its_driver(root: Path) -> None:
    card(root, "card0", driver="vc4-drm")  # shows pictures, computes nothing
    assert Hardware(root).gpu() == ""
    card(root, "renderD128", driver="v3d")
    assert Hardware(root).gpu() == "v3d"


def test_of_several_the_card_is_meant(root: Path) -> None:
    card(root, "renderD128", vendor="0x8086\n")
    assert Hardware(root).gpu() == "intel"
    card(root, "renderD129", vendor="0x1002\n")
    assert Hardware(root).gpu() == "amd"
    card(root, "renderD130", vendor="0xffff\n")
    assert Hardware(root).gpu() == "amd"
    put(root / "dev", nvidia0="")
    assert Hardware(root).gpu() == "nvidia"


def test_nvidias_cards_are_counted_and_its_other_files_are_none(root: Path) -> None:
    assert Hardware(root).gpus() == 0
    (root / "dev").mkdir(exist_ok=True)
    for name in ("nvidia0", "nvidia1", "nvidiactl", "nvidia-uvm"):
        (root / "dev" / name).touch()
    assert Hardware(root).gpus() == 2


# ---- docker -----------------------------------------------------------------------------------


def listening(path: Path, backlog: int = 8) -> socket.socket:
    path.parent.mkdir(parents=True, exist_ok=True)
    server = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    server.bind(str(path))
    server.listen(backlog)
    return server


def test_docker_is_here_while_somebody_listens(root: Path) -> None:
    it = Hardware(root)
    with listening(root / "var/run/docker.sock"):
        assert it.docker()
    assert not it.docker(), "the file is there, and nobody behind it"


def test_docker_may_be_elsewhere(root: Path) -> None:
    with listening(root / "d.sock"):
        assert Hardware(root, docker=root / "d.sock").docker()
        assert not Hardware(root).docker()


def test_a_docker_that_hangs_is_not_waited_for(root: Path) -> None:
    with listening(root / "var/run/docker.sock", backlog=0):
        it, answers = Hardware(root), [True]
        waiting = []
        for _ in range(4):
            client = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            client.setblocking(False)
            waiting.append(client)
            answers.append(client.connect_ex(str(root / "var/run/docker.sock")) == 0)
        assert not answers[-1], "its queue is full"
        assert not it.docker()
        for client in waiting:
            client.close()
