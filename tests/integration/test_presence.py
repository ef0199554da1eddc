"""Presence on a real docker: there with its images, away, silent, or cut off."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import trio

from agent.engines import presence
from agent.engines.presence import Presence
from protocol.container import full_name
from tests.dockerhost import IMAGE, DockerHost
from tests.dockerproxy import DockerProxy

LOOK = rb"^GET /images/json"
A, B = "docker.io/library/a:1", "docker.io/library/b:1"


@pytest.fixture(scope="module")
def own() -> Iterator[DockerHost]:
    """With the images of these tests alone."""
    with DockerHost() as host:
        yield host


@pytest.fixture
def docker(own: DockerHost) -> Iterator[DockerHost]:
    """One that has no image but busybox, before and after."""
    yield own
    for image in own.api.images():
        if IMAGE not in (image["RepoTags"] or ()):
            own.api.remove_image(image["Id"], force=True)
    for image in own.api.images():
        for name in {*(image["RepoTags"] or ())} - {IMAGE}:
            own.api.remove_image(name)


# ---- well --------------------------------------------------------------------------------------


async def test_it_is_there_with_its_images_by_their_full_names(
    docker: DockerHost, proxy: DockerProxy
) -> None:
    it = Presence(proxy.path)
    assert (it.present, it.trouble, it.images) == (False, "", frozenset())
    docker.api.tag(IMAGE, "ghcr.io/owner/name", "v1")
    with docker.registry("far:1") as far:
        docker.api.pull(*far.rsplit(":", 1))
        docker.make_image("lost:1")
        docker.make_image("lost:1")  # the first one has no name any more
        docker.api.remove_image("lost:1")
        await it.look()
    (digest,) = docker.api.inspect_image(far)["RepoDigests"]
    assert (it.present, it.trouble) == (True, "")
    tags = {"docker.io/library/busybox:1.37.0", "ghcr.io/owner/name:v1", far}
    assert it.images == {*tags, digest}
    assert it.ids[far] == docker.api.inspect_image(far)["Id"]
    assert [line.split()[:2] for line in proxy.asked] == [[b"GET", b"/images/json"]]


@pytest.mark.parametrize("size", [1, 50, 1 << 20])
async def test_an_answer_of_many_images_is_read_whole_whatever_its_pieces_are(
    docker: DockerHost, proxy: DockerProxy, size: int
) -> None:
    for number in range(50):
        docker.api.tag(IMAGE, "many", str(number))
    it = Presence(proxy.path)
    with proxy.slicing(LOOK, size):
        await it.look()
    assert len(it.images) == 51 and it.trouble == ""


async def test_without_images_it_is_there(docker: DockerHost, proxy: DockerProxy) -> None:
    docker.api.remove_image(IMAGE)
    try:
        it = Presence(proxy.path)
        await it.look()
        assert (it.present, it.trouble, it.images) == (True, "", frozenset())
    finally:
        docker.make_image(IMAGE)


async def test_so_many_images_are_looked_at(
    docker: DockerHost, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(presence, "IMAGES_MAX", 2)
    for number in range(3):
        docker.make_image(f"image:{number}")
    it = Presence(docker.socket)
    await it.look()
    assert it.trouble == "" and len(it.images) == 2


async def test_each_look_sees_what_there_is_now(docker: DockerHost) -> None:
    it = Presence(docker.socket)
    await it.look()
    assert it.images == {full_name(IMAGE)}
    docker.api.tag(IMAGE, "a", "1")
    await it.look()
    assert it.images == {full_name(IMAGE), A}
    docker.api.remove_image("a:1")
    await it.look()
    assert it.images == {full_name(IMAGE)}


async def test_what_is_of_no_use_is_not_told_of_until_another_has_its_name(
    docker: DockerHost,
) -> None:
    docker.make_image("a:1")
    docker.make_image("b:1")
    first = docker.api.inspect_image("a:1")["Id"]
    it = Presence(docker.socket)
    await it.look()
    assert it.images >= {A, B}
    it.leave_out(A)
    assert A not in it.images and B in it.images
    await it.look()
    assert A not in it.images and B in it.images and it.ids[A] == first
    docker.make_image("a:1")
    await it.look()
    assert it.images >= {A, B} and it.ids[A] != first
    docker.api.tag(first, "a", "1")
    await it.look()
    assert it.images >= {A, B} and it.ids[A] == first, "it is looked into again"


# ---- away, ill ---------------------------------------------------------------------------------


async def test_once_seen_it_is_missed_until_it_is_back(docker: DockerHost) -> None:
    it = Presence(docker.socket)
    await it.look()
    await trio.to_thread.run_sync(docker.stop)
    try:
        await it.look()
        assert it.present
        assert it.trouble in (
            "docker does not answer: [Errno 2] No such file or directory",
            "docker does not answer: [Errno 111] Connection refused",
        )
        fresh = Presence(docker.socket)
        await fresh.look()
        assert (fresh.present, fresh.trouble, fresh.images) == (False, "", frozenset())
    finally:
        await trio.to_thread.run_sync(docker.start)
    await it.look()
    assert (it.present, it.trouble, it.images) == (True, "", {full_name(IMAGE)})


async def test_silence_is_waited_for_so_long_and_no_longer(
    docker: DockerHost, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(presence, "TIMEOUT_S", 0.2)
    it, expected = Presence(docker.socket), Presence(docker.socket, expected=True)
    docker.freeze()
    try:
        await it.look()
        await expected.look()
    finally:
        docker.thaw()
    assert (it.present, it.trouble) == (False, "")
    assert expected.present
    assert expected.trouble == "docker does not answer: no answer within 0 s"


async def test_silence_in_the_middle_of_an_answer_is_silence(
    proxy: DockerProxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(presence, "TIMEOUT_S", 0.2)
    for after in (20, rb'"RepoTags"'):
        it = Presence(proxy.path, expected=True)
        with proxy.hanging(LOOK, after):
            await it.look()
        assert it.trouble == "docker does not answer: no answer within 0 s"


@pytest.mark.parametrize("after", [0, 20, rb'"RepoTags"'], ids=["at once", "head", "body"])
async def test_an_answer_that_is_cut_off_is_trouble_where_it_was_there(
    proxy: DockerProxy, after: int | bytes
) -> None:
    it, expected = Presence(proxy.path), Presence(proxy.path, expected=True)
    with proxy.cutting(LOOK, after):
        await it.look()
        await expected.look()
    assert (it.present, it.trouble) == (False, "")
    assert expected.present and expected.trouble.startswith("docker does not answer: ")
    await expected.look()
    assert expected.trouble == ""


async def test_trouble_says_what_it_answered(proxy: DockerProxy) -> None:
    it = Presence(proxy.path, expected=True)
    with proxy.damaging(LOOK, b"HTTP/1.1 200 ", b"HTTP/1.1 500 "):
        await it.look()
    assert it.trouble == "docker does not answer: it answers 500"
