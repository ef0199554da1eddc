"""Images: fetched when a job needs one, once for all who wait, and removed when none does."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Generator, Mapping
from pathlib import Path
from typing import Any, TypeVar, cast

import pytest
import trio
import trio.testing

from agent.engines.docker_client import EngineFailed, NotAnswering, NotThere
from agent.engines.docker_link import DockerLink
from agent.engines.images import FREE_BYTES_MIN, PULLS_MAX, Images
from agent.engines.presence import Presence
from agent.engines.processors import own_kind
from protocol.container import ContainerParams

_T = TypeVar("_T")
WITHIN_S = 20.0


class Engine:
    """Link, client and presence in one: what is here, what was fetched, and when it may go on."""

    def __init__(self, *here: str) -> None:
        self.here = set(here)
        self.root = "/var/lib/docker"
        self.other_kind: set[str] = set()  # images of another processor
        self.removed: list[str] = []
        self.used_by_others: set[str] = set()
        self.images: frozenset[str] = frozenset()  # as the last look saw it
        self.looks = 0
        self.looked_into: list[str] = []  # for the processor it is for
        self.left_out: list[str] = []
        self.ids: dict[str, str] = {}
        self.later: dict[str, str] = {}  # what a name means once it is fetched again
        self.asked: list[str] = []
        self.begun: list[str] = []
        self.pulling = 0
        self.pulling_max = 0
        self.held: dict[str, trio.Event] = {}
        self.failure: Exception | None = None
        self.unreachable: EngineFailed | None = None
        self.refusal: EngineFailed | None = None
        self._began = trio.Event()

    async def client(self) -> Engine:
        await trio.lowlevel.checkpoint()
        if self.unreachable is not None:
            raise self.unreachable
        return self

    async def ask(self, work: Callable[[], _T]) -> _T:
        return await self.call(work)

    async def call(self, work: Callable[[], _T]) -> _T:
        await trio.lowlevel.checkpoint()
        return work()

    async def look(self) -> None:
        self.looks += 1

    def has_image(self, image: str) -> bool:
        self.asked.append(image)
        return image in self.here

    def image_id(self, image: str) -> str:
        return self.ids.get(image, f"id of {image}") if self.has_image(image) else ""

    def pull(self, image: str) -> Generator[Mapping[str, Any], None, None]:
        """In a thread: each line is the test's to let through."""
        trio.from_thread.run_sync(self._begin, image)
        yield {"status": "Pulling from library"}
        if image in self.held:
            trio.from_thread.run(self.held[image].wait)
        trio.from_thread.run_sync(self._end)
        if self.failure is not None:
            raise self.failure
        self.here.add(image)
        if image in self.later:
            self.ids[image] = self.later[image]
        yield {"status": "Download complete"}

    def foreign_kind(self, image: str) -> str:
        self.looked_into.append(image)
        return "s390x" if image in self.other_kind else ""

    def leave_out(self, name: str) -> None:
        self.left_out.append(name)

    def remove_image(self, image: str) -> None:
        if self.refusal is not None:
            raise self.refusal
        if image in self.used_by_others:
            raise EngineFailed("conflict: it is used by a container")
        self.removed.append(image)
        self.here.discard(image)

    def _begin(self, image: str) -> None:
        self.begun.append(image)
        self.pulling += 1
        self.pulling_max = max(self.pulling_max, self.pulling)
        self._began.set()

    def _end(self) -> None:
        self.pulling -= 1

    async def until_begun(self, count: int) -> None:
        with trio.fail_after(WITHIN_S):
            while len(self.begun) < count:
                self._began = trio.Event()
                await self._began.wait()
        await trio.testing.wait_all_tasks_blocked(0.01)

    def made(self, record: Path, standing: frozenset[str] = frozenset()) -> Images:
        link, presence = cast("DockerLink", self), cast("Presence", self)
        return Images(link, presence, record, lambda: standing)


@pytest.fixture
def record(tmp_path: Path) -> Path:
    return tmp_path / "images.json"


def job(image: str, pull: str = "missing") -> ContainerParams:
    return ContainerParams(image=image, pull=pull)


# ---- as its job says ---------------------------------------------------------------------------


