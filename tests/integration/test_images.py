"""Images: fetched when a job needs one, once for all who wait, and removed when none does.

All of it on a real docker and a registry in its network. Requests are held back and counted on
their way to it.
"""

from __future__ import annotations

import json
import os
import re
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import cast
from urllib.parse import parse_qs, quote, urlsplit

import pytest
import trio
import trio.testing

from agent.engines import docker as docker_module
from agent.engines import images
from agent.engines.container import ContainerLaunch
from agent.engines.docker import DockerEngine
from agent.engines.docker_client import LABEL, EngineFailed, NotAnswering
from agent.engines.images import FREE_BYTES_MIN, PULLS_MAX, Images
from agent.engines.processors import own_kind
from agent.threads import in_thread
from protocol.container import ContainerParams, full_name
from tests.agent.test_threads import no_threads
from tests.agent.whole import until
from tests.dockerhost import IMAGE, PEER, REGISTRY_PORT, DockerHost
from tests.dockerlab import engine
from tests.dockerproxy import LEAVES_SOCKETS, DockerProxy

pytestmark = LEAVES_SOCKETS
PULL = rb"^POST \S*/images/create"
LOOK = rb"^GET /images/json"
WITHIN_S = 60.0
NOWHERE = "127.0.0.1:1/tool:1"  # nobody listens there
LIBRARY = "docker.io/library"
OLD, YOUNG = 1_700_000_001.0, time.time() - 3600  # Unix times


@pytest.fixture(scope="module")
def registry(docker: DockerHost) -> Iterator[str]:
    with docker.registry("any:1") as image:
        yield image.partition("/")[0]


@pytest.fixture
def far(docker: DockerHost, registry: str, root: Path) -> Iterator[Callable[[str], str]]:
    """Puts an image of this name into the registry; it is not here. What is here goes after it."""
    before = names_here(docker)

    def publish(name: str) -> str:
        docker.publish(f"{registry}/{name}")
        return f"{registry}/{name}"

    yield publish
    docker.remove_ours()
    for name in sorted(names_here(docker) - before):
        docker.api.remove_image(name)
    docker.api.prune_images({"dangling": True})


@pytest.fixture
def looks_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """The engine by itself, as it begins: what is asked after that can be counted."""
    monkeypatch.setattr(docker_module, "PRESENCE_S", 3600.0)


@pytest.fixture
def record(tmp_path: Path) -> Path:
    return tmp_path / "images.json"  # beside `root`


def names_here(docker: DockerHost) -> set[str]:
    found = {name for each in docker.api.images() for name in each["RepoTags"] or ()}
    return found - {"<none>:<none>"}  # as older ones call what has lost its name


def bring(docker: DockerHost, image: str) -> str:
    """As a person does; its id."""
    name, _, tag = image.rpartition(":")
    docker.api.pull(name, tag=tag)
    return str(docker.api.inspect_image(image)["Id"])


def pulled(proxy: DockerProxy) -> list[str]:
    """What docker was asked to fetch, in order."""
    found = []
    for line in list(proxy.asked):
        if re.search(PULL, line):
            query = parse_qs(urlsplit(line.split()[1].decode()).query)
            found.append(f"{query['fromImage'][0]}:{query['tag'][0]}")
    return found


def pull_of(image: str) -> bytes:
    name = quote(image.rpartition(":")[0], safe="").encode()
    return PULL + rb"\?(\S*&)?fromImage=" + re.escape(name) + rb"[& ]"


def removal_of(image: str) -> bytes:
    return rb"^DELETE \S*/images/" + re.escape(image.encode())


def job(image: str, pull: str = "missing") -> ContainerParams:
    return ContainerParams(image=image, pull=pull)


async def settled() -> None:
    """Whoever is about to ask docker has."""
    await trio.testing.wait_all_tasks_blocked(0.05)


# ---- as its job says ---------------------------------------------------------------------------


