"""The control server over a real unix socket: answers, streams, bad clients, and its end."""

import json
import os
import socket
import stat
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from importlib.metadata import version
from pathlib import Path
from typing import Any

import h11
import pytest
import trio
import trio.testing

from agent.control import follow, sockets
from agent.control.backend import LogQuery, RequestError, View
from agent.control.server import Limits, serve_control
from agent.control.sockets import SocketError
from tests.agent.memory_backend import MemoryBackend

SPEC = {"Name": "hello", "Type": "batch"}


def spec(*command: str, **fields: Any) -> dict[str, Any]:
    task = {"Engine": {"Type": "process", "Params": {"Command": list(command)}}}
    return {**SPEC, "Tasks": [task], **fields}


def run_body(*command: str, key: str = "k", **fields: Any) -> bytes:
    return json.dumps({"spec": spec(*command, **fields), "key": key}).encode()


class Talk:
    """One connection as a client sees it, with h11 for the parsing."""

    def __init__(self, stream: trio.SocketStream) -> None:
        self.stream = stream
        self.http = h11.Connection(h11.CLIENT)
        self.buffer = b""

    async def send(self, method: str, target: str, body: bytes = b"", **headers: str) -> None:
        fields = [("host", "shoal"), ("content-length", str(len(body)))]
        fields += [(name.replace("_", "-"), value) for name, value in headers.items()]
        data = self.http.send(h11.Request(method=method, target=target, headers=fields)) or b""
        data += self.http.send(h11.Data(data=body)) or b""
        await self.stream.send_all(data + (self.http.send(h11.EndOfMessage()) or b""))

    async def event(self) -> Any:
        while (event := self.http.next_event()) is h11.NEED_DATA:
            self.http.receive_data(await self.stream.receive_some())
        return event

    async def head(self) -> h11.Response:
        event = await self.event()
        assert isinstance(event, h11.Response), event
        return event

    async def line(self) -> dict[str, Any] | None:
        """The next line that says something; None at the proper end of the message."""
        while b"\n" not in self.buffer:
            event = await self.event()
            if not isinstance(event, h11.Data):
                assert isinstance(event, h11.EndOfMessage), event
                return None
            self.buffer += event.data
        line, _, self.buffer = self.buffer.partition(b"\n")
        return json.loads(line) if line else await self.line()

    async def rest(self) -> list[dict[str, Any]]:
        found = []
        while (line := await self.line()) is not None:
            found.append(line)
        return found

    async def ask(self, method: str, target: str, body: bytes = b"", **headers: str) -> Any:
        """One request and its whole answer: (status, the JSON in it)."""
        await self.send(method, target, body, **headers)
        head = await self.head()
        data = b""
        while isinstance(event := await self.event(), h11.Data):
            data += event.data
        if self.http.our_state is h11.DONE and self.http.their_state is h11.DONE:
            self.http.start_next_cycle()
        return head.status_code, json.loads(data)

    async def closed(self) -> bool:
        """Whether the server ends the connection, with or without what it had left to say."""
        try:
            while await self.stream.receive_some():
                pass
        except trio.BrokenResourceError:
            pass
        return True


class Served:
    def __init__(self, backend: MemoryBackend, path: Path, nursery: trio.Nursery) -> None:
        self.backend = backend
        self.path = path
        self.nursery = nursery

    async def talk(self) -> Talk:
        return Talk(await trio.open_unix_socket(self.path))

    async def ask(self, method: str, target: str, body: bytes = b"", **headers: str) -> Any:
        talk = await self.talk()
        async with talk.stream:
            return await talk.ask(method, target, body, **headers)

    async def until(self, condition: Any) -> None:
        with trio.fail_after(60):
            while not condition():
                await trio.lowlevel.checkpoint()


@asynccontextmanager
async def serving(tmp_path: Path, **limits: Any) -> AsyncIterator[Served]:
    path = tmp_path / "shoal.sock"
    backend = MemoryBackend()
    with trio.fail_after(60):
        async with backend.running(), trio.open_nursery() as nursery:
            await nursery.start(
                lambda task_status: serve_control(
                    backend, path, limits=Limits(**limits), task_status=task_status
                )
            )
            yield Served(backend, path, nursery)
            nursery.cancel_scope.cancel()