async def test_what_was_seen_a_moment_ago_is_not_asked_for(record: Path) -> None:
    it = Engine()
    it.images = frozenset({"docker.io/library/busybox:latest"})
    images = it.made(record)
    for name in ("busybox", "docker.io/library/busybox", "busybox:latest"):
        await images.fetch(job(name))
        await images.fetch(job(name, "never"))
    assert (it.asked, it.begun, it.looks) == ([], [], 0)


async def test_what_is_here_is_not_fetched(record: Path) -> None:
    it = Engine("busybox:1")
    await it.made(record).fetch(job("busybox:1"))
    await it.made(record).fetch(job("busybox:1", "never"))
    assert (it.asked, it.begun) == (["busybox:1", "busybox:1"], [])


async def test_what_is_missing_is_fetched_and_seen(record: Path) -> None:
    it = Engine("other:1")
    images = it.made(record)
    await images.fetch(job("busybox:1"))
    assert (it.begun, it.here, it.looks) == (["busybox:1"], {"other:1", "busybox:1"}, 1)
    await images.fetch(job("busybox:1"))
    assert it.begun == ["busybox:1"]


async def test_never_is_an_error_where_it_is_missing(record: Path) -> None:
    it = Engine()
    with pytest.raises(EngineFailed) as caught:
        await it.made(record).fetch(job("busybox:1", "never"))
    assert str(caught.value) == "image busybox:1 is not here, and its job says Pull: never"
    assert it.begun == []


async def test_always_is_fetched_whether_it_is_here_or_not(record: Path) -> None:
    it = Engine("busybox:1")
    it.images = frozenset({"docker.io/library/busybox:1"})
    images = it.made(record)
    await images.fetch(job("busybox:1", "always"))
    await images.fetch(job("busybox:1", "always"))
    assert (it.begun, it.looks) == (["busybox:1", "busybox:1"], 2)
    assert written(record) == {}, "it was here before: it is not ours to remove"


# ---- many at a time ----------------------------------------------------------------------------


async def test_one_image_is_fetched_once_for_all_who_wait(record: Path) -> None:
    it = Engine()
    it.held["busybox:1"] = trio.Event()
    images, fetched = it.made(record), []

    async def fetch(number: int) -> None:
        await images.fetch(job("busybox:1"))
        fetched.append(number)

    async with trio.open_nursery() as nursery:
        for number in range(3):
            nursery.start_soon(fetch, number)
        await it.until_begun(1)
        assert (it.begun, fetched) == (["busybox:1"], [])
        it.held["busybox:1"].set()
    assert (it.begun, sorted(fetched)) == (["busybox:1"], [0, 1, 2])


async def test_who_waited_for_one_that_failed_tries_it_again(record: Path) -> None:
    it = Engine()
    it.held["busybox:1"] = trio.Event()
    it.failure = EngineFailed("no route to host")
    images, said = it.made(record), []

    async def fetch() -> None:
        with pytest.raises(EngineFailed) as caught:
            await images.fetch(job("busybox:1"))
        said.append(str(caught.value))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(fetch)
        nursery.start_soon(fetch)
        await it.until_begun(1)
        it.held["busybox:1"].set()
    assert it.begun == ["busybox:1", "busybox:1"]
    assert said == ["image busybox:1 cannot be fetched: no route to host"] * 2


async def test_so_many_are_fetched_at_a_time(record: Path) -> None:
    it = Engine()
    wanted = [f"image:{number}" for number in range(PULLS_MAX + 2)]
    it.held = {name: trio.Event() for name in wanted}
    images = it.made(record)
    async with trio.open_nursery() as nursery:
        for name in wanted:
            nursery.start_soon(images.fetch, job(name))
        for done in range(len(wanted)):
            await it.until_begun(min(done + PULLS_MAX, len(wanted)))
            assert it.pulling == min(PULLS_MAX, len(wanted) - done)
            it.held[it.begun[done]].set()
    assert sorted(it.begun) == wanted
    assert it.pulling_max == PULLS_MAX


async def test_those_who_wait_for_one_image_take_no_place_of_others(record: Path) -> None:
    it = Engine()
    it.held["large:1"] = trio.Event()
    images = it.made(record)
    async with trio.open_nursery() as nursery:
        for _ in range(PULLS_MAX + 1):
            nursery.start_soon(images.fetch, job("large:1"))
        await it.until_begun(1)
        with trio.fail_after(WITHIN_S):
            await images.fetch(job("small:1"))
        it.held["large:1"].set()
    assert it.begun == ["large:1", "small:1"]


