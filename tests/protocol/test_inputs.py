"""Input sources: bytes in the job, or an archive by its content, each in one place."""

from __future__ import annotations

import pytest

from protocol.errors import JobSpecError
from protocol.inputs import read_inputs
from protocol.tree import Node, Plain

DIGEST = "ab" * 32


def inline(url: str, target: str = "/data") -> Plain:
    return {"Source": {"Type": "inline", "Params": {"URL": url}}, "Target": target}


def archive(**params: Plain) -> Plain:
    return {"Source": {"Type": "archive", "Params": {**params}}, "Target": "in"}


@pytest.mark.parametrize(
    ("item", "path", "message"),
    [
        ({"Source": {"Type": "ipfs"}, "Target": "x"}, "I[0].Source.Type", "'ipfs' is not an input"),
        ({"Source": {}, "Target": "x"}, "I[0].Source.Type", "missing"),
        ({"Target": "x"}, "I[0].Source", "missing"),
        (inline("data:,", "../etc"), "I[0].Target", "without '..'"),
        (inline("data:,", "/"), "I[0].Target", "is not a path here"),
        (inline("data:,", "a\nb"), "I[0].Target", "is not a path here"),
    ],
)
def test_errors_name_the_place(item: Plain, path: str, message: str) -> None:
    with pytest.raises(JobSpecError) as caught:
        read_inputs(Node([item], "I"))
    assert (caught.value.path, message in caught.value.message) == (path, True), caught.value


def test_sources_that_do_not_exist_are_refused_with_those_that_do() -> None:
    tree: Plain = [{"Source": {"Type": "ipfs"}, "Target": "x"}]
    with pytest.raises(JobSpecError, match=r"'ipfs' .* allowed: inline, archive"):
        read_inputs(Node(tree))


def test_two_sources_in_one_place_or_under_one_alias_are_refused() -> None:
    with pytest.raises(JobSpecError, match=r"\[1\]: the target '/data/' is taken|'data' is taken"):
        read_inputs(Node([inline("data:,a", "/data/"), inline("data:,b", "./data")]))
    a = {"Source": {"Type": "inline", "Params": {"URL": "data:,"}}, "Alias": "lib"}
    with pytest.raises(JobSpecError, match="the alias 'lib' is taken"):
        read_inputs(Node([{**a, "Target": "x"}, {**a, "Target": "y"}]))
    (found, _) = read_inputs(Node([{**a, "Target": "x"}, inline("data:,")]))
    assert read_inputs(Node([found.to_plain()])) == (found,)


@pytest.mark.parametrize(
    ("directory", "other", "refused"),
    [
        ("data", "data/x", True),
        ("a", "/a/b", True),
        ("data", ".", True),
        ("/data/x", "data", True),
        ("data", "database", False),
    ],
)
def test_nothing_is_put_into_a_directory_of_the_device_or_around_it(
    directory: str, other: str, refused: bool
) -> None:
    own: Plain = {
        "Source": {"Type": "localDirectory", "Params": {"SourcePath": "/srv"}},
        "Target": directory,
    }
    shipped: Plain = {
        "Source": {"Type": "archive", "Params": {"Digest": DIGEST, "Size": 1}},
        "Target": other,
    }
    orders: tuple[list[Plain], ...] = ([own, shipped], [shipped, own])
    for items in orders:
        if refused:
            with pytest.raises(JobSpecError, match="lie within one another"):
                read_inputs(Node(items))
        else:
            assert len(read_inputs(Node(items))) == 2
