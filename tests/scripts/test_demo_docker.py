"""scripts/demo --docker, as a person sees it: a real engine, and results fetched back."""

from __future__ import annotations

import os

import pytest

from tests.scripts.demos import played


@pytest.mark.skipif(os.geteuid() != 0, reason="it starts an engine of its own")
def test_a_job_in_three_containers_has_its_files_fetched_back_and_leaves_none() -> None:
    told = played("demo_docker.py")
    assert "files came back" in told
    assert "no container is left on kitchen, attic, garage" in told
