"""The client against the real server, and against servers that break off."""

import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from agent.client import AgentError, Client, Unreachable, log_bytes, unreachable_text
from agent.control.server import Limits
from tests.agent.memory_agent import MemoryAgent


def spec(*command: str, **fields: Any) -> dict[str, Any]:
    task = {"Engine": {"Type": "process", "Params": {"Command": list(command)}}}
    return {"Name": "hello", "Type": "batch", "Tasks": [task], **fields}


@pytest.fixture
def agent(tmp_path: Path) -> Iterator[MemoryAgent]:
    with MemoryAgent(tmp_path / "shoal.sock") as agent:
        yield agent


@pytest.fixture
def client(agent: MemoryAgent) -> Iterator[Client]:
    with Client(agent.path) as client:
        yield client


def test_every_question_has_its_method(agent: MemoryAgent, client: Client) -> None:
    assert client.status()["name"] == "pi-kitchen"
    assert [peer["name"] for peer in client.peers()] == ["pi-kitchen", "pi-attic", "pi-shed"]
    assert client.peer()["self"] and client.peer("pi-attic")["name"] == "pi-attic"
    assert client.drain()["draining"] and agent.backend.draining
    assert client.drain(False)["draining"] is agent.backend.draining is False
    assert client.forget("pi-shed")["name"] == "pi-shed"
    assert client.label({"camera": "a b"})[-1] == client.labels()[-1]
    assert client.labels()[-1] == {"name": "camera", "value": "a b", "source": "set"}
    assert [label["name"] for label in client.label({}, ["camera"])] == ["room"]
    assert client.config()["name"]["value"] == "pi-kitchen"
    assert client.doctor()[0]["check"] == "clock"
    accepted = client.submit(spec("echo", "hi"), key="k")
    assert client.submit(spec("echo", "hi"), key="k")["unchanged"]
    assert list(client.follow(accepted["job"]))[-1]["final"]["state"] == "completed"
    assert client.job("hello")["id"] == accepted["job"]
    assert [job["id"] for job in client.jobs(state="completed")["jobs"]] == [accepted["job"]]
    assert client.jobs(state="failed")["jobs"] == []
    assert client.stop(accepted["job"])["job"] == accepted["job"]
    assert [log_bytes(line) for line in client.logs(accepted["job"])] == [b"hi\n"]
    assert client.events(job=accepted["job"])[0]["kind"] == "job.accepted"
    assert client.invite(uses=2, roles=["compute"], labels={"a": "b"})["token"]
    assert agent.backend.invited == [(900, 2, ["compute"], {"a": "b"})]
    assert client.put_archive(b"\0" * 100_000)["size"] == 100_000


def test_a_run_is_one_exchange(client: Client) -> None:
    lines = list(client.run(spec("raw"), logs=True))
    assert "submitted" in lines[0] and "final" in lines[-1]
    assert [log_bytes(line["log"]) for line in lines if "log" in line] == [b"\xff\xfe\n"]


def test_without_a_key_every_submission_is_a_job_of_its_own(client: Client) -> None:
    assert client.submit(spec("wait"))["job"] != client.submit(spec("wait"))["job"]


def test_refusals_carry_status_path_and_text(client: Client) -> None:
    with pytest.raises(AgentError) as refused:
        client.submit({"Name": "x"})
    assert (refused.value.status, refused.value.path, refused.value.text) == (
        400,
        "Tasks",
        "missing",
    )
    with pytest.raises(AgentError, match="Tasks: missing"):
        list(client.run({}))
    with pytest.raises(AgentError) as absent:
        client.job("a/../b ?")
    assert absent.value.status == 404
    assert client.status()["name"] == "pi-kitchen"  # the connection is still of use


def test_a_body_that_is_too_long_is_refused_in_words(client: Client) -> None:
    with pytest.raises(AgentError) as refused:
        client.put_archive(b"x" * (16 * 1024**2 + 1))
    assert refused.value.status == 413


def test_a_connection_that_the_agent_closed_is_opened_again(tmp_path: Path) -> None:
    with (
        MemoryAgent(tmp_path / "shoal.sock", Limits(idle_s=0.01)) as agent,
        Client(agent.path) as client,
    ):
        for _ in range(3):
            client.status()
            assert client._kept is not None
            client._kept._sock.recv(1, socket.MSG_PEEK)  # waits for the agent to close it


