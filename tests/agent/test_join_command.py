"""`shoal join`, the part over the network: a real inviter, and tokens that lead nowhere."""

from __future__ import annotations

import dataclasses
import shutil
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
import trio

from agent.join_command import join_shoal
from agent.jointoken import format_token, parse_token
from agent.membership import load_member
from protocol.errors import ShoalError
from tests.agent.whole import open_directory, running_agent


@pytest.fixture
def data_dir() -> Iterator[Path]:
    made = open_directory()
    yield made
    shutil.rmtree(made)


async def invited(data_dir: Path, new: Path, **options: object) -> dict[str, str]:
    """One agent invites; the other device joins in a thread, as a process of its own would."""
    async with running_agent(data_dir) as agent:
        token = (await agent.backend.invite(60, 1, [], {"floor": "top"}))["token"]
        return await trio.to_thread.run_sync(
            lambda: join_shoal(new, token, name="attic", **options)  # type: ignore[arg-type]
        )


async def test_a_device_joins_and_has_all_it_needs_on_disk(data_dir: Path, tmp_path: Path) -> None:
    answer = await invited(data_dir, tmp_path / "new")
    member = load_member(tmp_path / "new")
    first = load_member(data_dir)
    assert answer == {
        "shoal": first.membership.shoal,
        "shoal_name": "lab",
        "peer": member.keyring.peer,
        "name": "attic",
    }
    assert member.certificate.roles == ("compute", "submit")
    assert member.membership.labels == {"floor": "top"}
    assert any(first.keyring.peer in address for address in member.membership.addresses)


async def test_a_new_identity_is_another_peer_and_the_old_one_is_kept(
    data_dir: Path, tmp_path: Path
) -> None:
    before = await invited(data_dir, tmp_path / "new")
    after = await invited(data_dir, tmp_path / "new", new_identity=True)
    assert after["peer"] != before["peer"]
    assert (tmp_path / "new" / "identity.key.old-1").exists()


async def test_where_nobody_answers_each_address_is_named(data_dir: Path, tmp_path: Path) -> None:
    async with running_agent(data_dir) as agent:
        token = (await agent.backend.invite(60, 1, [], {}))["token"]
    with pytest.raises(ShoalError, match=r"could not be reached \(/ip4/127\.0\.0\.1/tcp/\d+: "):
        await trio.to_thread.run_sync(join_shoal, tmp_path / "new", token)
    assert not (tmp_path / "new" / "membership").exists()
    told = parse_token(token)
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        suffix = f"/p2p/{told.inviter}"
        elsewhere = f"/ip4/127.0.0.1/tcp/{silent.getsockname()[1]}{suffix}"
        wrong = format_token(dataclasses.replace(told, addresses=(elsewhere,)))
        with pytest.raises(ShoalError, match="could not be reached"):
            await trio.to_thread.run_sync(join_shoal, tmp_path / "new", wrong)


@pytest.mark.parametrize("name", ["a b", "x" * 64, "Ω", "-"])
def test_a_name_that_cannot_be_is_refused_before_anything_else(tmp_path: Path, name: str) -> None:
    with pytest.raises(ShoalError, match="--name"):
        join_shoal(tmp_path / "new", "shoal1:abc", name=name)
    assert not (tmp_path / "new").exists()


def test_a_wrong_token_needs_no_network_and_leaves_nothing(tmp_path: Path) -> None:
    for token in ("shoal1:abc", "nothing", "shoal9:abc"):
        with pytest.raises(ShoalError):
            join_shoal(tmp_path / "new", token)
    assert not (tmp_path / "new").exists()