async def test_given_up_while_it_waits_others_go_on(record: Path) -> None:
    it = Engine()
    it.held["busybox:1"] = trio.Event()
    images, waits = it.made(record), trio.CancelScope()

    async def fetch_in_vain() -> None:
        with waits:
            await images.fetch(job("busybox:1"))
        assert waits.cancelled_caught

    async with trio.open_nursery() as nursery:
        nursery.start_soon(images.fetch, job("busybox:1"))
        await it.until_begun(1)
        nursery.start_soon(fetch_in_vain)
        await trio.testing.wait_all_tasks_blocked()
        waits.cancel()
        await trio.testing.wait_all_tasks_blocked()
        nursery.start_soon(images.fetch, job("busybox:1"))
        await trio.testing.wait_all_tasks_blocked()
        it.held["busybox:1"].set()
    assert (it.begun, it.here) == (["busybox:1"], {"busybox:1"})


async def test_who_waits_hears_how_far_it_is(record: Path) -> None:
    it, said = Engine(), list[str]()
    wanted = [f"image:{number}" for number in range(PULLS_MAX + 1)]
    it.held = {name: trio.Event() for name in wanted[:PULLS_MAX]}
    images = it.made(record)
    async with trio.open_nursery() as nursery:
        for name in wanted[:PULLS_MAX]:
            nursery.start_soon(images.fetch, job(name))
        await it.until_begun(PULLS_MAX)
        nursery.start_soon(images.fetch, job(wanted[-1]), said.append)
        await trio.testing.wait_all_tasks_blocked()
        last = wanted[-1]
        assert said == [f"pulling {last}: waits for others that are being pulled here"]
        for event in it.held.values():
            event.set()
    assert said[1:] == [f"pulling {last}"]


# ---- removed -----------------------------------------------------------------------------------

LIBRARY = "docker.io/library"
OLD, YOUNG = 1_700_000_001.0, time.time() - 3600  # Unix times


def kept(record: Path, **used: float) -> None:
    record.write_text(json.dumps({f"{LIBRARY}/{name}:1": when for name, when in used.items()}))


def written(record: Path) -> dict[str, float]:
    """Which images, and when each was used; nothing where there is no record."""
    return cast("dict[str, float]", json.loads(record.read_text())) if record.exists() else {}


def damage(record: Path, text: str) -> None:
    record.write_text(text)


def names(*images: str) -> list[str]:
    return [f"{LIBRARY}/{name}:1" for name in images]


async def test_what_was_fetched_here_is_written_down_by_its_full_name(record: Path) -> None:
    it = Engine("mine:1")
    images = it.made(record)
    for image in ("mine:1", "busybox:1", "ghcr.io/owner/name"):
        await images.fetch(job(image))
    found = written(record)
    assert sorted(found) == ["docker.io/library/busybox:1", "ghcr.io/owner/name:latest"]
    assert all(when > 1.7e9 for when in found.values())


async def test_what_nobody_used_for_long_is_removed_in_the_next_life(record: Path) -> None:
    kept(record, old=OLD, young=YOUNG)
    it = Engine(*names("old", "young", "mine"))
    await it.made(record).prune()
    assert it.removed == names("old")
    assert written(record) == {names("young")[0]: YOUNG}
    assert it.looks == 1


async def test_used_again_it_is_not_old(record: Path) -> None:
    kept(record, old=OLD)
    it = Engine("old:1")
    images = it.made(record)
    await images.fetch(job("old:1"))
    await images.prune()
    assert it.removed == []
    assert written(record)[names("old")[0]] > 1.7e9


async def test_images_of_standing_jobs_stay(record: Path) -> None:
    kept(record, daemon=OLD, old=OLD)
    it = Engine()
    await it.made(record, frozenset(names("daemon"))).prune()
    assert it.removed == names("old")
    assert list(written(record)) == names("daemon")


