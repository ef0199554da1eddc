"""Scrapes over TCP: the figures and nothing else, for as many strangers as there are places."""

from __future__ import annotations

import logging
import socket
import struct
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
import trio
import trio.testing

from agent.control.backend import RequestError
from agent.control.scrapes import RETRY_S, Scrapes
from agent.control.server import Limits
from tests.agent.memory_backend import MemoryBackend

QUICK = Limits(connections_max=4, write_s=0.3, idle_s=0.3, body_s=0.3)


@asynccontextmanager
async def serving(listen: str = "127.0.0.1:0") -> AsyncIterator[tuple[MemoryBackend, int]]:
    backend = MemoryBackend()
    scrapes = Scrapes(backend, listen, QUICK)
    with trio.fail_after(60):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(scrapes.run)
            while not scrapes.address:
                await trio.lowlevel.checkpoint()
            yield backend, int(scrapes.address.rpartition(":")[2])
            nursery.cancel_scope.cancel()
    assert scrapes.address == ""


async def ask(port: int, request: bytes, host: str = "127.0.0.1") -> bytes:
    """All that is answered until the connection ends."""
    async with await trio.open_tcp_stream(host, port) as stream:
        answer = b""
        try:
            await stream.send_all(request)
            while data := await stream.receive_some():
                answer += data
        except trio.BrokenResourceError:
            pass
        return answer


def get(path: str, method: str = "GET", more: str = "") -> bytes:
    return f"{method} {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n{more}\r\n".encode()


async def test_the_figures_are_there_in_prometheus_type() -> None:
    async with serving() as (_, port):
        answer = await ask(port, get("/metrics"))
        assert answer.startswith(b"HTTP/1.1 200 ")
        assert b"content-type: text/plain; version=0.0.4; charset=utf-8" in answer
        assert b'shoal_peers{state="alive"} 2.0\n' in answer


async def test_on_ipv6_as_well() -> None:
    async with serving("[::1]:0") as (_, port):
        assert b"shoal_peers" in await ask(port, get("/metrics"), "::1")


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/v1/status", 404),
        ("GET", "/v1/jobs", 404),
        ("POST", "/v1/shutdown", 404),
        ("POST", "/v1/jobs", 404),
        ("GET", "/", 404),
        ("GET", "//metrics", 404),
        ("GET", "/metrics/../v1/status", 404),
        ("POST", "/metrics", 405),
        ("DELETE", "/metrics", 405),
    ],
)
async def test_nothing_of_the_api_is_there(method: str, path: str, status: int) -> None:
    async with serving() as (backend, port):
        answer = await ask(port, get(path, method))
        assert answer.startswith(b"HTTP/1.1 %d " % status), answer
        assert backend.scraped == 0 and not backend.ended.is_set()


@pytest.mark.parametrize(
    "request_",
    [
        b"",
        b"GET /metrics HTTP/1.1\r\nhost: x\r\n",
        b"\x16\x03\x01\x02\x00\x01" * 10,
        b"GET /metrics HTTP/1.1\r\n" + b"a: b\r\n" * 20_000,
        b"GET /" + b"a" * 100_000,
        get("/metrics", more="content-length: 1000000000\r\n") + bytes(200_000),
        get("/metrics", more="transfer-encoding: chunked\r\n") + b"fffffff\r\n" + bytes(100_000),
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes(100),
    ],
    ids=range(8),
)
async def test_slow_and_huge_requests_end_and_others_are_answered(request_: bytes) -> None:
    async with serving() as (_, port):
        with trio.fail_after(60):
            await ask(port, request_)  # to the end that the server makes
        assert b"shoal_peers" in await ask(port, get("/metrics"))


