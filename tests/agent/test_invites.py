"""Invites: durable before they are answered, one use per peer, sentences for what is refused."""

from __future__ import annotations

from pathlib import Path

import pytest
import trio

from agent.grant import EXPIRES_S_MAX, InviteError
from agent.identity import IdentityKeyring
from agent.invites import INVITES_MAX, WRONG_MAX, WRONG_S, Invites
from agent.jointoken import JoinToken, parse_token
from agent.membership import (
    EARLIEST_MS,
    Member,
    Membership,
    check_certificate,
    issue_certificate,
)
from agent.store import Store
from agent.storesql import StoreFailed
from protocol.clock import Now
from protocol.ids import PeerId, ShoalId
from protocol.records import Certificate, Role

WALL = EARLIEST_MS / 1000 + 86_400.0


def at(seconds: float, *, trusted: bool = True) -> Now:
    return Now(1000.0 + seconds, WALL + seconds, trusted)


def inviter(*roles: Role) -> Member:
    """A member of a shoal with these roles, all of them where none is given."""
    root = IdentityKeyring(b"\1" * 32)
    root = root.member_of(ShoalId(root.peer), b"")
    key = IdentityKeyring(b"\2" * 32)
    data = issue_certificate(key.peer, "first", roles or tuple(Role), root, int(WALL * 1000))
    keyring = key.member_of(root.shoal, data)
    membership = Membership(shoal=root.shoal, shoal_name="home", certificate=data)
    return Member(keyring, membership, check_certificate(data, keyring))


OWN = f"/ip4/10.0.0.1/tcp/4001/p2p/{inviter().keyring.peer}"
OTHER = "/ip4/10.0.0.2/tcp/4001/p2p/somebody"
JOINER = IdentityKeyring(b"\3" * 32)


class House:
    """A store and its invites, which can be restarted."""

    def __init__(self, data_dir: Path, *roles: Role) -> None:
        self.data_dir, self.member = data_dir, inviter(*roles)
        self.open()

    def open(self, now: Now | None = None) -> None:
        self.store = Store.open(self.data_dir)
        self.invites = Invites(self.store, self.member, lambda: [OWN, OTHER], now or at(0))

    async def restart(self, now: Now | None = None) -> None:
        await self.store.aclose()
        self.open(now)

    async def token(self, now: Now | None = None, **options: object) -> JoinToken:
        invited = await self.invites.create(now or at(0), **options)  # type: ignore[arg-type]
        return parse_token(invited.token)

    async def redeem(
        self,
        token: JoinToken,
        keyring: IdentityKeyring = JOINER,
        now: Now | None = None,
        name: str = "second",
    ) -> Certificate | str:
        """The certificate as the joiner sees it, or the error."""
        answer = await self.invites.redeem(token.secret, keyring.peer, name, now or at(1))
        if answer.error:
            assert answer.certificate == b""
            return answer.error
        assert answer.shoal_name == "home" and answer.addresses == (OWN, OTHER)
        return check_certificate(answer.certificate, keyring.member_of(token.shoal, b""))


@pytest.fixture
async def house(tmp_path: Path) -> House:
    return House(tmp_path)


def peer(number: int) -> IdentityKeyring:
    return IdentityKeyring(number.to_bytes(32, "big"))


async def test_an_invited_peer_computes_and_submits(house: House) -> None:
    token = await house.token(labels={"room": "shed"})
    assert token.addresses == (OWN,) and token.inviter == house.member.keyring.peer
    assert token.expires_ms == int((WALL + 900) * 1000) and token.shoal_name == "home"
    certificate = await house.redeem(token)
    assert isinstance(certificate, Certificate)
    assert certificate.roles == ("compute", "submit") and certificate.name == "second"
    assert certificate.peer == JOINER.peer and certificate.namespaces == ("*",)
    answer = await house.invites.redeem(token.secret, JOINER.peer, "second", at(2))
    assert answer.labels == {"room": "shed"}
    await house.store.aclose()


async def test_roles_can_be_fewer_or_more_but_not_more_than_the_inviters(tmp_path: Path) -> None:
    house = House(tmp_path, Role.ADMIT, Role.COMPUTE, Role.OPERATE)
    for roles in (["compute"], ["operate", "compute"]):
        certificate = await house.redeem(await house.token(roles=roles))
        assert isinstance(certificate, Certificate) and set(certificate.roles) == set(roles)
    for roles, words in (
        (["compute", "submit"], "does not hold the role 'submit'"),
        (["admit"], "only the shoal's root key"),
        (["king"], "no role 'king'"),
        ([], "needs a role"),
    ):
        with pytest.raises(InviteError, match=words):
            await house.invites.create(at(0), roles=roles)
    await house.store.aclose()


