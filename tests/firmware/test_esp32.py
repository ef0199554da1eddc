"""main.c on a board that exists only here: what it publishes, and keeps when nobody answers.

host/ has stand-ins for the functions of ESP-IDF that it calls, with their signatures.
"""

from __future__ import annotations

import os
import re
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.firmware.bridge import value_of
from tests.firmware.pages import block
from tests.firmware.test_reading import MAIN, checked

HOST = Path(__file__).parent / "host"
SOURCES = [MAIN / "main.c", MAIN / "reading.c", MAIN / "sht4x.c", HOST / "board.c"]
SETTINGS = {
    "device": "porch",
    "ssid": "home",
    "wifi_password": "of-the-network",
    "uri": "mqtts://broker.home:8883",
    "password": "of-this-device",
    "ca": "CA",
}
ANSWER = (checked(0x6000) + checked(0x8000)).hex()
PERIOD_MS = 600_000
WAITING_MAX = 48


@dataclass(frozen=True)
class Published:
    topic: str
    qos: str
    retain: str
    id: str
    content_type: str
    payload: bytes

    @property
    def value(self) -> Any:
        return value_of(self.payload, self.content_type)


class Board:
    """One sensor's flash and memory over its wakings."""

    def __init__(self, program: Path, root: Path) -> None:
        self.program = program
        self.root = root
        self.now_ms = 1000
        self.said: list[str] = []
        self.errors = ""
        for key, value in SETTINGS.items():
            (root / f"sensor.{key}").write_text(value)

    def wake(
        self, takes: int = 100, *, wifi: bool = True, broker: bool = True, **more: str
    ) -> list[Published]:
        """One waking; what it published."""
        environment = {
            "BOARD": str(self.root),
            "BOARD_NOW_MS": str(self.now_ms),
            "BOARD_SENSOR": ANSWER,
            "BOARD_WIFI": str(int(wifi)),
            "BOARD_BROKER": str(int(broker)),
            "BOARD_TAKES": str(takes),
            **more,
        }
        run = subprocess.run(
            [self.program], check=False, env=environment, capture_output=True, text=True, timeout=60
        )
        assert run.returncode == 0, run.stderr
        self.said, self.errors = run.stdout.splitlines(), run.stderr
        assert self.said[-1].startswith("sleep "), self.said
        self.now_ms += PERIOD_MS
        lines = [line.split()[1:] for line in self.said if line.startswith("publish ")]
        return [Published(*line[:5], bytes.fromhex(line[5])) for line in lines]

    def cut_power(self) -> None:
        (self.root / "rtc").unlink()
        self.now_ms = 1000

    @property
    def boot(self) -> int:
        return int((self.root / "count.boot").read_text())

    @property
    def awake_us(self) -> int:
        return int(self.said[-1].split()[-1])


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("esp32") / "board"
    flags = ["-std=gnu17", "-Wall", "-Wextra", "-Werror", "-fsanitize=address,undefined"]
    command = [
        *("gcc", *flags, "-fno-sanitize-recover=all", "-Dgettimeofday=board_gettimeofday"),
        *(f"-I{HOST}", f"-I{MAIN}", "-o", str(path), *map(str, SOURCES)),
    ]
    built = subprocess.run(command, check=False, capture_output=True, text=True)
    assert built.returncode == 0, built.stderr
    return path


@pytest.fixture
def board(program: Path, tmp_path: Path) -> Board:
    return Board(program, tmp_path)


def test_a_reading_goes_out_as_the_page_says(board: Board) -> None:
    [sent] = board.wake()
    assert (sent.topic, sent.qos, sent.retain) == ("sensors/porch/reading", "1", "0")
    assert sent.id == sent.value["id"] == f"porch-{board.boot}-1"
    assert sent.content_type == "application/cbor"
    assert sent.value == {
        "id": sent.id, "seq": 1, "age_ms": 0, "temperature_mC": 20626, "humidity_permille": 565,
    }  # fmt: skip
    assert board.said[-2] == "goodbye"


def test_it_logs_in_under_its_own_name_and_knows_the_broker(board: Board) -> None:
    board.wake()
    assert "wifi home of-the-network" in board.said
    assert "client mqtts://broker.home:8883 porch porch of-this-device CA" in board.said


def test_ids_go_on_over_sleep_and_the_boot_is_written_once(board: Board) -> None:
    sent = [board.wake()[0].id for _ in range(3)]
    assert sent == [f"porch-{board.boot}-{seq}" for seq in (1, 2, 3)]
    assert "commit" not in board.said


