"""Samples: one plausible value of every message and record, by the file its vector goes into."""

from __future__ import annotations

import hashlib

import msgspec

from protocol.ids import execution_id, job_id, peer_slot, revision_of
from protocol.job import JobSpec
from protocol.messages import (
    Accepted,
    Accused,
    Ack,
    Announce,
    ArchiveAnswer,
    ArchiveRequest,
    Award,
    Bid,
    ControlAnswer,
    ControlRequest,
    Declined,
    Facts,
    Goodbye,
    Hello,
    JobDigests,
    JobQuery,
    JobReport,
    JobSync,
    JobSyncAck,
    JobWant,
    JoinAnswer,
    JoinRequest,
    Letter,
    LogChunk,
    LogRequest,
    PathQuery,
    PathReport,
    Ping,
    PingReport,
    PingRequest,
    Refusal,
    Relayed,
    Release,
    Renew,
    RenewAck,
    Renewal,
    RenewAnswer,
    Requirements,
    ResultAck,
    ResultOffer,
    ResultQuery,
    ResultReport,
    Rumours,
    SlotState,
    SpliceAnswer,
    SpliceRequest,
    SyncBuckets,
    SyncHeld,
    SyncItems,
    SyncRecords,
    SyncRoot,
    SyncWant,
    UpdateState,
    Vacancy,
    Withdraw,
)
from protocol.records import (
    Acceptance,
    Accusation,
    Advert,
    Assignment,
    Certificate,
    Control,
    Departure,
    Derived,
    Desired,
    Fence,
    Heard,
    Result,
    Role,
    Spec,
    Suspicion,
    Verdict,
)
from protocol.relay import CONTEXT
from protocol.wire import dumps, encode_message, encode_record, seal
from tests.vectors.keys import ADMIT, EXPIRES_MS, GUEST, ISSUED_MS, PEER, SHOAL

