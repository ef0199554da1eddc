"""Views of triggers: who hears a template's messages, and what became of them on each device."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Final, cast

from protocol.bidding import DISK_FULL
from protocol.clock import Now
from protocol.ids import PeerId, rendezvous
from protocol.standingjob import StandingJob
from protocol.tree import Plain
from protocol.trigger import MqttTrigger

if TYPE_CHECKING:  # which ask others by way of views
    from protocol.triggers import Triggers, Watch

View = dict[str, Plain]
Name = Callable[[PeerId], str]
FULL: Final = f"{DISK_FULL}: messages wait at the broker"
NOT_YET: Final = "the broker has not said yet that it sends them"


def trigger_view(
    held: StandingJob, mqtt: MqttTrigger, triggers: Triggers, name: Name, now: Now
) -> View:
    """As this peer sees it; of what came to devices it tells its own part alone."""
    leaders = triggers.leaders(held, mqtt.broker)
    hearers = leaders if mqtt.keyed else rendezvous(held.id, leaders)[:1]
    watch = triggers.watches.get(held.id)
    own: list[Plain] = [_part(held, watch, triggers, name, now)] if watch is not None else []
    names: list[Plain] = [name(peer) for peer in hearers]
    return {
        "broker": mqtt.broker,
        "topic": mqtt.topic,
        "keyed": mqtt.keyed,
        "hearers": names,  # who is to hear it, as far as this peer knows
        "devices": own,
    }


def _part(held: StandingJob, watch: Watch, triggers: Triggers, name: Name, now: Now) -> View:
    tally, wanted = watch.tally, triggers.hears(watch, now)
    waiters = triggers.waiting.waiters.values()
    not_yet = NOT_YET if wanted and not watch.granted else ""
    full = FULL if triggers.coordination.disk_full else ""
    return {
        "peer": triggers.me,
        "peer_name": name(triggers.me),
        "hears": wanted and watch.granted,
        "elected": watch.elected,
        "problem": watch.problem or (watch.denied or not_yet or full if wanted else ""),
        "waiting": sum(each.template == held.id for each in waiters),
        "heard": tally.heard,
        "filtered": tally.filtered,
        "fired": tally.fired,
        "refused": {**tally.refused},
        "unanswered": {**tally.unanswered},
        "last_fired_ms": tally.last_fired_ms,
    }


def joined_triggers(mine: View, theirs: View) -> View:
    """The parts of both."""
    parts = (*_views(theirs["devices"]), *_views(mine["devices"]))
    known = {str(part["peer"]): part for part in parts}
    both: list[Plain] = [known[peer] for peer in sorted(known)]
    return {**mine, "devices": both}


def own_trigger(view: View, sender: PeerId) -> View:
    """As far as the sender may speak: of itself."""
    own: list[Plain] = [part for part in _views(view["devices"]) if part["peer"] == sender]
    return {**view, "devices": own}


def _views(value: Plain) -> list[View]:
    return cast("list[View]", value)
