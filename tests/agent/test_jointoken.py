"""A token says all that is needed, and what is wrong with it when something is."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent import peerid
from agent.jointoken import (
    ADDRESSES_MAX,
    PREFIX,
    JoinToken,
    TokenError,
    format_token,
    parse_token,
    read_token,
)
from protocol.clock import Now
from protocol.ids import ShoalId

INVITER = peerid.encode(b"\5" * 32)
EXPIRES_MS = 1_800_000_000_000
TOKEN = JoinToken(
    shoal=ShoalId(peerid.encode(b"\6" * 32)),
    shoal_name="home",
    inviter=INVITER,
    addresses=tuple(
        f"{address}/p2p/{INVITER}"
        for address in ("/ip4/192.168.1.20/tcp/4001", "/ip6/fd00::1/tcp/4001")
    ),
    secret=bytes(range(16)),
    expires_ms=EXPIRES_MS,
)
TEXT = format_token(TOKEN)


def test_it_says_what_it_was_made_of_and_is_short() -> None:
    assert parse_token(TEXT) == TOKEN
    assert TEXT.startswith(PREFIX) and len(TEXT) < 300
    assert TEXT.removeprefix(PREFIX).isalnum(), "one double click selects it"


def test_wrapped_quoted_and_shouted_it_is_the_same() -> None:
    wrapped = "\n  ".join(TEXT[at : at + 40] for at in range(0, len(TEXT), 40))
    for text in (wrapped, f' "{TEXT}"\n', TEXT.upper(), f"`{TEXT}`"):
        assert parse_token(text) == TOKEN


def test_a_cut_token_is_told_from_a_typing_error() -> None:
    for end in range(len(PREFIX), len(TEXT)):
        with pytest.raises(TokenError, match="cut short"):
            parse_token(TEXT[:end])


def test_every_wrong_sign_is_a_typing_error() -> None:
    rng = random.Random(4)
    for at in range(len(PREFIX) + 4, len(TEXT)):
        wrong = rng.choice(
            [sign for sign in "abcdefghijklmnopqrstuvwxyz234567" if sign != TEXT[at]]
        )
        with pytest.raises(TokenError, match="typing error"):
            parse_token(TEXT[:at] + wrong + TEXT[at + 1 :])
    for more in ("a", "aa", "abcdefgh", "abcdefghi"):
        with pytest.raises(TokenError, match="typing error"):
            parse_token(TEXT + more)
    with pytest.raises(TokenError, match="'1' is never in one"):
        parse_token(TEXT[:40] + "1" + TEXT[41:])


def test_two_signs_swapped_are_a_typing_error() -> None:
    for at in range(len(PREFIX) + 4, len(TEXT) - 1):
        if TEXT[at] != TEXT[at + 1]:
            with pytest.raises(TokenError, match="typing error"):
                parse_token(TEXT[:at] + TEXT[at + 1] + TEXT[at] + TEXT[at + 2 :])


@pytest.mark.parametrize("text", ["", "hello", "shoal", "SHOAL:abc", "12D3KooW", "x" * 10_000])
def test_what_is_no_token_is_told(text: str) -> None:
    with pytest.raises(TokenError, match="not a token"):
        parse_token(text)


def test_a_newer_token_is_told() -> None:
    with pytest.raises(TokenError, match="newer version"):
        parse_token("shoal2:abcdef")


@given(st.text(max_size=200))
def test_any_text_is_a_token_error(text: str) -> None:
    with pytest.raises(TokenError):
        parse_token(PREFIX + text)


def test_expiry_counts_only_by_a_trusted_clock() -> None:
    late = EXPIRES_MS / 1000
    parse_token(TEXT, Now(0, late - 1))
    parse_token(TEXT, Now(0, late, wall_trusted=False))
    with pytest.raises(TokenError, match="expired on 2027-01-15 08:00 UTC"):
        parse_token(TEXT, Now(0, late))


def test_an_inviter_without_the_time_makes_a_token_without_expiry() -> None:
    from dataclasses import replace

    timeless = replace(TOKEN, expires_ms=0)
    assert parse_token(format_token(timeless), Now(0, 9e9)) == timeless


def test_addresses_are_bounded() -> None:
    from dataclasses import replace

    many = tuple(f"/ip4/10.0.0.{n}/tcp/4001/p2p/{INVITER}" for n in range(100))
    parsed = parse_token(format_token(replace(TOKEN, addresses=many)))
    assert parsed.addresses == many[:ADDRESSES_MAX]


def test_a_token_comes_from_a_file_too(tmp_path: Path) -> None:
    path = tmp_path / "token.txt"
    path.write_text(f"# for the shed\n{TEXT[:90]}\n{TEXT[90:]}\n")
    assert read_token(str(path)) == read_token(TEXT) == TOKEN
    path.write_text("")
    with pytest.raises(TokenError, match="not a token"):
        read_token(str(path))
    path.write_bytes(bytes(range(256)) * 300)
    with pytest.raises(TokenError, match="not a token"):
        read_token(str(path))
    with pytest.raises(TokenError, match="cannot be read"):
        read_token(str(tmp_path))
    with pytest.raises(TokenError, match="newer version"):
        read_token("shoal2:abc")
    assert read_token(f"'{TEXT}'") == TOKEN
    for text in ("no-such-file", "a\0b", "x" * 5000):
        with pytest.raises(TokenError):
            read_token(text)
