"""Requests: their bodies and parameters, bounded and checked before a handler sees them."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Any, TypeVar

import msgspec
import trio
from starlette.requests import Request

from agent.control.backend import RequestError, View

T = TypeVar("T")

KEY_MAX = 128  # characters of an idempotency key
INVITE_S_MAX = 30 * 86_400
USES_MAX = 1000


class Submission(msgspec.Struct, forbid_unknown_fields=True):
    spec: dict[str, Any]
    key: str


class TemplateRun(msgspec.Struct, forbid_unknown_fields=True):
    key: str
    params: dict[str, str] = {}
    namespace: str = "default"


class Invitation(msgspec.Struct, forbid_unknown_fields=True):
    expires_s: int = 900
    uses: int = 1
    roles: list[str] = []
    labels: dict[str, str] = {}

    def __post_init__(self) -> None:
        if not 1 <= self.expires_s <= INVITE_S_MAX:
            raise ValueError(f"expires_s: allowed: 1 to {INVITE_S_MAX}")
        if not 1 <= self.uses <= USES_MAX:
            raise ValueError(f"uses: allowed: 1 to {USES_MAX}")


class Founding(msgspec.Struct, forbid_unknown_fields=True):
    name: str
    device: str | None = None
    passphrase: str | None = None
    labels: dict[str, str] = {}


class Joining(msgspec.Struct, forbid_unknown_fields=True):
    token: str
    name: str | None = None
    new_identity: bool = False


class Labelling(msgspec.Struct, forbid_unknown_fields=True, rename={"given": "set"}):
    given: dict[str, str] = {}
    unset: list[str] = []


class Draining(msgspec.Struct, forbid_unknown_fields=True):
    draining: bool


def read_submission(body: object) -> tuple[View, str]:
    wanted = checked(body, Submission)
    check_key(wanted.key)
    return wanted.spec, wanted.key


def check_key(key: str) -> None:
    if not 1 <= len(key) <= KEY_MAX or not key.isprintable():
        raise RequestError(400, f"key: allowed: 1 to {KEY_MAX} printable characters")


def checked(body: object, kind: type[T]) -> T:
    try:
        return msgspec.convert(body, kind)
    except msgspec.ValidationError as error:
        raise RequestError(400, str(error)) from None


async def read_json(request: Request, size_max: int, limit_s: float) -> object:
    body = bytearray()
    async for chunk in read_body(request, size_max, limit_s):
        body += chunk
    try:
        return msgspec.json.decode(body or b"{}")
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise RequestError(400, f"the body is not JSON: {error}") from None


async def read_body(request: Request, size_max: int, limit_s: float) -> AsyncGenerator[bytes, None]:
    """The body as it comes, refused where it is too long or too slow."""
    declared = request.headers.get("content-length", "0")
    if not declared.isdigit() or int(declared) > size_max:
        raise RequestError(413, f"the body has {declared} bytes; allowed: {size_max}")
    deadline = trio.current_time() + limit_s
    size = 0
    async with aclosing(request.stream()) as chunks:
        while True:
            chunk: bytes | None = None
            with trio.move_on_at(deadline) as scope:
                chunk = await anext(chunks, None)
            if scope.cancelled_caught:
                raise RequestError(408, f"the body took longer than {limit_s:g} s")
            if chunk is None:
                return
            size += len(chunk)
            if size > size_max:
                raise RequestError(413, f"the body has more than {size_max} bytes")
            if chunk:
                yield chunk


def integer(request: Request, name: str, default: int, low: int, high: int) -> int:
    text = request.query_params.get(name)
    if text is None:
        return default
    try:
        value = int(text)
    except ValueError:
        value = low - 1
    if not low <= value <= high:
        raise RequestError(400, f"{name}: allowed: {low} to {high}")
    return value


def flag(request: Request, name: str, default: bool = False) -> bool:
    """`?follow`, `?follow=1` and `?follow=true` are all yes."""
    text = request.query_params.get(name)
    if text is None:
        return default
    return text.lower() not in ("0", "false", "no")