BATCH = JobSpec.from_plain(
    {
        "Name": "detect",
        "Type": "batch",
        "Count": 2,
        "Constraints": [
            {"Key": "arch", "Operator": "in", "Values": ["arm64", "amd64"]},
            {"Key": "camera", "Operator": "exists"},
        ],
        "Tasks": [
            {
                "Name": "main",
                "Engine": {"Type": "process", "Params": {"Command": ["./detect.sh", "--all"]}},
                "Env": {"MODE": "fast", "GREETING": "grüß dich"},
                "InputSources": [
                    {
                        "Source": {
                            "Type": "archive",
                            "Params": {"Digest": "ab" * 32, "Size": 4096},
                        },
                        "Target": "in",
                    }
                ],
                "ResultPaths": [{"Name": "found", "Path": "out/found.json"}],
                "Resources": {"CPU": "500m", "Memory": "128Mi"},
                "Timeouts": {"ExecutionTimeout": "5m"},
            }
        ],
    }
)
S3 = JobSpec.from_plain(
    {
        "Name": "average",
        "Type": "batch",
        "Tasks": [
            {
                "Engine": {"Type": "process", "Params": {"Command": ["./average.sh"]}},
                "InputSources": [
                    {
                        "Source": {
                            "Type": "s3",
                            "Params": {
                                "Bucket": "readings",
                                "Key": "2027/*",
                                "Filter": "csv$",
                                "Endpoint": "http://minio.lan:9000",
                                "Region": "eu-central-1",
                            },
                        },
                        "Target": "in",
                    }
                ],
                "ResultPaths": [{"Name": "found", "Path": "out"}],
                "Publisher": {
                    "Type": "s3",
                    "Params": {"Bucket": "results", "Key": "averages/{jobID}/{executionID}"},
                },
            }
        ],
    }
)
OPS = JobSpec.from_plain(
    {
        "Name": "uptime",
        "Type": "ops",
        "NotAfter": "2026-11-27T19:00:00+01:00",
        "Tasks": [{"Engine": {"Type": "process", "Params": {"Command": "uptime"}}}],
    }
)
DAEMON = JobSpec.from_plain(
    {
        "Name": "collect",
        "Namespace": "sensors",
        "Type": "daemon",
        "Priority": 50,
        "Meta": {"owner": "greenhouse"},
        "NotAfter": "2031-05-01T06:00:00+02:00",
        "Update": {"MaxParallel": 2, "OnFailure": "pause"},
        "Tasks": [
            {
                "Engine": {"Type": "process", "Params": {"Command": ["collectd", "-f"]}},
                "InputSources": [
                    {
                        "Source": {"Type": "inline", "Params": {"URL": "data:,interval%3D5"}},
                        "Target": "etc/collect.conf",
                        "Alias": "conf",
                    }
                ],
            }
        ],
    }
)
SERVICE = JobSpec.from_plain(
    {
        "Name": "web",
        "Type": "service",
        "Count": 3,
        "Spread": False,
        "Labels": {"tier": "front"},
        "Disconnect": {"StopAfter": "1h", "Replace": False},
        "Retry": {"Backoff": "5s"},
        "Tasks": [
            {
                "Engine": {
                    "Type": "process",
                    "Params": {"Command": ["httpd"], "WorkingDirectory": "/srv"},
                },
                "Network": {"Type": "host"},
            }
        ],
    }
)
SCHEDULE = JobSpec.from_plain(
    {
        "Name": "backup",
        "Type": "batch",
        "Count": 1,
        "Schedule": {
            "Cron": "30 2 * * mon-fri",
            "TimeZone": "Europe/Berlin",
            "Overlap": "replace",
            "CatchUp": 1,
            "Scope": "each",
        },
        "Tasks": [{"Engine": {"Type": "process", "Params": {"Command": ["./backup.sh"]}}}],
    }
)
OPS_SCHEDULE = JobSpec.from_plain(
    {
        "Name": "disk-report",
        "Type": "ops",
        "NotAfter": "2031-01-01T00:00:00Z",
        "Schedule": {"Cron": "0 6 * * mon", "Scope": "each"},
        "Tasks": [{"Engine": {"Type": "process", "Params": {"Command": ["df", "-h", "/"]}}}],
    }
)
TEMPLATE = JobSpec.from_plain(
    {
        "Name": "say",
        "Type": "batch",
        "Parameters": [
            {"Name": "what", "Description": "what is said"},
            {"Name": "how", "Default": "laut"},
        ],
        "Tasks": [
            {
                "Engine": {
                    "Type": "process",
                    "Params": {"Command": ["say", "${what}", "$${A}"]},
                },
                "Env": {"HOW": "${how}"},
            }
        ],
    }
)
TRIGGERED = JobSpec.from_plain(
    {
        "Name": "motion",
        "Type": "batch",
        "Parameters": [{"Name": "how", "Default": "laut"}],
        "Trigger": {
            "Mqtt": {
                "Broker": "home",
                "Topic": "haus/+/bewegung",
                "When": "state == 'ON'",
                "Input": "stdin",
                "Debounce": "2s",
                "MaxPerMinute": 30,
                "Dedup": {"Key": "id"},
                "BytesMax": "1Ki",
            },
            "Prefer": {"NearTrigger": True},
        },
        "Tasks": [{"Engine": {"Type": "process", "Params": {"Command": ["look", "${how}"]}}}],
    }
)
ASKED = JobSpec.from_plain(
    {
        **TRIGGERED.to_plain(),
        "Trigger": {"Mqtt": {"Broker": "home", "Topic": "frage/#", "Answers": "antwort/+"}},
    }
)
MESSAGE = Heard("haus/küche/bewegung", b'{"state":"ON"}\n\x00\xff', "antwort/7", b"\x00\x07")
FIRED = TRIGGERED.filled_by(MESSAGE, "tür-17")
WASM = JobSpec.from_plain(
    {
        "Name": "count",
        "Type": "batch",
        "Retry": {"Attempts": 1},
        "Tasks": [
            {
                "Engine": {
                    "Type": "wasm",
                    "Params": {
                        "EntryModule": "bin/count.wasm",
                        "ImportModules": ["words"],
                        "Parameters": ["--lines", "/in/text"],
                        "EnvironmentVariables": ["LANGUAGE=ü"],
                        "Fuel": 2**53 - 1,
                    },
                },
                "InputSources": [
                    {
                        "Source": {"Type": "archive", "Params": {"Digest": "ab" * 32, "Size": 9}},
                        "Target": "bin",
                    },
                    {
                        "Source": {"Type": "inline", "Params": {"URL": "data:;base64,AGFzbQ=="}},
                        "Target": "words.wasm",
                        "Alias": "words",
                    },
                ],
            }
        ],
    }
)
PUBLISHING = JobSpec.from_plain(
    {
        "Name": "thermometer",
        "Type": "daemon",
        "Tasks": [
            {
                "Engine": {"Type": "process", "Params": {"Command": ["thermometer"]}},
                "Publisher": {
                    "Type": "mqtt",
                    "Params": {"Broker": "home", "Topic": "sensors/{peer}", "Lines": True},
                },
            }
        ],
    }
)
JOBS = {
    "batch": BATCH,
    "ops": OPS,
    "s3": S3,
    "daemon": DAEMON,
    "service": SERVICE,
    "schedule": SCHEDULE,
    "ops-schedule": OPS_SCHEDULE,
    "template": TEMPLATE,
    "trigger": TRIGGERED,
    "trigger-answers": ASKED,
    "fired": FIRED,
    "wasm": WASM,
    "mqtt": PUBLISHING,
}