async def test_who_may_not_admit_invites_nobody(tmp_path: Path) -> None:
    house = House(tmp_path, Role.COMPUTE, Role.SUBMIT, Role.OPERATE)
    with pytest.raises(InviteError, match="may not admit"):
        await house.invites.create(at(0))
    await house.store.aclose()


async def test_an_expired_inviter_invites_nobody_if_the_time_is_known(house: House) -> None:
    token = await house.token(expires_s=EXPIRES_S_MAX)
    late = 20 * 365 * 86_400.0
    with pytest.raises(InviteError, match="certificate of this device expired"):
        await house.invites.create(at(late))
    await house.invites.create(at(late, trusted=False))
    assert "expired" in str(await house.redeem(token, now=at(late)))
    await house.store.aclose()


@pytest.mark.parametrize(
    "options",
    [
        {"expires_s": 0},
        {"expires_s": EXPIRES_S_MAX + 1},
        {"uses": 0},
        {"uses": 10_000},
        {"labels": {str(n): "" for n in range(99)}},
        {"labels": {"a": "x" * 999}},
        {"labels": {"two words": "x"}},
        {"labels": {"arch": "vax"}},
    ],
)
async def test_out_of_bounds_is_refused(house: House, options: dict[str, object]) -> None:
    with pytest.raises(InviteError):
        await house.token(**options)
    assert house.invites.open_invites(at(0)) == []
    await house.store.aclose()


async def test_without_an_address_there_is_no_invite(tmp_path: Path) -> None:
    store = Store.open(tmp_path)
    with pytest.raises(InviteError, match="no address"):
        await Invites(store, inviter(), lambda: [OTHER], at(0)).create(at(0))
    await store.aclose()


async def test_each_use_is_for_one_peer_and_the_same_peer_may_ask_again(house: House) -> None:
    token = await house.token(uses=2)
    first = await house.redeem(token, peer(1))
    assert isinstance(first, Certificate)
    assert await house.redeem(token, peer(1), name="other-name") == first
    assert isinstance(await house.redeem(token, peer(2)), Certificate)
    assert "used up, it was good 2 times" in str(await house.redeem(token, peer(3)))
    assert await house.redeem(token, peer(1), now=at(99_999)) == first, "a lost answer, late"
    assert house.invites.redeemed == 2
    await house.store.aclose()


async def test_it_expires_by_a_trusted_clock(house: House) -> None:
    token = await house.token(expires_s=60)
    assert "expired on 2026-01-02 00:01 UTC" in str(await house.redeem(token, now=at(60)))
    assert isinstance(await house.redeem(token, now=at(59)), Certificate)
    await house.store.aclose()


async def test_without_the_time_it_expires_by_the_monotonic_clock(house: House) -> None:
    token = await house.token(at(0, trusted=False), expires_s=60, uses=5)
    assert token.expires_ms == 0
    jumped = Now(1001.0, WALL + 2e8, True)  # NTP came, years later than thought
    assert isinstance(await house.redeem(token, peer(1), now=jumped), Certificate)
    assert "expired" in str(await house.redeem(token, peer(2), now=at(60, trusted=False)))
    await house.restart(Now(5.0, WALL, False))
    again = Now(64.0, WALL, False)
    assert isinstance(await house.redeem(token, peer(2), now=again), Certificate)
    assert "expired" in str(await house.redeem(token, peer(3), now=Now(65.0, WALL, False)))
    await house.store.aclose()


async def test_a_restart_forgets_nothing(house: House) -> None:
    token = await house.token(uses=2, labels={"a": "b"})
    first = await house.redeem(token, peer(1))
    await house.restart()
    assert await house.redeem(token, peer(1)) == first
    assert isinstance(await house.redeem(token, peer(2)), Certificate)
    await house.restart()
    assert "used up" in str(await house.redeem(token, peer(3)))
    await house.store.aclose()


async def test_the_secret_is_not_on_the_disk(house: House) -> None:
    token = await house.token()
    await house.redeem(token)
    await house.store.aclose()
    for path in house.data_dir.iterdir():
        assert token.secret not in path.read_bytes()


async def test_a_crowd_gets_no_more_than_there_are_uses(house: House) -> None:
    token = await house.token(uses=3)
    got: list[Certificate | str] = []

    async def attempt(number: int) -> None:
        got.append(await house.redeem(token, peer(number)))

    async with trio.open_nursery() as nursery:
        for number in range(1, 21):
            nursery.start_soon(attempt, number)
            nursery.start_soon(attempt, number)
    certificates = [c for c in got if isinstance(c, Certificate)]
    assert len(certificates) == 6 and len({c.peer for c in certificates}) == 3
    await house.store.aclose()


