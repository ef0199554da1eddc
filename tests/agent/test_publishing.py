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


class Away:
    """A server that is not there, until it comes back."""

    def __init__(self, s3: S3Server) -> None:
        with socket.socket() as taken:
            taken.bind(("127.0.0.1", 0))
            self._port = taken.getsockname()[1]
        self._host, _, self._there = s3.host.partition(":")
        self.endpoint = f"http://127.0.0.1:{self._port}"

    async def come_back(self, nursery: trio.Nursery) -> None:
        serve = partial(trio.serve_tcp, self._forward, self._port, host=self._host)
        await nursery.start(serve)

    async def _forward(self, near: trio.SocketStream) -> None:
        there = int(self._there)
        async with (
            await trio.open_tcp_stream(self._host, there) as far,
            trio.open_nursery() as pair,
        ):
            pair.start_soon(_pump, near, far)
            pair.start_soon(_pump, far, near)


async def _pump(one: trio.SocketStream, other: trio.SocketStream) -> None:
    async for data in one:
        await other.send_all(data)
    await other.send_eof()


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
    away = Away(s3)
    async with running(root) as it, trio.open_nursery() as nursery:
        it.tasks.start(publishes(s3, Endpoint=away.endpoint, Key="late"))
        await it.until(PublishingStarted)
        await until(lambda: "Connection refused" in caplog.text)
        await away.come_back(nursery)
        ended = await it.until(TaskEnded)
        assert ended.published == "s3://results/late.tar.gz", ended
        nursery.cancel_scope.cancel()
    assert "late.tar.gz" in s3.keys("results")


async def test_what_waits_for_its_bucket_is_kept_over_the_quota_and_over_a_restart(
    root: Path, s3: S3Server
) -> None:
    away = Away(s3)
    random = "mkdir out; head -c 4000 /dev/urandom > out/a"
    keys = [ExecutionId(f"e{number}") for number in range(4)]

    async with running(root) as first:
        first.kept._quota_bytes = 9000
        for key in keys:
            task = publishes(s3, random, key, Endpoint=away.endpoint, Key="waits/{executionID}")
            first.tasks.start(task)
            await until(lambda key=key: PublishingStarted(key) in first.events)
        other = shell(
            random, execution=ExecutionId("o"), ResultPaths=[{"Name": "r", "Path": "out"}]
        )
        first.tasks.start(other)
        await until(lambda: any(isinstance(event, TaskEnded) for event in first.events))
        assert (await first.until(TaskEnded)).execution == "o", "nothing has failed"
        assert len(first.kept.digests()) == 5, "the fifth is fresh"
        first.kept.prune()
        assert len(first.kept.digests()) == 4, "and goes first"
    for path in (root / "results").iterdir():  # the device was off for long
        os.utime(path, (1e9, 1e9))
    async with running(root) as second, trio.open_nursery() as nursery:
        second.kept._quota_bytes = 9000
        second.kept.prune()
        await second.tasks.found()
        await away.come_back(nursery)
        await until(lambda: kinds(second).count(TaskEnded) == len(keys))
        ended = [event for event in second.events if isinstance(event, TaskEnded)]
        assert [event.unpublished for event in ended] == [""] * 4
        second.kept.prune()
        assert second.kept.digests() == frozenset(), "nothing waits any more"
        nursery.cancel_scope.cancel()
    assert {f"waits/{key}.tar.gz" for key in keys} <= set(s3.keys("results"))


async def test_much_that_waits_is_told_of_and_that_it_waits_no_more(
    root: Path, s3: S3Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    away, told = Away(s3), []
    monkeypatch.setattr(publishing, "WAITING_BYTES_MAX", 3 << 20)
    large = "mkdir out; head -c 2000000 /dev/urandom > out/a"
    async with running(root) as it, trio.open_nursery() as nursery:
        it.publishing.on_backlog = lambda: told.append(it.publishing.backlog)
        for number in range(2):
            key = ExecutionId(f"e{number}")
            it.tasks.start(publishes(s3, large, key, Endpoint=away.endpoint, Key=f"much/{number}"))
            await until(lambda key=key: PublishingStarted(key) in it.events)
        await until(lambda: bool(told))
        assert told == ["3 MiB wait for their bucket"]
        await away.come_back(nursery)
        await until(lambda: kinds(it).count(TaskEnded) == 2)
        assert told == ["3 MiB wait for their bucket", ""]
        nursery.cancel_scope.cancel()


async def test_who_waits_behind_a_server_that_is_silent_is_tried_all_the_same(
    root: Path, s3: S3Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its time is that for trying, and begins with its first try."""
    monkeypatch.setattr(publishing, "PUBLISH_S", 1.0)
    monkeypatch.setattr(publishing, "GIVEN_UP_S", 0.1)
    monkeypatch.setattr("agent.bucket.SILENCE_S", 5.0)  # its threads are not to outlive the test
    with socket.create_server(("127.0.0.1", 0)) as silent:
        endpoint = f"http://127.0.0.1:{silent.getsockname()[1]}"
        async with running(root) as it:
            keys = [ExecutionId(f"e{number}") for number in range(3)]
            for key, there in zip(keys, (endpoint, endpoint, s3.endpoint), strict=True):
                it.tasks.start(publishes(s3, execution=key, Endpoint=there, Key=key))
                await until(lambda key=key: PublishingStarted(key) in it.events)
            await until(lambda: kinds(it).count(TaskEnded) == 3)
    ended = {event.execution: event for event in it.events if isinstance(event, TaskEnded)}
    assert ended[keys[2]].published == "s3://results/e2.tar.gz", ended
    assert all(ended[key].unpublished.endswith("took too long") for key in keys[:2])


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
