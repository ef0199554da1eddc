"""Images: fetched for a job when it needs one."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from typing import Final

import trio

from agent.engines.docker_client import EngineFailed
from agent.engines.docker_link import DockerLink
from agent.engines.presence import Presence
from protocol.container import ContainerParams, full_name

PULLS_MAX: Final = 2  # at a time: a device's link has one width
PULL_S: Final = 540.0  # within coordination's start_max_s
_log = logging.getLogger("shoal.docker")


class Images:
    def __init__(self, link: DockerLink, presence: Presence) -> None:
        self._link = link
        self._presence = presence
        self._pulls = trio.Semaphore(PULLS_MAX)
        self._turns: dict[str, trio.Lock] = {}

    async def fetch(self, params: ContainerParams) -> None:
        """Have the image here, as the job's Pull says. Raises EngineFailed."""
        image = params.image
        if params.pull != "always" and await self._here(image):
            return
        if params.pull == "never":
            raise EngineFailed(f"image {image} is not here, and its job says Pull: never")
        turn = self._turns.setdefault(image, trio.Lock())
        try:
            async with turn, self._pulls:
                # Another job that waited for it too may have fetched it meanwhile.
                if params.pull == "always" or not await self._here(image):
                    await self._pull(image)
        finally:
            if not turn.locked():
                self._turns.pop(image, None)
        await self._presence.look()

    async def _here(self, image: str) -> bool:
        """The first question costs nothing, and is answered by what was there a moment ago."""
        if full_name(image) in self._presence.images:
            return True
        client = await self._link.client()
        return await self._link.call(lambda: client.has_image(image))

    async def _pull(self, image: str) -> None:
        client = await self._link.client()
        try:
            with trio.fail_after(PULL_S):
                await trio.to_thread.run_sync(
                    lambda: _exhaust(client.pull(image)),
                    abandon_on_cancel=True,  # type: ignore[call-arg]  # libp2p's old stubs
                    limiter=trio.CapacityLimiter(1),  # one that is left behind takes no place
                )
        except trio.TooSlowError:
            raise EngineFailed(f"image {image} was not fetched within {PULL_S:.0f} s") from None
        except EngineFailed as error:
            raise EngineFailed(f"image {image} cannot be fetched: {error}") from None


def _exhaust(lines: Iterator[str]) -> None:
    for line in lines:
        _log.debug("pull: %s", line)
