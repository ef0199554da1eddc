"""The heap of calls to come."""

from math import inf

from protocol.sim.heap import Heap


def test_calls_happen_in_order_of_time_and_then_of_asking() -> None:
    heap, seen = Heap(), []
    heap.at(2.0, seen.append, "late")
    heap.at(1.0, seen.append, "first")
    heap.at(1.0, seen.append, "second")
    heap.run(1.5)
    assert seen == ["first", "second"]
    assert (heap.now, heap.next_at, heap.steps) == (1.5, 2.0, 2)
    heap.run(3.0)
    assert seen[-1] == "late"
    assert heap.next_at == inf


def test_what_is_asked_for_the_past_happens_now() -> None:
    heap, times = Heap(), []
    heap.run(5.0)
    heap.at(1.0, lambda: times.append(heap.now))
    heap.after(0.5, lambda: times.append(heap.now))
    heap.run(10.0)
    assert times == [5.0, 5.5]
