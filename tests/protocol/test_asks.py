"""asks: what a task wants of a device, and what its owner says to that."""

from __future__ import annotations

import pytest

from agent.labels import BROKER
from protocol.asks import BROKER_LABEL, asks_of, lacking, not_allowed
from protocol.config import PolicyConfig
from protocol.tree import Plain
from tests.protocol.jobs import task_spec

I2C = "device /dev/i2c-1"


def container(network: str = "", **params: Plain) -> tuple[str, ...]:
    engine: Plain = {"Type": "docker", "Params": {"Image": "busybox", **params}}
    return asks_of(task_spec(Engine=engine, Network={"Type": network} if network else None).task)


def test_a_process_asks_for_nothing() -> None:
    assert asks_of(task_spec().task) == ()
    assert asks_of(task_spec(Network={"Type": "host"}).task) == ()


def test_a_process_without_a_network_needs_a_device_that_can_keep_it_from_it() -> None:
    asks = asks_of(task_spec(Network={"Type": "None"}).task)
    assert asks == ("isolation network",)
    refused = not_allowed(PolicyConfig(), asks)
    assert refused == "only bubblewrap can keep a program from the network, and it is not here"
    assert not_allowed(PolicyConfig(isolation=("network",)), asks) == ""


def test_a_container_asks_for_a_bridge_where_the_file_says_nothing() -> None:
    assert container() == ("network bridge",)
    assert container("None") == ("network none",)
    assert container("full") == ("network host",)


def test_devices_and_capabilities_are_asked_for_one_by_one() -> None:
    found = container("none", Devices=["/dev/video0", "/dev/i2c-1"], Capabilities=["NET_RAW"])
    assert found == ("network none", I2C, "device /dev/video0", "capability NET_RAW")


def test_by_default_a_bridge_is_allowed_and_no_part_of_the_device() -> None:
    policy = PolicyConfig()
    assert not_allowed(policy, ("network bridge", "network none")) == ""
    assert not_allowed(policy, ("network host",)) == (
        'policy: network host is not allowed here ([accept] networks = ["none", "bridge"])'
    )
    assert not_allowed(policy, ("network none", I2C, "capability X")) == (
        f"policy: {I2C} is not allowed here ([accept] devices = [])"
    )


@pytest.mark.parametrize(
    ("patterns", "allowed"),
    [
        (("/dev/i2c-1",), True),
        (("/dev/video0", "/dev/i2c-*"), True),
        (("*",), True),
        (("/dev/i2c-10",), False),
        (("/dev/i2c",), False),
    ],
)
def test_devices_are_allowed_by_name_or_by_their_beginning(
    patterns: tuple[str, ...], allowed: bool
) -> None:
    assert (not_allowed(PolicyConfig(devices=patterns), (I2C,)) == "") is allowed


def test_what_a_later_version_asks_for_is_refused_and_not_overlooked() -> None:
    policy = PolicyConfig(networks=("*",), devices=("*",), capabilities=("*",))
    assert not_allowed(policy, ("network host", I2C, "capability NET_RAW")) == ""
    assert not_allowed(policy, ("privileges all",)) == (
        "policy: privileges all is nothing this version knows of"
    )


# ---- inputs ------------------------------------------------------------------------------------


def process(*sources: Plain) -> tuple[str, ...]:
    inputs: Plain = [
        {"Source": source, "Target": f"in{number}"} for number, source in enumerate(sources)
    ]
    return asks_of(task_spec(InputSources=inputs).task)


def test_parts_of_the_device_and_hosts_of_the_web_are_asked_for() -> None:
    found = process(
        {"Type": "localDirectory", "Params": {"SourcePath": "/srv/data"}},
        {"Type": "localDirectory", "Params": {"SourcePath": "/srv/out", "ReadWrite": True}},
        {"Type": "urlDownload", "Params": {"URL": "https://Example.org:8443/f"}},
        {"Type": "inline", "Params": {"URL": "data:,x"}},
    )
    assert found == ("directory /srv/data", "directory /srv/out:rw", "download example.org")


