"""Output is kept before its container goes: all of it, or what there is room for."""

from __future__ import annotations

import logging
import os
import subprocess
from pathlib import Path

import pytest

from agent.engines.docker_client import LABEL, DockerClient, NotAnswering
from agent.engines.docker_log import has_dropped, keep_logs, kept_log, read_kept, whole_chunk
from agent.engines.execution_dir import ExecutionDir
from agent.engines.task_log import STREAMS, Stream
from tests.dockerhost import IMAGE, DockerHost
from tests.dockerproxy import LEAVES_SOCKETS, DockerProxy

pytestmark = LEAVES_SOCKETS
LOGS = rb"^GET \S*/logs"


@pytest.fixture
def directory(tmp_path: Path) -> ExecutionDir:
    (tmp_path / "e1").mkdir()
    return ExecutionDir(tmp_path / "e1")


def run(docker: DockerHost, client: DockerClient, script: str, **log: str) -> None:
    """To its end; `log` is what docker is to keep of its output."""
    name, labels = client.name_of("e1"), {LABEL: "e1"}
    config = {"Type": client.log_driver, "Config": log} if log else None
    host = docker.api.create_host_config(log_config=config)
    command = ["sh", "-c", script]
    docker.api.create_container(IMAGE, command, name=name, labels=labels, host_config=host)
    docker.api.start(name)
    docker.api.wait(name)


def kept(directory: ExecutionDir, stream: Stream) -> bytes:
    return b"".join(chunk.data for chunk in read_kept(kept_log(directory, stream), 0, -1))


def test_both_streams_are_kept_from_beginning_to_end(
    docker: DockerHost, client: DockerClient, proxy: DockerProxy, directory: ExecutionDir
) -> None:
    run(docker, client, "seq 2000; echo err >&2; printf end")
    assert keep_logs(client, directory) == ""
    assert kept(directory, "stdout") == b"".join(b"%d\n" % n for n in range(1, 2001)) + b"end"
    assert kept(directory, "stderr") == b"err\n"
    assert proxy.count(LOGS) == 2


@pytest.mark.parametrize(
    ("script", "count", "out", "err", "whole"),
    [
        ("seq 3; echo err >&2", 5, [1, 2, 3], b"err\n", True),
        ("seq 3; echo err >&2", 4, [1, 2, 3], b"err\n", False),
        ("echo err >&2; sleep 0.3; seq 9", 4, [6, 7, 8, 9], b"", False),
        ("true", 4, [], b"", True),
    ],
)
def test_the_last_lines_of_both_streams_are_asked_for_together(
    docker: DockerHost,
    client: DockerClient,
    proxy: DockerProxy,
    script: str,
    count: int,
    out: list[int],
    err: bytes,
    whole: bool,
) -> None:
    """Docker counts the lines of both."""
    run(docker, client, script)
    found, all_of_it = client.last_lines("e1", STREAMS, count, count)
    assert all_of_it is whole and proxy.count(LOGS) == 1
    assert whole_chunk(found["stdout"]).data == b"".join(b"%d\n" % n for n in out)
    assert whole_chunk(found["stderr"]).data == err
    alone, all_of_it = client.last_lines("e1", ("stderr",), -1, count)
    assert whole_chunk(alone["stderr"]).data == (b"err\n" if "err" in script else b"")
    assert all_of_it and list(alone) == ["stderr"]


def test_what_is_known_already_is_kept_as_it_is(
    docker: DockerHost, client: DockerClient, proxy: DockerProxy, directory: ExecutionDir
) -> None:
    run(docker, client, "seq 3; echo err >&2")
    known, _ = client.last_lines("e1", STREAMS, 40, 40)
    assert keep_logs(client, directory, known) == "" and proxy.count(LOGS) == 1
    again = [kept(directory, stream) for stream in STREAMS]
    assert keep_logs(client, directory) == "" and proxy.count(LOGS) == 3
    assert again == [kept(directory, stream) for stream in STREAMS] == [b"1\n2\n3\n", b"err\n"]


@pytest.mark.parametrize(
    ("script", "dropped"),
    [("seq 1000; seq 1000 >&2", False), ("seq 9000", True), ("seq 5000; seq 5000 >&2", True)],
)
def test_whether_docker_may_have_dropped_output_is_seen_by_what_it_has(
    docker: DockerHost, client: DockerClient, script: str, dropped: bool
) -> None:
    """In five files of 32 KiB, of which four are full once one was dropped."""
    run(docker, client, script, **{"max-size": "32768", "max-file": "5"})
    assert has_dropped(client, "e1") == dropped


def test_where_it_is_not_known_how_much_docker_keeps_nothing_is_seen(
    docker: DockerHost, client: DockerClient
) -> None:
    run(docker, client, "seq 9000")
    assert not has_dropped(client, "e1")


def test_of_a_container_that_is_gone_there_is_nothing_to_keep(
    client: DockerClient, directory: ExecutionDir
) -> None:
    assert keep_logs(client, directory) == ""
    assert os.listdir(directory.path) == []


@pytest.mark.parametrize("after", [0, 2000], ids=["at once", "in the middle"])
def test_a_docker_that_does_not_answer_is_asked_again_later(
    docker: DockerHost,
    client: DockerClient,
    proxy: DockerProxy,
    directory: ExecutionDir,
    monkeypatch: pytest.MonkeyPatch,
    after: int,
) -> None:
    run(docker, client, "seq 2000")
    with (
        proxy.hanging(LOGS, after),
        monkeypatch.context() as hurried,
        pytest.raises(NotAnswering),
    ):
        hurried.setattr(client._api, "timeout", 1.0)
        keep_logs(client, directory)
    assert os.listdir(directory.path) == []
    with proxy.cutting(LOGS, after), pytest.raises(NotAnswering):
        keep_logs(client, directory)
    assert os.listdir(directory.path) == []


def test_a_docker_that_says_nothing_of_what_is_followed_does_not_answer(
    docker: DockerHost, client: DockerClient, proxy: DockerProxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Once it has answered, output may be as quiet as its container is."""
    run(docker, client, "true")
    monkeypatch.setattr(client._api, "timeout", 0.5)
    with proxy.hanging(LOGS), pytest.raises(NotAnswering):
        client.log("e1", "stdout", 0, -1, True)
    name = client.name_of("e2")
    docker.api.create_container(IMAGE, ["sleep", "1.5"], name=name, labels={LABEL: "e2"})
    docker.api.start(name)
    frames, _ = client.log("e2", "stdout", 0, -1, True)
    assert list(frames) == []


def test_a_stream_that_finds_no_room_costs_the_other_nothing(
    docker: DockerHost,
    client: DockerClient,
    directory: ExecutionDir,
    caplog: pytest.LogCaptureFixture,
) -> None:
    run(docker, client, "seq 100000; echo err >&2")
    place = directory.path
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "none", place], check=True)
    try:
        with caplog.at_level(logging.WARNING, "shoal.docker"):
            lost = keep_logs(client, directory)
        assert lost == "stdout could not be kept: the disk is full"
        assert os.listdir(place) == ["log.stderr"] and kept(directory, "stderr") == b"err\n"
    finally:
        subprocess.run(["umount", place], check=True)
    assert [record.getMessage() for record in caplog.records] == [
        "the output of e1 is not kept: [Errno 28] No space left on device"
    ]