JOB = job_id(SHOAL, "default", "one-off", "3f9a")
DIGEST = hashlib.sha256(b"an archive").hexdigest()
HASH = hashlib.blake2b(b"a version", digest_size=12).digest()

CERTIFICATE = Certificate(
    shoal=SHOAL,
    peer=PEER.peer,
    name="küche",
    roles=(Role.COMPUTE, Role.SUBMIT),
    namespaces=("default", "sensors"),
    issued_ms=ISSUED_MS,
    expires_ms=EXPIRES_MS,
)
ADVERT = Advert(
    peer=PEER.peer,
    incarnation=3,
    addresses=("/ip4/192.168.1.20/tcp/4101", "/dns4/kitchen.local/tcp/4101"),
    labels={"zone": "küche", "arch": "arm64", "camera": "", "a-longer-key-than-the-others": "1"},
    engines=("process",),
    cpu_m=4000,
    memory_bytes=3 << 30,
    disk_bytes=20 << 30,
    gpus=0,
    version="0.1.0",
    name="küche",
    memory=bytes(range(8)),
    keepalive_s=120,
)
DEPARTURE = Departure(peer=PEER.peer, incarnation=3, until_ms=ISSUED_MS + 60_000)
SUSPICION = Suspicion(peer=GUEST.peer, incarnation=0, why=Accusation.REFUSED)
SPEC = Spec(
    job=JOB,
    shoal=SHOAL,
    namespace="default",
    kind="one-off",
    key="3f9a",
    generation=1,
    body=BATCH.encode(),
)
REVISION = revision_of(encode_record(SPEC))
FENCE = Fence(term=1, coordinator=PEER.peer, attempt=2)
CONTROL = Control(
    job=JOB,
    shoal=SHOAL,
    number=2,
    desired=Desired.STOPPED,
    generation=1,
    namespace="default",
    created_ms=ISSUED_MS + 90_000,
    key="collect",
)
ASSIGNMENT = Assignment(
    job=JOB,
    revision=REVISION,
    slot=1,
    fence=FENCE,
    executor=GUEST.peer,
    lease_ms=15_000,
    failures=1,
    memory=bytes(range(8)),
    volumes=("data",),
    fresh=True,
    kept=(("old", ADMIT.peer),),
    untaken=2,
)
RESULT = Result(
    job=JOB,
    revision=REVISION,
    slot=1,
    fence=FENCE,
    executor=GUEST.peer,
    verdict=Verdict.FAILURE,
    exit_code=137,
    reason="ended by signal 9",
    started_ms=ISSUED_MS + 1_000,
    ended_ms=ISSUED_MS + 3_500,
    duration_ms=2_499,
    stdout_tail=b"12 found\n",
    stderr_tail=b"\xffnot all output is text\n",
    unknown=False,
    archive="5e" * 32,
    archive_bytes=4_242,
    archive_note="report: nothing is there",
    published="s3://results/detect/1.tar.gz",
    output_note="512 bytes of it found no room on the disk",
)