@pytest.mark.parametrize(
    ("directories", "path", "allowed"),
    [
        ((), "/srv", False),
        (("/srv",), "/srv", True),
        (("/srv/",), "/srv/deep/er", True),
        (("/srv",), "/srvice", False),
        (("/srv/data",), "/srv", False),
        (("/srv",), "/srv:rw", False),
        (("/srv:rw",), "/srv:rw", True),
        (("/srv:rw",), "/srv", True),
        (("/srv:rw",), "/srv/out:rw", False),
        (("/srv:rw",), "/srv/out", False),
    ],
)
def test_a_directory_holds_what_is_below_it(
    directories: tuple[str, ...], path: str, allowed: bool
) -> None:
    policy = PolicyConfig(directories=directories)
    assert (not_allowed(policy, (f"directory {path}",)) == "") is allowed


def test_downloads_are_allowed_unless_the_owner_says_from_where() -> None:
    ask = ("download data.example.org",)
    assert not_allowed(PolicyConfig(), ask) == ""
    assert not_allowed(PolicyConfig(downloads=("*.example.org",)), ask) == ""
    refused = not_allowed(PolicyConfig(downloads=("example.org",)), ask)
    assert refused.startswith("policy: download data.example.org is not allowed here")
    assert refused.endswith('([accept] downloads = ["example.org"])')


def test_variables_of_the_device_are_asked_for_one_by_one() -> None:
    task = task_spec(Env={"TOKEN": "env:API_TOKEN", "PLAIN": "environment"}).task
    assert asks_of(task) == ("environment API_TOKEN",)
    assert not_allowed(PolicyConfig(), asks_of(task)) == (
        "policy: environment API_TOKEN is not allowed here ([accept] environment = [])"
    )
    assert not_allowed(PolicyConfig(environment=("API_*",)), asks_of(task)) == ""


# ---- buckets -----------------------------------------------------------------------------------

MINIO: Plain = {"Bucket": "results", "Key": "out", "Endpoint": "http://minio.lan:9000"}


def test_buckets_are_asked_for_to_read_and_to_write() -> None:
    sources = process(
        {"Type": "s3", "Params": {"Bucket": "readings", "Key": "day/*"}},
        {"Type": "s3", "Params": MINIO},
    )
    assert sources == ("bucket s3.amazonaws.com/readings", "bucket http://minio.lan:9000/results")
    paths: Plain = [{"Name": "a", "Path": "a"}]
    publisher: Plain = {"Type": "s3", "Params": MINIO}
    task = task_spec(Publisher=publisher, ResultPaths=paths).task
    assert asks_of(task) == ("bucket http://minio.lan:9000/results:rw",)
    tls: Plain = {**MINIO, "Endpoint": "https://minio.lan"}
    assert process({"Type": "s3", "Params": tls}) == ("bucket minio.lan/results",)


@pytest.mark.parametrize(
    ("buckets", "ask", "allowed"),
    [
        ((), "aws/readings", False),
        (("aws/readings",), "aws/readings", True),
        (("aws/readings",), "aws/readings:rw", False),
        (("aws/readings:rw",), "aws/readings:rw", True),
        (("aws/readings:rw",), "aws/readings", True),
        (("aws/*",), "aws/readings", True),
        (("aws/*",), "aws/readings:rw", False),
        (("aws/out-*:rw",), "aws/out-1:rw", True),
        (("aws/out-*:rw",), "aws/in-1:rw", False),
        (("*:rw",), "minio.lan:9000/x:rw", True),
        (("minio.lan/x",), "minio.lan:9000/x", False),
        # What goes in the clear can be read by who is between: the owner has to say so,
        (("minio.lan/x:rw",), "http://minio.lan/x:rw", False),
        (("minio.lan/*",), "http://minio.lan/x", False),
        (("https://minio.lan/x",), "http://minio.lan/x", False),
        (("*:rw",), "http://minio.lan/x", False),
        (("*",), "http://minio.lan:9000/x", False),
        (("*/x",), "http://minio.lan/x", False),
        (("s3.amazonaws.com/x",), "http://s3.amazonaws.com/x", False),
        (("[::1]/x",), "http://[::1]/x", False),
        (("[fd00::1*",), "http://[fd00::1]/x", False),
        # by `http://`,
        (("http://minio.lan/x:rw",), "http://minio.lan/x:rw", True),
        (("http://minio.lan/x",), "http://minio.lan/x:rw", False),
        (("http://minio.lan/x",), "minio.lan/x", False),
        (("http://*",), "http://minio.lan/x", True),
        (("http://*",), "minio.lan/x", False),
        # or by a port, which is not that of TLS.
        (("minio.lan:9000/x:rw",), "http://minio.lan:9000/x:rw", True),
        (("minio.lan:9000/*",), "http://minio.lan:9000/x", True),
        (("minio.lan:9000/x",), "http://minio.lan/x", False),
        (("[::1]:9000/x",), "http://[::1]:9000/x", True),
        (("*:9000/x",), "http://minio.lan:9000/x", True),
        (("minio.lan:443/x",), "http://minio.lan:443/x", False),
        (("http://minio.lan:443/x",), "http://minio.lan:443/x", True),
        (("minio.lan:9000/x",), "minio.lan:9000/x", True),
        (("https://minio.lan:9000/x:rw",), "minio.lan:9000/x:rw", True),
        (("https://minio.lan:9000/x",), "http://minio.lan:9000/x", False),
        (("https://*",), "minio.lan/x", True),
    ],
)
def test_a_bucket_is_allowed_by_its_place_to_be_read_or_written(
    buckets: tuple[str, ...], ask: str, allowed: bool
) -> None:
    policy = PolicyConfig(buckets=buckets)
    assert (not_allowed(policy, (f"bucket {ask}",)) == "") is allowed


