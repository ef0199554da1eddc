"""Files that brokers' settings name: who can read them, and until when they are good."""

from __future__ import annotations

import datetime
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from agent.mqtt.brokerfiles import DAY_MS, file_checks, readable_by_others
from agent.mqtt.settings import BrokerSettings

NOW_MS = 1_790_000_000_000


def certificate(good_days: float) -> bytes:
    """One that signs itself and is good for so many days from NOW_MS on."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "attic")])
    end = datetime.datetime.fromtimestamp(NOW_MS / 1000 + good_days * 86_400, datetime.UTC)
    made = (
        x509.CertificateBuilder(name, name)
        .serial_number(1)
        .public_key(key.public_key())
        .not_valid_before(end - datetime.timedelta(days=400))
        .not_valid_after(end)
        .sign(key, hashes.SHA256())
    )
    return made.public_bytes(serialization.Encoding.PEM)


@pytest.mark.parametrize(
    ("mode", "group", "others"),
    [(0o600, 7, False), (0o640, 0, False), (0o640, 5, False), (0o640, 7, True), (0o604, 5, True)],
)
def test_who_can_read_a_file_is_in_its_mode(mode: int, group: int, others: bool) -> None:
    assert readable_by_others(mode, group, own=5) is others


@pytest.mark.parametrize(("mode", "told"), [(0o600, False), (0o644, True)])
def test_a_password_that_tasks_can_read_is_told_of(tmp_path: Path, mode: int, told: bool) -> None:
    path = tmp_path / "home"
    path.write_text("agent\nsecret\n")
    path.chmod(mode)
    found = file_checks("home", BrokerSettings("mqtt://h", password_file=str(path)), NOW_MS)
    assert [each["check"] for each in found] == (["broker home file"] if told else [])
    assert all(each["ok"] is None and f"chmod 600 {path}" in each["fix"] for each in found)


def test_the_key_of_a_certificate_is_a_secret_as_well_beside_it_or_in_its_file(
    tmp_path: Path,
) -> None:
    path = tmp_path / "pair.pem"
    path.write_bytes(certificate(100))
    path.chmod(0o644)
    inside = BrokerSettings("mqtts://h", cert_file=str(path))
    assert "can read" in file_checks("home", inside, NOW_MS)[0]["text"]
    key = tmp_path / "key.pem"
    key.write_text("")
    key.chmod(0o600)
    beside = BrokerSettings("mqtts://h", cert_file=str(path), key_file=str(key))
    assert file_checks("home", beside, NOW_MS) == []


@pytest.mark.parametrize(("days", "ok"), [(31, True), (29, None), (-1, False)])
def test_a_certificate_that_is_over_soon_is_told_of(
    tmp_path: Path, days: int, ok: bool | None
) -> None:
    path = tmp_path / "own.pem"
    path.write_bytes(certificate(days) + certificate(-500))  # the first is the device's own
    path.chmod(0o600)
    settings = BrokerSettings("mqtts://h", cert_file=str(path))
    found = file_checks("home", settings, NOW_MS)
    assert [each["ok"] for each in found] == ([] if ok else [ok])
    assert file_checks("home", settings, None) == [], "the time is not known"
    if ok is None:
        assert "is good until" in found[0]["text"]
        (over,) = file_checks("home", settings, NOW_MS + 30 * DAY_MS)
        assert over["ok"] is False and "is over since" in over["text"]


def test_of_authorities_one_that_is_good_is_enough(tmp_path: Path) -> None:
    path = tmp_path / "ca.pem"
    path.write_bytes(certificate(-3) + certificate(300))
    settings = BrokerSettings("mqtts://h", ca_file=str(path))
    assert file_checks("home", settings, NOW_MS) == []
    path.write_bytes(certificate(-3))
    (entry,) = file_checks("home", settings, NOW_MS)
    assert entry["ok"] is False and "ca_file" in entry["text"]


def test_files_that_are_missing_or_none_are_the_connections_to_tell_of(tmp_path: Path) -> None:
    (tmp_path / "none.pem").write_text("no certificate")
    settings = BrokerSettings(
        "mqtts://h", password_file=str(tmp_path / "gone"), ca_file=str(tmp_path / "none.pem")
    )
    assert file_checks("home", settings, NOW_MS) == []