STANDING_SPEC = Spec(
    job=job_id(SHOAL, "default", "standing", "backup"),
    shoal=SHOAL,
    namespace="default",
    kind="standing",
    key="backup",
    generation=2,
    body=SCHEDULE.encode(),
)
SEALED_SCHEDULE = seal(STANDING_SPEC, PEER)
OPS_SCHEDULE_SPEC = Spec(
    job=job_id(SHOAL, "default", "standing", "disk-report"),
    shoal=SHOAL,
    namespace="default",
    kind="standing",
    key="disk-report",
    generation=1,
    body=OPS_SCHEDULE.encode(),
)
SEALED_OPS_SCHEDULE = seal(OPS_SCHEDULE_SPEC, PEER)
TEMPLATE_SPEC = Spec(
    job=job_id(SHOAL, "default", "standing", "template/say"),
    shoal=SHOAL,
    namespace="default",
    kind="standing",
    key="template/say",
    generation=1,
    body=TEMPLATE.encode(),
)
SEALED_TEMPLATE = seal(TEMPLATE_SPEC, PEER)
SLOT_S = 1_800_000_000
DERIVED = Derived(shoal=SHOAL, source=SEALED_SCHEDULE, trigger=f"{SLOT_S}/{GUEST.peer}")
OPS_RUN = Derived(shoal=SHOAL, source=SEALED_OPS_SCHEDULE, trigger=f"{SLOT_S}/{GUEST.peer}")
RUN = Derived(shoal=SHOAL, source=SEALED_TEMPLATE, trigger="3f9a", inputs={"what": "grüß dich"})
TRIGGERED_SPEC = Spec(
    job=job_id(SHOAL, "default", "standing", "template/motion"),
    shoal=SHOAL,
    namespace="default",
    kind="standing",
    key="template/motion",
    generation=1,
    body=TRIGGERED.encode(),
)
SEALED_TRIGGERED = seal(TRIGGERED_SPEC, PEER)
FIRED_RUN = Derived(shoal=SHOAL, source=SEALED_TRIGGERED, trigger="tür-17", message=MESSAGE)

SEALED_CERTIFICATE = PEER.certificate
SEALED_ADVERT = seal(ADVERT, PEER)
SEALED_DEPARTURE = seal(DEPARTURE, PEER)
SEALED_SPEC = seal(SPEC, PEER)
SEALED_CONTROL = seal(CONTROL, PEER)
SEALED_ASSIGNMENT = seal(ASSIGNMENT, PEER)
SEALED_RESULT = seal(RESULT, GUEST)  # by way of the admitting peer: the longest chain

ACCEPTANCE = Acceptance(
    job=JOB,
    revision=REVISION,
    slot=1,
    fence=FENCE,
    verdict=Verdict.FAILURE,
    result=SEALED_RESULT,
    reason="",
)
SEALED_ACCEPTANCE = seal(ACCEPTANCE, PEER)