def test_a_power_cut_begins_a_new_boot(board: Board) -> None:
    first = board.wake()[0].id
    boot = board.boot
    board.cut_power()
    assert board.wake()[0].id == f"porch-{boot + 1}-1" != first


def test_an_erased_flash_does_not_begin_at_one(board: Board) -> None:
    board.wake()
    assert board.boot > 1_000_000


def test_what_is_not_acknowledged_comes_again_under_its_id(board: Board) -> None:
    [lost] = board.wake(takes=0)
    assert board.awake_us == 20_000_000  # no longer, whatever does not come
    board.wake()
    again, new = board.wake()[:2]
    assert again.id == lost.id
    assert again.value == {**lost.value, "age_ms": 2 * PERIOD_MS}
    assert new.value["seq"] == 2


def test_what_was_acknowledged_does_not_come_again(board: Board) -> None:
    board.wake(wifi=False)
    board.wake(wifi=False)
    assert [each.value["seq"] for each in board.wake(takes=1)] == [1, 2]
    kept = [each.value["seq"] for _ in range(9) for each in board.wake()]
    assert kept == list(range(2, 13))


def test_a_refusal_is_no_acknowledgement(board: Board) -> None:
    [refused] = board.wake(BOARD_REASON="87")
    board.wake()
    assert board.wake()[0].id == refused.id


@pytest.mark.parametrize("missing", [{"wifi": False}, {"broker": False}, {"takes": 0}])
def test_it_tries_ever_more_seldom_where_nobody_answers(
    board: Board, missing: dict[str, Any]
) -> None:
    tried = []
    for waking in range(1, 150):
        board.wake(**missing)
        if any(line.startswith("wifi ") for line in board.said):
            tried.append(waking)
        assert board.awake_us <= 20_000_000
    assert tried == [1, 3, 7, 15, 31, 63, 95, 127]


def test_of_too_many_the_oldest_are_lost_and_the_gap_shows(board: Board) -> None:
    for _ in range(100):
        board.wake(wifi=False)
    sent: list[Published] = []
    while not sent:
        sent = board.wake()
    seqs = [each.value["seq"] for each in sent]
    assert seqs == list(range(seqs[-1] - WAITING_MAX + 1, seqs[-1] + 1))


def test_a_broken_sensor_is_told_and_no_value_made_up(board: Board) -> None:
    [sent] = board.wake(BOARD_SENSOR="ff" * 6)
    assert sent.value == {"id": sent.id, "seq": 1, "age_ms": 0}
    assert "the sensor does not answer" in board.errors


@pytest.mark.parametrize("key", sorted(SETTINGS))
def test_without_a_setting_it_says_which_and_sleeps(board: Board, key: str) -> None:
    (board.root / f"sensor.{key}").unlink()
    assert board.wake() == []
    assert f"no {key} in the settings" in board.errors


@pytest.mark.parametrize("device", ["a/b", "+", "x" * 24 + "y"])
def test_a_name_that_is_none_is_not_used(board: Board, device: str) -> None:
    (board.root / "sensor.device").write_text(device)
    assert board.wake() == []
    assert "device" in board.errors


def test_without_tls_no_authority_is_given(board: Board) -> None:
    (board.root / "sensor.uri").write_text("mqtt://192.168.1.5")
    board.wake()
    assert "client mqtt://192.168.1.5 porch porch of-this-device -" in board.said


def test_the_settings_in_the_page_are_those_that_are_read() -> None:
    rows = [line.split(",") for line in block("provisioning.md", "csv").splitlines()]
    assert rows[0] == ["key", "type", "encoding", "value"]
    assert rows[1] == ["sensor", "namespace", "", ""]
    assert {row[0] for row in rows[2:]} == set(SETTINGS)
    read = re.findall(r'read_text\(nvs, "(\w+)"', (MAIN / "main.c").read_text())
    assert set(read) == set(SETTINGS)
    assert all(len(key) <= 15 for key in read)  # NVS_KEY_NAME_MAX_SIZE, with the zero 16


def test_the_build_knows_all_sources() -> None:
    listed = set(re.findall(r'"(\w+\.c)"', (MAIN / "CMakeLists.txt").read_text()))
    assert listed == {path.name for path in MAIN.glob("*.c")}
    assert os.path.exists(MAIN.parent / "sdkconfig.defaults")
