"""The membership file holds together, and only a certificate that peers accept counts."""

from __future__ import annotations

from pathlib import Path

import pytest

from agent.identity import IdentityKeyring, create_identity
from agent.membership import (
    CERTIFICATE_MS,
    EARLIEST_MS,
    MEMBERSHIP_FILE,
    Membership,
    MembershipError,
    check_certificate,
    device_name,
    issue_certificate,
    load_member,
    name_problem,
    read_membership,
    write_membership,
)
from protocol.errors import RemoteProtocolError
from protocol.ids import ShoalId
from protocol.records import Role

WALL_MS = EARLIEST_MS + 1_000_000


def root_of(number: int) -> IdentityKeyring:
    key = IdentityKeyring(bytes([number]) * 32)
    return key.member_of(ShoalId(key.peer), b"")


def saved(data_dir: Path) -> Membership:
    root, identity = root_of(1), create_identity(data_dir)
    membership = Membership(
        shoal=root.shoal,
        shoal_name="home",
        certificate=issue_certificate(identity.peer, "pi", [Role.COMPUTE], root, WALL_MS),
        addresses=("/ip4/10.0.0.1/tcp/4001/p2p/" + root.peer,),
        labels={"room": "shed"},
    )
    write_membership(data_dir, membership)
    return membership


def test_what_was_written_is_read(tmp_path: Path) -> None:
    membership = saved(tmp_path)
    assert read_membership(tmp_path) == membership
    member = load_member(tmp_path)
    assert member.membership == membership
    assert member.certificate.name == "pi" and member.certificate.roles == ("compute",)
    assert member.keyring.shoal == membership.shoal
    assert member.keyring.certificate == membership.certificate
    assert (tmp_path / MEMBERSHIP_FILE).stat().st_mode & 0o777 == 0o600


def test_none_is_none_and_says_how_to_get_one(tmp_path: Path) -> None:
    assert read_membership(tmp_path) is None
    create_identity(tmp_path)
    with pytest.raises(MembershipError, match=r"shoal init.*shoal join TOKEN"):
        load_member(tmp_path)


def test_the_first_is_not_written_over_another(tmp_path: Path) -> None:
    membership = saved(tmp_path)
    with pytest.raises(MembershipError, match="belongs to a shoal already"):
        write_membership(tmp_path, membership, first=True)


def test_every_damaged_byte_shows(tmp_path: Path) -> None:
    saved(tmp_path)
    path = tmp_path / MEMBERSHIP_FILE
    whole = path.read_bytes()
    damaged = [whole[:at] for at in range(0, len(whole), 17)]
    damaged += [
        whole[:at] + bytes([whole[at] ^ 4]) + whole[at + 1 :] for at in range(0, len(whole), 7)
    ]
    for data in damaged:
        path.write_bytes(data)
        with pytest.raises(MembershipError, match=r"damaged.*shoal join TOKEN"):
            read_membership(tmp_path)


def test_the_certificate_of_another_device_does_not_count(tmp_path: Path) -> None:
    membership = saved(tmp_path / "one")
    create_identity(tmp_path / "two")
    write_membership(tmp_path / "two", membership)
    with pytest.raises(MembershipError, match="not this device's"):
        load_member(tmp_path / "two")


def test_a_certificate_lasts_ten_years_even_from_a_device_without_a_clock() -> None:
    root, member = root_of(1), IdentityKeyring(b"\2" * 32)
    for wall_ms, issued_ms in ((0, EARLIEST_MS), (WALL_MS, WALL_MS)):
        data = issue_certificate(member.peer, "pi", [Role.ADMIT, Role.COMPUTE], root, wall_ms)
        certificate = check_certificate(data, member.member_of(root.shoal, b""))
        assert certificate.issued_ms == issued_ms
        assert certificate.expires_ms == issued_ms + CERTIFICATE_MS
        assert certificate.roles == ("compute", "admit")


def test_only_root_and_admit_lead_to_a_certificate_that_holds() -> None:
    root = root_of(1)

    def member(number: int, issuer: IdentityKeyring, *roles: Role) -> IdentityKeyring:
        key = IdentityKeyring(bytes([number]) * 32)
        data = issue_certificate(key.peer, "x", roles, issuer, WALL_MS)
        return key.member_of(root.shoal, data)

    admitter = member(2, root, Role.ADMIT)
    plain = member(3, root, Role.COMPUTE)
    second = member(4, admitter, Role.ADMIT)
    check_certificate(member(5, admitter).certificate, member(5, admitter))
    for issuer in (plain, second, root_of(9)):
        bad = member(6, issuer)
        with pytest.raises(RemoteProtocolError):
            check_certificate(bad.certificate, bad)
    with pytest.raises(RemoteProtocolError):
        check_certificate(b"", root)


def test_names() -> None:
    for good in ("pi", "Pi-4.local", "a" * 63, "9_b"):
        assert name_problem(good) == "" and device_name(good) == good
    for bad in ("", "a" * 64, "a b", "../x", "-a", "é", "a/b", "a\n"):
        assert name_problem(bad)
        assert name_problem(device_name(bad)) == ""
