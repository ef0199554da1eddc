"""Publishing: what real tasks leave, brought to a real S3 server; whatever happens is their end."""

from __future__ import annotations

import io
import os
import shutil
import socket
import tarfile
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import trio

from agent import publishing
from agent.engines.execution_dir import ExecutionDir
from protocol.effects import StartTask, StopTask
from protocol.events import PublishingStarted, TaskEnded, TaskFound, TaskStarted
from protocol.ids import ExecutionId
from tests.agent.test_tasks import E1, Running, running, shell
from tests.agent.whole import open_directory, until
from tests.s3server import S3Server

WRITES = "mkdir -p out/deep; echo a > out/a; echo b > out/deep/b; : > out/empty"


@pytest.fixture
def root(s3: S3Server) -> Iterator[Path]:
    made = open_directory()
    s3.credentials(made / "credentials")
    yield made
    shutil.rmtree(made)


@pytest.fixture(autouse=True)
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(publishing, "PAUSE_S", 0.01)


def publishes(
    s3: S3Server, script: str = WRITES, execution: ExecutionId = E1, **params: Any
) -> StartTask:
    tree = {"Bucket": "results", "Endpoint": s3.endpoint, **params}
    paths = [{"Name": "report", "Path": "out"}]
    publisher = {"Type": "s3", "Params": tree}
    return shell(script, execution=execution, ResultPaths=paths, Publisher=publisher)


def kinds(it: Running) -> list[type]:
    return [type(event) for event in it.events]


def files_in(archive: bytes) -> dict[str, bytes]:
    with tarfile.open(fileobj=io.BytesIO(archive)) as tar:
        members = [member for member in tar if member.isreg()]
        return {member.name: tar.extractfile(member).read() for member in members}  # type: ignore[union-attr]


# ---- what is published -------------------------------------------------------------------------


async def test_results_are_one_archive_at_the_key_and_kept_here_as_well(
    root: Path, s3: S3Server
) -> None:
    async with running(root) as it:
        key = "packed/{jobID}/{nodeID}/{executionID}-{date}{time}"
        ended = await it.ended(publishes(s3, Key=key))
        resolved = "packed/j/me/e1-20270115080000.tar.gz"
        assert (ended.exit_code, ended.published) == (0, f"s3://results/{resolved}")
        assert ended.unpublished == "" and ended.archive
        assert kinds(it) == [TaskStarted, PublishingStarted, TaskEnded]
        body = s3.get("results", resolved)
        assert body == it.kept.path(ended.archive).read_bytes()
        assert files_in(body) == {
            "report/a": b"a\n",
            "report/deep/b": b"b\n",
            "report/empty": b"",
        }


async def test_or_file_by_file_below_the_key(root: Path, s3: S3Server) -> None:
    async with running(root) as it:
        ended = await it.ended(publishes(s3, Key="plain", Encoding="plain"))
        assert ended.published == "s3://results/plain/"
    found = [key for key in s3.keys("results") if key.startswith("plain/")]
    assert found == ["plain/report/a", "plain/report/deep/b", "plain/report/empty"]
    assert s3.get("results", "plain/report/deep/b") == b"b\n"


async def test_a_task_that_failed_publishes_what_it_left(root: Path, s3: S3Server) -> None:
    async with running(root) as it:
        ended = await it.ended(publishes(s3, f"{WRITES}; exit 3", Key="failed"))
        assert (ended.exit_code, ended.published) == (3, "s3://results/failed.tar.gz")


async def test_where_nothing_was_left_nothing_is_published_and_that_is_said(
    root: Path, s3: S3Server
) -> None:
    async with running(root) as it:
        ended = await it.ended(publishes(s3, "true", Key="nothing"))
        assert (ended.exit_code, ended.published, ended.unpublished) == (0, "", "")
        assert ended.archive_note == "out: nothing is there"
    assert "nothing.tar.gz" not in s3.keys("results")


