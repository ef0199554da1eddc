"""nodeviews: which jobs and peers a node tells of."""

from __future__ import annotations

from tests.protocol.nodenet import NodeNet, batch, natted


def test_a_query_finds_what_begins_so() -> None:
    net = NodeNet("a", "b")
    for key in ("one", "two"):
        net.submit("a", batch(key, on=["a"]), key)
        net.run(0.5)
    node = net["a"]
    assert [view["name"] for view in node.views.jobs("", 9, False, net.clock("a"))] == [
        "two",
        "one",
    ]
    assert [view["name"] for view in node.views.jobs("", 1, False, net.clock("a"))] == ["two"]
    assert [
        view["name"] for view in node.views.jobs(net.job("one")[:9], 9, False, net.clock("a"))
    ] == ["one"]
    assert node.views.job(net.held("a", "one"))["why"]


def test_a_neighbour_that_relays_is_named_in_the_view() -> None:
    net = natted("n1", "n2", "r")
    views = {view["id"]: view for view in net["n1"].views.peers(net.clock("n1"))}
    assert views["n2"]["via"] == "r" and not views["n2"]["connected"]
    assert views["r"]["via"] == "" and views["n1"]["via"] == ""


def test_a_one_off_job_is_told_of_in_short_by_whoever_coordinates_it() -> None:
    net = NodeNet("a", "b")
    net.submit("a", batch(on=["b"]))
    net.run(0.5)
    view = net["a"].views.led_job(net.job())
    assert view is not None and view["state"] == "running" and "why" not in view
    assert net["b"].views.led_job(net.job()) is None, "it only holds it"
