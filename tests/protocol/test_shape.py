"""shape: what views of jobs hold, ours and those that peers report."""

from __future__ import annotations

from typing import get_type_hints

import pytest

from protocol.errors import RemoteProtocolError
from protocol.ids import PeerId
from protocol.shape import JobShape, SlotShape, checked_view
from protocol.tree import Plain
from tests.protocol.nodenet import NodeNet, batch, reported, reported_slot


@pytest.mark.parametrize("detail", [True, False])
def test_our_own_views_have_it(detail: bool) -> None:
    net = NodeNet("a", "b")
    net.submit("a", batch(count=2, on=["b"]))
    for code in (0, None):
        net.run(0.5)
        view = net["a"].views.job(net.held("a"), detail)
        assert checked_view(view) is view
        assert set(view) <= set(get_type_hints(JobShape))
        assert ("why" in view) == detail
        (first, _) = view["slots"]  # type: ignore[misc]
        assert set(first) == set(get_type_hints(SlotShape))
        net.end("b", code, slot=0 if code == 0 else 1)
    assert checked_view(net["b"].views.job(net.held("b"), detail))


def test_a_newer_version_may_add_to_it() -> None:
    view = reported(later={"a": 1}, slots=[reported_slot(later=[])])
    assert checked_view(view) == view


@pytest.mark.parametrize(
    "fields",
    [
        {"id": "../etc"},
        {"id": 7},
        {"state": None},
        {"term": "1"},
        {"coordinator": ""},
        {"holders": [PeerId("a b")]},
        {"slots": [{}]},
        {"slots": {}},
        {"slots": [{**reported_slot(), "exit_code": "0"}]},
        {"executions": [{"id": "x"}]},
        {"why": [1]},
        {"spec": []},
    ],
)
def test_what_is_not_so_is_refused(fields: dict[str, Plain]) -> None:
    with pytest.raises(RemoteProtocolError, match="not a view of a job"):
        checked_view({**reported(), **fields})


@pytest.mark.parametrize("name", sorted(reported()))
def test_every_field_is_needed(name: str) -> None:
    view = reported()
    del view[name]
    with pytest.raises(RemoteProtocolError, match=f"missing required field `{name}`"):
        checked_view(view)
