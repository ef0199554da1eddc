"""The feed of events and its followers."""

import trio

from agent.control.feed import Feed


def feed(**limits: int) -> Feed:
    return Feed(lambda: 1000, **limits)


async def test_events_are_numbered_remembered_and_filtered_by_job() -> None:
    events = feed(kept_max=3)
    for i in range(5):
        events.tell("job.bids", str(i), job="a" if i % 2 else "b")
    assert [event["seq"] for event in events.recent(0)] == [3, 4, 5]
    assert [event["seq"] for event in events.recent(0, "a")] == [4]
    assert [event["seq"] for event in events.recent(4)] == [5]
    assert events.recent(0, "c") == []
    assert events.recent(1000)[0]["seq"] == 3  # a number of the agent's earlier life


async def test_a_follower_gets_what_was_then_what_comes() -> None:
    events = feed()
    events.tell("one", "1", job="a")
    follower = events.follow(0, "a")
    everything = events.follow(1)
    events.tell("other", "2", job="b")
    events.tell("two", "3", job="a", fields={"slot": 0})
    assert [(await anext(follower))["kind"] for _ in range(2)] == ["one", "two"]
    assert [(await anext(everything))["kind"] for _ in range(2)] == ["other", "two"]
    with trio.move_on_after(0.01) as scope:
        await anext(follower)
    assert scope.cancelled_caught
    events.tell("three", "4", job="a")  # being cancelled loses nothing
    assert (await anext(follower))["kind"] == "three"
    await follower.aclose()
    await everything.aclose()
    assert events.followers == 0


async def test_a_slow_follower_loses_the_oldest_and_is_told_how_many() -> None:
    events = feed(queue_max=4)
    follower = events.follow(0)
    for i in range(10):
        events.tell("tick", str(i))
    dropped = await anext(follower)
    assert (dropped["kind"], dropped["fields"]) == ("feed.dropped", {"dropped": 6})
    assert [(await anext(follower))["text"] for _ in range(4)] == ["6", "7", "8", "9"]


async def test_what_is_passed_on_reaches_whoever_follows_and_is_not_remembered() -> None:
    events = feed()
    events.tell("one", "1", job="a")
    follower = events.follow(1, "a")
    events.pass_on("execution.progress", "on b: pulling", job="a", peer="b", fields={})
    events.tell("two", "2", job="a")
    assert [(await anext(follower))["kind"] for _ in range(2)] == ["execution.progress", "two"]
    assert [(event["seq"], event["kind"]) for event in events.recent(0)] == [(1, "one"), (2, "two")]
    await follower.aclose()
