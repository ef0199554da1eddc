"""Discovery: bootstrap, memory, and mDNS on loopback with real sockets."""

from __future__ import annotations

import pytest
import trio

from agent.discovery import Discovery
from agent.sighting import hint_of, read_properties
from agent.transport import AddressInvalid
from protocol.ids import PeerId, ShoalId
from tests.agent import keys

A, B, C = (keys.member(name).peer for name in "abc")
SHOAL = keys.root().shoal
HERE = ("/ip4/127.0.0.1/tcp/4001",)


async def until_found(discovery: Discovery, wanted: dict[PeerId, tuple[str, ...]]) -> None:
    """Run until all of `wanted` was found."""
    found: dict[PeerId, tuple[str, ...]] = {}
    done = trio.Event()

    def on_found(peer: PeerId, addresses: tuple[str, ...]) -> None:
        found[peer] = addresses
        if wanted.items() <= found.items():
            done.set()

    with trio.fail_after(60):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(discovery.run, on_found)
            await done.wait()
            nursery.cancel_scope.cancel()


async def test_bootstrap_and_remembered_addresses_are_found_at_once() -> None:
    discovery = Discovery(
        A,
        SHOAL,
        lambda: HERE,
        bootstrap=(
            f"/dns/pi.local/tcp/4001/p2p/{B}",
            f"/ip4/10.0.0.2/tcp/4001/p2p/{B}",
            f"/ip4/10.0.0.1/tcp/4001/p2p/{A}",
        ),
        remembered={B: ("/ip4/10.0.0.9/tcp/4001",), C: ("/ip4/10.0.0.3/tcp/4001",)},
        mdns=False,
    )
    await until_found(
        discovery,
        {
            B: ("/dns/pi.local/tcp/4001", "/ip4/10.0.0.2/tcp/4001", "/ip4/10.0.0.9/tcp/4001"),
            C: ("/ip4/10.0.0.3/tcp/4001",),
        },
    )


@pytest.mark.parametrize("text", ["/ip4/10.0.0.2/tcp/4001", "10.0.0.2:4001", "/ip4/x/tcp/1/p2p/a"])
def test_a_bootstrap_address_that_cannot_be_meant_is_refused(text: str) -> None:
    with pytest.raises(AddressInvalid):
        Discovery(A, SHOAL, lambda: HERE, bootstrap=(text,))


async def test_mdns_finds_members_of_this_shoal_and_survives_a_change_of_address() -> None:
    """Two of one shoal and one of another, on loopback; then one moves to another port."""
    places = {B: ("/ip4/127.0.0.1/tcp/4002",)}
    a = Discovery(A, SHOAL, lambda: HERE)
    b = Discovery(B, SHOAL, lambda: places[B])
    other = Discovery(C, ShoalId("another"), lambda: ("/ip4/127.0.0.1/tcp/4003",))
    lag = 0.0

    async def measure_lag() -> None:
        nonlocal lag
        while True:
            begun = trio.current_time()
            await trio.sleep(0.01)
            lag = max(lag, trio.current_time() - begun - 0.01)

    found: list[PeerId] = []
    async with trio.open_nursery() as nursery:
        nursery.start_soon(other.run, lambda peer, addresses: found.append(peer))
        nursery.start_soon(b.run, lambda peer, addresses: None)
        nursery.start_soon(measure_lag)
        await until_found(a, places)
        nursery.cancel_scope.cancel()
    assert found == []
    assert lag < 0.5  # upstream's blocks for 1.6 s; this machine may be busy


async def test_addresses_that_appear_later_or_change_are_announced_anew(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("agent.discovery.RETRY_S", 0.1)
    monkeypatch.setattr("agent.discovery.CHECK_S", 0.1)
    places: list[tuple[str, ...]] = [()]
    b = Discovery(B, SHOAL, lambda: places[-1])
    a = Discovery(A, SHOAL, lambda: HERE)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(b.run, lambda peer, addresses: None)
        for port in (4002, 4005):
            places.append((f"/ip4/127.0.0.1/tcp/{port}",))
            await until_found(a, {B: places[-1]})
        nursery.cancel_scope.cancel()


async def test_without_multicast_it_waits_for_a_network() -> None:
    """An address that is not this device's: zeroconf cannot bind there."""
    discovery = Discovery(A, SHOAL, lambda: ("/ip4/203.0.113.7/tcp/4001",))
    with trio.move_on_after(0.5) as scope:
        await discovery.run(lambda peer, addresses: None)
    assert scope.cancelled_caught


@pytest.mark.parametrize(
    "change",
    [
        {b"id": b"12D3KooW"},
        {b"id": None},
        {b"id": b"\xff"},
        {b"hint": b"other"},
        {b"a0": b"/ip4/0.0.0.0/tcp/4001"},
        {b"a0": b"nonsense"},
    ],
)
def test_whatever_the_lan_says_is_only_read(change: dict[bytes, bytes | None]) -> None:
    hint = hint_of(SHOAL)
    good: dict[bytes, bytes | None] = {
        b"id": B.encode(),
        b"hint": hint.encode(),
        b"a0": b"/ip4/10.0.0.2/tcp/4001",
        b"flag": None,
    }
    sighting = read_properties(good, hint)
    assert sighting is not None
    assert (sighting.peer, sighting.addresses) == (B, ("/ip4/10.0.0.2/tcp/4001",))
    assert read_properties(good | change, hint) is None
