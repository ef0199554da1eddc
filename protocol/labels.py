"""Labels as constraints find them: those that a peer tells of, and what is known of it anyway.

The latter are in no advert: its id, and the names that labels and facts of ours have on Bacalhau's
nodes (pkg/node/labels.go), so that job files made for those mean the same here.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from protocol.ids import PeerId

PEER_LABEL: Final = "shoal/peer"  # each peer has it, with its id for a value
NAME_LABEL: Final = "name"  # that of the node, as lists of nodes have it
# The latter two until its 1.7.
ALIASES: Final = {
    "os_arch": "arch",
    "os_type": "os",
    "Architecture": "arch",
    "Operating-System": "os",
}


def matched_labels(labels: Mapping[str, str], peer: PeerId, name: str) -> dict[str, str]:
    """All that a constraint may ask for, of a peer that tells of `labels`.

    A label that a person set under one of Bacalhau's names is that label: jobs here count on it.
    """
    known = {theirs: labels[ours] for theirs, ours in ALIASES.items() if ours in labels}
    if name:
        known[NAME_LABEL] = name
    return {**known, **labels, PEER_LABEL: peer}
