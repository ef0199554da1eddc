"""Traffic in shoals of different sizes."""

from protocol.sim.scale import JOBS, measure


def test_idle_cost_does_not_grow_with_the_shoal() -> None:
    small, large = measure(10), measure(40)
    assert small.ended == large.ended == JOBS
    assert 0.9 < large.idle_bytes / small.idle_bytes < 1.1
    assert large.idle_bytes < 60_000  # DESIGN 13: 60 KB a minute at most
    assert large.job_bytes / large.peers < small.job_bytes / small.peers
    for census in (small, large):
        assert census.attached == census.peers, "a daemon runs on every peer"
        assert census.attach_s < 10.0
    assert large.attach_bytes < 4 * small.attach_bytes, "each peer pays for its neighbours alone"