@pytest.mark.usefixtures("far", "looks_once")
async def test_what_was_seen_a_moment_ago_is_not_asked_for(
    root: Path, docker: DockerHost, proxy: DockerProxy
) -> None:
    docker.api.tag(IMAGE, "tool", "latest")
    async with engine(root, docker, socket=proxy.path) as it:
        await it.images.fetch(job("tool"))
        asked = proxy.count(rb"/images/")
        for name in ("tool", "docker.io/library/tool", "tool:latest"):
            await it.images.fetch(job(name))
            await it.images.fetch(job(name, "never"))
        assert proxy.count(rb"/images/") == asked


@pytest.mark.usefixtures("far")
async def test_what_is_here_and_was_not_seen_yet_is_not_fetched(
    root: Path, docker: DockerHost, proxy: DockerProxy
) -> None:
    async with engine(root, docker, socket=proxy.path) as it:
        docker.api.tag(IMAGE, "fresh", "1")
        await it.images.fetch(job("fresh:1"))
        await it.images.fetch(job("fresh:1", "never"))
        assert proxy.count(rb"^GET \S*/images/fresh:1/json") >= 1
        assert pulled(proxy) == []


@pytest.mark.usefixtures("looks_once")
async def test_what_is_missing_is_fetched_and_seen(
    root: Path, docker: DockerHost, proxy: DockerProxy, far: Callable[[str], str]
) -> None:
    image = far("missing:1")
    async with engine(root, docker, socket=proxy.path) as it:
        looks = proxy.count(LOOK)
        await it.images.fetch(job(image))
        assert (pulled(proxy), proxy.count(LOOK) - looks) == ([image], 1)
        assert image in names_here(docker) and full_name(image) in it.presence.images
        await it.images.fetch(job(image))
        assert pulled(proxy) == [image]


async def test_never_is_an_error_where_it_is_missing(
    root: Path, docker: DockerHost, proxy: DockerProxy, far: Callable[[str], str]
) -> None:
    image = far("never:1")
    async with engine(root, docker, socket=proxy.path) as it:
        with pytest.raises(EngineFailed) as caught:
            await it.images.fetch(job(image, "never"))
    assert str(caught.value) == f"image {image} is not here, and its job says Pull: never"
    assert pulled(proxy) == []


@pytest.mark.usefixtures("looks_once")
async def test_always_is_fetched_whether_it_is_here_or_not(
    root: Path, docker: DockerHost, proxy: DockerProxy, far: Callable[[str], str], record: Path
) -> None:
    image = far("always:1")
    bring(docker, image)
    async with engine(root, docker, socket=proxy.path) as it:
        looks = proxy.count(LOOK)
        await it.images.fetch(job(image, "always"))
        await it.images.fetch(job(image, "always"))
        assert (pulled(proxy), proxy.count(LOOK) - looks) == ([image, image], 2)
    assert written(record) == {}, "it was here before: it is not ours to remove"


# ---- many at a time ----------------------------------------------------------------------------


async def test_one_image_is_fetched_once_for_all_who_wait(
    root: Path, docker: DockerHost, proxy: DockerProxy, far: Callable[[str], str]
) -> None:
    image, fetched = far("shared:1"), []
    async with engine(root, docker, socket=proxy.path) as it, trio.open_nursery() as nursery:

        async def fetch(number: int) -> None:
            await it.images.fetch(job(image))
            fetched.append(number)

        with proxy.holding(PULL) as pull:
            for number in range(3):
                nursery.start_soon(fetch, number)
            await until(pull.sent.is_set)
            await settled()
            assert (pulled(proxy), fetched) == ([image], [])
    assert (pulled(proxy), sorted(fetched)) == ([image], [0, 1, 2])


async def test_who_waited_for_one_that_failed_tries_it_again(
    root: Path, docker: DockerHost, proxy: DockerProxy, registry: str
) -> None:
    image, said = f"{registry}/nobody/has-it:1", []
    async with engine(root, docker, socket=proxy.path) as it, trio.open_nursery() as nursery:

        async def fetch() -> None:
            with pytest.raises(EngineFailed) as caught:
                await it.images.fetch(job(image))
            said.append(str(caught.value))

        with proxy.holding(PULL) as pull:
            nursery.start_soon(fetch)
            nursery.start_soon(fetch)
            await until(pull.sent.is_set)
            await settled()
    assert pulled(proxy) == [image, image]
    assert len(said) == 2 and said[0] == said[1]
    assert re.match(f"image {image} cannot be fetched: .*(not found|unknown)", said[0])