async def test_what_a_container_uses_stays_and_is_looked_at_again(record: Path) -> None:
    kept(record, busy=OLD, old=OLD)
    it = Engine()
    it.used_by_others.update(names("busy"))
    images = it.made(record)
    await images.prune()
    assert it.removed == names("old")
    it.used_by_others.clear()
    await images.prune()
    assert it.removed == names("old", "busy")


async def test_without_images_of_ours_docker_is_not_asked(record: Path) -> None:
    it = Engine("mine:1")
    it.unreachable = NotAnswering("nobody asks it")
    await it.made(record).prune()
    assert written(record) == {}


async def test_a_docker_that_does_not_answer_is_asked_again_later(record: Path) -> None:
    kept(record, old=OLD)
    it = Engine()
    it.refusal = NotAnswering("it hangs")
    images = it.made(record)
    with pytest.raises(NotAnswering, match="it hangs"):
        await images.prune()
    it.refusal = None
    await images.prune()
    assert it.removed == names("old")


async def test_where_the_disk_is_nearly_full_the_longest_unused_go_first(
    record: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept(record, third=YOUNG + 2, first=YOUNG, second=YOUNG + 1)
    it, asked = Engine(), []

    def free_bytes(root: str) -> int:
        asked.append(root)
        return FREE_BYTES_MIN - (len(it.removed) < 2)

    monkeypatch.setattr("agent.engines.images._free_bytes", free_bytes)
    await it.made(record).fetch(job("busybox:1"))
    assert it.removed == names("first", "second")
    assert it.begun == ["busybox:1"]
    assert set(asked) == {it.root}
    assert sorted(written(record)) == sorted(names("busybox", "third"))


class Slow(Engine):
    """It takes long to remove an image."""

    def __init__(self, *here: str) -> None:
        super().__init__(*here)
        self.going = threading.Event()
        self.goes_on = threading.Event()

    async def ask(self, work: Callable[[], _T]) -> _T:
        return await trio.to_thread.run_sync(work)

    async def look(self) -> None:
        self.images = frozenset(self.here)

    def remove_image(self, image: str) -> None:
        self.going.set()
        assert self.goes_on.wait(WITHIN_S)
        super().remove_image(image)


async def test_an_image_that_a_job_comes_for_as_others_are_removed_stays(record: Path) -> None:
    first, second = names("a", "b")
    kept(record, a=OLD, b=OLD)
    it = Slow(first, second)
    await it.look()
    images = it.made(record)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(images.prune)
        await trio.to_thread.run_sync(it.going.wait, WITHIN_S)
        await images.fetch(job("b:1"))
        it.goes_on.set()
    assert it.removed == [first] and it.begun == []


async def test_an_image_that_a_job_comes_for_as_it_is_removed_is_fetched_again(
    record: Path,
) -> None:
    kept(record, a=OLD)
    it = Slow(*names("a"))
    await it.look()
    images = it.made(record)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(images.prune)
        await trio.to_thread.run_sync(it.going.wait, WITHIN_S)
        nursery.start_soon(images.fetch, job("a:1"))
        await trio.testing.wait_all_tasks_blocked(0.01)
        it.goes_on.set()
    assert it.removed == names("a") and it.begun == ["a:1"]
    assert list(written(record)) == names("a")


async def test_what_had_the_name_before_goes_once_no_container_has_it(record: Path) -> None:
    it = Engine()
    it.ids, it.later = {"tool:1": "sha256:1"}, {"tool:1": "sha256:2"}
    images = it.made(record)
    await images.fetch(job("tool:1"))
    it.ids = {"tool:1": "sha256:1"}
    it.used_by_others = {"sha256:1"}
    await images.fetch(job("tool:1", "always"))
    assert it.removed == [] and sorted(written(record)) == [*names("tool"), "sha256:1"]
    it.later = {"tool:1": "sha256:3"}
    await images.fetch(job("tool:1", "always"))
    assert it.removed == ["sha256:2"] and sorted(written(record)) == [*names("tool"), "sha256:1"]


async def test_what_a_person_brought_stays_where_its_name_moves_on(record: Path) -> None:
    it = Engine("tool:1")
    it.ids, it.later = {"tool:1": "sha256:1"}, {"tool:1": "sha256:2"}
    await it.made(record).fetch(job("tool:1", "always"))
    assert it.removed == []


@pytest.mark.parametrize("text", ["", "\0" * 100, "[]", '{"a": "b"}', '{"a": 1'])
async def test_a_damaged_record_is_none(record: Path, text: str) -> None:
    damage(record, text)
    it = Engine()
    images = it.made(record)
    await images.prune()
    assert it.removed == []
    await images.fetch(job("busybox:1"))
    assert list(written(record)) == names("busybox")


async def test_a_record_that_cannot_be_written_costs_no_job(record: Path) -> None:
    it = Engine()
    await it.made(record / "no-directory" / "images.json").fetch(job("busybox:1"))
    assert it.here == {"busybox:1"}


async def test_an_image_for_another_processor_is_not_kept(record: Path) -> None:
    it = Engine()
    it.other_kind.add("busybox:1")
    with pytest.raises(EngineFailed) as caught:
        await it.made(record).fetch(job("busybox:1"))
    assert str(caught.value) == f"image busybox:1 is for s390x, and this device is {own_kind()}"
    assert (it.removed, it.here) == (["busybox:1"], set())
    assert written(record) == {}


async def test_one_for_another_processor_that_is_here_is_refused_and_stays(record: Path) -> None:
    """It is a person's, or what another device's disk brought."""
    it = Engine("busybox:1")
    it.images = frozenset({"docker.io/library/busybox:1"})
    it.other_kind.add("busybox:1")
    images = it.made(record)
    for _ in range(2):
        with pytest.raises(EngineFailed, match=r"is for s390x, and .*; Pull: always"):
            await images.fetch(job("busybox:1"))
    with pytest.raises(EngineFailed, match=f"this device is {own_kind()}$"):
        await images.fetch(job("busybox:1", "never"))
    assert (it.begun, it.removed, it.here) == ([], [], {"busybox:1"})
    assert it.left_out == ["docker.io/library/busybox:1"] * 3


async def test_for_which_processor_an_image_is_is_asked_once(record: Path) -> None:
    it, name = Engine("busybox:1"), "docker.io/library/busybox:1"
    it.images, it.ids[name] = frozenset({name}), "first"
    images = it.made(record)
    for _ in range(2):
        await images.fetch(job("busybox:1"))
    assert it.looked_into == ["busybox:1"]
    it.ids[name] = "second"  # another one has its name
    it.other_kind.add("busybox:1")
    with pytest.raises(EngineFailed, match="is for s390x"):
        await images.fetch(job("busybox:1"))


class Removed(Engine):
    """What the last look saw was removed since."""

    async def look(self) -> None:
        self.images = frozenset(names(*(image.partition(":")[0] for image in self.here)))

    def foreign_kind(self, image: str) -> str:
        if image not in self.here:
            raise NotThere("no such image")
        return ""


async def test_one_that_was_removed_since_the_last_look_is_fetched(record: Path) -> None:
    it = Removed()
    it.images = frozenset({"docker.io/library/busybox:1"})
    await it.made(record).fetch(job("busybox:1"))
    assert (it.begun, it.here) == (["busybox:1"], {"busybox:1"})


async def test_one_that_was_removed_since_the_last_look_is_missing_where_none_is_fetched(
    record: Path,
) -> None:
    it = Removed()
    it.images = frozenset({"docker.io/library/busybox:1"})
    with pytest.raises(EngineFailed, match="is not here, and its job says Pull: never"):
        await it.made(record).fetch(job("busybox:1", "never"))


# ---- standing work -----------------------------------------------------------------------------


async def test_standing_work_starts_with_what_is_here_where_its_registry_is_gone(
    record: Path,
) -> None:
    it = Engine("busybox:1")
    it.failure = EngineFailed("dial tcp: no route to host")
    await it.made(record, frozenset(names("busybox"))).fetch(job("busybox:1", "always"))
    assert (it.begun, it.here) == (["busybox:1"], {"busybox:1"})
    with pytest.raises(EngineFailed, match="no route to host"):
        await it.made(record).fetch(job("busybox:1", "always"))


async def test_standing_work_whose_image_is_not_here_cannot_start_without(record: Path) -> None:
    it = Engine()
    it.failure = EngineFailed("dial tcp: no route to host")
    with pytest.raises(EngineFailed, match="no route to host"):
        await it.made(record, frozenset(names("busybox"))).fetch(job("busybox:1", "always"))


# ---- bad days ----------------------------------------------------------------------------------


class Hanging(Engine):
    """Its fetches hang."""

    def __init__(self) -> None:
        super().__init__()
        self.go_on = threading.Event()

    def pull(self, image: str) -> Generator[Mapping[str, Any], None, None]:
        self.go_on.wait(WITHIN_S)
        yield {"status": "too late"}


class Endless(Engine):
    """Docker goes on with what nobody waits for any more, while the connection stands."""

    def __init__(self) -> None:
        super().__init__()
        self.words = 0
        self.closed = threading.Event()

    def pull(self, image: str) -> Generator[Mapping[str, Any], None, None]:
        try:
            while not self.closed.wait(0.001):
                self.words += 1
                detail = {"current": self.words, "total": 10_000_000}
                yield {"status": "Downloading", "id": "a", "progressDetail": detail}
        finally:
            self.closed.set()


async def test_a_fetch_that_is_given_up_ends_at_docker_too_and_says_no_more(record: Path) -> None:
    it, said = Endless(), list[str]()
    with trio.move_on_after(0.1) as scope:
        await it.made(record).fetch(job("busybox:1"), said.append)
    assert scope.cancelled_caught
    before = len(said)
    with trio.fail_after(WITHIN_S):
        while not it.closed.is_set():  # noqa: ASYNC110 -- a thread's event
            await trio.sleep(0.001)
    await trio.testing.wait_all_tasks_blocked()
    assert len(said) == before == 1


async def test_a_fetch_that_hangs_is_given_up_and_takes_no_place(
    record: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("agent.engines.images.PULL_S", 0.05)
    it = Hanging()
    images = it.made(record)
    try:
        for number in range(PULLS_MAX + 1):
            with pytest.raises(EngineFailed) as caught, trio.fail_after(WITHIN_S):
                await images.fetch(job(f"busybox:{number}"))
            assert str(caught.value) == f"image busybox:{number} was not fetched within 0 s"
    finally:
        it.go_on.set()


@pytest.mark.parametrize(
    "failure", [EngineFailed("manifest unknown"), NotAnswering("docker cannot be reached: x")]
)
async def test_a_fetch_that_fails_says_of_which_image_and_why(
    record: Path, failure: EngineFailed
) -> None:
    it = Engine()
    it.failure = failure
    images = it.made(record)
    with pytest.raises(EngineFailed) as caught:
        await images.fetch(job("busybox:1"))
    assert str(caught.value) == f"image busybox:1 cannot be fetched: {failure}"
    it.failure = None
    await images.fetch(job("busybox:1"))
    assert it.begun == ["busybox:1", "busybox:1"]


@pytest.mark.parametrize("pull", ["missing", "always", "never"])
async def test_a_docker_that_is_not_there_is_an_error_and_no_missing_image(
    record: Path, pull: str
) -> None:
    it = Engine()
    it.unreachable = NotAnswering("docker cannot be reached: refused")
    with pytest.raises(EngineFailed, match="docker cannot be reached: refused"):
        await it.made(record).fetch(job("busybox:1", pull))


async def test_our_own_bug_in_a_fetch_is_not_hidden(record: Path) -> None:
    it = Engine()
    it.failure = ZeroDivisionError()
    with pytest.raises(ZeroDivisionError):
        await it.made(record).fetch(job("busybox:1"))


async def test_two_fetches_that_make_room_remove_an_old_image_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both are past `name in standing` when the first one deletes it: KeyError out of fetch."""
    monkeypatch.setattr("agent.engines.images._free_bytes", lambda root: 0)
    record = tmp_path / "images.json"
    kept(record, old=OLD)
    it = Engine()
    images = it.made(record)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(images.fetch, job("a:1"))
        nursery.start_soon(images.fetch, job("b:1"))
    assert it.here >= {"a:1", "b:1"}


async def test_what_was_fetched_just_now_is_not_removed_before_its_container_is_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The job of a:1 has it fetched and is about to start; b:1 makes room."""
    monkeypatch.setattr("agent.engines.images._free_bytes", lambda root: 0)
    it = Engine()
    images = it.made(tmp_path / "images.json")
    await images.fetch(job("a:1"))
    await images.fetch(job("b:1"))
    assert "docker.io/library/a:1" not in it.removed
