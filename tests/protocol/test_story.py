"""story: what people are told of how a job was placed, up to a bound."""

from __future__ import annotations

from protocol.auction import Auction
from protocol.config import AuctionConfig
from protocol.ids import JobId, PeerId
from protocol.story import ATTEMPTS_MAX, ROUNDS_MAX, Attempt, Stories, Story


def attempt(number: int) -> Attempt:
    return Attempt(f"e{number}", 0, PeerId("b"), 1, number, "awarded", 1000 + number)


def test_the_first_round_and_the_latest_are_kept() -> None:
    story = Story()
    for number in range(ROUNDS_MAX + 5):
        story.add_round(Auction(number, AuctionConfig(), 1, [], 0.0, 0))
    numbers = [auction.id for auction in story.rounds]
    assert numbers == [0, *range(6, ROUNDS_MAX + 5)]


def test_the_latest_attempts_are_kept() -> None:
    story = Story()
    for number in range(ATTEMPTS_MAX + 1):
        story.add_attempt(attempt(number))
    assert [each.execution for each in story.attempts][:1] == ["e1"]
    assert len(story.attempts) == ATTEMPTS_MAX


def test_an_attempt_is_followed_by_its_execution() -> None:
    story = Story()
    story.add_attempt(attempt(1))
    story.add_attempt(attempt(2))
    story.update("e1", "running")
    story.update("e2", "failed", 5000, 3, "exit code 3")
    story.update("e3", "failed", 5000)
    first, second = story.attempts
    assert (first.state, first.ended_ms, first.exit_code) == ("running", 0, None)
    assert (second.state, second.ended_ms, second.exit_code) == ("failed", 5000, 3)
    story.update("e2", "lost")
    assert (second.state, second.ended_ms) == ("lost", 5000)


def test_the_stories_of_the_latest_jobs_are_kept() -> None:
    stories = Stories(2)
    first = stories.of(JobId("a"))
    assert stories.of(JobId("a")) is first
    stories.of(JobId("b"))
    stories.of(JobId("c"))
    assert list(stories) == ["b", "c"]
