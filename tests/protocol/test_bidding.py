"""bidding: what a device offers and refuses, and that it promises no capacity twice."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, invariant, rule
from msgspec import structs

from protocol.bidding import DRAINING, HOLDS_MAX, Bidder, resources_of, why_unfit
from protocol.bounds import REASON_CHARS_MAX
from protocol.clock import NEVER
from protocol.config import AuctionConfig, PolicyConfig
from protocol.effects import Send
from protocol.errors import RemoteProtocolError
from protocol.ids import JobId, PeerId, Revision, ShoalId
from protocol.job import JobSpec
from protocol.jobtype import JobType
from protocol.led import needs_of
from protocol.messages import Announce, Bid, Facts, Refusal, Requirements, Vacancy
from protocol.queueing import TURN_S
from protocol.records import Certificate
from protocol.resources import Resources
from protocol.tree import Plain
from tests.protocol.jobs import task_spec

CONFIG = AuctionConfig()
HOLD_S = CONFIG.hold_ms / 1000
A, B = PeerId("a"), PeerId("b")
GIB = 1024**3
NEEDS = Requirements("process", 1000, GIB, 0, 0)


def bidder(policy: PolicyConfig | None = None, **facts: int) -> Bidder:
    return Bidder(
        CONFIG,
        policy or PolicyConfig(),
        ("process",),
        Resources(4000, 8 * GIB, 100 * GIB, 1),
        {"arch": "arm64", "cores": "4"},
        Facts(**facts),
    )


def announce(
    auction: int = 1,
    slots: int = 1,
    needs: Requirements = NEEDS,
    namespace: str = "default",
    author: str = "author",
    priority: int = 0,
    job: str = "j",
) -> Announce:
    return Announce(
        auction,
        JobId(job * 32),
        Revision("r" * 32),
        namespace,
        PeerId(author),
        slots,
        needs,
        500,
        priority,
        "batch",
    )


def needs(
    *constraints: tuple[str, str, tuple[str, ...]], inputs: tuple[str, ...] = ()
) -> Requirements:
    return Requirements("process", 100, GIB, 0, 0, constraints, inputs)


def bids(device: Bidder, asked: Announce, now: float = 0.0, by: PeerId = A) -> Bid:
    answer = device.on_announce(by, asked, now)
    assert isinstance(answer, Bid), answer
    return answer


def refuses(device: Bidder, asked: Announce, now: float = 0.0) -> Refusal:
    answer = device.on_announce(A, asked, now)
    assert isinstance(answer, Refusal), answer
    return answer


# ---- promises ---------------------------------------------------------------------------------


def test_a_bid_holds_the_capacity_until_its_end() -> None:
    device = bidder()
    assert bids(device, announce(slots=3)).slots == 3
    assert device.reserved == Resources(3000, 3 * GIB)
    assert bids(device, announce(2, slots=3), by=B).slots == 1
    refusal = refuses(device, announce(3))
    assert refusal.final is False
    assert refusal.reason.startswith("busy: cpu: needs 1, 0 free")
    assert device.deadline == HOLD_S
    device.expire(HOLD_S - 0.001)
    assert len(device.holds) == 2
    device.expire(HOLD_S)
    assert (device.reserved, device.deadline) == (Resources(), NEVER)


def test_answers_are_counted_by_kind_and_one_that_is_repeated_once() -> None:
    device = bidder()
    bids(device, announce(slots=4))
    bids(device, announce(slots=4))
    refuses(device, announce(2), now=1.0)
    device.engines = ()
    refuses(device, announce(3), now=1.0)
    assert device.answers == {"bid": 1, "unfit": 1, "unwelcome": 0, "unwell": 0, "busy": 1}


def test_asked_again_it_answers_the_same_and_holds_no_more() -> None:
    device = bidder(load_permille=100)
    first = bids(device, announce(slots=2))
    device.facts = Facts(load_permille=900)
    assert bids(device, announce(slots=4)) == first
    assert device.reserved == Resources(2000, 2 * GIB)


def test_one_number_of_two_coordinators_is_two_auctions() -> None:
    device = bidder()
    bids(device, announce(1), by=A)
    bids(device, announce(1), by=B)
    assert device.reserved.cpu_m == 2000
    device.release(A, 1)
    device.release(A, 1)
    assert device.reserved.cpu_m == 1000


def test_an_award_turns_a_held_slot_into_an_executions() -> None:
    device = bidder()
    each = resources_of(NEEDS)
    bids(device, announce(slots=2))
    assert device.take(A, 1, "e1", each)
    assert device.take(A, 1, "e1", each)  # the award came twice
    assert device.reserved == Resources(2000, 2 * GIB)
    device.release(A, 1)
    assert device.reserved == Resources(1000, GIB)
    device.free_up("e1")
    device.free_up("e1")
    assert device.free == device.capacity


def test_an_offer_used_up_holds_nothing_more_and_is_answered_alike() -> None:
    device = bidder(load_permille=100)
    each = resources_of(NEEDS)
    first = bids(device, announce(slots=2))
    for execution in ("e1", "e2"):
        assert device.take(A, 1, execution, each)
    assert (device.holds, device.deadline) == ({}, NEVER)
    device.facts = Facts(load_permille=900)
    assert bids(device, announce(slots=2)) == first  # the announcement came twice
    assert device.reserved == Resources(2000, 2 * GIB)


def test_offers_used_up_are_remembered_within_a_bound() -> None:
    device, nothing = bidder(PolicyConfig(executions_max=10_000)), Resources()
    for auction in range(HOLDS_MAX + 1):
        bids(device, announce(auction, needs=Requirements("process", 0, 0, 0, 0)))
        assert device.take(A, auction, f"e{auction}", nothing)
    assert len(device.spent) == HOLDS_MAX
    assert (A, 0) not in device.spent


def test_an_award_without_a_hold_takes_what_is_free() -> None:
    device = bidder()
    each = resources_of(NEEDS)
    for number in range(4):
        assert device.take(A, 1, f"e{number}", each)
    assert not device.take(A, 1, "e4", each)
    device.adopt("e5", each)  # of an earlier life: it runs, fit or not
    assert device.free == Resources(0, 3 * GIB, 100 * GIB, 1)


def test_an_award_of_more_than_was_bid_is_measured_anew() -> None:
    device = bidder()
    bids(device, announce())
    assert not device.take(A, 1, "big", Resources(3500, GIB))
    assert device.take(A, 1, "small", Resources(500, GIB))
    assert device.reserved == Resources(1500, 2 * GIB)


def test_a_device_that_shrank_has_nothing_free_not_less() -> None:
    device = bidder()
    device.adopt("e", Resources(4000, GIB))
    device.capacity = Resources(1000, GIB // 2)
    assert device.free == Resources()
    assert refuses(device, announce(needs=needs())).final is True  # too small for good


def waiting(device: Bidder, now: float = 0.0) -> list[str]:
    """Whom it calls, as it does whenever capacity may have become free."""
    messages = [send.message for send in device.call(now) if isinstance(send, Send)]
    return [message.job[0] for message in messages if isinstance(message, Vacancy)]


def test_who_found_no_room_is_told_of_it_the_most_urgent_first() -> None:
    device = bidder()
    device.adopt("full", device.capacity)
    for auction, (name, priority) in enumerate((("x", 0), ("y", 70), ("z", 70))):
        refuses(device, announce(auction, job=name, priority=priority))
    assert waiting(device) == []
    device.used["full"] = Resources(2000)
    assert waiting(device) == ["y", "z"]
    # The room is kept for them, and refused to others, those in line and newcomers alike.
    refusal = refuses(device, announce(8, job="n"))
    assert refusal.reason == "busy: the room here is kept for a job that goes first"
    assert bids(device, announce(9, job="y", priority=70)).slots == 1
    assert bids(device, announce(10, job="z", priority=70)).slots == 1
    assert waiting(device) == []


def test_a_device_that_is_not_well_calls_nobody() -> None:
    device = bidder(temperature_mc=90_000)
    device.queue.join(A, JobId("x"), Resources(1), 0, 0.0)
    assert waiting(device) == []


def test_on_a_full_disk_nothing_is_begun_and_nobody_called() -> None:
    device = bidder()
    device.queue.join(A, JobId("x"), Resources(1), 0, 0.0)
    device.disk_full = True
    refusal = refuses(device, announce())
    assert (refusal.reason, refusal.final) == ("its disk is full", False)
    assert waiting(device) == []
    device.disk_full = False
    assert waiting(device) == ["x"]


def test_a_turn_that_was_given_before_the_device_drained_ends_all_the_same() -> None:
    device = bidder()
    device.queue.join(A, JobId("x"), Resources(1), 0, 0.0)
    assert waiting(device, 0.0) == ["x"]
    device.draining = True
    assert device.deadline == TURN_S
    assert waiting(device, TURN_S) == [] and device.deadline == NEVER
    device.queue.join(A, JobId("y"), Resources(1), 0, TURN_S)
    assert waiting(device, TURN_S) == []
    device.draining = False
    assert waiting(device, TURN_S) == ["y"]


def test_room_that_went_to_somebody_else_is_promised_to_nobody() -> None:
    device = bidder()
    device.adopt("full", device.capacity)
    refuses(device, announce(1, job="x"))
    device.free_up("full")
    assert waiting(device) == ["x"]
    device.adopt("again", device.capacity)
    refusal = refuses(device, announce(2, job="y"))
    assert refusal.reason.startswith("busy: cpu: needs 1, 0 free")


def test_slots_are_bounded_whatever_little_each_asks_for() -> None:
    device = bidder(PolicyConfig(executions_max=3))
    nothing = Requirements("process", 0, 0, 0, 0)
    assert bids(device, announce(slots=9999, needs=nothing)).slots == 3
    refusal = refuses(device, announce(2, needs=nothing))
    assert refusal.reason == "busy: 0 executions run here already"


def test_announcements_alone_cannot_fill_the_memory() -> None:
    device = bidder(PolicyConfig(executions_max=10_000))
    nothing = Requirements("process", 0, 0, 0, 0)
    for auction in range(HOLDS_MAX):
        bids(device, announce(auction, needs=nothing))
    refuses(device, announce(HOLDS_MAX, needs=nothing))
    assert len(device.holds) == HOLDS_MAX
    bids(device, announce(HOLDS_MAX, needs=nothing), now=HOLD_S)
    assert len(device.holds) == 1


def test_no_slots_wanted_is_no_bid() -> None:
    refuses(bidder(), announce(slots=0))


class Promises(RuleBasedStateMachine):
    """Whatever comes, in whatever order: no more is promised than there is."""

    executions = Bundle("executions")

    def __init__(self) -> None:
        super().__init__()
        self.device = bidder()
        self.now = 0.0
        self.count = 0

    @rule(auction=st.integers(0, 5), slots=st.integers(0, 5), cpu_m=st.integers(0, 3000))
    def announced(self, auction: int, slots: int, cpu_m: int) -> None:
        asked = announce(auction, slots, replace_cpu(NEEDS, cpu_m))
        self.device.on_announce(A, asked, self.now)

    @rule(target=executions, auction=st.integers(0, 5), cpu_m=st.integers(0, 3000))
    def awarded(self, auction: int, cpu_m: int) -> str:
        self.count += 1
        self.device.take(A, auction, f"e{self.count}", Resources(cpu_m, GIB))
        return f"e{self.count}"

    @rule(execution=executions)
    def ended(self, execution: str) -> None:
        self.device.free_up(execution)

    @rule(auction=st.integers(0, 5))
    def released(self, auction: int) -> None:
        self.device.release(A, auction)

    @rule(seconds=st.floats(0.0, 10.0))
    def waited(self, seconds: float) -> None:
        self.now += seconds
        self.device.expire(self.now)
        assert self.device.deadline > self.now

    @invariant()
    def nothing_is_promised_twice(self) -> None:
        assert self.device.reserved.fits(self.device.capacity)


def replace_cpu(of: Requirements, cpu_m: int) -> Requirements:
    return Requirements(of.engine, cpu_m, of.memory_bytes, 0, 0)


TestPromises = Promises.TestCase


# ---- what does not fit ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("asked", "reason"),
    [
        (Requirements("docker", 1, 1, 0, 0), "engine docker is not here; this device has process"),
        (Requirements("process", 8000, 1, 0, 0), "too small: cpu: needs 8, 4 offered"),
        (needs(("arch", "=", ("amd64",))), "label arch: wanted 'amd64', found 'arm64'"),
        (needs(("cores", "gt", ("8",))), "label cores: wanted an integer > 8, found '4'"),
        (needs(("gpu", "exists", ())), "label gpu: wanted any value, but there is none"),
    ],
)
def test_a_refusal_names_what_does_not_fit(asked: Requirements, reason: str) -> None:
    refusal = refuses(bidder(), announce(needs=asked))
    assert (refusal.reason, refusal.final) == (reason, True)


def test_a_device_without_engines_says_so() -> None:
    assert why_unfit(NEEDS, (), {}, Resources()).endswith("this device has none")


def test_a_reason_is_no_longer_than_a_message_may_carry() -> None:
    listed = tuple(f"{number:0200}" for number in range(60))
    refusal = refuses(bidder(), announce(needs=needs(("arch", "in", listed))))
    assert len(refusal.reason) == REASON_CHARS_MAX


@pytest.mark.parametrize(
    "constraint",
    [
        ("cores", "gt", ()),
        ("cores", "lt", ("many",)),
        ("absent", "gt", ("",)),
        ("cores", "around", ("4",)),
    ],
)
def test_constraints_that_cannot_be_read_are_the_senders_fault(
    constraint: tuple[str, str, tuple[str, ...]],
) -> None:
    device = bidder()
    with pytest.raises(RemoteProtocolError):
        device.on_announce(A, announce(needs=needs(constraint)), 0.0)
    assert not device.holds


@given(
    st.lists(
        st.tuples(
            st.sampled_from(["arch", "cores", "gpu", ""]),
            st.sampled_from(["=", "!=", "in", "notin", "exists", "!exists", "gt", "lt", "x"]),
            st.lists(st.sampled_from(["4", "-1", "arm64", "", "9" * 200]), max_size=2).map(tuple),
        ),
        max_size=3,
    )
)
def test_no_constraint_ends_the_agent(
    constraints: list[tuple[str, str, tuple[str, ...]]],
) -> None:
    asked = announce(needs=needs(*constraints))
    try:
        answer = bidder().on_announce(A, asked, 0.0)
    except RemoteProtocolError:
        return
    assert isinstance(answer, Bid | Refusal)


# ---- policy -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("policy", "reason"),
    [
        (PolicyConfig(authors=("friend",)), "jobs of author are not taken"),
        (PolicyConfig(namespaces=("lab",)), "namespace default is not taken"),
        (PolicyConfig(types=("service",)), "batch jobs are not taken"),
        (PolicyConfig(engines=("docker",)), "engine process is not taken"),
    ],
)
def test_the_owner_says_whose_jobs_it_takes(policy: PolicyConfig, reason: str) -> None:
    refusal = refuses(bidder(policy), announce())
    assert reason in refusal.reason and refusal.final


def test_the_owner_may_name_who_is_welcome() -> None:
    policy = PolicyConfig(authors=("author",), namespaces=("default",))
    bids(bidder(policy), announce())


def test_a_name_is_the_one_in_the_authors_certificate() -> None:
    policy = PolicyConfig(authors=("attic",), roles=("operate",))
    device = bidder(policy)
    assert "jobs of author are not taken" in refuses(device, announce()).reason
    for roles, fits in ((("operate",), True), (("submit",), False)):
        certificate = Certificate(
            shoal=ShoalId("s"), peer=PeerId("author"), name="attic", roles=roles,
            namespaces=("*",), issued_ms=0, expires_ms=1,
        )  # fmt: skip
        device.certificate_of = {PeerId("author"): certificate}.get
        answer = device.on_announce(A, announce(int(fits)), 0.0)
        assert isinstance(answer, Bid if fits else Refusal)


def test_a_job_itself_is_looked_at_as_its_announcement_was() -> None:
    job = JobSpec.from_plain(
        {
            "Name": "j",
            "Type": "ops",
            "Tasks": [{"Engine": {"Type": "process", "Params": {"Command": "x"}}}],
        }
    )
    device = bidder(PolicyConfig(authors=("attic",), types=("ops",)))
    author = PeerId("author")
    assert device.unwelcome(job, author, ("submit",), "attic") == ""
    assert "jobs of shed are not taken" in device.unwelcome(job, author, ("submit",), "shed")
    assert "holds no role" in device.unwelcome(job, author, (), "attic")


def test_a_draining_device_bids_for_nothing_until_it_is_well_again() -> None:
    device = bidder()
    device.draining = True
    refusal = refuses(device, announce())
    assert (refusal.reason, refusal.final) == (DRAINING, False)
    assert device.drains(JobType.SERVICE) == DRAINING
    assert device.drains(JobType.OPS) == device.drains(JobType.DAEMON) == ""
    device.draining = False
    bids(device, announce())


def test_outside_its_hours_a_device_refuses_for_now() -> None:
    device = bidder(PolicyConfig(hours=("22:00-06:00",)))
    assert "does not know the time" in refuses(device, announce()).reason
    device.minute = 12 * 60
    refusal = refuses(device, announce())
    assert "it is 12:00 here" in refusal.reason and not refusal.final
    device.minute = 23 * 60
    bids(device, announce())


@pytest.mark.parametrize(
    ("facts", "reason"),
    [
        ({"temperature_mc": 80_001}, "policy: 80 C is too hot ([accept] temperature_max_c = 80)"),
        (
            {"mains": 0, "battery_percent": 19},
            "policy: battery at 19 % ([accept] battery_min_percent = 20)",
        ),
    ],
)
def test_a_device_spares_itself(facts: dict[str, int], reason: str) -> None:
    refusal = refuses(bidder(**facts), announce())
    assert (refusal.reason, refusal.final) == (reason, False)


@pytest.mark.parametrize(
    "facts",
    [
        {"temperature_mc": 80_000},
        {"mains": 0, "battery_percent": 20},
        {"mains": 0},  # on battery, and it cannot be known how full
        {"mains": 1, "battery_percent": 1},
    ],
)
def test_what_is_not_known_bars_nothing(facts: dict[str, int]) -> None:
    bids(bidder(**facts), announce())


# ---- scores -----------------------------------------------------------------------------------


def score(device: Bidder | None = None, needs: Requirements = NEEDS, **facts: int) -> int:
    return bids(device or bidder(**facts), announce(needs=needs)).score


def test_a_free_device_scores_higher_than_a_busy_one() -> None:
    busy = bidder()
    busy.adopt("e", Resources(2000, 4 * GIB))
    assert score() > score(busy)
    assert score(load_permille=0) > score() > score(load_permille=1000)
    assert score(load_permille=5000) == score(load_permille=1000)


def test_heat_and_battery_cost() -> None:
    assert score(temperature_mc=75_000) == score() // 2
    assert score(mains=0) == score() * 3 // 4


def test_inputs_that_are_here_already_count() -> None:
    digests = ("0" * 64, "1" * 64)
    scores = []
    for count in (0, 1, 2):
        device = bidder(load_permille=900)
        device.archives = frozenset(digests[:count])
        scores.append(bids(device, announce(needs=needs(inputs=digests))).score)
    assert scores[0] < scores[1] < scores[2]


def test_a_score_is_within_its_range() -> None:
    nothing = Bidder(CONFIG, PolicyConfig(), ("process",))
    asked = Requirements("process", 0, 0, 0, 0)
    assert 0 <= score(nothing, asked) <= 1000
    idle = replace(bidder(load_permille=0), capacity=Resources(10**9, 10**15))
    assert score(idle, Requirements("process", 1, 1, 0, 0)) <= 1000


# ---- containers -------------------------------------------------------------------------------


def container(image: str = "busybox", *asks: str) -> Requirements:
    return Requirements("docker", 100, GIB, 0, 0, image=image, asks=asks)


def test_an_image_that_is_here_counts_for_more_than_anything_else() -> None:
    here, elsewhere = bidder(load_permille=500), bidder(load_permille=0)
    here.engines = elsewhere.engines = ("process", "docker")
    here.images = frozenset({"docker.io/library/busybox:latest"})
    best, other = (
        bids(here, announce(needs=container())),
        bids(elsewhere, announce(needs=container())),
    )
    assert best.score > other.score
    assert (best.facts.image_here, other.facts.image_here) == (1, 0)
    assert bids(elsewhere, announce(2)).facts.image_here == -1, "a process has none"


def test_archives_that_are_here_are_counted() -> None:
    device = bidder()
    device.archives = frozenset({"a" * 64})
    asked = announce(needs=needs(inputs=("a" * 64, "b" * 64)))
    assert bids(device, asked).facts.inputs_here == 1


def test_what_the_owner_does_not_allow_is_refused_in_the_bid_and_in_the_award() -> None:
    device = bidder()
    device.engines = ("docker",)
    refusal = refuses(device, announce(needs=container("busybox", "network host")))
    assert refusal.final
    assert refusal.reason.startswith("policy: network host is not allowed here")
    engine: Plain = {"Type": "docker", "Params": {"Image": "busybox"}}
    job = task_spec(Engine=engine, Network={"Type": "host"})
    assert device.unwelcome(job, A, ("submit",), "a") == refusal.reason


def test_a_topic_that_is_not_the_owners_for_jobs_is_refused_in_the_bid_and_in_the_award() -> None:
    device = bidder()
    device.labels = {**device.labels, "broker.home": "true"}
    device.policy = replace(device.policy, topics=("alarms/cam",), topics_root="shoal/lab")
    publisher: Plain = {"Type": "mqtt", "Params": {"Broker": "home", "Topic": "alarms/{name}"}}
    job = task_spec(Publisher=publisher)
    refusal = refuses(device, announce(needs=needs_of(job)))
    assert refusal.final
    assert refusal.reason.startswith(f"policy: topic alarms/{job.name} is not allowed here")
    assert device.unwelcome(job, A, ("submit",), "a") == refusal.reason
    cam = JobSpec.from_plain({**job.to_plain(), "Name": "cam"})
    assert device.unwelcome(cam, A, ("submit",), "a") == ""


def test_an_engine_that_does_not_answer_may_later() -> None:
    device = bidder()
    device.troubles = {"process": "the process engine does not answer"}
    refusal = refuses(device, announce())
    assert (refusal.reason, refusal.final) == ("the process engine does not answer", False)
    device.troubles = {"docker": "docker does not answer"}
    assert bids(device, announce(2))


def test_a_job_that_publishes_goes_where_the_broker_is_and_its_outbox_has_room() -> None:
    wanted = structs.replace(NEEDS, asks=("broker home",))
    device = bidder()
    refusal = refuses(device, announce(needs=wanted))
    assert "[mqtt.brokers.home]" in refusal.reason and refusal.final
    device.labels = {"broker.home": "true"}
    bids(device, announce(needs=wanted))
    device.hindrance = lambda asks: f"busy: {asks[0]} is away"
    refusal = refuses(device, announce(2, needs=wanted))
    assert refusal.reason == "busy: broker home is away" and not refusal.final


def test_lines_wait_in_the_tasks_output_and_are_hindered_by_nothing() -> None:
    device = bidder()
    device.hindrance = lambda asks: "busy"
    params: dict[str, Plain] = {"Broker": "home"}
    results = task_spec(Publisher={"Type": "mqtt", "Params": params})
    lines = task_spec(Publisher={"Type": "mqtt", "Params": {**params, "Lines": True}})
    assert device.hindered(results) == "busy" and device.hindered(lines) == ""
