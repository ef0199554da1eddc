"""The feed: the last events of this agent, and whoever follows them as they happen.

Nobody who follows can slow the agent down: each has a queue of its own, and one that does not read
loses the oldest events and is told how many.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Any, Self

import trio

from agent.control.backend import View

KEPT_MAX = 2048  # events remembered: some minutes of a busy agent, about 1 MB
QUEUE_MAX = 512  # of one follower; a job makes ten events per slot


class Feed:
    """Events numbered from 1 in this life of the agent."""

    def __init__(
        self, wall_ms: Callable[[], int], kept_max: int = KEPT_MAX, queue_max: int = QUEUE_MAX
    ) -> None:
        self.seq = 0
        self._wall_ms = wall_ms
        self._kept_max = kept_max
        self._queue_max = queue_max
        self._kept: deque[View] = deque()
        self._kept_by_job: dict[str, deque[View]] = {}
        # By job, None for those who follow everything, so that telling of one job's event costs
        # the same however many follow other jobs. Dicts, not sets: they keep their order.
        self._followers: dict[str | None, dict[Follower, None]] = {}

    def tell(
        self,
        kind: str,
        text: str,
        *,
        job: str | None = None,
        peer: str | None = None,
        fields: dict[str, Any] | None = None,
    ) -> View:
        """Record one event and wake whoever follows it. Returns the event."""
        event: View = {
            "seq": self.seq + 1,
            "at_ms": self._wall_ms(),
            "kind": kind,
            "text": text,
            "job": job,
            "peer": peer,
            "fields": fields or {},
        }
        self.put(event)
        return event

    def pass_on(
        self, kind: str, text: str, *, job: str | None, peer: str | None, fields: dict[str, Any]
    ) -> None:
        """Tell whoever follows just now, and remember nothing: it has no number of its own."""
        self._push(
            {
                "seq": self.seq,
                "at_ms": self._wall_ms(),
                "kind": kind,
                "text": text,
                "job": job,
                "peer": peer,
                "fields": fields,
            }
        )

    def put(self, event: View) -> None:
        """Take in an event that was numbered elsewhere; numbers only ever rise."""
        self.seq, job = event["seq"], event["job"]
        self._keep(event, job)
        self._push(event)

    def _push(self, event: View) -> None:
        job = event["job"]
        for follower in self._followers.get(None, ()):
            follower.put(event)
        if job is not None:
            for follower in self._followers.get(job, ()):
                follower.put(event)

    def recent(self, since_seq: int, job: str | None = None) -> list[View]:
        """Remembered events after `since_seq`; a number of an earlier life means all of them."""
        kept = self._kept if job is None else self._kept_by_job.get(job, ())
        if since_seq > self.seq:
            since_seq = 0
        return [event for event in kept if event["seq"] > since_seq]

    def follow(self, since_seq: int, job: str | None = None) -> Follower:
        """Subscribe from now on, beginning with what is remembered after `since_seq`."""
        follower = Follower(self, job, self.recent(since_seq, job), self._queue_max)
        self._followers.setdefault(job, {})[follower] = None
        return follower

    @property
    def followers(self) -> int:
        return sum(len(group) for group in self._followers.values())

    def forget(self, follower: Follower) -> None:
        group = self._followers.get(follower.job, {})
        group.pop(follower, None)
        if not group:
            self._followers.pop(follower.job, None)

    def _keep(self, event: View, job: str | None) -> None:
        self._kept.append(event)
        if job is not None:
            self._kept_by_job.setdefault(job, deque()).append(event)
        if len(self._kept) > self._kept_max:
            old = self._kept.popleft()["job"]
            if old is not None:
                self._kept_by_job[old].popleft()  # a job's events are in the same order
                if not self._kept_by_job[old]:
                    del self._kept_by_job[old]


class Follower:
    """One reader's place in the feed; an async iterator of events without an end."""

    def __init__(self, feed: Feed, job: str | None, recent: list[View], queue_max: int) -> None:
        self.job = job
        self._feed = feed
        self._queue = deque(recent)
        self._queue_max = max(queue_max, len(recent))
        self._dropped = 0
        self._arrived = trio.Event()

    def put(self, event: View) -> None:
        if len(self._queue) >= self._queue_max:
            self._queue.popleft()
            self._dropped += 1
        self._queue.append(event)
        self._arrived.set()

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> View:
        while not self._queue:
            self._arrived = trio.Event()
            await self._arrived.wait()
        if self._dropped:
            lost, self._dropped = self._dropped, 0
            return {
                "seq": self._queue[0]["seq"] - 1,
                "at_ms": self._queue[0]["at_ms"],
                "kind": "feed.dropped",
                "text": f"{lost} events were dropped: this follower reads too slowly",
                "job": self.job,
                "peer": None,
                "fields": {"dropped": lost},
            }
        return self._queue.popleft()

    async def aclose(self) -> None:
        self._feed.forget(self)
