"""Waves: when this peer's turn comes to go over to another revision. Nobody leads them.

All who know the same peers rank them alike for a revision, so that so many at a time change, each
wave one `HealthyAfter` after the one before (DESIGN 6).
"""

from __future__ import annotations

from collections.abc import Iterable

from protocol.bidding import why_unfit
from protocol.ids import PeerId, Revision, rendezvous
from protocol.job import JobSpec
from protocol.labels import matched_labels
from protocol.led import needs_of
from protocol.records import Advert
from protocol.resources import Resources


def wave_delay_s(me: PeerId, revision: Revision, spec: JobSpec, adverts: Iterable[Advert]) -> float:
    """Seconds from now until this peer changes, as far as it knows who else has to."""
    needs = needs_of(spec)
    matching = {
        advert.peer: None
        for advert in adverts
        if not why_unfit(needs, advert.engines, _labels(advert), _capacity(advert))
    }
    ranked = rendezvous(revision, {**matching, me: None})
    wave = ranked.index(me) // spec.update.max_parallel
    return float(wave * spec.update.healthy_after_s)


def _labels(advert: Advert) -> dict[str, str]:
    return matched_labels(advert.labels, advert.peer, advert.name)


def _capacity(advert: Advert) -> Resources:
    return Resources(advert.cpu_m, advert.memory_bytes, advert.disk_bytes, advert.gpus)