LETTER = Letter(PEER.peer, GUEST.peer, ADMIT.peer, 7, 12, 3041, encode_message(Ping(9)))
SEALED_LETTER = encode_message(LETTER)
TYPICAL: dict[str, tuple[msgspec.Struct, ...]] = {
    "records": (
        CERTIFICATE,
        ADVERT,
        DEPARTURE,
        SUSPICION,
        SPEC,
        CONTROL,
        ASSIGNMENT,
        RESULT,
        ACCEPTANCE,
        RUN,
        FIRED_RUN,
    ),
    "membership": (
        Ping(7),
        Ack(7),
        PingRequest(8, GUEST.peer),
        PingReport(8, GUEST.peer, False),
        Rumours((SEALED_ADVERT, SEALED_DEPARTURE)),
        Accused(3),
    ),
    "anti-entropy": (
        SyncRoot(0, HASH),
        SyncBuckets(1, (HASH, b"", HASH)),
        SyncItems(1, (0, 255), ((PEER.peer, HASH), ("spec/collect", HASH))),
        SyncWant(1, (PEER.peer,)),
        SyncRecords(0, (SEALED_ADVERT,)),
        SyncHeld(1, ((JOB, HASH),), (JOB,), "no room for more standing jobs"),
    ),
    "jobs": (
        JobSync(
            4,
            JOB,
            SEALED_SPEC,
            SEALED_CONTROL,
            1,
            PEER.peer,
            ISSUED_MS,
            (SlotState(0), SlotState(1, SEALED_ASSIGNMENT, SEALED_ACCEPTANCE)),
            (PEER.peer, ADMIT.peer),
            HASH,
            2,
            True,
            UpdateState(3, REVISION, 2),
        ),
        JobSyncAck(4, JOB, HASH, True),
        JobDigests(((JOB, HASH),)),
        JobWant((JOB,)),
    ),
    "bidding": (
        Announce(
            9,
            JOB,
            REVISION,
            "default",
            PEER.peer,
            2,
            Requirements(
                "process",
                500,
                128 << 20,
                0,
                0,
                (("arch", "in", ("amd64", "arm64")), ("camera", "exists", ())),
                (DIGEST,),
                "busybox:1.37.0",
                ("network bridge", "device /dev/i2c-1"),
            ),
            500,
            50,
            "batch",
        ),
        Bid(9, 731, 1, 5000, Facts(3100, 2 << 30, 9 << 30, 220, 1, 1, 48_250, 87, 0, 1)),
        Refusal(9, "label arch: wanted one of amd64, arm64, found 'riscv64'", True),
        Award(9, (SEALED_ASSIGNMENT,), SEALED_SPEC, b"", (PEER.peer, ADMIT.peer)),
        Accepted(JOB, 1, FENCE),
        Declined(JOB, 1, FENCE, "superseded: a later award is known here", True, FENCE),
        Declined(JOB, peer_slot(JOB, GUEST.peer), FENCE, "engine docker is not here"),
        Release(9, JOB),
        Withdraw(JOB, 1, FENCE, "superseded"),
        Vacancy(JOB),
    ),
    "executions": (
        Renew(
            (
                Renewal(
                    JOB,
                    REVISION,
                    1,
                    FENCE,
                    "running",
                    SEALED_ASSIGNMENT,
                    3,
                    (("web", 20_080),),
                    "pulling",
                ),
                Renewal(JOB, REVISION, 0, FENCE, "starting"),
            )
        ),
        RenewAck(
            (
                RenewAnswer(JOB, 1, FENCE, "kept", PEER.peer, (PEER.peer, ADMIT.peer)),
                RenewAnswer(JOB, 0, FENCE, "unknown"),
            )
        ),
        ResultOffer(SEALED_RESULT, SEALED_ASSIGNMENT),
        ResultAck(JOB, 1, FENCE, "unknown", ADMIT.peer),
    ),
    "questions": (
        JobQuery(5, JOB[:6], 20, True),
        JobReport(5, (dumps({"id": JOB, "state": "running", "slots": [1, None]}),)),
        ControlRequest(6, SEALED_CONTROL),
        ControlAnswer(6, "no peer that answers for the job could be reached"),
        ResultQuery(7, JOB, 1),
        ResultReport(7, SEALED_ACCEPTANCE),
    ),
    "relaying": (
        Relayed(SEALED_LETTER, PEER.sign(CONTEXT + SEALED_LETTER), PEER.certificate),
        PathQuery((ADMIT.peer, GUEST.peer)),
        PathReport((GUEST.peer,), (ADMIT.peer,)),
    ),
    "streams": (
        Hello(SEALED_CERTIFICATE, bytes(range(16)), "0.1.0"),
        Goodbye("not-a-member", "your certificate is of another shoal"),
        JoinRequest(bytes(range(32)), "scheune"),
        JoinAnswer(
            GUEST.certificate,
            "home",
            (f"/ip4/192.168.1.20/tcp/4101/p2p/{PEER.peer}",),
            {"zone": "yard"},
            "",
        ),
        ArchiveRequest(DIGEST, 65_536),
        ArchiveAnswer(1 << 20, ""),
        LogRequest(
            execution_id(REVISION, 1, FENCE.term, FENCE.coordinator, FENCE.attempt),
            "stdout",
            0,
            10,
            True,
            1_800_000_000_000,
        ),
        LogChunk(4096, "12 gefunden ✓\n".encode(), False, ""),
        SpliceRequest(GUEST.peer, "/shoal/log/1"),
        SpliceAnswer("not connected to it"),
    ),
}
