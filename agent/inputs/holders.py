"""Who has an archive that anybody may have: all around are asked, a few at a time, for its size."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Final

import trio

from agent.archives import Dialler
from protocol.errors import ShoalError
from protocol.ids import PeerId
from protocol.messages import ArchiveAnswer, ArchiveRequest
from protocol.wire import decode_as, encode_message

AT_A_TIME: Final = 8  # one that does not answer costs the others no more than its share
ASKED_MAX: Final = 1000  # four times what one shoal is meant for
ASK_S: Final = 15.0  # a dial and a hello, or a way by neighbours
SEARCH_S: Final = 180.0  # whatever is asked by then: another device may be nearer to it
SAID_MAX: Final = 4  # of what they said


@dataclass(slots=True)
class Search:
    """One search, and what was said to it."""

    digest: str
    size_bytes: int
    dial: Dialler
    said: list[str] = field(default_factory=list)
    asked: int = 0

    async def holders(self, peers: Sequence[PeerId]) -> AsyncGenerator[list[PeerId], None]:
        """Those who say that they have it, a few at a time and in this order."""
        give_up_at = trio.current_time() + SEARCH_S
        for at in range(0, min(len(peers), ASKED_MAX), AT_A_TIME):
            some = peers[at : at + AT_A_TIME]
            if trio.current_time() > give_up_at:
                return
            has: dict[PeerId, bool] = {}
            async with trio.open_nursery() as nursery:
                for peer in some:
                    nursery.start_soon(self._ask, peer, has)
            self.asked += len(some)
            if found := [peer for peer in some if has[peer]]:
                yield found

    def told(self) -> str:
        """Why it cannot be had."""
        more = len(self.said) - SAID_MAX
        said = "; ".join(self.said[:SAID_MAX]) + (f"; and {more} more" if more > 0 else "")
        why = (
            f"none of {self.asked} devices has them: {said}" if said else "no other device is here"
        )
        return f"the files ({self.digest[:12]}) could not be fetched: {why}"

    async def _ask(self, peer: PeerId, has: dict[PeerId, bool]) -> None:
        """From its end on: what is sent then is the size, and nothing."""
        has[peer] = False
        try:
            with trio.fail_after(ASK_S):
                async with aclosing(await self.dial(peer)) as stream:
                    request = ArchiveRequest(self.digest, self.size_bytes)
                    await stream.write_frame(encode_message(request))
                    answer = decode_as(await stream.read_frame(), ArchiveAnswer)
        except (ShoalError, OSError, EOFError, trio.TooSlowError) as error:
            self.said.append(f"{peer[-8:]}: {str(error) or type(error).__name__}")
            return
        if answer.error:
            self.said.append(f"{peer[-8:]}: {answer.error}")
        elif answer.size != self.size_bytes:
            said = f"has {answer.size} bytes under this digest, not {self.size_bytes}"
            self.said.append(f"{peer[-8:]}: {said}")
        else:
            has[peer] = True
