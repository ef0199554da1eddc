"""records: what a certificate allows, and which of two awards is the later."""

from __future__ import annotations

from itertools import pairwise

import pytest

from protocol.errors import RemoteProtocolError
from protocol.ids import PeerId, ShoalId
from protocol.records import Accusation, Certificate, Desired, Fence, Role, Verdict
from protocol.wire import decode_record, dumps


def certificate(roles: tuple[str, ...], namespaces: tuple[str, ...]) -> Certificate:
    return Certificate(
        shoal=ShoalId("shoal"),
        peer=PeerId("a"),
        name="a",
        roles=roles,
        namespaces=namespaces,
        issued_ms=0,
        expires_ms=1,
    )


def test_a_role_is_held_in_the_namespaces_named() -> None:
    member = certificate((Role.SUBMIT,), ("kitchen", "garden"))
    assert member.holds(Role.SUBMIT)
    assert member.holds(Role.SUBMIT, "garden")
    assert not member.holds(Role.SUBMIT, "cellar")
    assert not member.holds(Role.COMPUTE)
    assert not member.holds(Role.COMPUTE, "garden")


def test_a_star_is_every_namespace_and_nothing_is_none() -> None:
    assert certificate((Role.SUBMIT,), ("*",)).holds(Role.SUBMIT, "anything")
    assert not certificate((Role.SUBMIT,), ()).holds(Role.SUBMIT, "anything")
    assert certificate((Role.SUBMIT,), ()).holds(Role.SUBMIT)


def test_a_role_of_a_later_version_is_carried_and_means_nothing() -> None:
    member = decode_record(dumps([1, "shoal", "a", "a", ["compute", "teleport"], ["*"], 0, 1]))
    assert isinstance(member, Certificate)
    assert member.roles == ("compute", "teleport")
    assert member.holds(Role.COMPUTE)


def test_fences_are_ordered_by_term_then_coordinator_then_attempt() -> None:
    a, b = PeerId("a"), PeerId("b")
    ordered = [Fence(0, b, 9), Fence(1, a, 1), Fence(1, a, 2), Fence(1, b, 0), Fence(2, a, 0)]
    assert all(low < high for low, high in pairwise(ordered))
    assert sorted(reversed(ordered)) == ordered


def test_the_numbers_order_what_the_merges_prefer() -> None:
    assert Desired.DELETED > Desired.STOPPED > Desired.RUNNING
    assert min(Verdict) is Verdict.SUCCESS
    assert [int(each) for each in Accusation] == [0, 1]


@pytest.mark.parametrize(
    "fields",
    [
        [6, "2" * 32, "shoal", 1, 3, 1, "default", 0],  # no such desired state
        [6, "2" * 32, "shoal", 1, True, 1, "default", 0],
        [6, "2" * 32, "shoal", -1, 0, 1, "default", 0],
        [6, "../etc", "shoal", 1, 0, 1, "default", 0],
        [4, "a", 1, 2],  # no such accusation
        [7, "2" * 32, "2" * 32, 2**48, [1, "a", 1], "a", 15_000],  # no such slot
        [7, "2" * 32, "2" * 32, 0, [1, "a"], "a", 15_000],
        [7, "2" * 32, "2" * 32, 0, [1, "a", 2**63], "a", 15_000],
        [1, "shoal", "a", "n" * 64, [], [], 0, 1],
        [1, "shoal", "a", "n", ["r"] * 17, [], 0, 1],
    ],
)
def test_a_record_with_a_field_out_of_range_is_refused(fields: list[object]) -> None:
    with pytest.raises(RemoteProtocolError):
        decode_record(dumps(fields))
