"""Quantities: every spelling Bacalhau takes, exactly, and nothing that only looks like one."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol.quantities import (
    format_cpu,
    format_duration,
    format_size,
    parse_count,
    parse_cpu_m,
    parse_duration_s,
    parse_size_bytes,
)
from protocol.tree import Scalar


@pytest.mark.parametrize(
    ("written", "cpu_m"),
    [
        ("500m", 500),
        ("0.5", 500),
        (".5", 500),
        ("1.", 1000),
        (0.1, 100),
        (2, 2000),
        ("2", 2000),
        (" 100 m ", 100),
        ("100M", 100),
        ("0.0001", 1),  # rounded up
        ("1.5m", 2),
        (1e300, 10**303),  # the range is the reader's
    ],
)
def test_cpu_is_read_in_cores_and_millicores(written: Scalar, cpu_m: int) -> None:
    assert parse_cpu_m(written) == cpu_m


@pytest.mark.parametrize(
    ("written", "size"),
    [
        (0, 0),
        (4096, 4096),
        (1e9, 10**9),
        ("12", 12),
        ("12b", 12),
        ("64Mb", 64_000_000),
        ("100MB", 100_000_000),
        ("1GB", 10**9),
        ("1g", 10**9),
        ("64Mi", 64 * 1024**2),
        ("64MiB", 64 * 1024**2),
        ("1.5Gi", 1536 * 1024**2),
        ("1.5 gib", 1536 * 1024**2),
        ("2k", 2000),
        ("2Ki", 2048),
        ("1t", 10**12),
        ("1Pi", 1024**5),
        ("0.1b", 1),  # rounded up
    ],
)
def test_sizes_are_read_as_go_humanize_reads_them(written: Scalar, size: int) -> None:
    assert parse_size_bytes(written) == size


@pytest.mark.parametrize(
    ("written", "seconds"),
    [
        (0, 0),
        (90, 90),
        ("90", 90),
        (90.0, 90),
        ("90s", 90),
        ("15m", 900),
        ("1h30m", 5400),
        ("1.5h", 5400),
        ("2d", 172800),
        ("1000ms", 1),
        (" 5s ", 5),
    ],
)
def test_durations_are_read_in_seconds_and_in_words(written: Scalar, seconds: int) -> None:
    assert parse_duration_s(written) == seconds


@pytest.mark.parametrize("written", ["1", 1, 1.0])
def test_counts_may_be_strings(written: Scalar) -> None:
    assert parse_count(written) == 1


@pytest.mark.parametrize("parse", [parse_cpu_m, parse_size_bytes, parse_count, parse_duration_s])
@pytest.mark.parametrize(
    "written",
    [
        "",
        "-1",
        -1,
        -0.5,
        True,
        float("nan"),
        float("inf"),
        "nan",
        "1e9",
        "1,000",
        "one",
        "1 2",
        "²",
        "٣",  # a digit to str.isdigit, not to us
        "9" * 33,
        "1x",
        "12XB",
        "m",
        ".",
    ],
)
def test_what_is_no_quantity_is_refused_with_what_is_allowed(parse, written) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(ValueError, match=r"is not a .*; allowed: "):
        parse(written)


@pytest.mark.parametrize("written", ["500ms", "0.5s", 0.5])
def test_durations_finer_than_a_second_are_refused(written: Scalar) -> None:
    with pytest.raises(ValueError, match="not in whole seconds"):
        parse_duration_s(written)


def test_half_a_device_and_a_minute_of_devices_are_refused() -> None:
    for written in (0.5, "0.5", "1m"):
        with pytest.raises(ValueError, match="is not a count"):
            parse_count(written)


def test_the_error_shows_the_value_and_the_forms() -> None:
    with pytest.raises(ValueError) as caught:
        parse_size_bytes("12XB")
    assert str(caught.value) == (
        "'12XB' is not a size; allowed: bytes, or a number with Kb, Mb, Gb, Tb (of 1000) "
        "or Ki, Mi, Gi, Ti (of 1024), e.g. 64Mb, 1.5Gi"
    )


@given(st.integers(0, 2**60))
def test_formatted_quantities_read_back(n: int) -> None:
    assert parse_size_bytes(format_size(n)) == n
    assert parse_duration_s(format_duration(n)) == n
    assert parse_cpu_m(format_cpu(n)) == n


def test_people_see_the_largest_unit_that_is_exact() -> None:
    assert [format_size(n) for n in (0, 1000, 1024, 64 * 1024**2)] == ["0", "1000", "1Ki", "64Mi"]
    assert [format_duration(n) for n in (0, 90, 900, 172800)] == ["0s", "90s", "15m", "2d"]
    assert [format_cpu(n) for n in (0, 100, 2000)] == ["0", "100m", "2"]


@given(st.text(max_size=40) | st.floats() | st.integers())
def test_no_scalar_raises_anything_but_a_value_error(written: Scalar) -> None:
    for parse in (parse_cpu_m, parse_size_bytes, parse_count, parse_duration_s):
        try:
            assert parse(written) >= 0
        except ValueError as error:
            assert "allowed: " in str(error)
