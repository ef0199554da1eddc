"""Figures: what a bench measured, beside a rival's or a floor's of the same run."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Figure:
    name: str
    value: float
    unit: str
    n: int
    against: float | None = None
    ratio: float | None = None
    budget: str = ""
    met: bool | None = None


def compared(
    name: str, value: float, unit: str, n: int, against: float, most: float, rival: str
) -> Figure:
    """A figure whose ratio to a rival's may be `most`."""
    ratio = value / against
    return Figure(name, value, unit, n, against, ratio, f"<= {most:g} x {rival}", ratio <= most)


def bounded(name: str, value: float, unit: str, n: int, most: float) -> Figure:
    return Figure(name, value, unit, n, None, None, f"<= {most:g} {unit}", value <= most)


def quantile(times: list[float], share: float) -> float:
    return sorted(times)[min(len(times) - 1, int(len(times) * share))]


def rate(call: Callable[[int], object], in_flight: int, seconds: float) -> float:
    """Calls a second, by so many callers that each wait for theirs; each is told its number."""
    done = [0] * in_flight
    end = time.monotonic() + seconds

    def caller(number: int) -> None:
        while time.monotonic() < end:
            call(number)
            done[number] += 1

    threads = [threading.Thread(target=caller, args=(number,)) for number in range(in_flight)]
    began = time.monotonic()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return sum(done) / (time.monotonic() - began)


def as_line(figure: Figure) -> str:
    against = f"{figure.against:.3g}" if figure.against is not None else ""
    ratio = f"{figure.ratio:.2f}" if figure.ratio is not None else ""
    met = {True: "met", False: "MISSED", None: ""}[figure.met]
    return (
        f"{figure.name:44} {figure.value:10.3g} {figure.unit:5} {figure.n:5} {against:>9} "
        f"{ratio:>6}  {figure.budget} {met}"
    )
