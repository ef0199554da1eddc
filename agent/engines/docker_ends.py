"""Ends of containers: what docker says of them, and those that we bring."""

from __future__ import annotations

import logging
from functools import partial
from typing import Final

import trio

from agent.engines.container_exit import exit_of, lost
from agent.engines.directories import Directories
from agent.engines.docker_client import KILL, DockerClient, EngineFailed, NotThere
from agent.engines.docker_held import Held
from agent.engines.docker_link import LATE_S, DockerLink
from agent.engines.supervisor import boot_id

KILL_S: Final = 10.0  # for docker to carry out a KILL, before it is told again
GIVE_UP_S: Final = 90.0  # past the grace: docker hangs, and what it runs is given up
RUNS: Final = ("running", "paused", "restarting")
_log = logging.getLogger("shoal.docker")


class DockerEnds:
    """Once it is known how an execution ended, what is held of it says so."""

    def __init__(self, directories: Directories, link: DockerLink) -> None:
        self._directories = directories
        self._link = link

    # ---- docker's word -----------------------------------------------------------------------

    def hear(self, name: str, held: Held, action: str) -> None:
        """What befell it, as docker says."""
        if action == KILL:
            held.killed = held.killed or not (held.stopping or held.timed_out)
        else:
            self._link.spawn(self._link.trying, self.settle, name, held)

    async def settle(self, name: str, held: Held) -> None:
        """Find out how it ended, if it did. Raises EngineFailed."""
        client = await self._link.client()
        try:
            seen = await self._link.ask(lambda: client.inspect(name))
        except NotThere:
            held.end(lost("it has no container: somebody removed it, or it was never made"))
            self._link.doubt()  # docker may be making it just now
            return
        held.output_bytes = seen.output_bytes
        if seen.status in RUNS:
            held.killed = False  # whoever ended it has started it again
            return
        if seen.status == "created":
            if not held.expected:
                held.expected = True
                self._link.spawn(self._expect, name, held)
            return
        ended = exit_of(
            seen,
            stopping=held.stopping,
            timed_out=held.timed_out,
            rebooted=held.boot != boot_id(),
            unseen=self._link.was_away(seen.finished),
            killed=held.killed,
            cut_off=self._link.took_down(seen.finished),
            memory_bytes=held.memory_bytes,
        )
        held.told = True
        held.end(ended)

    async def _expect(self, name: str, held: Held) -> None:
        """An agent that is gone may have asked docker to start it, which docker does yet: it never
        began if it has not after a while, and can be removed without force."""
        await trio.sleep(LATE_S)
        held.expected = False
        await self._link.trying(self._end_unstarted, name, held)

    async def _end_unstarted(self, name: str, held: Held) -> None:
        client, directory = await self._link.client(), self._directories.of(name)
        seen = await self._link.ask(lambda: client.inspect(name))
        if seen.status != "created":
            await self.settle(name, held)
        elif held.exit is None:
            if not await self._link.ask(lambda: client.remove_unstarted(name)):
                held.end(lost("nobody saw it end: it was started as the agent came back"))
                return
            reason = "the agent ended before it was started"
            held.end(await self._directories.in_thread(lambda: directory.fail_start(reason)))

    # ---- ends that we bring ------------------------------------------------------------------

    async def end_in_time(self, name: str, held: Held, timeout_s: float) -> None:
        with trio.move_on_after(timeout_s):
            await held.ended.wait()
        if held.exit is None:
            held.timed_out = not held.stopping
            self.bring_down(name, held, held.grace_s)

    def bring_down(self, name: str, held: Held, grace_s: float) -> None:
        kill_at, begun = trio.current_time() + grace_s, held.kill_at is not None
        held.kill_at = kill_at if held.kill_at is None else min(held.kill_at, kill_at)
        if not begun:
            self._link.spawn(self._end_it, name, held)

    async def _end_it(self, name: str, held: Held) -> None:
        """TERM, KILL after the grace, and again; a docker that does neither is given up."""
        assert held.kill_at is not None
        asked = False
        while held.exit is None and trio.current_time() < held.kill_at + GIVE_UP_S:
            killing = trio.current_time() >= held.kill_at
            if killing or not asked:
                try:
                    client = await self._link.client()
                    await self._link.ask(partial(_signal, client, name, killing))
                    asked = True
                except EngineFailed as error:  # not started yet, or docker is away
                    _log.debug("ending %s: %s", name, error)
            # Not past the moment of the KILL, which a later stop may bring forward.
            wait_s = KILL_S if killing else min(0.5, max(held.kill_at - trio.current_time(), 0.01))
            with trio.move_on_after(wait_s):
                await held.ended.wait()
        held.end(lost("docker does not answer; the container is ended once it does"))


def _signal(client: DockerClient, name: str, kill: bool) -> None:
    client.kill(name, "SIGKILL" if kill else client.inspect(name).stop_signal)