async def test_plain_requests_are_answered(tmp_path: Path) -> None:
    async with serving(tmp_path) as served:
        assert (await served.ask("GET", "/v1/status"))[1]["name"] == "pi-kitchen"
        assert len((await served.ask("GET", "/v1/peers"))[1]["peers"]) == 3
        assert (await served.ask("GET", "/v1/config"))[1]["name"]["source"] == "file"
        assert [c["ok"] for c in (await served.ask("GET", "/v1/doctor"))[1]["checks"]] == [
            True,
            False,
            None,
        ]
        status, answer = await served.ask("GET", "/v1/nothing")
        assert (status, answer) == (404, {"error": "/v1/nothing: no such thing in this API"})
        assert (await served.ask("PUT", "/v1/status"))[0] == 405


async def test_a_kept_connection_serves_many_requests(tmp_path: Path) -> None:
    async with serving(tmp_path) as served:
        talk = await served.talk()
        async with talk.stream:
            for _ in range(20):
                assert (await talk.ask("GET", "/v1/status"))[0] == 200


async def test_sending_a_submission_twice_makes_one_job(tmp_path: Path) -> None:
    async with serving(tmp_path) as served:
        first = (await served.ask("POST", "/v1/jobs", run_body("echo", "hi")))[1]
        again = (await served.ask("POST", "/v1/jobs", run_body("echo", "hi")))[1]
        assert first["job"] == again["job"]
        assert (first["unchanged"], again["unchanged"]) == (False, True)
        assert len(served.backend.submitted) == 1


async def test_jobs_are_found_by_prefix_and_name_and_listed_by_state(tmp_path: Path) -> None:
    async with serving(tmp_path) as served:
        one = (await served.ask("POST", "/v1/jobs", run_body("wait", key="1")))[1]["job"]
        (await served.ask("POST", "/v1/jobs", run_body("exit", "3", key="2", Name="other")))
        await served.until(lambda: served.backend.views[one]["state"] == "running")
        assert (await served.ask("GET", f"/v1/jobs/{one[:8]}"))[1]["id"] == one
        assert (await served.ask("GET", "/v1/jobs/other"))[1]["name"] == "other"
        assert (await served.ask("GET", "/v1/jobs/absent"))[0] == 404
        status, answer = await served.ask("GET", "/v1/jobs?state=running,pending&limit=5")
        assert status == 200 and [job["id"] for job in answer["jobs"]] == [one]
        assert (await served.ask("GET", "/v1/jobs?limit=0"))[0] == 400
        assert (await served.ask("GET", "/v1/jobs?limit=many"))[0] == 400


async def test_a_wrong_spec_is_refused_with_its_path(tmp_path: Path) -> None:
    async with serving(tmp_path) as served:
        for target in ("/v1/jobs", "/v1/run?follow"):
            status, answer = await served.ask("POST", target, run_body("echo", Count=101))
            assert (status, answer["path"]) == (400, "Count")
        assert served.backend.submitted == []


@pytest.mark.parametrize(
    "body",
    [
        b"{", b"[1]", b'"text"', b"null", b"\xff\xfe", b'{"spec": 1, "key": "k"}',
        b'{"spec": {}}', b'{"spec": {}, "key": ""}', b'{"spec": {}, "key": "a\\n"}',
        b'{"spec": {}, "key": "k", "more": 1}', b"[" * 100_000, b'{"a":' * 20_000,
    ],
    ids=range(12),
)  # fmt: skip
async def test_a_bad_body_is_a_400(tmp_path: Path, body: bytes) -> None:
    async with serving(tmp_path) as served:
        status, answer = await served.ask("POST", "/v1/jobs", body)
        assert status == 400 and answer["error"]
        assert (await served.ask("GET", "/v1/status"))[0] == 200