def test_a_restarted_agent_is_found_again(tmp_path: Path) -> None:
    path = tmp_path / "shoal.sock"
    with Client(path) as client:
        for _ in range(2):
            with MemoryAgent(path):
                assert client.status()["name"] == "pi-kitchen"
        with pytest.raises(Unreachable, match="shoal up"):
            client.status()


def test_no_agent_no_permission_and_other_trouble_are_sentences(tmp_path: Path) -> None:
    path = tmp_path / "shoal.sock"
    with pytest.raises(Unreachable, match=f"nothing answers on {path}; start it with `shoal up`"):
        Client(path).status()
    (tmp_path / "file").write_text("")
    with pytest.raises(Unreachable, match="no agent is running"):
        Client(tmp_path / "file" / "sock").status()
    path.write_text("")
    path.chmod(0o660)
    group = path.group()
    text = unreachable_text(str(path), PermissionError(13, "Permission denied"))
    assert ("root alone" in text) if group == "root" else (f"usermod -aG {group}" in text)
    text = unreachable_text(str(tmp_path / "closed" / "sock"), PermissionError(13, "denied"))
    assert "closed to you" in text


def test_a_path_longer_than_a_sockets_address_is_no_obstacle(tmp_path: Path) -> None:
    path = tmp_path / ("d" * 120) / "shoal.sock"
    with MemoryAgent(path), Client(path) as client:
        assert client.status()["name"] == "pi-kitchen"


def test_a_shutdown_ends_streams_with_a_sentence(agent: MemoryAgent, client: Client) -> None:
    lines = client.follow_events()
    agent.call(agent.backend.feed.tell, "tick", "tock")
    assert next(lines)["kind"] == "tick"
    assert client.shutdown() == {"ending": True}
    with pytest.raises(Unreachable, match="the agent closed the connection"):
        next(lines)


@pytest.mark.parametrize(
    "answer",
    [
        b"", b"HTTP/1.1 200", b"nonsense\r\n\r\n", b"HTTP/1.1 abc OK\r\n\r\n",
        b"HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\n{}",
        b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\n{}",
        b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\nzz\r\n{}",
        b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n3\r\n{}\n\r\n",
    ],
    ids=range(8),
)  # fmt: skip
def test_an_answer_that_breaks_off_is_never_taken_for_whole(tmp_path: Path, answer: bytes) -> None:
    with broken_server(tmp_path / "s", answer) as path:
        with Client(path) as client, pytest.raises(Unreachable):
            client.status()
        with Client(path) as client, pytest.raises(Unreachable):
            list(client.follow_events())


def test_an_error_within_a_stream_is_raised(tmp_path: Path) -> None:
    line = b'{"error":"the agent failed","status":500}\n'
    answer = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n%x\r\n%s\r\n0\r\n\r\n"
    with (
        broken_server(tmp_path / "s", answer % (len(line), line)) as path,
        Client(path) as client,
        pytest.raises(AgentError, match="the agent failed"),
    ):
        list(client.follow_events())


def test_a_silent_agent_is_not_waited_for_without_an_end(tmp_path: Path) -> None:
    with closing(socket.socket(socket.AF_UNIX)) as listener:
        listener.bind(str(tmp_path / "s"))
        listener.listen()
        with (
            Client(tmp_path / "s", timeout_s=0.05) as client,
            pytest.raises(Unreachable, match="does not answer"),
        ):
            client.status()


class broken_server:
    """Answers every connection with the same bytes, whatever was asked."""

    def __init__(self, path: Path, answer: bytes) -> None:
        self.path = path
        self.answer = answer
        self.listener = socket.socket(socket.AF_UNIX)
        self.listener.bind(str(path))
        self.listener.listen()
        self.thread = threading.Thread(target=self.serve, daemon=True)

    def __enter__(self) -> Path:
        self.thread.start()
        return self.path

    def __exit__(self, *exc: object) -> None:
        self.listener.shutdown(socket.SHUT_RDWR)
        self.thread.join(60)
        self.listener.close()

    def serve(self) -> None:
        accept: Callable[[], tuple[socket.socket, Any]] = self.listener.accept
        while True:
            try:
                stream, _ = accept()
            except OSError:
                return
            with stream:
                stream.recv(65536)
                stream.sendall(self.answer)