def test_a_bucket_that_would_go_in_the_clear_is_named_as_the_owner_may_allow_it() -> None:
    policy = PolicyConfig(buckets=("minio.lan/results:rw",))
    ask = "http://minio.lan/results:rw"
    assert not_allowed(policy, (f"bucket {ask}",)) == (
        "policy: bucket http://minio.lan/results:rw is not allowed here "
        '([accept] buckets = ["minio.lan/results:rw"])'
    )
    assert not_allowed(PolicyConfig(buckets=(ask,)), (f"bucket {ask}",)) == ""


def test_a_device_without_s3_says_so_whatever_its_owner_allows() -> None:
    policy = PolicyConfig(buckets=("*:rw",), lacking=("bucket",))
    assert not_allowed(policy, ("bucket aws/readings",)) == (
        "s3 is not here: this device was set up without it (sudo scripts/install --s3 where it is "
        "a service, else pip install 'shoal[s3]')"
    )
    assert not_allowed(policy, ("network none",)) == ""


def test_a_publisher_asks_for_its_broker_which_is_a_label_of_devices_that_have_it() -> None:
    publisher: Plain = {"Type": "mqtt", "Params": {"Broker": "home"}}
    asks = asks_of(task_spec(Publisher=publisher).task)
    assert asks == ("broker home",)
    assert not_allowed(PolicyConfig(), asks) == "", "who configured it lets jobs publish there"
    assert lacking(asks, {"broker.home": "true"}) == ""
    text = "no MQTT broker home is configured here ([mqtt.brokers.home])"
    assert lacking(asks, {"broker.hom": "true"}) == text
    assert BROKER == BROKER_LABEL


def publishing(topic: str) -> tuple[str, ...]:
    publisher: Plain = {"Type": "mqtt", "Params": {"Broker": "home", "Topic": topic}}
    return asks_of(task_spec(Publisher=publisher).task, "cam", "default")


@pytest.mark.parametrize(
    ("topics", "topic", "allowed"),
    [
        (("#",), "zigbee2mqtt/door/set", True),
        (("alarms/#", "home/+/state"), "alarms/warm", True),
        (("alarms/#", "home/+/state"), "home/{name}/state", True),
        (("alarms/#", "home/+/state"), "zigbee2mqtt/door/set", False),
        ((), "alarms/warm", False),
        ((), "{root}/job/{job}/result/{slot}", True),
        (("#",), "{root}/peer/{peer}/status", False),
        (("{root}/#", "shoal/lab/#"), "shoal/lab/peer/x/status", False),
    ],
)
def test_topics_of_a_jobs_own_choice_are_the_owners_to_allow(
    topics: tuple[str, ...], topic: str, allowed: bool
) -> None:
    policy = PolicyConfig(topics=topics, topics_root="shoal/lab")
    assert (not_allowed(policy, publishing(topic)) == "") is allowed


def test_a_topic_that_is_not_allowed_is_named_with_the_way_out() -> None:
    policy = PolicyConfig(topics=("alarms/#",), topics_root="shoal/lab")
    assert not_allowed(policy, publishing("home/{Name}")) == (
        'policy: topic home/cam is not allowed here ([accept] topics = ["alarms/#"])'
    )
    assert not_allowed(policy, publishing("{root}/event")) == (
        "policy: topic {root}/event is the shoal's own, where jobs have {root}/job/{job}/result/… "
        "and {root}/job/{job}/log/… alone"
    )