async def test_a_failed_save_answers_nobody_and_costs_no_use(house: House) -> None:
    token = await house.token()
    house.store._file._connection.execute("PRAGMA query_only = 1")
    with pytest.raises(StoreFailed):
        await house.redeem(token, peer(1))
    await house.store.reload()
    assert isinstance(await house.redeem(token, peer(2)), Certificate)
    await house.store.aclose()


async def test_a_cancelled_redemption_is_for_the_same_peer_still(house: House) -> None:
    token = await house.token()
    with trio.CancelScope() as scope:
        scope.cancel()
        await house.redeem(token, peer(1))
    first = await house.redeem(token, peer(1))
    assert isinstance(first, Certificate)
    await house.restart()
    assert await house.redeem(token, peer(1)) == first
    await house.store.aclose()


async def test_a_wrong_secret_is_told_counted_and_muted(house: House) -> None:
    token = await house.token()
    for number in range(WRONG_MAX):
        answer = await house.invites.redeem(bytes([number]) * 16, JOINER.peer, "x", at(1))
        assert "not known here" in answer.error
    assert house.invites.wrong_secrets == WRONG_MAX
    assert "too many wrong" in str(await house.redeem(token))
    assert isinstance(await house.redeem(token, peer(9)), Certificate), "others are not muted"
    assert "used up" in str(await house.redeem(token, now=at(2 + WRONG_S)))
    for number in range(3000):
        name = PeerId(str(number))
        await house.invites.redeem(b"", name, "x", at(1))
    assert len(house.invites._wrong) <= 1024
    await house.store.aclose()


async def test_a_name_that_cannot_be_is_refused_and_costs_no_use(house: House) -> None:
    token = await house.token()
    for name in ("", "a b", "x" * 64, "\x1b[2J"):
        assert "name" in str(await house.redeem(token, name=name))
    assert isinstance(await house.redeem(token), Certificate)
    await house.store.aclose()


async def test_a_withdrawn_invite_admits_nobody_more(house: House) -> None:
    token = await house.token(uses=2)
    await house.redeem(token, peer(1))
    (name,) = names(house, 1)
    assert await house.invites.withdraw(name[:4]) == name
    with pytest.raises(InviteError, match="`shoal invites` lists them"):
        await house.invites.withdraw(name)
    assert "not known" in str(await house.redeem(token, peer(2)))
    await house.restart()
    assert house.store.load_invites() == {}
    await house.store.aclose()


async def test_what_several_begin_with_withdraws_none_of_them(house: House) -> None:
    for _ in range(17):  # of 16 first digits
        await house.invites.create(at(0))
    firsts = [name[0] for name in names(house, 0)]
    shared = next(first for first in firsts if firsts.count(first) > 1)
    for prefix, said in ((shared, "give more of its id"), ("", "lists them"), ("x", "lists them")):
        with pytest.raises(InviteError, match=said):
            await house.invites.withdraw(prefix)
    assert len(names(house, 0)) == 17
    await house.store.aclose()


async def test_invites_are_listed_while_they_are_good(house: House) -> None:
    await house.invites.create(at(0), expires_s=60)
    await house.invites.create(at(1), expires_s=599, uses=2, roles=["compute"], labels={"a": "b"})
    newest, oldest = house.invites.open_invites(at(10))
    assert newest == {
        "id": newest["id"], "used": 0, "uses": 2, "roles": ["compute"], "labels": {"a": "b"},
        "expires_in_s": 590,
    }  # fmt: skip
    assert oldest["expires_in_s"] == 50
    assert [each["id"] for each in house.invites.open_invites(at(60))] == [newest["id"]]
    await house.store.aclose()


def names(house: House, now: float) -> list[str]:
    return [str(invite["id"]) for invite in house.invites.open_invites(at(now))]


async def test_invites_are_bounded_and_old_ones_go(house: House) -> None:
    for _ in range(INVITES_MAX):
        await house.invites.create(at(0))
    with pytest.raises(InviteError, match=f"there are {INVITES_MAX} invites already"):
        await house.invites.create(at(10))
    await house.invites.create(at(900 + 86_402))
    assert len(house.store.load_invites()) == 1
    await house.store.aclose()


async def test_a_damaged_row_is_one_invite_less(house: House) -> None:
    token = await house.token()
    (name,) = names(house, 0)
    await house.store.save_invites([(name, "", b"junk"), ("orphan", "peer", b"x")])
    await house.restart()
    assert "not known" in str(await house.redeem(token))
    await house.store.aclose()
