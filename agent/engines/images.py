"""Images: fetched for a job when it needs one, and removed when none has for long.

Only what was fetched here is removed; what a person brought to this device is theirs. Images of
standing jobs stay, so that a daemon's container starts after a reboot without a network.
"""

from __future__ import annotations

import contextlib
import logging
import math
import shutil
import threading
import time
from collections.abc import Callable, Generator, Mapping
from functools import partial
from pathlib import Path
from typing import Any, Final

import msgspec
import trio

from agent.engines.docker_client import ID, EngineFailed, NotAnswering, NotThere
from agent.engines.docker_link import DockerLink
from agent.engines.presence import IMAGES_MAX, Presence
from agent.engines.processors import own_kind
from agent.engines.pulling import Pulling
from agent.threads import abandonable, in_thread
from protocol.container import ContainerParams, full_name

PULLS_MAX: Final = 2  # at a time: a device's link has one width
PULL_S: Final = 540.0  # within coordination's start_max_s
KEEP_S: Final = 7 * 86_400.0  # as long as jobs are kept
YOUNG_S: Final = 600.0  # an image used since then is not removed whatever the disk says
FREE_BYTES_MIN: Final = 1 << 30  # of docker's disk; below that unused ones go, however young
PRUNE_S: Final = 3600.0
AGAIN_S: Final = 10.0  # between looks at replaced ones, of containers that go one after the other
KNOWN_S: Final = 1_700_000_000.0  # no clock that is right shows less
_log = logging.getLogger("shoal.docker")


