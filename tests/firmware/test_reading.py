"""reading.c and sht4x.c, compiled here: their bytes against cbor2's, and the page's examples."""

from __future__ import annotations

import ctypes
import subprocess
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.firmware.bridge import value_of
from tests.firmware.pages import NOTES, block, bytes_of, shortest

MAIN = NOTES / "esp32" / "main"
WARNINGS = ("-Wall", "-Wextra", "-Werror", "-pedantic")
ABSENT = -(2**31)
BYTES_MAX = 160
MEASURED = ("battery_mV", "temperature_mC", "humidity_permille")
whole = st.integers(0, 2**32 - 1)
measured = st.integers(ABSENT, 2**31 - 1)
devices = st.text("abzABZ019-_", min_size=1, max_size=24)


class Reading(ctypes.Structure):
    _fields_ = (
        ("boot", ctypes.c_uint32),
        ("seq", ctypes.c_uint32),
        ("taken_ms", ctypes.c_int64),
        ("temperature_mC", ctypes.c_int32),
        ("humidity_permille", ctypes.c_int32),
        ("battery_mV", ctypes.c_int32),
    )


class Portable:
    """The two portable files as a shared library."""

    def __init__(self, path: Path) -> None:
        files = [str(MAIN / name) for name in ("reading.c", "sht4x.c")]
        command = ["gcc", "-std=c11", *WARNINGS, "-shared", "-fPIC", "-o", str(path), *files]
        built = subprocess.run(command, check=False, capture_output=True, text=True)
        assert built.returncode == 0, built.stderr
        self._library = ctypes.CDLL(str(path))
        self._library.reading_id.restype = ctypes.c_size_t
        self._library.reading_cbor.restype = ctypes.c_size_t

    def cbor(self, reading: Reading, device: bytes, now_ms: int, size: int = BYTES_MAX) -> bytes:
        out = ctypes.create_string_buffer(BYTES_MAX + 16)
        arguments = (ctypes.byref(reading), device, ctypes.c_int64(now_ms), out)
        length = self._library.reading_cbor(*arguments, ctypes.c_size_t(size))
        assert out.raw[size:] == bytes(len(out) - size), "written past the end"
        return out.raw[:length]

    def id(self, reading: Reading, device: bytes, size: int) -> bytes:
        out = ctypes.create_string_buffer(64)
        length = self._library.reading_id(ctypes.byref(reading), device, out, ctypes.c_size_t(size))
        return out.raw[:length]

    def climate(self, answer: bytes) -> tuple[int, int] | None:
        temperature, humidity = ctypes.c_int32(), ctypes.c_int32()
        places = (ctypes.byref(temperature), ctypes.byref(humidity))
        self._library.sht4x_read.restype = ctypes.c_bool
        good = self._library.sht4x_read(answer, *places)
        return (temperature.value, humidity.value) if good else None


@pytest.fixture(scope="module")
def portable(tmp_path_factory: pytest.TempPathFactory) -> Portable:
    return Portable(tmp_path_factory.mktemp("portable") / "reading.so")


def checked(word: int) -> bytes:
    """A word of the sensor with its checksum (CRC-8, 0x31, from 0xFF)."""
    crc = 0xFF
    for byte in word.to_bytes(2, "big"):
        crc ^= byte
        for _ in range(8):
            crc = (crc << 1 ^ 0x131) if crc & 0x80 else crc << 1
    return word.to_bytes(2, "big") + bytes([crc])


@pytest.mark.parametrize("name", ["reading", "frost", "broken"])
def test_the_bytes_are_those_in_the_page(portable: Portable, name: str) -> None:
    value = value_of(block("sensors.md", "json", name).encode(), "application/json")
    values = {key: value.get(key, ABSENT) for key in MEASURED}
    made = portable.cbor(
        Reading(12, value["seq"], 5000, **values), b"porch", 5000 + value["age_ms"]
    )
    assert made == bytes_of(block("sensors.md", "hex", name))


@given(whole, whole, st.integers(0, 2**53), st.integers(0, 2**53), measured, measured, devices)
def test_any_reading_is_what_cbor2_makes_of_it(
    portable: Portable,
    boot: int,
    seq: int,
    taken_ms: int,
    now_ms: int,
    temperature: int,
    battery: int,
    device: str,
) -> None:
    reading = Reading(boot, seq, taken_ms, temperature, ABSENT, battery)
    expected: dict[str, Any] = {
        "id": f"{device}-{boot}-{seq}",
        "seq": seq,
        "age_ms": max(0, now_ms - taken_ms),
    }
    for key, value in (("battery_mV", battery), ("temperature_mC", temperature)):
        if value != ABSENT:
            expected[key] = value
    assert portable.cbor(reading, device.encode(), now_ms) == shortest(expected)


def test_the_longest_reading_fits_and_less_room_gives_nothing(portable: Portable) -> None:
    most = 2**32 - 1
    reading = Reading(most, most, 0, ABSENT + 1, ABSENT + 1, ABSENT + 1)
    longest = portable.cbor(reading, b"d" * 24, 2**63 - 1)
    assert value_of(longest, "application/cbor")["id"] == f"{'d' * 24}-{most}-{most}"
    for size in range(len(longest)):
        assert portable.cbor(reading, b"d" * 24, 2**63 - 1, size) == b""
    assert portable.cbor(reading, b"d" * 24, 2**63 - 1, len(longest)) == longest


def test_an_id_has_its_zero_or_is_none(portable: Portable) -> None:
    reading = Reading(12, 345)
    assert portable.id(reading, b"porch", 13) == b"porch-12-345"
    assert portable.id(reading, b"porch", 12) == b""


@pytest.mark.parametrize("device", [b"", b"d" * 25, b"a/b", b"+", b"#", b'a"', b"\xc3\xa4"])
def test_a_name_that_is_none_makes_no_reading(portable: Portable, device: bytes) -> None:
    assert portable.cbor(Reading(1, 1), device, 0) == b""


def test_the_checksum_is_that_of_the_data_sheet(portable: Portable) -> None:
    assert checked(0xBEEF) == b"\xbe\xef\x92"
    assert portable.climate(b"\xbe\xef\x92\xbe\xef\x92") is not None
    assert portable.climate(b"\xbe\xef\x93\xbe\xef\x92") is None
    assert portable.climate(b"\xbe\xef\x92\xbe\xee\x92") is None
    assert portable.climate(b"\xff" * 6) is None  # a line that nobody holds


@given(st.integers(0, 65535), st.integers(0, 65535))
def test_values_are_those_of_the_data_sheet(
    portable: Portable, temperature: int, humidity: int
) -> None:
    found = portable.climate(checked(temperature) + checked(humidity))
    assert found is not None
    assert abs(found[0] - 1000 * (-45 + 175 * temperature / 65535)) < 1
    assert abs(found[1] - min(max(10 * (-6 + 125 * humidity / 65535), 0), 1000)) < 1