async def test_run_streams_events_output_and_the_end_in_one_answer(tmp_path: Path) -> None:
    async with serving(tmp_path) as served:
        talk = await served.talk()
        async with talk.stream:
            await talk.send("POST", "/v1/run?follow&logs", run_body("echo", "hi", Count=2))
            assert (await talk.head()).status_code == 200
            lines = await talk.rest()
        assert lines[0]["submitted"]["durable_on"] == 2
        kinds = [line["event"]["kind"] for line in lines if "event" in line]
        assert kinds[:3] == ["job.accepted", "job.asking", "job.bids"]
        assert kinds[-1] == "job.completed"
        assert [line["log"]["data"] for line in lines if "log" in line] == ["hi\n", "hi\n"]
        assert lines[-1]["final"]["state"] == "completed"
        assert served.backend.feed.followers == 0


async def test_run_without_events_and_of_a_job_that_ended_before(tmp_path: Path) -> None:
    async with serving(tmp_path) as served:
        for _ in range(2):
            talk = await served.talk()
            async with talk.stream:
                await talk.send("POST", "/v1/run?follow&events=0", run_body("exit", "3"))
                await talk.head()
                lines = await talk.rest()
            assert [next(iter(line)) for line in lines] == ["submitted", "final"]
            assert lines[1]["final"]["slots"][0]["exit_code"] == 3


async def test_the_end_of_a_job_is_pushed_not_polled(tmp_path: Path) -> None:
    async with serving(tmp_path, heartbeat_s=1000, look_s=1000) as served:
        talk = await served.talk()
        async with talk.stream:
            await talk.send("POST", "/v1/run?follow", run_body("wait"))
            await talk.head()
            job = (await talk.line())["submitted"]["job"]
            await served.until(lambda: served.backend.views[job]["state"] == "running")
            served.backend.finish(job, 0)
            rest = await talk.rest()
        assert rest[-1]["final"]["state"] == "completed"


async def test_a_lost_end_is_found_by_looking(tmp_path: Path) -> None:
    async with serving(tmp_path, look_s=0.05) as served:
        job = (await served.ask("POST", "/v1/jobs", run_body("wait")))[1]["job"]
        await served.until(lambda: served.backend.views[job]["state"] == "running")
        talk = await served.talk()
        async with talk.stream:
            await talk.send("GET", f"/v1/jobs/{job}/follow?events=0")
            await talk.head()
            await served.until(lambda: served.backend.feed.followers == 1)
            served.backend.views[job]["state"] = "failed"  # and no event tells
            assert (await talk.rest())[-1]["final"]["state"] == "failed"


async def test_follow_of_an_ended_job_gives_what_is_remembered(tmp_path: Path) -> None:
    async with serving(tmp_path) as served:
        job = (await served.ask("POST", "/v1/jobs", run_body("echo", "x")))[1]["job"]
        await served.until(lambda: served.backend.views[job]["state"] == "completed")
        talk = await served.talk()
        async with talk.stream:
            await talk.send("GET", f"/v1/jobs/{job}/follow?logs")
            await talk.head()
            lines = await talk.rest()
        assert [next(iter(line)) for line in lines[-2:]] == ["log", "final"]
        assert lines[0]["event"]["kind"] == "job.accepted"


async def test_of_what_never_began_only_the_end_is_told(tmp_path: Path) -> None:
    """A note that it has no output says nothing beside why it failed; that it is gone does."""
    async with serving(tmp_path) as served:
        job = (await served.ask("POST", "/v1/jobs", run_body("wait")))[1]["job"]
        await served.until(lambda: served.backend.views[job]["state"] == "running")
        for cause in ("none", "gone", "unreachable"):
            served.backend.write(job, b"", note="cannot be had", cause=cause, missing=True)
        served.backend.finish(job, None)
        talk = await served.talk()
        async with talk.stream:
            await talk.send("GET", f"/v1/jobs/{job}/follow?logs&events=0")
            await talk.head()
            lines = await talk.rest()
        causes = [line.get("log", {}).get("cause") for line in lines]
        assert causes == ["gone", "unreachable", None]
        talk = await served.talk()
        async with talk.stream:
            await talk.send("GET", f"/v1/jobs/{job}/logs")
            await talk.head()
            causes = [line["cause"] for line in await talk.rest()]
            assert causes == ["none", "gone", "unreachable"]


