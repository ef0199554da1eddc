"""Addresses: what can be read, dialled and told to others."""

from __future__ import annotations

import pytest

from agent.transport.addresses import Endpoint, concrete, dialable, parse
from agent.transport.errors import AddressInvalid


@pytest.mark.parametrize(
    "text",
    ["/ip4/10.0.0.1/tcp/4001", "/ip6/fd77::1/tcp/1", "/dns/pi.local/tcp/65535"],
)
def test_what_is_read_is_written_alike(text: str) -> None:
    assert str(parse(text)[0]) == text
    assert parse(f"{text}/p2p/12D3")[1] == "12D3"


@pytest.mark.parametrize(
    "text",
    [
        "",
        "10.0.0.1:4001",
        "/ip4/10.0.0.1/udp/4001/quic-v1",
        "/ip4/10.0.0.1/tcp",
        "/ip4/fd77::1/tcp/1",
        "/ip4/10.0.0.1/tcp/70000",
        "/ip4/10.0.0.1/tcp/²",
        "/ip4/10.0.0.1/tcp/4001/p2p/",
        "/ip4/10.0.0.1/tcp/4001/p2p-circuit/x",
        "/unix/a/tcp/1",
        "/dns/a b/tcp/1",
    ],
)
def test_what_cannot_be_meant_is_refused_with_its_text(text: str) -> None:
    with pytest.raises(AddressInvalid, match=r"^'"):
        parse(text)


def test_only_what_can_be_dialled_is_taken_of_what_a_peer_says() -> None:
    said = ["/ip4/0.0.0.0/tcp/1", "/ip4/10.0.0.1/tcp/0", "nonsense", "/ip4/10.0.0.1/udp/1/quic-v1"]
    good = [f"/ip4/10.0.0.{n}/tcp/1" for n in range(1, 20)]
    found = dialable([*said, good[0], *good], 8)
    assert [str(one) for one in found] == good[:8]


def test_an_unspecified_address_becomes_concrete_ones() -> None:
    """Upstream tells others 0.0.0.0."""
    told = concrete([Endpoint("0.0.0.0", 4001)])
    assert told and all(not parse(text)[0].unspecified for text in told)
    assert concrete([Endpoint("127.0.0.1", 4001)]) == ("/ip4/127.0.0.1/tcp/4001",)


def test_a_kernel_that_does_not_tell_of_its_interfaces_is_no_end(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """As qemu's, for another processor (ENOSYS of SIOCETHTOOL)."""
    told = concrete([Endpoint("0.0.0.0", 4001)])

    def refuses() -> None:
        raise OSError(38, "Function not implemented")

    monkeypatch.setattr("psutil.net_if_stats", refuses)
    assert set(told) <= set(concrete([Endpoint("0.0.0.0", 4001)]))