async def test_what_was_not_kept_cannot_be_published(
    root: Path, s3: S3Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("agent.results.RESULT_BYTES_MAX", 1)
    async with running(root) as it:
        ended = await it.ended(publishes(s3, Key="large"))
        assert ended.unpublished.startswith("there is nothing to publish: more than")


# ---- what goes wrong ---------------------------------------------------------------------------


async def test_wrong_keys_and_wrong_buckets_are_told_of_at_once(root: Path, s3: S3Server) -> None:
    async with running(root) as it:
        ended = await it.ended(publishes(s3, Bucket="no-such-bucket", Key="a"))
        assert "could not be published: s3://no-such-bucket/a" in ended.unpublished
        assert "NoSuchBucket" in ended.unpublished
        assert ended.exit_code == 0 and it.kept.holds(ended.archive), "`job get` still has it"
    s3.credentials(root / "credentials", "not-the-secret")
    async with running(root) as it:
        ended = await it.ended(publishes(s3, execution=ExecutionId("e2"), Key="a"))
        assert "SignatureDoesNotMatch" in ended.unpublished
        assert "not-the-secret" not in ended.unpublished
    (root / "credentials").unlink()
    async with running(root) as it:
        ended = await it.ended(publishes(s3, execution=ExecutionId("e3"), Key="a"))
        assert "with access keys cannot be read" in ended.unpublished


async def test_an_endpoint_that_is_away_is_waited_for_within_bounds(
    root: Path, s3: S3Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(publishing, "PUBLISH_S", 1.0)
    async with running(root) as it:
        ended = await it.ended(publishes(s3, Endpoint="http://127.0.0.1:1", Key="a"))
        assert ended.unpublished.endswith("Connection refused")
        assert it.kept.holds(ended.archive)


async def test_one_that_comes_back_gets_what_it_missed(
    root: Path, s3: S3Server, caplog: pytest.LogCaptureFixture
) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port = taken.getsockname()[1]
    host, _, there = s3.host.partition(":")

    async def pump(one: trio.SocketStream, other: trio.SocketStream) -> None:
        async for data in one:
            await other.send_all(data)
        await other.send_eof()

    async def forward(near: trio.SocketStream) -> None:
        async with await trio.open_tcp_stream(host, int(there)) as far, trio.open_nursery() as pair:
            pair.start_soon(pump, near, far)
            pair.start_soon(pump, far, near)

    async with running(root) as it, trio.open_nursery() as nursery:
        it.tasks.start(publishes(s3, Endpoint=f"http://127.0.0.1:{port}", Key="late"))
        await it.until(PublishingStarted)
        await until(lambda: "Connection refused" in caplog.text)
        await nursery.start(partial(trio.serve_tcp, forward, port, host=host))
        ended = await it.until(TaskEnded)
        assert ended.published == "s3://results/late.tar.gz", ended
        nursery.cancel_scope.cancel()
    assert "late.tar.gz" in s3.keys("results")


async def test_a_stop_ends_it_and_it_is_not_tried_again(root: Path, s3: S3Server) -> None:
    async with running(root) as it:
        it.tasks.start(publishes(s3, Endpoint="http://127.0.0.1:1", Key="a"))
        await it.until(PublishingStarted)
        it.tasks.stop(StopTask(E1, "stopped"))
        ended = await it.until(TaskEnded)
        assert ended.unpublished == "it was stopped while its results were being published"
    async with running(root) as again:
        (found,) = await again.tasks.found()
        assert (found.running, found.unpublished) == (False, ended.unpublished)


# ---- over restarts -----------------------------------------------------------------------------


async def test_an_agent_that_was_away_goes_on_with_the_same_key(
    root: Path, s3: S3Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    task = publishes(s3, Key="again/{time}")
    monkeypatch.setattr("tests.agent.test_tasks.WALL", 1_800_000_000.0)
    s3.credentials(root / "credentials")
    os.rename(root / "credentials", root / "put-away")

    def missing(*arguments: object) -> None:
        raise OSError("the agent is killed here")

    async with running(root) as first:
        with monkeypatch.context() as killed:
            killed.setattr(publishing.Publishing, "settle", missing)
            first.tasks.start(task)
            ended = await first.until(TaskEnded)
            assert "the agent is killed here" in ended.unpublished
    os.rename(root / "put-away", root / "credentials")
    monkeypatch.setattr("tests.agent.test_tasks.WALL", 1_800_000_077.0)
    async with running(root) as second:
        assert await second.tasks.found() == (TaskFound(E1, running=True),), "not published yet"
        ended = await second.until(TaskEnded)
        assert ended.published == "s3://results/again/080000.tar.gz", "not of now, but of before"
    async with running(root) as third:
        (found,) = await third.tasks.found()
        assert (found.running, found.published) == (False, ended.published)
        assert found.as_ended().published == ended.published


async def test_notes_that_a_power_cut_left_half_are_told_of(root: Path, s3: S3Server) -> None:
    write = ExecutionDir.write_note
    async with running(root) as it:
        it.tasks.start(publishes(s3, f"until [ -e go ]; do sleep 0.05; done; {WRITES}", Key="a"))
        await it.until(TaskStarted)
        directory = it.engine.directories.of(E1)
        write(directory, publishing.WANTED, b"\0\0\0")
        (directory.work / "go").touch()
        ended = await it.until(TaskEnded)
        assert "unreadable: the device lost power" in ended.unpublished


async def test_a_task_without_a_publisher_has_nothing_published(root: Path) -> None:
    async with running(root) as it:
        ended = await it.ended(shell(WRITES, ResultPaths=[{"Name": "report", "Path": "out"}]))
        assert (ended.published, ended.unpublished) == ("", "")
        assert kinds(it) == [TaskStarted, TaskEnded]
        await until(lambda: not (root / "executions/e1/work").exists())
