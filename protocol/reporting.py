"""Reporting: which devices tell a broker of what is everybody's, by what each says of itself.

A daemon's being on or off, and what Home Assistant is to know of the shoal, one device tells; all
know which from adverts, and another does once that one is gone.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Final

from protocol.fleet import Fleet
from protocol.hearing import reaches
from protocol.ids import PeerId, rendezvous

REPORTS_LABEL: Final = "shoal/reports"  # of which brokers it tells states
INTRODUCES_LABEL: Final = "shoal/home-assistant"  # at which Home Assistant is told what there is
VALUE_CHARS_MAX: Final = 256  # bounds.Value


def reporting_labels(reports: Iterable[str], introduces: Iterable[str]) -> dict[str, str]:
    """The labels that tell others, of names of brokers."""
    told = {REPORTS_LABEL: _joined(reports), INTRODUCES_LABEL: _joined(introduces)}
    return {label: value for label, value in told.items() if value}


def _joined(brokers: Iterable[str]) -> str:
    """As many as there is room for: eight names of the longest are a few too many."""
    value = ""
    for name in sorted(brokers):
        longer = f"{value},{name}" if value else name
        if len(longer) <= VALUE_CHARS_MAX:
            value = longer
    return value


def tells(labels: Mapping[str, str], label: str, broker: str) -> bool:
    return broker in labels.get(label, "").split(",")


def tellers(fleet: Fleet, label: str, broker: str) -> list[PeerId]:
    """Who tells that broker, by id; metered devices only where all are, and those that do not
    reach it only where none does: what there is to tell then, they tell when it is back."""
    adverts = [each for each in fleet.adverts() if tells(each.labels, label, broker)]
    reaching = [each for each in adverts if reaches(each.labels, broker)]
    found = [each.peer for each in reaching or adverts]
    return [peer for peer in found if not fleet.is_leaf(peer)] or found


def teller(fleet: Fleet, label: str, broker: str, key: str) -> PeerId | None:
    """The one of them that tells of what has this key."""
    ranked = rendezvous(key, tellers(fleet, label, broker))
    return ranked[0] if ranked else None
