"""A service on a device that belongs to no shoal: what may be asked of it, and what comes of it."""

from __future__ import annotations

import shutil
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import trio

from agent.client import AgentError, Client
from agent.configload import load
from agent.membership import load_member
from agent.shoalroot import create_shoal, recover_root
from agent.waiting import MISSING, Waiting, wait_for_membership
from tests.agent.whole import open_directory

WITHIN_S = 60.0


class Service:
    """One that waits, in a thread; `joined` is how it ended."""

    def __init__(self, data_dir: Path) -> None:
        self.loaded = load({"data_dir": str(data_dir)}, {})
        self.joined: bool | None = None
        self.thread = threading.Thread(target=self.run, daemon=True)

    def run(self) -> None:
        waiting = Waiting(self.loaded)

        async def quietly(*, task_status: Any) -> None:  # signals are the main thread's
            task_status.started()

        waiting._on_signals = quietly  # type: ignore[method-assign]
        self.joined = trio.run(waiting.run)

    def client(self) -> Client:
        return Client(self.loaded.config.socket_path, WITHIN_S)


@pytest.fixture
def data_dir() -> Iterator[Path]:
    made = open_directory()
    yield made
    shutil.rmtree(made)


@contextmanager
def serving(data_dir: Path) -> Iterator[Service]:
    service = Service(data_dir)
    service.thread.start()
    path = service.loaded.config.socket_path
    give_up_at = time.monotonic() + WITHIN_S
    while not path.exists():
        assert time.monotonic() < give_up_at and service.thread.is_alive()
    try:
        yield service
    finally:
        if service.thread.is_alive():
            with service.client() as client:
                client.shutdown()
        service.thread.join(WITHIN_S)
        assert not service.thread.is_alive()


def test_it_is_asked_to_init_and_ends_as_a_member(data_dir: Path) -> None:
    with serving(data_dir) as service:
        with service.client() as client:
            assert client.status()["state"] == "waiting"
            made = client.init("home", "kitchen", None, {"room": "kitchen"})
        service.thread.join(WITHIN_S)
    assert service.joined is True
    member = load_member(data_dir)
    assert (member.certificate.name, member.membership.labels) == ("kitchen", {"room": "kitchen"})
    assert recover_root(Path(made["backup"]), made["passphrase"]).shoal == made["shoal"]
    assert wait_for_membership(service.loaded) is True, "the next start does not wait"


def test_all_else_is_told_what_is_missing(data_dir: Path) -> None:
    with serving(data_dir) as service, service.client() as client:
        for ask in (client.peers, client.jobs, client.invite, lambda: client.stop("x")):
            with pytest.raises(AgentError, match="belongs to no shoal yet") as refused:
                ask()
            assert refused.value.status == 503
        entry, *rest = client.doctor()
        assert entry["ok"] is None and "shoal join TOKEN" in entry["fix"]
        found = {each["check"]: each for each in rest}
        assert {"clock", "disk"} <= found.keys(), "what is wrong with the device shows by now"
        assert found["disk"]["ok"] and str(data_dir) in found["disk"]["text"]
    assert service.joined is False, "it was told to end"


@pytest.mark.parametrize(
    ("ask", "text"),
    [
        (lambda client: client.init("no spaces"), "the shoal's name"),
        (lambda client: client.init("home", None, "short"), "too short"),
        (lambda client: client.join("shoal1:abc"), "cut short"),
        (lambda client: client.join("nonsense"), "not a token"),
        (lambda client: client._ask("POST", "/v1/init", b"[]"), "Expected `object`"),
        (lambda client: client._ask("POST", "/v1/join", b"{"), "not JSON"),
    ],
)
def test_what_cannot_be_leaves_it_waiting(data_dir: Path, ask: Any, text: str) -> None:
    with serving(data_dir) as service, service.client() as client:
        with pytest.raises(AgentError, match=text):
            ask(client)
        assert client.status()["state"] == "waiting"
        assert not (data_dir / "membership").exists()


def test_two_at_once_make_one_shoal(data_dir: Path) -> None:
    """The second is refused, or finds nobody who waits any more."""
    told: list[object] = []

    def ask(service: Service) -> None:
        try:
            with service.client() as client:
                told.append(client.init("home")["shoal"])
        except AgentError as error:
            told.append(error)

    with serving(data_dir) as service:
        both = [threading.Thread(target=ask, args=(service,)) for _ in range(2)]
        for one in both:
            one.start()
        for one in both:
            one.join(WITHIN_S)
        service.thread.join(WITHIN_S)
    assert load_member(data_dir).membership.shoal in told
    assert sum(isinstance(one, str) for one in told) == 1


def test_a_damaged_membership_is_waited_with(data_dir: Path) -> None:
    create_shoal(data_dir, "home", "a passphrase for tests")
    (data_dir / "membership").write_bytes(b"\0" * 300)
    with serving(data_dir) as service, service.client() as client:
        assert client.status()["state"] == "waiting"
    assert service.joined is False


def test_what_it_says_names_both_ways() -> None:
    assert "shoal init NAME" in MISSING and "shoal join TOKEN" in MISSING