async def test_who_hangs_up_on_being_refused_ends_nothing() -> None:
    async with serving() as (_, port):
        held = [await trio.open_tcp_stream("127.0.0.1", port) for _ in range(QUICK.connections_max)]
        await trio.testing.wait_all_tasks_blocked(0.01)
        for _ in range(3):  # reset before they are taken, as by a scanner of ports
            with socket.create_connection(("127.0.0.1", port), timeout=10) as scanner:
                scanner.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        await trio.testing.wait_all_tasks_blocked(0.01)
        for stream in held:
            await stream.aclose()
        assert b"shoal_peers" in await ask(port, get("/metrics"))


async def test_drop_by_drop_is_too_slow() -> None:
    async with serving() as (_, port):
        stream = await trio.open_tcp_stream("127.0.0.1", port)
        async with stream:
            with pytest.raises(trio.BrokenResourceError), trio.fail_after(60):
                while True:
                    await stream.send_all(b"GET /metrics HTTP/1.1\r\n"[:1])
                    await trio.sleep(0.02)


async def test_a_client_that_reads_nothing_is_cut_off(caplog: Any) -> None:
    caplog.set_level(logging.INFO, "agent.control.server")
    async with serving() as (backend, port):

        async def long() -> bytes:
            return b"# \n" * 5_000_000

        backend.metrics = long  # type: ignore[method-assign]
        stream = await trio.open_tcp_stream("127.0.0.1", port)
        async with stream:
            await stream.send_all(get("/metrics"))
            received = 0
            while "stopped reading" not in caplog.text:
                await trio.lowlevel.checkpoint()
            with pytest.raises(trio.BrokenResourceError):
                while data := await stream.receive_some():
                    received += len(data)
                raise trio.BrokenResourceError  # an orderly end says the same
            assert received < 15_000_000


async def test_there_are_so_many_places_and_they_come_free() -> None:
    async with serving() as (_, port):
        held = [await trio.open_tcp_stream("127.0.0.1", port) for _ in range(4)]
        answers = [await ask(port, get("/metrics")) for _ in range(3)]
        assert all(answer.startswith(b"HTTP/1.1 503 ") for answer in answers), answers
        for stream in held:
            await stream.aclose()
        while b" 503 " in (answer := await ask(port, get("/metrics"))):
            pass
        assert b"shoal_peers" in answer


async def test_several_at_once_are_all_answered() -> None:
    async with serving() as (backend, port):
        answers: list[bytes] = []

        async def scrape() -> None:
            answers.append(await ask(port, get("/metrics")))

        async with trio.open_nursery() as nursery:
            for _ in range(4):
                nursery.start_soon(scrape)
        assert sum(b"shoal_peers" in answer for answer in answers) == 4 == backend.scraped


async def test_a_disk_that_hangs_is_a_503() -> None:
    async with serving() as (backend, port):
        backend.metrics_failure = RequestError(503, "the disk of this device does not answer")
        assert (await ask(port, get("/metrics"))).startswith(b"HTTP/1.1 503 ")
        backend.metrics_failure = None
        assert b"shoal_peers" in await ask(port, get("/metrics"))


async def test_an_address_that_is_taken_is_told_and_tried_again(
    caplog: Any, autojump_clock: trio.testing.MockClock
) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        scrapes = Scrapes(MemoryBackend(), f"127.0.0.1:{port}", QUICK)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(scrapes.run)
            await trio.sleep(10 * RETRY_S)
            assert f"metrics.listen: 127.0.0.1:{port}: address already in use" in scrapes.trouble
            assert scrapes.address == ""
            warned = [r for r in caplog.records if r.levelno == logging.WARNING]
            assert len(warned) == 1, "once, not at every try"
            taken.close()
            await trio.sleep(100 * RETRY_S)
            assert (scrapes.address, scrapes.trouble) == (f"127.0.0.1:{port}", "")
            nursery.cancel_scope.cancel()


async def test_without_an_address_nothing_listens() -> None:
    scrapes = Scrapes(MemoryBackend(), "")
    await scrapes.run()
    assert (scrapes.address, scrapes.trouble) == ("", "")
