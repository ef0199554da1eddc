"""Every number the protocol lives by: its default, and why that default.

"DESIGN n" means the section of the design that fixes it; "measured" is said with what was measured.
Durations are seconds of the monotonic clock unless the name ends in `_ms`.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import Final, Self

KEEPALIVE_MAX_S: Final = 600.0  # asked for by a leaf: its death is to be known within the hour
TIMEOUTS_PER_KEEPALIVE: Final = 12.0  # 10 s of 120: a modem that slept takes some to wake up


@dataclass(frozen=True, slots=True)
class MembershipConfig:
    """Failure detection, SWIM-like (Das, Gupta and Motivala 2002; Lifeguard 2018)."""

    probe_period_s: float = 2.0  # DESIGN 5, lan: dead is known after 6 s at the median
    probe_timeout_s: float = 0.8  # a LAN answers in 1 ms; a busy Pi needs the rest
    monitors: int = 5  # DESIGN 5: each peer is probed by k others, whatever the size of the shoal
    indirect: int = 3  # SWIM's k for the indirect probe; three others rarely share a fault
    suspicion_s: float = 4.0  # DESIGN 5, lan: time to refute, two probe periods
    accusers: int = 2  # DESIGN 5: one peer with a broken network must not kill others
    lone_factor: float = 3.0  # DESIGN 5: a lone survivor may accuse, with three times the timer
    health_max: int = 3  # DESIGN 5: own trouble slows one's accusations at most threefold
    sync_period_s: float = 60.0  # anti-entropy of adverts with one random peer; 100 B when in sync
    records_sync_s: float = 60.0  # of standing records, offered to each neighbour until it has them
    advert_period_s: float = 60.0  # DESIGN 4: at most one advert a minute, taken over a while
    advert_burst: int = 3  # changes that go out at once: a label set by hand is acted on in seconds
    dead_kept_s: float = 86_400.0  # a dead peer stays listed, and its addresses dialled, for a day
    peers_max: int = 4096  # a bound on what strangers with certificates can make us remember
    leaf: bool = False  # DESIGN 5, metered: two anchors and nobody else, outside the gossip mesh
    anchors: int = 2  # of each leaf: as many as may accuse a peer together, so no more is paid for

    @classmethod
    def preset(cls, name: str) -> Self:
        """The named preset: lan, wan or metered. Raises KeyError for any other."""
        return replace(cls(), **_PRESETS[name])  # type: ignore[arg-type]

    @property
    def keepalive_s(self) -> int:
        """What our own advert says: 0 where this is no leaf."""
        return int(self.probe_period_s) if self.leaf else 0

    def as_told(self) -> MembershipConfig:
        """As a leaf judges whom it does not monitor: what reaches it of several accusations others
        have acted upon already. A lone one it may have of the accuser alone, so it waits as long as
        that one does, for others to tell it of a refutation."""
        return _told(self)

    def towards(self, keepalive_s: int) -> MembershipConfig:
        """As a peer is watched whose advert says `keepalive_s`: a leaf no oftener than it asks for.

        Whoever judges it must wait as long: a sooner accusation could not be refuted in time.
        """
        return _slowed(self, min(float(keepalive_s), KEEPALIVE_MAX_S)) if keepalive_s else self


@lru_cache(maxsize=64)
def _told(config: MembershipConfig) -> MembershipConfig:
    shortened = config.suspicion_s / config.probe_timeout_s
    lone_factor = config.lone_factor * shortened
    return replace(config, suspicion_s=config.probe_timeout_s, lone_factor=lone_factor)


@lru_cache(maxsize=64)  # one entry for each keepalive there is, and peers choose among few
def _slowed(config: MembershipConfig, keepalive_s: float) -> MembershipConfig:
    return replace(
        config,
        probe_period_s=max(config.probe_period_s, keepalive_s),
        probe_timeout_s=max(config.probe_timeout_s, keepalive_s / TIMEOUTS_PER_KEEPALIVE),
        suspicion_s=max(config.suspicion_s, keepalive_s),
    )


_PRESETS: dict[str, dict[str, float]] = {
    "lan": {},
    # DESIGN 5: 31 s to know a silent death, half the idle traffic of lan
    "wan": {
        "probe_period_s": 10.0,
        "probe_timeout_s": 3.0,
        "suspicion_s": 20.0,
        "sync_period_s": 180.0,
        "records_sync_s": 180.0,
    },
    # DESIGN 5: at most 10 MB a month, which is 460 bytes in 120 s; keepalive of 120 s. What others
    # gossip a leaf learns by comparing: 60 B where nothing is new, and bounded where much is.
    "metered": {
        "leaf": True,
        "probe_period_s": 120.0,
        "probe_timeout_s": 10.0,
        "monitors": 2,
        "suspicion_s": 120.0,
        "sync_period_s": 120.0,
        "records_sync_s": 3600.0,
        "advert_period_s": 3600.0,
    },
}


@dataclass(frozen=True, slots=True)
class AuctionConfig:
    ask_first: int = 10  # so that traffic per job does not grow with the fleet (DESIGN 5)
    window_s: float = 0.5  # bids come in 2 ms on a LAN; a Pi under load needs a few hundred
    accept_s: float = 1.0  # DESIGN 5: accept or decline within a second
    # Who lives, and is silent for longer (an SD card may stall its journal for seconds), is waited
    # for: what is given to another runs twice. A silent death is known after 6 s at the median.
    patience_s: float = 8.0
    hold_ms: int = 5_000  # window + several awards that were declined, with room for a slow link
    enough_bids: int = 8  # more choice than this gains little (power of d choices), and costs time
    near_tie: int = 15  # of 1000: bids closer than this are drawn at random, so none is herded
    failed_penalty: int = 400  # of 1000, for a peer on which this slot has failed already
    near_bonus: int = 300  # of 1000, for who heard the message: more than an idle device gains
    spread_penalty: int = 120  # of 1000 per slot already given to a peer in the same round


@dataclass(frozen=True, slots=True)
class CoordinationConfig:
    standbys: int = 2  # DESIGN 5: one-off jobs live on their coordinator and two standbys
    standby_ack_s: float = 1.0  # DESIGN 5: how long an acceptance waits for one of them
    assignment_wait_s: float = 0.1  # a short task's award reaches the standbys with its result;
    # a successor that missed it waits one lease for the executor to tell of it
    second_wait_s: float = 0.3  # a second standby learns of a short job once, when it is over
    lease_s: float = 15.0  # permission to place elsewhere; well over the time to know a death
    renew_s: float = 5.0  # two chances within a lease; the third comes as it ends
    start_max_s: float = 600.0  # 16 MiB of shipped files over 256 kbit/s; then the engine hangs
    rank_delay_s: float = 2.0  # DESIGN 5: rank r waits r x 2 s before it takes over
    resend_first_s: float = 1.0  # a result or sync not acknowledged goes out again, doubling
    resend_max_s: float = 30.0
    retain_s: float = 7 * 86_400.0  # DESIGN 5: one-off jobs are kept seven days after their end
    requeue_first_s: float = 1.0  # nobody could take it: ask again, doubling
    requeue_max_s: float = 30.0
    boot_grace_s: float = 3.0  # after a start, peers are given this to be heard of before placing
    orphan_grace_s: float = 10.0  # after a start, a coordinator not heard of in this is gone
    patience_s: float = 60.0  # a slot that lost its peer waits this long for another that fits
    # Awards of a slot that are no losses though who had them died before it answered. Chance takes
    # few devices in just that second; more, and the award itself may be what ends them.
    untaken_max: int = 3
    # A death known so long after its award was given up may be of that: a silent one is known after
    # 250 s at the most by two that watch a metered leaf, 31 s with wan.
    silence_s: float = 300.0
    stories_max: int = 500  # jobs whose bidding rounds are remembered for `job why`
    executions_kept: int = 500  # ended ones on this device, with their output
    # Slots of batch jobs whose volumes are here, which stay for `retain_s`: an author who makes a
    # job of each of many small things fills no card. A guess; few devices are given so many.
    volume_slots_max: int = 200
    jobs_max: int = 10_000  # DESIGN 12
    asked_max: int = 64  # peers kept for `job why` per auction


@dataclass(frozen=True, slots=True)
class StandingConfig:
    """Daemons and services: records that every peer holds."""

    records_max: int = 10_000  # DESIGN 12; what is over is refused, and whoever offers it is told
    bytes_max: int = 64 * 1024 * 1024  # DESIGN 12, of all records together
    ack_s: float = 1.0  # how long an answer waits for one neighbour to have it too (as for batch)
    resend_first_s: float = 1.0  # an offer that nobody answers goes out again, doubling
    resend_max_s: float = 60.0  # then anti-entropy finds it as soon
    want_s: float = 2.0  # what was asked of one peer is not asked of another for so long
    restart_max_s: float = 300.0  # Kubernetes' cap for a container that ends again and again
    settled_s: float = 60.0  # a daemon that ran for so long begins its pauses anew
    quick_ends_max: int = 3  # a service that ended so often before that is placed elsewhere
    start_max_s: float = 600.0  # as for batch: shipped files over a slow link take most of it
    wait_s: float = 10.0  # what does not fit for now is tried again: facts are sampled as often
    kept: int = 3  # ended executions of one daemon that keep their output


@dataclass(frozen=True, slots=True)
class OutboxConfig:
    """What is published at brokers."""

    root: str = "shoal"  # of the shoal's own topics: <prefix>/<shoal>
    messages_max: int = 2_000  # DESIGN 10: results are never dropped, so work is refused instead
    bytes_max: int = 16 * 1024 * 1024  # they are in memory, too: 16 MiB of a Pi's 1 GiB
    in_flight_max: int = 6  # of the 20 that Mosquitto takes; the others are for lines
    answers_in_flight_max: int = 1  # so that a broker that refuses one, and then ends the
    # connection, is heard to say so: with more behind it Debian's Mosquitto is not
    again_s: float = 1.0  # after the connection broke under it, should it stand again
    held_s: float = 10.0  # where others are to go first; each look goes through all that wait
    refused_first_s: float = 30.0  # an access list is mended by a person
    refused_max_s: float = 3600.0


@dataclass(frozen=True, slots=True)
class PolicyConfig:
    """What this device takes, set by its owner; it comes before any score."""

    roles: tuple[str, ...] = ("submit",)  # an author needs one of these
    types: tuple[str, ...] = ("*",)
    engines: tuple[str, ...] = ("*",)
    namespaces: tuple[str, ...] = ("*",)
    networks: tuple[str, ...] = ("none", "bridge")  # a container's; as Bacalhau allows
    ports: tuple[str, ...] = ("*",)  # of this device that containers may be reached at
    devices: tuple[str, ...] = ()  # device files that containers may have
    capabilities: tuple[str, ...] = ()  # of capabilities(7), that containers may keep
    directories: tuple[str, ...] = ()  # of this device that tasks may read; with :rw also write
    downloads: tuple[str, ...] = ("*",)  # hosts that inputs may be fetched from
    volumes: tuple[str, ...] = ("*",)  # names of what jobs may keep here between starts
    buckets: tuple[str, ...] = ()  # host/bucket that tasks' files may come from; with :rw also go
    topics: tuple[str, ...] = ("#",)  # filters of what jobs and answers may go to at its brokers
    topics_root: str = "shoal"  # of the shoal's own topics, which no job has
    environment: tuple[str, ...] = ()  # variables of the agent that tasks may have by env:NAME
    isolation: tuple[str, ...] = ()  # what a program can be kept from here: "network"
    authors: tuple[str, ...] = ()  # peer ids, or names in certificates; empty is everybody
    hours: tuple[str, ...] = ()  # "22:00-06:00", local time; empty is always
    mains_only: bool = False
    executions_max: int = 64  # a bound on processes, whatever little each asks for
    temperature_max_c: int = 80  # a Raspberry Pi throttles at 80
    battery_min_percent: int = 20  # jobs shall not be what empties it
    job_timeout_max_s: int = 30 * 86_400
    lacking: tuple[str, ...] = ()  # kinds of asks that nothing on this device could do


@dataclass(frozen=True, slots=True)
class TriggersConfig:
    """Messages that run templates."""

    allow: tuple[str, ...] = ()  # template/NAME, * at the end for any rest; off until listed
    rows_max: int = 256  # that wait on disk; what is more, the broker keeps
    bytes_max: int = 4 * 1024 * 1024  # of them together, as an SD card can take in a burst
    # The first few of each template have room whatever the others hold: one that is fed faster than
    # it runs would hold up all for hours otherwise.
    rows_sure: int = 8
    bytes_sure: int = 64 * 1024
    running_max: int = 32  # of one template's runs, fired here and not ended; more wait
    rank_delay_s: float = 4.0  # rank r waits r x 4 s: a death is known, and asking takes a second
    look_s: float = 1.0  # after it another rank asks whether the run is there: usually it is
    # Who may have fired it, lives and has not answered is waited for so long: a burst keeps it
    # busy. Of a message that two fire the task runs twice.
    patience_s: float = 15.0
    rank_max: int = 8  # nobody waits for more than so many before it
    # So many write a message down as they hear it. The others ask the first whether it has become a
    # run, and acknowledge it then: in a large shoal each message is else a row on every disk.
    keepers_max: int = 4
    handover_s: float = (
        10.0  # who is no longer elected hears on for so long: its successor connects
    )
    # Who has heard nothing of a broker for so long is ranked no more, and again once it has for as
    # long: a broker that restarts, and pauses before the next connection, are shorter.
    deaf_s: float = 30.0
    retry_s: float = 1.0  # what there is no room for is tried again
    # Of one template: more than can be taken here before its broker sees one of them acknowledged,
    # which are those that wait or run, and those that the agent holds until there is room.
    deliveries_max: int = 1_024
    # A minute: to messages that run nothing, or come again after their run. Each is a row on disk.
    extra_answers_max: int = 120
    # Ended ones of all triggers, where more would fill the catalogue: of two minutes in a burst.
    # Who is further behind than that fires a forgotten one again.
    runs_kept: int = 5_000


@dataclass(frozen=True, slots=True)
class ReportingConfig:
    """Names of brokers."""

    reports: tuple[str, ...] = ()  # that hear of states
    introduces: tuple[str, ...] = ()  # at which Home Assistant hears what there is
    # What its topics begin with at each of these.
    discovery: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True, slots=True)
class NodeConfig:
    membership: MembershipConfig = field(default_factory=MembershipConfig)
    auction: AuctionConfig = field(default_factory=AuctionConfig)
    coordination: CoordinationConfig = field(default_factory=CoordinationConfig)
    standing: StandingConfig = field(default_factory=StandingConfig)
    outbox: OutboxConfig = field(default_factory=OutboxConfig)
    policy: PolicyConfig = field(default_factory=PolicyConfig)
    triggers: TriggersConfig = field(default_factory=TriggersConfig)
    reporting: ReportingConfig = field(default_factory=ReportingConfig)
    version: str = "0"
    name: str = ""
