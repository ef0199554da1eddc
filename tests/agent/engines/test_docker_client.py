"""docker_client: docker's moments and names, and what its SDK raises, in our own words.

What it does with a docker is in tests/integration/test_docker_client.py.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import docker.errors
import pytest
import requests.exceptions
import urllib3.exceptions
from hypothesis import given
from hypothesis import strategies as st

from agent.engines import docker_client
from agent.engines.docker_client import (
    EngineFailed,
    NotAnswering,
    NotThere,
    moment_ns,
)

SECOND = 1_000_000_000
DIGEST = "sha256:" + "ab" * 32


# ---- moments -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "moment"),
    [
        ("1970-01-01T00:00:00Z", 0),
        ("1970-01-01T00:00:01Z", SECOND),
        ("1970-01-01T00:00:00.000000001Z", 1),
        ("1970-01-01T00:00:00.5Z", SECOND // 2),
        ("1970-01-01T00:00:00.123456789Z", 123_456_789),
        ("2026-02-03T04:05:06.7Z", 1_770_091_506 * SECOND + 700_000_000),
        ("2026-02-03T05:05:06.7+01:00", 1_770_091_506 * SECOND + 700_000_000),
        ("2026-02-02T22:35:06.7-05:30", 1_770_091_506 * SECOND + 700_000_000),
        ("2024-02-29T00:00:00Z", 1_709_164_800 * SECOND),
    ],
)
def test_a_moment_is_nanoseconds_since_1970(text: str, moment: int) -> None:
    assert moment_ns(text) == moment


@pytest.mark.parametrize("text", ["0001-01-01T00:00:00Z", "0001-01-01T00:00:00+01:00"])
def test_not_yet_is_zero(text: str) -> None:
    assert moment_ns(text) == 0


def test_before_1970_is_zero() -> None:
    assert moment_ns("1969-12-31T23:59:59.9Z") == 0


@pytest.mark.parametrize(
    "text",
    [
        "",
        "now",
        "2026-02-03",
        "2026-02-03 04:05:06Z",
        "2026-02-03T04:05:06",
        "2026-02-03T04:05:06.Z",
        "2026-02-03T04:05:06.1234567890Z",
        "2026-02-03T04:05:06.5+0100",
        " 2026-02-03T04:05:06Z",
    ],
)
def test_what_is_no_moment_is_zero(text: str) -> None:
    assert moment_ns(text) == 0


@given(st.integers(0, 200 * 365 * 86400), st.integers(0, SECOND - 1), st.integers(-720, 840))
def test_every_moment_docker_writes_is_read_exactly(
    seconds: int, fraction_ns: int, offset_min: int
) -> None:
    local = datetime(1970, 1, 1, tzinfo=UTC) + timedelta(seconds=seconds, minutes=offset_min)
    sign = "-" if offset_min < 0 else "+"
    zone = f"{sign}{abs(offset_min) // 60:02d}:{abs(offset_min) % 60:02d}"
    text = f"{local:%Y-%m-%dT%H:%M:%S}.{fraction_ns:09d}{zone}"
    assert moment_ns(text) == seconds * SECOND + fraction_ns


# ---- names -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("image", "parts"),
    [
        ("busybox", ("busybox", "latest")),
        ("busybox:1.37.0", ("busybox", "1.37.0")),
        ("ghcr.io/owner/name", ("ghcr.io/owner/name", "latest")),
        ("ghcr.io/owner/name:v1", ("ghcr.io/owner/name", "v1")),
        ("localhost:5000/name", ("localhost:5000/name", "latest")),
        ("localhost:5000/a/b:v1", ("localhost:5000/a/b", "v1")),
        (f"busybox@{DIGEST}", ("busybox", DIGEST)),
        (f"localhost:5000/name@{DIGEST}", ("localhost:5000/name", DIGEST)),
        (f"busybox:1.37.0@{DIGEST}", ("busybox:1.37.0", DIGEST)),
    ],
)
def test_a_name_is_taken_apart_as_the_sdk_has_it(image: str, parts: tuple[str, str]) -> None:
    assert docker_client._split(image) == parts


@pytest.mark.parametrize(
    ("log", "found"),
    [
        ({"Type": "local", "Config": {"max-size": "2097152", "max-file": "5"}}, 8 << 20),
        ({"Type": "local", "Config": {"max-size": "4194304", "max-file": "2"}}, 4 << 20),
        ({"Type": "json-file", "Config": {"max-size": "2097152", "max-file": "5"}}, 0),
        ({"Type": "k8s-file", "Config": None}, 0),
        ({"Type": "local", "Config": {"max-size": "20m"}}, 0),
        ({}, 0),
    ],
)
def test_how_much_output_docker_keeps_is_known_of_containers_as_ours(
    log: dict[str, object], found: int
) -> None:
    assert docker_client._kept_bytes(log) == found


# ---- errors ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("raised", "kind", "sentence"),
    [
        (docker.errors.NotFound("x", explanation="No such container: a"), NotThere,
         "No such container: a"),
        (docker.errors.ImageNotFound("x", explanation="No such image"), NotThere, "No such image"),
        (docker.errors.APIError("x", explanation="conflict"), EngineFailed, "conflict"),
        (docker.errors.APIError("only this"), EngineFailed, "only this"),
        (requests.exceptions.ReadTimeout("x"), NotAnswering, "docker did not answer within 60 s"),
        (requests.exceptions.ConnectionError("refused"), NotAnswering,
         "docker cannot be reached: refused"),
        (docker.errors.DockerException("bad version"), NotAnswering,
         "docker cannot be reached: bad version"),
        (urllib3.exceptions.ProtocolError("it broke"), NotAnswering,
         "docker cannot be reached: it broke"),
        (docker.errors.StreamParseError("half a line"), NotAnswering,
         "what docker says cannot be read: half a line"),
        (EOFError("it ends within a line"), NotAnswering,
         "what docker says cannot be read: it ends within a line"),
    ],
)  # fmt: skip
def test_what_the_sdk_raises_is_one_of_three_with_a_sentence(
    raised: Exception, kind: type[EngineFailed], sentence: str
) -> None:
    with pytest.raises(EngineFailed) as caught, docker_client._told():
        raise raised
    assert (type(caught.value), str(caught.value)) == (kind, sentence)


def test_sentences_are_bounded() -> None:
    with pytest.raises(EngineFailed) as caught, docker_client._told():
        raise docker.errors.APIError("x", explanation="y" * 5000)
    assert str(caught.value) == "y" * 400


def test_our_own_bugs_are_not_docker_s() -> None:
    with pytest.raises(ZeroDivisionError), docker_client._told():
        raise ZeroDivisionError


@pytest.mark.parametrize(
    "text", ["2026-13-01T00:00:00Z", "2026-02-30T00:00:00Z", "2026-01-01T00:00:00+99:00"]
)
def test_a_moment_that_does_not_exist_is_zero(text: str) -> None:
    """In a damaged log.stdout it is a ValueError out of read_kept."""
    assert moment_ns(text) == 0