async def test_output_that_comes_too_late_for_its_jobs_end_is_told_of(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(follow, "LOGS_END_S", 0.05)
    async with serving(tmp_path) as served:

        async def slow(job: str, wanted: LogQuery) -> AsyncIterator[View]:
            yield {"slot": 0, "peer": "p", "stream": "stdout", "data": "begun\n"}
            await trio.sleep_forever()

        monkeypatch.setattr(served.backend, "logs", slow)
        talk = await served.talk()
        async with talk.stream:
            await talk.send("POST", "/v1/run?follow&logs&events=0", run_body("exit", "0"))
            await talk.head()
            lines = await talk.rest()
        assert [next(iter(line)) for line in lines] == ["submitted", "log", "log_error", "final"]
        assert "not all of it came within" in lines[2]["log_error"]


async def test_logs_by_slot_and_stream_and_bytes_that_are_no_text(tmp_path: Path) -> None:
    async with serving(tmp_path) as served:
        job = (await served.ask("POST", "/v1/jobs", run_body("raw")))[1]["job"]
        await served.until(lambda: served.backend.views[job]["state"] == "completed")
        talk = await served.talk()
        async with talk.stream:
            await talk.send("GET", f"/v1/jobs/{job}/logs?slot=0&stream=stdout")
            await talk.head()
            (line,) = await talk.rest()
        assert (line["data"], line["encoding"]) == ("//4K", "base64")
        assert (await served.ask("GET", f"/v1/jobs/{job}/logs?stream=stdin"))[0] == 400
        assert (await served.ask("GET", "/v1/jobs/none/logs"))[0] == 404


async def test_a_stop_ends_a_followed_job(tmp_path: Path) -> None:
    async with serving(tmp_path) as served:
        talk = await served.talk()
        async with talk.stream:
            await talk.send("POST", "/v1/run?follow", run_body("wait"))
            await talk.head()
            job = (await talk.line())["submitted"]["job"]
            await served.until(lambda: served.backend.views[job]["state"] == "running")
            assert (await served.ask("POST", f"/v1/jobs/{job}/stop"))[0] == 200
            assert (await talk.rest())[-1]["final"]["state"] == "stopped"


async def test_events_are_listed_or_followed(tmp_path: Path) -> None:
    async with serving(tmp_path) as served:
        feed = served.backend.feed
        feed.tell("peer.joined", "pi-attic joined")
        _, answer = await served.ask("GET", "/v1/events")
        assert [event["text"] for event in answer["events"]] == ["pi-attic joined"]
        talk = await served.talk()
        async with talk.stream:
            await talk.send("GET", "/v1/events?follow&since=0")
            await talk.head()
            assert (await talk.line())["seq"] == 1
            feed.tell("peer.dead", "pi-attic died")
            assert (await talk.line())["kind"] == "peer.dead"
        await served.until(lambda: feed.followers == 0)


async def test_a_quiet_stream_beats_and_shows_its_head_at_once(tmp_path: Path) -> None:
    async with serving(tmp_path, heartbeat_s=0.01) as served:
        talk = await served.talk()
        async with talk.stream:
            await talk.send("GET", "/v1/events?follow")
            await talk.head()
            for _ in range(3):
                event = await talk.event()
                assert bytes(event.data) == b"\n"


async def test_a_stream_with_connection_close_gets_its_end(tmp_path: Path) -> None:
    """Starlette's own streaming response on hypercorn loses it (pinned: see streams.py)."""
    async with serving(tmp_path) as served:
        talk = await served.talk()
        async with talk.stream:
            await talk.send("POST", "/v1/run?follow", run_body("echo", "hi"), connection="close")
            await talk.head()
            lines = await talk.rest()  # asserts the end of the message
        assert "final" in lines[-1]


async def test_a_follower_that_goes_away_is_noticed_without_a_heartbeat(tmp_path: Path) -> None:
    async with serving(tmp_path, heartbeat_s=1000) as served:
        talk = await served.talk()
        await talk.send("GET", "/v1/events?follow")
        await talk.head()
        await served.until(lambda: served.backend.feed.followers == 1)
        await talk.stream.aclose()
        await served.until(lambda: served.backend.feed.followers == 0)


async def test_a_client_that_stops_reading_is_cut_off(tmp_path: Path, caplog: Any) -> None:
    caplog.set_level("INFO", "agent.control")
    async with serving(tmp_path, write_s=0.05) as served:
        job = (await served.ask("POST", "/v1/jobs", run_body("echo")))[1]["job"]
        served.backend.log_flood = 100_000
        talk = await served.talk()
        async with talk.stream:
            await talk.send("GET", f"/v1/jobs/{job}/logs")
            await talk.head()
            assert (await served.ask("GET", "/v1/status"))[0] == 200  # others are served
            await served.until(lambda: "stopped reading" in caplog.text)
            assert await talk.closed()


async def test_followers_are_counted_and_bounded(tmp_path: Path) -> None:
    async with serving(tmp_path, followers_max=2) as served:
        talks = [await served.talk() for _ in range(2)]
        for talk in talks:
            await talk.send("GET", "/v1/events?follow")
            await talk.head()
        status, answer = await served.ask("GET", "/v1/events?follow")
        assert status == 503 and "close some" in answer["error"]
        assert (await served.ask("POST", "/v1/run?follow", run_body("echo")))[0] == 503
        assert served.backend.submitted == []
        await talks[0].stream.aclose()
        await served.until(lambda: served.backend.feed.followers == 1)
        talk = await served.talk()
        await talk.send("GET", "/v1/events?follow")
        assert (await talk.head()).status_code == 200
        for open_talk in (talks[1], talk):
            await open_talk.stream.aclose()


async def test_connections_are_bounded(tmp_path: Path) -> None:
    async with serving(tmp_path, connections_max=2) as served:
        talks = [await served.talk() for _ in range(2)]
        for talk in talks:
            assert (await talk.ask("GET", "/v1/status"))[0] == 200
        refused = await served.talk()
        head = await refused.head()
        assert head.status_code == 503
        assert b"too many open connections" in (await refused.event()).data
        for talk in (*talks, refused):
            await talk.stream.aclose()


async def test_a_connection_that_the_client_closed_takes_no_place(tmp_path: Path) -> None:
    """Upstream holds an idle one until its timer ends: a busy minute shut everybody out."""
    async with serving(tmp_path, connections_max=2) as served:
        for _ in range(10):
            talk = await served.talk()
            async with talk.stream:
                assert (await talk.ask("GET", "/v1/status"))[0] == 200
                await trio.testing.wait_all_tasks_blocked()  # its timer runs


async def test_bodies_are_bounded_by_what_they_declare_and_by_what_comes(tmp_path: Path) -> None:
    async with serving(tmp_path, body_bytes_max=1000, archive_bytes_max=5000) as served:
        for target, size in (("/v1/jobs", 1001), ("/v1/archives", 5001)):
            status, answer = await served.ask("POST", target, b"x" * size)
            assert status == 413 and str(size) in answer["error"]
        talk = await served.talk()
        async with talk.stream:
            await talk.stream.send_all(
                b"POST /v1/archives HTTP/1.1\r\nhost: s\r\ntransfer-encoding: chunked\r\n\r\n"
                + (b"1000\r\n" + b"y" * 4096 + b"\r\n") * 2
            )
            talk.http.send(h11.Request(method="POST", target="/", headers=[("host", "s")]))
            assert (await talk.head()).status_code == 413
            assert await talk.closed()
        assert served.backend.archives == {}
        assert (await served.ask("POST", "/v1/archives", b"x" * 5000))[1]["size"] == 5000


async def test_a_large_refused_body_leaves_nothing_behind(tmp_path: Path) -> None:
    """hypercorn would wait for ever for the application to take the rest of the body."""
    async with serving(tmp_path, body_bytes_max=1000, connections_max=2) as served:
        for _ in range(5):  # more than there are connections
            talk = await served.talk()
            async with talk.stream:
                await talk.stream.send_all(
                    b"POST /v1/jobs HTTP/1.1\r\nhost: s\r\ncontent-length: 9000000\r\n\r\n"
                )
                await talk.stream.send_all(b"z" * 100_000)
                assert await talk.closed()
        await served.until(lambda: True)
        assert (await served.ask("GET", "/v1/status"))[0] == 200


@pytest.mark.parametrize("size", [*range(600_000, 1_000_001, 50_000), 3_000_000])
async def test_whoever_still_sends_a_refused_body_is_answered_and_cut_off(
    tmp_path: Path, size: int
) -> None:
    """Of more than hypercorn's queue takes, or just as much, it would wait for ever for somebody to
    take the rest, and whoever sends it would, too."""

    async def full(chunks: AsyncIterator[bytes]) -> dict[str, Any]:
        await anext(chunks)
        await trio.testing.wait_all_tasks_blocked()
        raise RequestError(507, "the disk is full")

    async with serving(tmp_path, connections_max=2) as served:
        served.backend.put_archive = full  # type: ignore[method-assign]
        for _ in range(3):  # more than there are connections
            talk = await served.talk()
            async with talk.stream:
                with suppress(trio.BrokenResourceError):
                    await talk.send("POST", "/v1/archives", b"z" * size)
                assert (await talk.head()).status_code == 507
        assert (await served.ask("GET", "/v1/status"))[0] == 200


async def test_a_body_that_never_comes_whole_is_refused(tmp_path: Path) -> None:
    async with serving(tmp_path, body_s=0.05) as served:
        talk = await served.talk()
        async with talk.stream:
            await talk.stream.send_all(
                b"POST /v1/jobs HTTP/1.1\r\nhost: s\r\ncontent-length: 10\r\n\r\nabc"
            )
            talk.http.send(h11.Request(method="POST", target="/", headers=[("host", "s")]))
            assert (await talk.head()).status_code == 408


async def test_half_a_request_and_silence_are_closed_after_a_while(tmp_path: Path) -> None:
    async with serving(tmp_path, idle_s=0.05) as served:
        for begun in (b"", b"GET /v1/status HT", b"GET / HTTP/1.1\r\nhost: "):
            talk = await served.talk()
            async with talk.stream:
                await talk.stream.send_all(begun)
                assert await talk.closed()


@pytest.mark.parametrize(
    "garbage",
    [
        b"\x00" * 100, b"GET\r\n\r\n", b"\x16\x03\x01\x02\x00\x01", b"GET / HTTP/9.9\r\n\r\n",
        b"POST /v1/jobs HTTP/1.1\r\nhost: s\r\ncontent-length: -1\r\n\r\n",
        b"POST /v1/jobs HTTP/1.1\r\nhost: s\r\ntransfer-encoding: chunked\r\n\r\nzz\r\n",
        b"GET /" + b"a" * 70_000 + b" HTTP/1.1\r\n\r\n",
        b"GET /v1/status HTTP/1.1\r\n" + b"a: b\r\n" * 20_000 + b"\r\n",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"\xff" * 100,
        b"GET /v1/jobs/%ff%00 HTTP/1.1\r\nhost: s\r\n\r\n",
        b"GET /v1/status HTTP/1.1\r\nhost: s\r\nupgrade: websocket\r\nconnection: upgrade\r\n\r\n",
        b"GET /v1/status HTTP/1.1\r\nhost: s\r\nupgrade: h2c\r\nconnection: upgrade\r\n"
        b"http2-settings: !!\r\n\r\n",
    ],
    ids=range(12),
)  # fmt: skip
async def test_garbage_is_answered_or_dropped_and_the_server_lives(
    tmp_path: Path, garbage: bytes
) -> None:
    async with serving(tmp_path, idle_s=0.1) as served:
        talk = await served.talk()
        async with talk.stream:
            with suppress(trio.BrokenResourceError):
                await talk.stream.send_all(garbage)
            with trio.move_on_after(0.2):
                await talk.closed()
        assert (await served.ask("GET", "/v1/status"))[0] == 200


@pytest.mark.parametrize("protocol", ["h2c", "websocket", "TLS/1.3"])
async def test_a_wish_for_another_protocol_is_passed_over(tmp_path: Path, protocol: str) -> None:
    """hypercorn would begin it, with code that is not loaded (see diet.py)."""
    async with serving(tmp_path) as served:
        status, answer = await served.ask(
            "GET", "/v1/status", upgrade=protocol, connection="upgrade", http2_settings="AAMAAABk"
        )
        assert (status, answer["name"]) == (200, "pi-kitchen")


async def test_clients_that_leave_in_the_middle_are_no_event(tmp_path: Path, caplog: Any) -> None:
    async with serving(tmp_path) as served:
        for data in (
            b"POST /v1/jobs HTTP/1.1\r\nhost: s\r\ncontent-length: 10\r\n\r\nab",
            b"POST /v1/run?follow HTTP/1.1\r\nhost: s\r\ncontent-length: %d\r\n\r\n%s"
            % (len(run_body("wait")), run_body("wait")),
            b"GET /v1/events?follow HTTP/1.1\r\nhost: s\r\n\r\n",
        ):
            talk = await served.talk()
            await talk.stream.send_all(data)
            await talk.stream.aclose()
        assert (await served.ask("GET", "/v1/status"))[0] == 200
        await served.until(lambda: served.backend.feed.followers == 0)
    assert [record for record in caplog.records if record.levelname == "ERROR"] == []


async def test_a_failing_backend_is_a_500_and_a_log_line(tmp_path: Path, caplog: Any) -> None:
    async with serving(tmp_path) as served:
        served.backend.archive_failure = OSError("no space")
        status, answer = await served.ask("POST", "/v1/archives", b"data")
        assert (status, "its log" in answer["error"]) == (500, True)
        assert "no space" in caplog.text
        assert (await served.ask("GET", "/v1/status"))[0] == 200


@pytest.mark.parametrize(
    ("target", "body", "said"),
    [
        ("/v1/peers/@self/drain", {}, "draining"),
        ("/v1/peers/@self/drain", {"draining": "yes"}, "bool"),
        ("/v1/peers/@self/drain", {"draining": True, "now": 1}, "now"),
        ("/v1/labels", {"set": {"a": 1}}, "$.set"),
        ("/v1/labels", {"unset": "a"}, "$.unset"),
        ("/v1/labels", {"given": {}}, "given"),
    ],
)
async def test_changes_of_a_device_are_checked_and_none_is_made(
    tmp_path: Path, target: str, body: dict[str, Any], said: str
) -> None:
    async with serving(tmp_path) as served:
        status, answer = await served.ask("POST", target, json.dumps(body).encode())
        assert status == 400 and said in answer["error"], answer
        assert not served.backend.draining and not served.backend.live


async def test_who_changes_a_device_is_logged(tmp_path: Path, caplog: Any) -> None:
    caplog.set_level("INFO")
    async with serving(tmp_path) as served:
        await served.ask("POST", "/v1/labels", b'{"set": {"a": "b"}, "unset": ["c"]}')
        await served.ask("POST", "/v1/peers/@self/drain", b'{"draining": true}')
        await served.ask("POST", "/v1/peers/pi-shed/forget")
    for text in ("change of 2 labels", "draining on", "forgetting pi-shed"):
        assert f"{text} asked for by uid {os.getuid()}" in caplog.text


async def test_invitations_are_checked(tmp_path: Path) -> None:
    async with serving(tmp_path) as served:
        body = json.dumps({"expires_s": 60, "uses": 2, "labels": {"a": "b"}}).encode()
        assert (await served.ask("POST", "/v1/invites", body))[1]["token"] == "shoal-token-1"
        assert served.backend.invited == [(60, 2, [], {"a": "b"})]
        for bad in (b'{"uses": 0}', b'{"expires_s": 1e9}', b'{"roles": "compute"}', b'{"x": 1}'):
            assert (await served.ask("POST", "/v1/invites", bad))[0] == 400


async def test_invitations_are_listed_and_withdrawn(tmp_path: Path) -> None:
    async with serving(tmp_path) as served:
        await served.ask("POST", "/v1/invites", b'{"uses": 3}')
        (listed,) = (await served.ask("GET", "/v1/invites"))[1]["invites"]
        path = f"/v1/invites/{listed['id']}/withdraw"
        assert await served.ask("POST", path) == (200, {"id": listed["id"]})
        assert (await served.ask("GET", "/v1/invites"))[1] == {"invites": []}
        assert (await served.ask("POST", path))[0] == 404


async def test_the_caller_is_known_from_the_kernel(tmp_path: Path, caplog: Any) -> None:
    caplog.set_level("INFO", "agent.control")
    async with serving(tmp_path) as served:
        job = (await served.ask("POST", "/v1/jobs", run_body("wait")))[1]["job"]
        await served.ask("POST", f"/v1/jobs/{job}/stop")
    assert f"uid {os.getuid()}, pid {os.getpid()}" in caplog.text


async def test_shutdown_is_answered_before_it_happens(tmp_path: Path) -> None:
    async with serving(tmp_path) as served:
        assert await served.ask("POST", "/v1/shutdown") == (202, {"ending": True})
        await served.backend.ended.wait()


async def test_the_end_with_fifty_followers_and_a_stuck_one_is_swift(tmp_path: Path) -> None:
    async with serving(tmp_path, write_s=1000, heartbeat_s=1000, ending_s=0.3) as served:
        job = (await served.ask("POST", "/v1/jobs", run_body("echo")))[1]["job"]
        served.backend.log_flood = 100_000
        talks = [await served.talk() for _ in range(51)]
        for talk in talks[:50]:
            await talk.send("GET", "/v1/events?follow")
            await talk.head()
        await talks[50].send("GET", f"/v1/jobs/{job}/logs")
        await talks[50].head()  # and reads nothing more: hypercorn's writes are shielded
        await served.until(lambda: served.backend.feed.followers == 50)
        began = time.monotonic()
        served.nursery.cancel_scope.cancel()
    assert time.monotonic() - began < 5
    assert not served.path.exists()
    assert served.backend.feed.followers == 0
    for talk in talks:
        assert await talk.closed()
        await talk.stream.aclose()


def test_the_server_rests_on_the_version_it_was_cured_for() -> None:
    assert version("hypercorn") == "0.18.0"


def test_the_socket_has_narrow_rights_from_the_first_moment(tmp_path: Path) -> None:
    path = tmp_path / "shoal.sock"
    mask = os.umask(0)
    try:
        bound = sockets.bind(path)
    finally:
        os.umask(mask)
    assert stat.S_IMODE(path.stat().st_mode) == 0o660
    assert [entry.name for entry in tmp_path.iterdir()] == ["shoal.sock"]
    bound.remove()
    assert not path.exists()
    bound.socket.close()


def test_a_dead_agents_socket_is_replaced_and_a_live_ones_is_not(tmp_path: Path) -> None:
    path = tmp_path / "shoal.sock"
    sockets.bind(path).socket.close()  # died: the file stays
    bound = sockets.bind(path)
    with pytest.raises(SocketError, match="another agent answers"):
        sockets.bind(path)
    bound.socket.close()
    other = sockets.bind(path)
    bound.remove()  # not its own any more
    assert path.exists()
    other.remove()
    other.socket.close()


def test_what_is_no_socket_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    with pytest.raises(SocketError, match="no socket"):
        sockets.bind(tmp_path / "file")
    with pytest.raises(SocketError, match="cannot listen on"):
        sockets.bind(tmp_path / "file" / "shoal.sock")
    assert (tmp_path / "file").read_text() == "mine"


def test_a_path_longer_than_a_sockets_address_is_no_obstacle(tmp_path: Path) -> None:
    path = tmp_path / ("d" * 100) / ("e" * 100) / "shoal.sock"
    bound = sockets.bind(path)
    assert stat.S_ISSOCK(path.stat().st_mode)
    directory = os.open(path.parent, os.O_PATH)
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(f"/proc/self/fd/{directory}/shoal.sock")
    os.close(directory)
    bound.remove()
    bound.socket.close()