async def test_so_many_are_fetched_at_a_time(
    root: Path, docker: DockerHost, proxy: DockerProxy, far: Callable[[str], str]
) -> None:
    wanted = [far(f"many{number}:1") for number in range(PULLS_MAX + 2)]
    async with engine(root, docker, socket=proxy.path) as it, trio.open_nursery() as nursery:
        with ExitStack() as stack:
            held = {name: stack.enter_context(proxy.holding(pull_of(name))) for name in wanted}
            for name in wanted:
                nursery.start_soon(it.images.fetch, job(name))
            for done in range(len(wanted)):
                expected = min(done + PULLS_MAX, len(wanted))
                await until(lambda expected=expected: len(pulled(proxy)) >= expected)
                await settled()
                assert len(pulled(proxy)) == expected
                held[pulled(proxy)[done]].let_go()
    assert sorted(pulled(proxy)) == wanted
    assert names_here(docker) >= set(wanted)


async def test_those_who_wait_for_one_image_take_no_place_of_others(
    root: Path, docker: DockerHost, proxy: DockerProxy, far: Callable[[str], str]
) -> None:
    large, small = far("large:1"), far("small:1")
    async with engine(root, docker, socket=proxy.path) as it, trio.open_nursery() as nursery:
        with proxy.holding(pull_of(large)) as pull:
            for _ in range(PULLS_MAX + 1):
                nursery.start_soon(it.images.fetch, job(large))
            await until(pull.sent.is_set)
            await settled()
            with trio.fail_after(WITHIN_S):
                await it.images.fetch(job(small))
    assert pulled(proxy) == [large, small]


async def test_given_up_while_it_waits_others_go_on(
    root: Path, docker: DockerHost, proxy: DockerProxy, far: Callable[[str], str]
) -> None:
    image, waits = far("waited-for:1"), trio.CancelScope()
    async with engine(root, docker, socket=proxy.path) as it, trio.open_nursery() as nursery:

        async def fetch_in_vain() -> None:
            with waits:
                await it.images.fetch(job(image))
            assert waits.cancelled_caught

        with proxy.holding(PULL) as pull:
            nursery.start_soon(it.images.fetch, job(image))
            await until(pull.sent.is_set)
            nursery.start_soon(fetch_in_vain)
            await settled()
            waits.cancel()
            await settled()
            nursery.start_soon(it.images.fetch, job(image))
            await settled()
    assert pulled(proxy) == [image] and image in names_here(docker)


async def test_who_waits_hears_how_far_it_is(
    root: Path, docker: DockerHost, proxy: DockerProxy, far: Callable[[str], str]
) -> None:
    said: list[str] = []
    *first, last = [far(f"told{number}:1") for number in range(PULLS_MAX + 1)]
    async with engine(root, docker, socket=proxy.path) as it, trio.open_nursery() as nursery:
        with ExitStack() as stack:
            for name in first:
                stack.enter_context(proxy.holding(pull_of(name)))
                nursery.start_soon(it.images.fetch, job(name))
            await until(lambda: len(pulled(proxy)) == PULLS_MAX)
            nursery.start_soon(it.images.fetch, job(last), said.append)
            await until(lambda: said)  # docker is asked whether it is here first
            await settled()
            assert said == [f"pulling {last}: waits for others that are being pulled here"]
    assert said[1] == f"pulling {last}"


# ---- removed -----------------------------------------------------------------------------------


def kept(record: Path, **used: float) -> None:
    record.write_text(json.dumps({f"{LIBRARY}/{name}:1": when for name, when in used.items()}))


def written(record: Path) -> dict[str, float]:
    """Which images, and when each was used; nothing where there is no record."""
    return cast("dict[str, float]", json.loads(record.read_text())) if record.exists() else {}


def put_record(record: Path, text: str) -> None:
    record.write_text(text)


def names(*images: str) -> list[str]:
    return [f"{LIBRARY}/{name}:1" for name in images]


def make(docker: DockerHost, *images: str) -> None:
    for name in images:
        docker.make_image(f"{name}:1")


