"""Topics: where jobs may publish with a device's own login at its brokers.

Whoever may submit chooses a job's topic, and a broker's topics open doors. The owner says which
(`[accept] topics`); the shoal's own tree is nobody's, but for what a job says of itself.
"""

from __future__ import annotations

import re
from typing import Final

from protocol.publisher import MqttPublisher
from protocol.trigger import matches

JOBS_OWN: Final = "{root}/job/{job}/result/… and {root}/job/{job}/log/…"
_OWN: Final = (["job", "{job}", "result"], ["job", "{job}", "log"])  # below the root
ROOT: Final = "{root}"
_BLANK: Final = re.compile(r"\{([A-Za-z_]+)\}")


def asked_topic(publisher: MqttPublisher, name: str, namespace: str) -> str:
    """The topic that a job's owner of a device is asked for: filled in as far as it is known before
    the job runs anywhere. Empty for one of the shoal's own."""
    known = {"name": name, "namespace": namespace}

    def filled(found: re.Match[str]) -> str:
        word = found[1].lower()
        return known.get(word) or f"{{{word}}}"

    return _BLANK.sub(filled, publisher.topic)


def is_shoals(topic: str, root: str) -> bool:
    """Whether it may turn out to be of the shoal's own tree: a blank may be any text."""
    levels, own = _levels(topic, root), root.split("/")
    pairs = zip(levels, own, strict=False)
    all_alike = all(level == want or _BLANK.search(level) for level, want in pairs)
    return len(levels) >= len(own) and all_alike


def is_jobs(topic: str, root: str) -> bool:
    """Whether it is what a job says of itself there."""
    levels, own = _levels(topic, root), root.split("/")
    return levels[: len(own)] == own and levels[len(own) :][:3] in _OWN


def topic_matches(topic: str, topic_filter: str) -> bool:
    """Whether all that it may turn out to be is among those of a filter, where for a blank stands a
    wildcard, or the blank itself. It is none of the shoal's own."""
    return matches(topic_filter, topic)


def _levels(topic: str, root: str) -> list[str]:
    return topic.replace(ROOT, root).split("/")
