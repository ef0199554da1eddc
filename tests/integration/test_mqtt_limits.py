"""How often messages run a template and where, on real agents at a real Mosquitto: Debounce,
MaxPerMinute and NearTrigger."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator

import pytest

from tests.lab import Lab
from tests.mosquitto import Mosquitto
from tests.mqttlab import hearing, outputs, part_at, runs, send, spec_of, template, with_broker


@pytest.fixture(scope="module")
def lab(mosquitto: Mosquitto) -> Iterator[Lab]:
    """The first hears all, the second what has ids; it offers far more than the first."""
    lab = with_broker(2, mosquitto)
    lab[0].environment["SHOAL_OFFER_CPU"] = "400m"
    lab[1].environment |= {"SHOAL_MQTT_ALLOW": "template/keyed-*", "SHOAL_OFFER_CPU": "1600m"}
    with lab:
        yield lab


def refused(lab: Lab, name: str, count: int, reason: str) -> None:
    """Who hears it has refused so many, for just this reason, and says so."""
    lab.until(
        lambda: part_at(lab[0], name)["refused"] == {reason: count}, f"{count} are refused", 60
    )
    shown = lab.shoal(lab[0], "template", "show", name).out
    assert f"{lab[0].name}: {count} refused: {reason}" in shown, shown


def test_what_follows_too_closely_is_dropped(lab: Lab, mosquitto: Mosquitto) -> None:
    """The first of five is the run."""
    template(lab, "door", "in/door", Debounce="10m")
    for number in range(5):
        send(mosquitto, "in/door", f"{number}\n")
    lab.until(lambda: outputs(lab, "door") == Counter({"0\n": 1}), "the first has run", 60)
    refused(lab, "door", 4, "within 600 s of the one before (Debounce)")
    assert part_at(lab[0], "door")["fired"] == len(runs(lab, "door")) == 1


def test_what_comes_after_the_debounce_runs(lab: Lab, mosquitto: Mosquitto) -> None:
    template(lab, "bell", "in/bell", Debounce="2s")
    for number in range(2):
        send(mosquitto, "in/bell", f"{number}\n")
        lab.until(lambda n=number: outputs(lab, "bell")[f"{n}\n"] == 1, "it has run", 60)
        over = time.monotonic() + 2.0
        lab.until(lambda over=over: time.monotonic() > over, "it is over")
    assert part_at(lab[0], "bell")["fired"] == 2 and not part_at(lab[0], "bell")["refused"]


def test_so_many_a_minute_run_and_no_more(lab: Lab, mosquitto: Mosquitto) -> None:
    template(lab, "meter", "in/meter", MaxPerMinute=3)
    began = time.monotonic()
    for number in range(8):
        send(mosquitto, "in/meter", f"{number}\n")
    assert time.monotonic() - began < 60.0, "they came within a minute"
    wanted = Counter({f"{number}\n": 1 for number in range(3)})
    lab.until(lambda: outputs(lab, "meter") == wanted, "the first three have run", 60)
    refused(lab, "meter", 5, "more than 3 a minute (MaxPerMinute)")
    assert part_at(lab[0], "meter")["fired"] == len(runs(lab, "meter")) == 3


def test_of_what_has_ids_each_device_drops_what_follows_a_run_of_either(
    lab: Lab, mosquitto: Mosquitto
) -> None:
    """One may hear the first only once the other has run it."""
    template(lab, "keyed-door", "in/keyed-door", Dedup={}, Debounce="10m")
    for number in range(6):
        send(mosquitto, "in/keyed-door", f"{number}\n", id=f"door-{number}")
    reason = "within 600 s of the one before (Debounce)"

    def all_refused() -> bool:
        return all(part_at(d, "keyed-door")["refused"] == {reason: 5} for d in lab.devices)

    lab.until(all_refused, "all but the first are refused", 60)
    lab.until(lambda: outputs(lab, "keyed-door") == Counter({"0\n": 1}), "that has run", 60)
    assert len(runs(lab, "keyed-door")) == 1


def test_each_device_counts_for_itself_what_has_an_id(lab: Lab, mosquitto: Mosquitto) -> None:
    """Both hear each, and what the other is known to have run by then counts as well: what both
    take at once may be two each."""
    template(lab, "keyed-meter", "in/keyed", Dedup={}, MaxPerMinute=2)
    began = time.monotonic()
    for number in range(12):
        send(mosquitto, "in/keyed", f"{number}\n", id=f"keyed-{number}")
    assert time.monotonic() - began < 60.0, "they came within a minute"
    reason = "more than 2 a minute (MaxPerMinute)"

    def all_heard() -> bool:
        parts = [part_at(device, "keyed-meter") for device in lab.devices]
        settled = not any(each["waiting"] for each in parts)
        return settled and all(8 <= each["refused"].get(reason, 0) <= 10 for each in parts)

    lab.until(all_heard, "both have heard all", 60)
    lab.until(lambda: outputs(lab, "keyed-meter").total() == len(runs(lab, "keyed-meter")), "run")
    found = outputs(lab, "keyed-meter")
    assert 2 <= len(found) <= 4 and set(found.values()) == {1}, found


def test_who_heard_a_message_runs_it_where_that_is_preferred(
    lab: Lab, mosquitto: Mosquitto
) -> None:
    """The other is freer, and takes what has no such wish."""
    ran: dict[str, list[str]] = {}
    for name in ("near", "anywhere"):
        spec = spec_of(name, f"in/{name}")
        if name == "near":
            spec["Trigger"]["Prefer"] = {"NearTrigger": True}
        with lab[1].client() as client:
            client.submit(spec)
        lab.until(lambda name=name: hearing(lab, f"in/{name}") == 1, "it is heard", 60)
        # One after the other: there is room for each everywhere.
        for number in range(5 if name == "near" else 12):
            send(mosquitto, f"in/{name}", f"{number}\n")
            lab.until(lambda n=name, o=f"{number}\n": outputs(lab, n)[o] == 1, "it has run", 60)
        views = runs(lab, name)
        assert {view["coordinator"] for view in views} == {lab[0].peer}, "which hears it"
        ran[name] = [view["slots"][0]["executor"] for view in views]
    assert ran["near"] == [lab[0].peer] * 5
    assert lab[1].peer in ran["anywhere"], "but for answers that come too late"