class Images:
    def __init__(
        self,
        link: DockerLink,
        presence: Presence,
        record: Path,
        standing: Callable[[], frozenset[str]] = frozenset,
    ) -> None:
        """`record`: the file that says which were fetched here. `standing`: the images of standing
        jobs, by their full names."""
        self._link = link
        self._presence = presence
        self._record = record
        self.standing = standing
        # Full name: Unix time of its last use. What had the name of a later one is there by its id,
        # with no time: it goes as soon as no container has it.
        self._used = _read(record)
        self._pulls = trio.Semaphore(PULLS_MAX)
        # Its threads: one whose pull was given up keeps its place until docker has let go.
        self._fetching = trio.CapacityLimiter(PULLS_MAX)
        self._turns: dict[str, trio.Lock] = {}
        self._fitting: dict[str, str] = {}  # full name: the id of what was found to run here
        self._removal = trio.Lock()
        self._saving = trio.Lock()
        self._going = ""  # which is being removed just now
        self._freed = trio.Event()
        self._freed.set()  # perhaps while there was no agent

    async def run(self) -> None:
        """Remove what is not needed, as long as it is not cancelled."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._remove_replaced)
            while True:
                await trio.sleep(PRUNE_S)
                with contextlib.suppress(OSError):
                    await self.prune()

    def container_went(self) -> None:
        """It may have been the last one of an image that was replaced."""
        self._freed.set()

    async def fetch(
        self, params: ContainerParams, say: Callable[[str], None] = lambda text: None
    ) -> None:
        """Have the image here, as the job's Pull says. `say` hears of what takes long, from this
        loop and not often. Raises EngineFailed."""
        image, name = params.image, full_name(params.image)
        if name in self._used:
            self._used[name] = time.time()
        if name == self._going:
            async with self._removal:
                pass
        if params.pull != "always" and await self._here(image):
            try:
                await self._see_that_it_fits(params)
                return
            except NotThere:  # it was removed since the last look
                await self._presence.look()
        if params.pull == "never":
            raise EngineFailed(f"image {image} is not here, and its job says Pull: never")
        turn = self._turns.setdefault(image, trio.Lock())
        try:
            if turn.locked() or not self._pulls.value:
                say(f"pulling {image}: waits for others that are being pulled here")
            async with turn, self._pulls:
                # Another job that waited for it too may have fetched it meanwhile.
                if params.pull == "always" or not await self._here(image):
                    await self._make_room()
                    await self._renew(image, name, say)
        finally:
            if not turn.locked():
                self._turns.pop(image, None)
        await self._presence.look()
        await self._see_that_it_fits(params)

    async def prune(self) -> None:
        """Remove what no job has used for long. Raises EngineFailed."""
        if self._used:
            now = time.time()
            for name, used in self._used.items():
                # Stamped before this device knew the time.
                if (used < KNOWN_S or used > now) and not name.startswith(ID):
                    self._used[name] = now
            for name in sorted(self._used):
                await self._remove(name, now if name.startswith(ID) else now - KEEP_S)
            await self._make_room()
            await self._save()  # times of use, too, which are not worth a write of their own

    async def _make_room(self) -> None:
        """Where docker's disk is nearly full, the longest unused go, one by one."""
        if not self._used:
            return
        root, young = (await self._link.client()).root, time.time() - YOUNG_S
        for name in sorted(self._used, key=lambda name: self._used[name]):
            if self._used.get(name, 0.0) > young:  # its container is about to be made
                continue
            free = await in_thread(_free_bytes, root)
            if free >= FREE_BYTES_MIN:
                return
            await self._remove(name, young)

    async def _remove(self, name: str, unused_since: float) -> None:
        """Unless somebody else did, or a job has come for it meanwhile: it may take a minute until
        the turn is its, and another until it has gone."""
        client = await self._link.client()
        async with self._removal:
            if not self._used.get(name, math.inf) <= unused_since or name in self.standing():
                return
            self._going = name
            try:
                removed = await self._link.ask(partial(client.remove_image, name))
            except NotAnswering:
                raise
            except EngineFailed as error:  # a container of somebody's uses it
                _log.debug("image %s stays: %s", name, error)
            else:
                self._used.pop(name, None)
                why = "was not used for long, or the disk is full"
                why = "was replaced by a later one" if name.startswith(ID) else why
                if removed:
                    _log.info("image %s %s: removed", name, why)
                await self._presence.look()
            finally:
                self._going = ""

    async def _here(self, image: str) -> bool:
        """The first question costs nothing, and is answered by what was there a moment ago."""
        if full_name(image) in self._presence.images:
            return True
        client = await self._link.client()
        return await self._link.ask(lambda: client.has_image(image))

    async def _see_that_it_fits(self, params: ContainerParams) -> None:
        """Once of each image: docker starts what is for another processor, and its task fails.
        Raises EngineFailed, and then it counts no more as here."""
        image, name = params.image, full_name(params.image)
        id = self._presence.ids.get(name, "")
        if id and self._fitting.get(name) == id:
            return
        client = await self._link.client()
        kind = await self._link.ask(lambda: client.foreign_kind(image))
        if not kind:
            if len(self._fitting) >= IMAGES_MAX:  # of names that came and went: asked once more
                self._fitting.clear()
            self._fitting[name] = id
            return
        if name not in self._presence.ids:
            await self._presence.look()
        self._presence.leave_out(name)
        text = f"image {image} is for {kind}, and this device is {own_kind()}"
        if params.pull == "missing":
            text += "; Pull: always fetches the one for this device, where there is one"
        raise EngineFailed(text)

    async def _renew(self, image: str, name: str, say: Callable[[str], None]) -> None:
        """Fetch it, though it may be here. For standing work that does where it cannot be fetched:
        such work starts after a reboot without a network. Raises EngineFailed."""
        try:
            await self._pull(image, name, say)
        except EngineFailed as error:
            client = await self._link.client()
            if name not in self.standing() or not await self._link.ask(
                lambda: client.has_image(image)
            ):
                raise
            _log.warning("%s; standing work starts with what is here", error)

    async def _pull(self, image: str, name: str, say: Callable[[str], None]) -> None:
        client = await self._link.client()
        before = await self._link.ask(lambda: client.image_id(image))
        ours = name in self._used or not before
        if ours:  # at once: docker may go on with a pull that is given up here
            self._used[name] = time.time()
            await self._save()
        given_up, token = threading.Event(), trio.lowlevel.current_trio_token()

        def tell(text: str) -> None:
            if not given_up.is_set():
                say(text)

        def told(text: str) -> None:
            with contextlib.suppress(trio.RunFinishedError):
                token.run_sync_soon(tell, text)

        pulling = Pulling(image, told, time.monotonic)
        try:
            with trio.fail_after(PULL_S):
                await abandonable(
                    lambda: _exhaust(client.pull(image), pulling, given_up), self._fetching
                )
        except trio.TooSlowError:
            raise EngineFailed(f"image {image} was not fetched within {PULL_S:.0f} s") from None
        except EngineFailed as error:
            raise EngineFailed(f"image {image} cannot be fetched: {error}") from None
        finally:
            given_up.set()  # where it is: what its job is told of later is not about this
        if ours and before and before != await self._link.ask(lambda: client.image_id(image)):
            await self._replaced(before)
        kind = await self._link.ask(lambda: client.foreign_kind(image)) if ours else ""
        if kind:
            with contextlib.suppress(EngineFailed):
                await self._link.ask(lambda: client.remove_image(image))
            self._used.pop(name, None)
            await self._save()
            raise EngineFailed(f"image {image} is for {kind}, and this device is {own_kind()}")

    async def _replaced(self, image_id: str) -> None:
        """What had the name of one that was fetched has none now: it goes, or will once no
        container uses it."""
        self._used[image_id] = 0.0
        with contextlib.suppress(EngineFailed):
            await self._remove(image_id, 0.0)
        if image_id in self._used:
            await self._save()

    async def _remove_replaced(self) -> None:
        """Whenever a container went. Where docker does not answer, `prune` tries again."""
        while True:
            await self._freed.wait()
            self._freed = trio.Event()
            replaced = [name for name in self._used if name.startswith(ID)]
            with contextlib.suppress(EngineFailed):
                for name in replaced:
                    await self._remove(name, self._used.get(name, 0.0))
            if any(name not in self._used for name in replaced):
                await self._save()
            await trio.sleep(AGAIN_S if replaced else 0.0)

    async def _save(self) -> None:
        async with self._saving:  # a later one is not overtaken by an earlier one
            used = dict(self._used)
            with contextlib.suppress(OSError):  # a full disk: it is written again within the hour
                await in_thread(lambda: _write(self._record, used))


def _exhaust(
    lines: Generator[Mapping[str, Any], None, None], pulling: Pulling, given_up: threading.Event
) -> None:
    """To the end; or, once nobody waits for it any more, until docker says its next word: then the
    connection is closed, and docker stops as well."""
    try:
        for line in lines:
            if given_up.is_set():
                _log.debug("a pull was given up: %s", line.get("status"))
                return
            pulling.take(line)
    finally:
        lines.close()


def _free_bytes(root: str) -> int:
    """Plenty where that cannot be seen, as from within another mount namespace."""
    try:
        return shutil.disk_usage(root).free
    except OSError:
        return FREE_BYTES_MIN


def _read(record: Path) -> dict[str, float]:
    try:
        return msgspec.json.decode(record.read_bytes(), type=dict[str, float])
    except (OSError, msgspec.MsgspecError):  # none yet, or zeroes after a power cut
        return {}


def _write(record: Path, used: dict[str, float]) -> None:
    fresh = record.with_suffix(".new")
    fresh.write_bytes(msgspec.json.encode(used))
    fresh.rename(record)
