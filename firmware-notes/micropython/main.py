"""A sensor on a battery: wake, measure, publish what has gathered, sleep.

Each reading has an id that is the same however often it is sent; Shoal makes one job of it by the
template's `Dedup: {Key: id}`. What is not acknowledged waits in the memory that stays on in sleep.
"""

import json
import os
import time

import machine
import network
from publisher import Publisher

SETTINGS = "settings.json"  # of this device alone; see provisioning.md
BOOTS = "boots"
PERIOD_MS = 600_000
ONLINE_MS_MAX = 15_000
AWAKE_MS_MAX = 60_000  # the watchdog's; all waits below together are shorter
WAITING_MAX = 16  # readings; the memory that stays on has 2048 bytes
PAUSE_MAX = 8  # readings between two tries: as many again find room
CLOCK_YEAR = 2026  # a clock that says less was never set
SDA, SCL = 21, 22
SHT4X, MEASURE = 0x44, b"\xfd"


def main():
    machine.WDT(timeout=AWAKE_MS_MAX)
    try:
        kept = take_up()
        take_reading(kept)
        kept["pause"] -= 1
        keep(kept)
        if kept["pause"] <= 0:
            deliver(kept)
    except Exception as error:  # whatever it was: an awake sensor is soon a dead one
        print("not sent:", repr(error))
    machine.deepsleep(PERIOD_MS)


def deliver(kept):
    """Ever more seldom where nobody is there: a search for a network costs more than a message.
    It counts as failed until it is over, also where the watchdog ends it."""
    kept["pause"] = min(1 << min(kept["failures"], 8), PAUSE_MAX)
    kept["failures"] += 1
    keep(kept)
    with open(SETTINGS) as file:
        settings = json.load(file)
    go_online(settings)
    send(settings, kept)
    kept["failures"] = kept["pause"] = 0
    keep(kept)


# ---- what is kept ------------------------------------------------------------------------------


def take_up():
    """What the last waking left; a new boot number where the power was gone."""
    try:
        kept = json.loads(machine.RTC().memory())
        if kept["boot"] and kept["waiting"] is not None and kept["failures"] + kept["pause"] >= 0:
            return kept
    except (ValueError, KeyError, TypeError):
        pass
    return {"boot": count_boot(), "seq": 0, "waiting": [], "failures": 0, "pause": 0}


def keep(kept):
    machine.RTC().memory(json.dumps(kept).encode())


def count_boot():
    """On flash before the first id is made of it: renamed into place, for power fails then, too."""
    try:
        with open(BOOTS) as file:
            boot = int(file.read())
    except (OSError, ValueError):  # new, or erased: from 1 its ids would be those of another life
        boot = int.from_bytes(os.urandom(4), "big") >> 2
    boot += 1
    with open(BOOTS + ".new", "w") as file:
        file.write(str(boot))
    os.rename(BOOTS + ".new", BOOTS)
    if hasattr(os, "sync"):
        os.sync()
    return boot


# ---- readings ----------------------------------------------------------------------------------


def take_reading(kept):
    """Also where nothing could be measured: without values it says that the sensor is broken."""
    kept["seq"] += 1
    reading = {"seq": kept["seq"], "taken_s": time.time()}
    try:
        reading["temperature_mC"], reading["humidity_permille"] = measure()
    except (OSError, ValueError) as error:
        print("the sensor:", repr(error))
    kept["waiting"].append(reading)
    kept["waiting"] = kept["waiting"][-WAITING_MAX:]


def measure():
    """Of an SHT4x. Raises OSError where it does not answer, ValueError for a wrong checksum."""
    bus = machine.I2C(0, sda=machine.Pin(SDA), scl=machine.Pin(SCL), freq=100_000)
    bus.writeto(SHT4X, MEASURE)
    time.sleep_ms(10)
    answer = bus.readfrom(SHT4X, 6)
    for at in (0, 3):
        if checksum(answer[at : at + 2]) != answer[at + 2]:
            raise ValueError("checksum")
    temperature = answer[0] << 8 | answer[1]
    humidity = 1250 * (answer[3] << 8 | answer[4]) // 65535 - 60
    return 175_000 * temperature // 65535 - 45_000, min(max(humidity, 0), 1000)


def checksum(data):
    crc = 0xFF
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = (crc << 1 ^ 0x31) & 0xFF if crc & 0x80 else crc << 1
    return crc


# ---- the network -------------------------------------------------------------------------------


def go_online(settings):
    station = network.WLAN(network.STA_IF)
    station.active(True)
    station.connect(settings["ssid"], settings["wifi_password"])
    began = time.ticks_ms()
    while not station.isconnected():
        if time.ticks_diff(time.ticks_ms(), began) > ONLINE_MS_MAX:
            raise OSError("no network")
        time.sleep_ms(50)


def send(settings, kept):
    device = settings["device"]
    host, port, password = settings["host"], settings["port"], settings["password"]
    publisher = Publisher(host, port, device, device, password, tls(settings, kept))
    try:
        while kept["waiting"]:
            reading = dict(kept["waiting"][0])
            reading["id"] = f"{device}-{kept['boot']}-{reading['seq']}"
            reading["age_ms"] = max(0, time.time() - reading.pop("taken_s")) * 1000
            publisher.publish(f"sensors/{device}/reading", json.dumps(reading).encode())
            kept["waiting"].pop(0)
            keep(kept)
    finally:
        publisher.close()


def tls(settings, kept):
    """None without `ca`, the name of a file, which is for a bench."""
    if "ca" not in settings:
        return None
    import ssl

    set_clock(settings, kept)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.verify_mode = ssl.CERT_REQUIRED  # MicroPython's ssl checks nothing unless told to
    context.load_verify_locations(settings["ca"])
    return context


def set_clock(settings, kept):
    """For TLS alone: before its certificate's first day a broker is refused. Once after each power
    cut; in sleep the clock goes on."""
    if time.gmtime()[0] >= CLOCK_YEAR:
        return
    import ntptime

    ntptime.host = settings.get("ntp", ntptime.host)
    before = time.time()
    ntptime.settime()
    for reading in kept["waiting"]:  # so that their ages stay what they are
        reading["taken_s"] += time.time() - before
    keep(kept)


if __name__ == "__main__":
    main()
