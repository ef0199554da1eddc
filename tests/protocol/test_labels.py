"""labels: what constraints find of a peer, by our names and by those of Bacalhau's nodes."""

from __future__ import annotations

import dataclasses

import pytest

from protocol.constraints import explain_all, matches_all, parse_constraints
from protocol.ids import PeerId
from protocol.job import JobSpec
from protocol.labels import matched_labels
from tests.protocol.jobs import job_spec
from tests.protocol.nodenet import NodeNet

PI = {"arch": "arm64", "os": "linux", "hostname": "raspberrypi", "gpu": "vc4"}


def fits(text: str, labels: dict[str, str], name: str = "attic") -> bool:
    return matches_all(parse_constraints(text), matched_labels(labels, PeerId("p"), name))


@pytest.mark.parametrize(
    ("text", "does"),
    [
        ("os_arch=arm64", True),
        ("os_arch!=amd64", True),
        ("os_arch!=arm64", False),
        ("os_arch in (amd64, arm64)", True),
        ("os_arch notin (amd64, arm64)", False),
        ("os_type=linux", True),
        ("os_type", True),
        ("!os_type", False),
        ("Architecture=arm64", True),
        ("Operating-System!=linux", False),
        ("name=attic", True),
        ("name=raspberrypi", False),
        ("name!=attic", False),
        ("shoal/peer=p", True),
        ("arch=arm64,os=linux,hostname=raspberrypi", True),
        ("GPU-0", False),
    ],
)
def test_bacalhaus_names_mean_here_what_they_do_there(text: str, does: bool) -> None:
    assert fits(text, PI) is does


def test_what_is_not_known_is_no_label() -> None:
    assert not fits("os_arch", {}) and not fits("name", {}, name="")
    assert fits("!os_arch,!os_type,!Architecture,!name", {}, name="")


def test_a_label_that_a_person_set_is_that_label_and_the_id_is_the_peers() -> None:
    labels = {**PI, "name": "porch", "os_arch": "pi", "shoal/peer": "q"}
    assert fits("name=porch,os_arch=pi,shoal/peer=p,arch=arm64", labels)


def test_a_refusal_names_the_label_as_the_job_has_it() -> None:
    labels = matched_labels(PI, PeerId("p"), "attic")
    assert explain_all(parse_constraints("os_arch=amd64"), labels) == (
        "label os_arch: wanted 'amd64', found 'arm64'"
    )


# ---- by whoever matches ------------------------------------------------------------------------


def asking(text: str, **fields: str) -> JobSpec:
    constraints = [each.to_plain() for each in parse_constraints(text)]
    return job_spec(Constraints=[*constraints], **fields)


def mixed() -> NodeNet:
    """Peers a and b of one kind and c of another, with no label called `name`."""
    net = NodeNet("a", "b", "c")
    for name, arch in (("a", "amd64"), ("b", "amd64"), ("c", "arm64")):
        described = net.boxes[name].described
        labels = {"arch": arch, "os": "linux"}
        net.handle(name, dataclasses.replace(described, labels=labels))
    net.run(5.0)
    return net


@pytest.mark.parametrize(
    ("text", "where"),
    [("os_arch=arm64,os_type=linux", "c"), ("os_arch!=amd64", "c"), ("name=b", "b")],
)
def test_a_job_goes_where_they_say(text: str, where: str) -> None:
    net = mixed()
    net.submit("a", asking(text))
    net.run(0.5)
    assert net.executors() == [where]


def test_an_ops_job_runs_where_they_say() -> None:
    net = mixed()
    net.submit("a", asking("os_arch=amd64,name!=a", Type="ops"))
    net.run(0.5)
    assert {name for name, box in net.boxes.items() if box.started} == {"b"}


def test_no_advert_grows_by_them() -> None:
    net = mixed()
    advert = net["c"].advert
    assert advert is not None and advert.labels == {"arch": "arm64", "os": "linux"}