def left(docker: DockerHost, *images: str) -> list[str]:
    """Which of them are here."""
    return [name for name in images if f"{name}:1" in names_here(docker)]


def use(docker: DockerHost, image: str) -> None:
    """A container has it, which is removed with ours."""
    docker.api.create_container(image, "true", labels={LABEL: "e9"})


async def test_what_was_fetched_here_is_written_down_by_its_full_name(
    root: Path, docker: DockerHost, far: Callable[[str], str], record: Path
) -> None:
    fetched, brought = far("written/down:latest"), far("brought:1")
    bring(docker, brought)
    async with engine(root, docker) as it:
        begun = time.time()
        for image in (fetched.removesuffix(":latest"), brought, IMAGE):
            await it.images.fetch(job(image))
    found = written(record)
    assert list(found) == [fetched] and begun <= found[fetched] <= time.time()


async def test_what_is_written_down_last_is_what_was_known_last(
    root: Path,
    docker: DockerHost,
    far: Callable[[str], str],
    record: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    both, write = [far("written/one:1"), far("written/two:1")], images._write

    def slow(record: Path, used: dict[str, float]) -> None:
        if len(used) == 1:  # the disk stalls under the first
            time.sleep(0.5)
        write(record, used)

    monkeypatch.setattr(images, "_write", slow)
    async with engine(root, docker) as it, trio.open_nursery() as nursery:
        for image in both:
            nursery.start_soon(it.images.fetch, job(image))
    assert sorted(written(record)) == both


async def test_what_nobody_used_for_long_is_removed_in_the_next_life(
    root: Path, docker: DockerHost, far: object, record: Path
) -> None:
    make(docker, "old", "young", "mine")
    kept(record, old=OLD, young=YOUNG)
    async with engine(root, docker) as it:
        await it.images.prune()
        assert left(docker, "old", "young", "mine") == ["young", "mine"]
        assert set(names("old", "young", "mine")) & it.presence.images == {*names("young", "mine")}
    assert written(record) == {names("young")[0]: YOUNG}


async def test_used_again_it_is_not_old(
    root: Path, docker: DockerHost, far: object, record: Path
) -> None:
    make(docker, "old")
    kept(record, old=OLD)
    async with engine(root, docker) as it:
        await it.images.fetch(job("old:1"))
        await it.images.prune()
    assert left(docker, "old") == ["old"]
    assert written(record)[names("old")[0]] > YOUNG


async def test_images_of_standing_jobs_stay(
    root: Path, docker: DockerHost, far: object, record: Path
) -> None:
    make(docker, "daemon", "old")
    kept(record, daemon=OLD, old=OLD)
    async with engine(root, docker) as it:
        it.images.standing = lambda: frozenset(names("daemon"))
        await it.images.prune()
    assert left(docker, "daemon", "old") == ["daemon"]
    assert list(written(record)) == names("daemon")


async def test_what_a_container_uses_stays_and_is_looked_at_again(
    root: Path, docker: DockerHost, far: object, record: Path
) -> None:
    make(docker, "busy", "old")
    use(docker, "busy:1")
    kept(record, busy=OLD, old=OLD)
    async with engine(root, docker) as it:
        await it.images.prune()
        assert left(docker, "busy", "old") == ["busy"]
        for container in docker.ours():
            docker.api.remove_container(container["Id"])
        await it.images.prune()
    assert left(docker, "busy") == []


async def test_a_device_that_can_begin_no_thread_prunes_later(
    root: Path, docker: DockerHost, monkeypatch: pytest.MonkeyPatch
) -> None:
    tried: list[Images] = []

    async def prune(them: Images) -> None:
        tried.append(them)
        with no_threads():
            await in_thread(int)

    monkeypatch.setattr(Images, "prune", prune)
    monkeypatch.setattr("agent.engines.images.PRUNE_S", 0.02)
    async with engine(root, docker):
        await until(lambda: len(tried) > 1)


@pytest.mark.usefixtures("looks_once")
async def test_without_images_of_ours_docker_is_not_asked(
    root: Path, docker: DockerHost, proxy: DockerProxy
) -> None:
    async with engine(root, docker, socket=proxy.path) as it:
        asked = len(proxy.asked)
        await it.images.prune()
        assert len(proxy.asked) == asked


async def test_a_docker_that_does_not_answer_is_asked_again_later(
    root: Path,
    docker: DockerHost,
    proxy: DockerProxy,
    far: object,
    record: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    make(docker, "old")
    kept(record, old=OLD)
    async with engine(root, docker, socket=proxy.path) as it:
        client = await it._link.client()
        with (
            proxy.holding(rb"^DELETE "),
            monkeypatch.context() as hurried,
            pytest.raises(NotAnswering, match="did not answer"),
        ):
            hurried.setattr(client._api, "timeout", 1.0)
            await it.images.prune()
        await it.images.prune()
    assert left(docker, "old") == [] and written(record) == {}


async def test_where_the_disk_is_nearly_full_the_longest_unused_go_first(
    root: Path,
    docker: DockerHost,
    far: Callable[[str], str],
    record: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    three, image = ("third", "first", "second"), far("newcomer:1")
    make(docker, *three)
    kept(record, third=YOUNG + 2, first=YOUNG, second=YOUNG + 1)
    asked: set[str] = set()

    def free_bytes(place: str) -> int:
        asked.add(place)
        return FREE_BYTES_MIN - (len(left(docker, *three)) > 1)

    monkeypatch.setattr("agent.engines.images._free_bytes", free_bytes)
    async with engine(root, docker) as it:
        await it.images.fetch(job(image))
    assert left(docker, *three) == ["third"] and image in names_here(docker)
    assert asked == {str(docker.root / "data")}
    assert sorted(written(record)) == sorted([image, *names("third")])


async def test_an_image_that_a_job_comes_for_as_others_are_removed_stays(
    root: Path, docker: DockerHost, proxy: DockerProxy, far: object, record: Path
) -> None:
    make(docker, "a", "b")
    kept(record, a=OLD, b=OLD)
    async with engine(root, docker, socket=proxy.path) as it, trio.open_nursery() as nursery:
        with proxy.holding(removal_of(names("a")[0])) as removal:
            nursery.start_soon(it.images.prune)
            await until(removal.sent.is_set)
            await it.images.fetch(job("b:1"))
    assert left(docker, "a", "b") == ["b"] and pulled(proxy) == []


async def test_an_image_that_a_job_comes_for_as_it_is_removed_is_fetched_again(
    root: Path, docker: DockerHost, proxy: DockerProxy, far: Callable[[str], str], record: Path
) -> None:
    image = far("wanted:1")
    bring(docker, image)
    put_record(record, json.dumps({image: OLD}))
    async with engine(root, docker, socket=proxy.path) as it, trio.open_nursery() as nursery:
        with proxy.holding(removal_of(image)) as removal:
            nursery.start_soon(it.images.prune)
            await until(removal.sent.is_set)
            nursery.start_soon(it.images.fetch, job(image))
            await settled()
            assert pulled(proxy) == []
    assert pulled(proxy) == [image] and image in names_here(docker)
    assert list(written(record)) == [image]


async def test_what_a_person_brought_stays_where_its_name_moves_on(
    root: Path, docker: DockerHost, far: Callable[[str], str]
) -> None:
    image = far("moves:1")
    first = bring(docker, image)
    docker.move(image, {"second": b""})
    async with engine(root, docker) as it:
        await it.images.fetch(job(image, "always"))
    assert docker.api.inspect_image(image)["Id"] != first
    assert docker.api.inspect_image(first)["RepoTags"] == []


async def update(docker: DockerHost, it: DockerEngine, image: str) -> str:
    """Two containers have it, and a later one comes: the id of the former."""
    await it.images.fetch(job(image, "always"))
    first = str(docker.api.inspect_image(image)["Id"])
    for name in ("e1", "e2"):
        await it.start(ContainerLaunch(name, image, parameters=("sleep", "1000")))
    docker.move(image, {"second": b""})
    await it.images.fetch(job(image, "always"))
    assert str(docker.api.inspect_image(image)["Id"]) != first
    return first


async def let_go(it: DockerEngine, name: str) -> None:
    await it.stop(name, 0)
    await it.wait(name)
    await it.clear(name)


def has_image(docker: DockerHost, image_id: str) -> bool:
    return image_id in {str(each["Id"]) for each in docker.api.images()}


async def test_what_a_later_one_replaced_goes_with_its_last_container(
    root: Path,
    docker: DockerHost,
    proxy: DockerProxy,
    far: Callable[[str], str],
    record: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(images, "AGAIN_S", 0.0)
    image = far("updated:1")
    async with engine(root, docker, socket=proxy.path) as it:
        first = await update(docker, it, image)
        await it.images.prune()
        assert has_image(docker, first) and sorted(written(record)) == sorted([image, first])
        tried = proxy.count(removal_of(""))
        await let_go(it, "e1")
        await until(lambda: proxy.count(removal_of("")) > tried)
        await settled()
        assert has_image(docker, first), "another has it"
        await let_go(it, "e2")
        await until(lambda: not has_image(docker, first))
        await until(lambda: list(written(record)) == [image])
    assert image in names_here(docker)


async def test_what_a_later_one_replaced_goes_in_the_next_life(
    root: Path, docker: DockerHost, far: Callable[[str], str], record: Path
) -> None:
    """Its containers went while there was no agent."""
    image = far("updated:2")
    async with engine(root, docker) as it:
        first = await update(docker, it, image)
    for container in docker.ours():
        docker.api.remove_container(container["Id"], force=True)
    assert has_image(docker, first)
    async with engine(root, docker):
        await until(lambda: not has_image(docker, first))
        await until(lambda: list(written(record)) == [image])


@pytest.mark.parametrize(
    "text", ["", "\0" * 100, "[]", '{"a": "b"}', '{"a": 1'], ids=["none", "0", "list", "b", "cut"]
)
async def test_a_damaged_record_is_none(
    root: Path, docker: DockerHost, far: Callable[[str], str], record: Path, text: str
) -> None:
    image = far("damaged:1")
    put_record(record, text)
    before = names_here(docker)
    async with engine(root, docker) as it:
        await it.images.prune()
        assert names_here(docker) == before
        await it.images.fetch(job(image))
    assert list(written(record)) == [image]


async def test_a_record_that_cannot_be_written_costs_no_job(
    root: Path, docker: DockerHost, far: Callable[[str], str], record: Path
) -> None:
    image = far("unrecorded:1")
    record.with_suffix(".new").mkdir()
    async with engine(root, docker) as it:
        await it.images.fetch(job(image))
    assert image in names_here(docker) and written(record) == {}


# ---- for this processor ------------------------------------------------------------------------


async def test_an_image_for_another_processor_is_not_kept(
    root: Path, docker: DockerHost, far: Callable[[str], str], record: Path, registry: str
) -> None:
    image = f"{registry}/foreign:1"
    docker.relabel(IMAGE, image, "s390x")
    docker.push(image)
    docker.api.remove_image(image)
    async with engine(root, docker) as it:
        with pytest.raises(EngineFailed) as caught:
            await it.images.fetch(job(image))
    assert str(caught.value) == f"image {image} is for s390x, and this device is {own_kind()}"
    assert image not in names_here(docker) and written(record) == {}


async def test_one_for_another_processor_that_is_here_is_refused_and_stays(
    root: Path, docker: DockerHost, proxy: DockerProxy, far: object
) -> None:
    """It is a person's, or what another device's disk brought."""
    docker.relabel(IMAGE, "brought:1", "s390x")
    async with engine(root, docker, socket=proxy.path) as it:
        assert names("brought")[0] in it.presence.images
        for _ in range(2):
            with pytest.raises(EngineFailed, match=r"is for s390x, and .*; Pull: always"):
                await it.images.fetch(job("brought:1"))
            assert names("brought")[0] not in it.presence.images
        with pytest.raises(EngineFailed, match=f"this device is {own_kind()}$"):
            await it.images.fetch(job("brought:1", "never"))
        await it.presence.look()
        assert names("brought")[0] not in it.presence.images
    assert pulled(proxy) == [] and left(docker, "brought") == ["brought"]


async def test_for_which_processor_an_image_is_is_asked_once(
    root: Path, docker: DockerHost, proxy: DockerProxy, far: object
) -> None:
    make(docker, "tool")
    async with engine(root, docker, socket=proxy.path) as it:
        for _ in range(2):
            await it.images.fetch(job("tool:1"))
        assert proxy.count(rb"^GET \S*/images/tool:1/json") == 1
        docker.relabel(IMAGE, "tool:1", "s390x")  # another one has its name
        await it.presence.look()
        with pytest.raises(EngineFailed, match="is for s390x"):
            await it.images.fetch(job("tool:1"))


async def test_one_that_was_removed_since_the_last_look_is_fetched(
    root: Path, docker: DockerHost, proxy: DockerProxy, far: Callable[[str], str]
) -> None:
    image = far("gone:1")
    bring(docker, image)
    async with engine(root, docker, socket=proxy.path) as it:
        docker.api.remove_image(image)
        assert full_name(image) in it.presence.images
        await it.images.fetch(job(image))
        assert full_name(image) in it.presence.images
    assert pulled(proxy) == [image] and image in names_here(docker)


async def test_one_that_was_removed_since_the_last_look_is_missing_where_none_is_fetched(
    root: Path, docker: DockerHost, proxy: DockerProxy, far: Callable[[str], str]
) -> None:
    image = far("gone:1")
    bring(docker, image)
    async with engine(root, docker, socket=proxy.path) as it:
        docker.api.remove_image(image)
        with pytest.raises(EngineFailed, match="is not here, and its job says Pull: never"):
            await it.images.fetch(job(image, "never"))
    assert pulled(proxy) == []


# ---- standing work -----------------------------------------------------------------------------


async def test_standing_work_starts_with_what_is_here_where_its_registry_is_gone(
    root: Path, docker: DockerHost, proxy: DockerProxy, far: object
) -> None:
    docker.make_image(NOWHERE)
    async with engine(root, docker, socket=proxy.path) as it:
        it.images.standing = lambda: frozenset({full_name(NOWHERE)})
        await it.images.fetch(job(NOWHERE, "always"))
        assert pulled(proxy) == [NOWHERE] and NOWHERE in names_here(docker)
        it.images.standing = frozenset
        with pytest.raises(EngineFailed, match="connection refused"):
            await it.images.fetch(job(NOWHERE, "always"))


async def test_standing_work_whose_image_is_not_here_cannot_start_without(
    root: Path, docker: DockerHost
) -> None:
    async with engine(root, docker) as it:
        it.images.standing = lambda: frozenset({full_name(NOWHERE)})
        with pytest.raises(EngineFailed, match="connection refused"):
            await it.images.fetch(job(NOWHERE, "always"))


# ---- bad days ----------------------------------------------------------------------------------


async def test_a_fetch_that_is_given_up_ends_at_docker_too_and_says_no_more(
    root: Path,
    docker: DockerHost,
    far: object,
    registry: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("agent.engines.pulling.SAY_S", 0.0)
    image, said = f"{registry}/endless:1", list[str]()
    docker.publish(image, files={"large": os.urandom(24 << 20)})
    layers = docker.root / "data/tmp"

    def arriving() -> list[Path]:
        return list(layers.glob("GetImageBlob*"))

    async with engine(root, docker) as it, trio.open_nursery() as nursery:
        with docker.throttled(REGISTRY_PORT, 1 << 20):
            nursery.start_soon(it.images.fetch, job(image), said.append)
            await until(lambda: said and re.search(r": [\d.]+ of 2\d MB$", said[-1]))
            assert arriving()
            nursery.cancel_scope.cancel()
            with trio.CancelScope(shield=True):
                await settled()
                before = len(said)
                await until(lambda: not arriving())
                await settled()
    assert len(said) == before
    assert image not in names_here(docker)


async def test_a_fetch_that_hangs_is_given_up_and_takes_no_place(
    root: Path,
    docker: DockerHost,
    proxy: DockerProxy,
    far: Callable[[str], str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("agent.engines.images.PULL_S", 0.2)
    images = [far(f"hangs{number}:1") for number in range(PULLS_MAX + 1)]
    async with engine(root, docker, socket=proxy.path) as it:
        with proxy.holding(PULL) as pull:
            for image in images:
                with pytest.raises(EngineFailed) as caught, trio.fail_after(WITHIN_S):
                    await it.images.fetch(job(image))
                assert str(caught.value) == f"image {image} was not fetched within 0 s"
            await until(pull.sent.is_set)
        monkeypatch.setattr("agent.engines.images.PULL_S", 60.0)
        for image in images:
            await it.images.fetch(job(image))
    assert names_here(docker) >= set(images)


async def test_a_fetch_that_fails_says_of_which_image_and_why(
    root: Path, docker: DockerHost, proxy: DockerProxy, far: Callable[[str], str], registry: str
) -> None:
    image = f"{registry}/late:1"
    async with engine(root, docker, socket=proxy.path) as it:
        with pytest.raises(EngineFailed) as caught:
            await it.images.fetch(job(image))
        assert re.match(
            f"image {image} cannot be fetched: .*(not found|unknown)", str(caught.value)
        )
        far("late:1")
        await it.images.fetch(job(image))
    assert pulled(proxy) == [image, image]


async def test_a_docker_that_breaks_off_as_it_fetches_is_told_of(
    root: Path, docker: DockerHost, proxy: DockerProxy, far: Callable[[str], str]
) -> None:
    image = far("broken-off:1")
    async with engine(root, docker, socket=proxy.path) as it:
        for after in (0, rb'"status"'):
            with proxy.cutting(PULL, after), pytest.raises(EngineFailed) as caught:
                await it.images.fetch(job(image, "always"))
            said = f"image {image} cannot be fetched: docker cannot be reached: "
            assert str(caught.value).startswith(said)
        await it.images.fetch(job(image, "always"))
    assert len(pulled(proxy)) == 3


@pytest.mark.parametrize("pull", ["missing", "always", "never"])
async def test_a_docker_that_is_not_there_is_an_error_and_no_missing_image(
    tmp_path: Path, pull: str
) -> None:
    (tmp_path / "containers").mkdir()
    it = DockerEngine(tmp_path / "containers", tmp_path / "none.sock", PEER)
    with pytest.raises(NotAnswering, match="docker cannot be reached"):
        await it.images.fetch(job("busybox:1", pull))


async def test_our_own_bug_in_a_fetch_is_not_hidden(
    root: Path, docker: DockerHost, far: Callable[[str], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("agent.engines.pulling.Pulling.take", lambda self, line: 1 // 0)
    image = far("bug:1")
    async with engine(root, docker) as it:
        with pytest.raises(ZeroDivisionError):
            await it.images.fetch(job(image))


async def test_two_fetches_that_make_room_remove_an_old_image_once(
    root: Path,
    docker: DockerHost,
    proxy: DockerProxy,
    far: Callable[[str], str],
    record: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Both are past `name in standing` when the first one deletes it: KeyError out of fetch."""
    monkeypatch.setattr("agent.engines.images._free_bytes", lambda root: 0)
    make(docker, "old")
    kept(record, old=OLD)
    a, b = far("room-a:1"), far("room-b:1")
    async with engine(root, docker, socket=proxy.path) as it, trio.open_nursery() as nursery:
        with proxy.holding(rb"^DELETE ") as removal:
            nursery.start_soon(it.images.fetch, job(a))
            nursery.start_soon(it.images.fetch, job(b))
            await until(removal.sent.is_set)
            await settled()
    assert names_here(docker) >= {a, b} and left(docker, "old") == []
    assert proxy.count(rb"^DELETE ") == 1


async def test_what_was_fetched_just_now_is_not_removed_before_its_container_is_made(
    root: Path, docker: DockerHost, far: Callable[[str], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The job of one has it fetched and is about to start; the other makes room."""
    monkeypatch.setattr("agent.engines.images._free_bytes", lambda root: 0)
    a, b = far("just-now-a:1"), far("just-now-b:1")
    async with engine(root, docker) as it:
        await it.images.fetch(job(a))
        await it.images.fetch(job(b))
    assert names_here(docker) >= {a, b}
