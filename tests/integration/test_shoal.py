"""A shoal is made, grows by tokens and refuses the wrong ones, all by what a person types."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.lab import Device, Done, Lab


def invite(lab: Lab, device: Device, *words: str) -> str:
    done = lab.shoal(device, "invite", *words)
    assert done.code == 0, done
    assert "shoal join TOKEN" in done.err
    return done.out.strip()


def join(lab: Lab, device: Device, token: str, *words: str) -> Done:
    done = lab.shoal(device, "join", token, "--name", device.name, "--json", *words)
    if done.code == 0:
        device.peer = json.loads(done.out)["peer"]
    return done


def phrase_of(lab: Lab) -> Path:
    """Where the passphrase of the backup is."""
    return lab.directory / "phrase"


@pytest.fixture(scope="module")
def grown() -> Iterator[Lab]:
    """kitchen made it, attic joined by a token with a label, mast joined for compute only."""
    lab = Lab(0)
    try:
        kitchen, attic, mast = (lab.blank(name) for name in ("kitchen", "attic", "mast"))
        phrase = phrase_of(lab)
        phrase.write_text("correct horse battery\n")
        words = ("home", "--device", "kitchen", "--passphrase-file", str(phrase), "--json")
        made = lab.shoal(kitchen, "init", *words)
        assert made.code == 0, made
        kitchen.peer = json.loads(made.out)["peer"]
        lab.start(kitchen, bootstrap=False)
        assert join(lab, attic, invite(lab, kitchen, "--label", "floor=top")).code == 0
        assert join(lab, mast, invite(lab, kitchen, "--role", "compute")).code == 0
        lab.start(attic, mast, bootstrap=False)  # who to dial was in the token
        yield lab
    finally:
        lab.close()


def test_every_device_lists_the_others_by_name(grown: Lab) -> None:
    for device in grown.devices[:3]:
        done = grown.shoal(device, "peers")
        assert done.code == 0
        assert {"kitchen", "attic", "mast"} <= set(done.out.split()), done.out
        assert done.out.count("alive") == 2 and done.out.count("this device") == 1


def test_a_job_runs_where_the_labels_of_an_invite_lead_it(grown: Lab) -> None:
    words = ("run", "--constraint", "floor=top", "--", "sh", "-c", "echo on $SHOAL_PEER_ID")
    done = grown.shoal(grown[0], *words)
    assert (done.code, done.out) == (0, f"on {grown[1].peer}\n"), done


def test_a_member_for_compute_only_runs_jobs_and_may_not_submit_any(grown: Lab) -> None:
    mast = grown[2]
    done = grown.shoal(mast, "run", "--", "true")
    assert done.code == 1 and not done.out
    assert "certificate lacks the role" in done.err
    assert "--role compute,submit" in done.err, "it says how to"
    everywhere = ("run", "--count", "12", "--", "sh", "-c", "echo $SHOAL_PEER_ID")
    done = grown.shoal(grown[1], *everywhere)
    assert done.code == 0 and mast.peer in done.out, done


def test_who_may_not_admit_cannot_invite_and_is_told(grown: Lab) -> None:
    done = grown.shoal(grown[1], "invite")
    assert done.code == 2 and not done.out
    assert "admit" in done.err


def test_an_expired_token_says_so(grown: Lab) -> None:
    token, made = invite(grown, grown[0], "--expires", "1s"), time.monotonic()
    grown.until(lambda: time.monotonic() > made + 1, "the token is over")
    done = join(grown, grown.blank("late"), token)
    assert done.code == 1 and "expired" in done.err and "shoal invite" in done.err, done


def test_a_token_that_was_used_says_so_and_admits_the_same_device_again(grown: Lab) -> None:
    token, first = invite(grown, grown[0]), grown.blank("first")
    assert join(grown, first, token).code == 0
    done = join(grown, grown.blank("second"), token)
    assert done.code == 1 and "used up" in done.err and "shoal invite" in done.err, done
    assert join(grown, first, token).code == 0, "its answer may have been lost"


def test_a_token_of_another_shoal_is_refused_by_a_member(grown: Lab) -> None:
    other = Lab(0)
    try:
        lake = other.blank("lake")
        assert other.shoal(lake, "init", "lakeside").code == 0
        other.start(lake, wait=False, bootstrap=False)
        done = join(grown, grown[1], invite(other, lake))
    finally:
        other.close()
    assert done.code == 1
    assert "'home' already" in done.err and "'lakeside'" in done.err, done
    assert "--new-identity" in done.err


def test_a_mistyped_or_cut_token_is_told_from_a_wrong_one(grown: Lab) -> None:
    token, device = invite(grown, grown[0]), grown.blank("typist")
    at = len(token) // 2
    swapped = token[:at] + ("a" if token[at] != "a" else "b") + token[at + 1 :]
    for wrong, said in (
        (swapped, "typing error"),
        (token[:-9], "cut short"),
        (token[:-1] + "1", "'1' is never in one"),
        ("shoal2:abc", "newer version"),
        ("kitchen", "nor the name of a file"),
    ):
        done = join(grown, device, wrong)
        assert done.code == 1 and said in done.err, done
        assert len(done.err.splitlines()) == 1, done.err
    assert not (device.data_dir / "membership").exists()


def test_a_token_may_lie_in_a_file_and_is_good_for_as_many_as_it_says(grown: Lab) -> None:
    made = grown.shoal(grown[0], "invite", "--uses", "2")
    file = grown.directory / "token"
    file.write_text(made.out)
    assert "2 times" in made.err
    for name in ("one", "two"):
        assert join(grown, grown.blank(name), str(file)).code == 0


def test_an_inviter_that_is_not_there_is_told_of_with_what_to_look_at() -> None:
    lab = Lab(0)
    try:
        shed = lab.blank("shed")
        assert lab.shoal(shed, "init", "yard").code == 0
        lab.start(shed, wait=False, bootstrap=False)
        token = invite(lab, shed)
        lab.kill(shed)
        done = join(lab, lab.blank("barn"), token)
        assert done.code == 1
        assert "could not be reached" in done.err and "Is its agent running" in done.err, done
    finally:
        lab.close()


def test_a_second_init_leaves_the_first_shoal_alone(grown: Lab) -> None:
    done = grown.shoal(grown[0], "init", "again")
    assert done.code == 1 and "already" in done.err, done
    assert "home" in grown.shoal(grown[1], "doctor").out + grown[0].log()


def test_with_the_backup_another_device_takes_the_place_of_the_first(grown: Lab) -> None:
    kitchen, heir, late = grown[0], grown.blank("heir"), grown.blank("late")
    backup = kitchen.data_dir / "shoal-root-home.backup"
    words = (str(backup), "--device", "heir", "--passphrase-file", str(phrase_of(grown)), "--json")
    done = grown.shoal(heir, "recover", *words)
    assert done.code == 0, done
    heir.peer = json.loads(done.out)["peer"]
    grown.start(heir)
    assert join(grown, late, invite(grown, heir, "--uses", "2")).code == 0, "it may admit"
    with heir.client() as client:
        (made,) = client.invites()
    assert (made["used"], made["uses"]) == (1, 2)
    done = grown.shoal(heir, "invites", "--withdraw", made["id"][:6])
    assert done.code == 0, done
    with heir.client() as client:
        assert client.invites() == []
    grown.start(late, bootstrap=False)
    done = grown.shoal(heir, "run", "--constraint", f"shoal/peer={late.peer}", "--", "echo", "here")
    assert (done.code, done.out) == (0, "here\n"), done
    grown.kill(late)
    grown.kill(heir)
