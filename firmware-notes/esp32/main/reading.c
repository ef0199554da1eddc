#include "reading.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

/* RFC 8949, 3: the major type is in the three high bits of an item's first byte. */
enum { UNSIGNED = 0 << 5, NEGATIVE = 1 << 5, TEXT = 3 << 5, MAP = 5 << 5 };

struct writer {
    uint8_t *out;
    size_t size;
    size_t length; /* grows past size where there is no room, so that one check at the end will do */
};

static void put(struct writer *to, uint8_t byte)
{
    if (to->length < to->size) {
        to->out[to->length] = byte;
    }
    to->length++;
}

/* The shortest head that holds the value. */
static void put_head(struct writer *to, uint8_t major, uint64_t value)
{
    if (value < 24) {
        put(to, major | (uint8_t)value);
        return;
    }
    int power = value <= UINT8_MAX ? 0 : value <= UINT16_MAX ? 1 : value <= UINT32_MAX ? 2 : 3;
    put(to, major | (uint8_t)(24 + power));
    for (int shift = (1 << power) * 8 - 8; shift >= 0; shift -= 8) {
        put(to, (uint8_t)(value >> shift));
    }
}

static void put_integer(struct writer *to, int64_t value)
{
    if (value < 0) {
        put_head(to, NEGATIVE, (uint64_t)(-1 - value));
    } else {
        put_head(to, UNSIGNED, (uint64_t)value);
    }
}

static void put_text(struct writer *to, const char *text)
{
    size_t length = strlen(text);
    put_head(to, TEXT, length);
    for (size_t i = 0; i < length; i++) {
        put(to, (uint8_t)text[i]);
    }
}

static void put_measured(struct writer *to, const char *key, int32_t value)
{
    if (value != READING_ABSENT) {
        put_text(to, key);
        put_integer(to, value);
    }
}

bool reading_device_ok(const char *device)
{
    static const char allowed[] =
        "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_";
    size_t length = strlen(device);
    return length > 0 && length <= READING_DEVICE_MAX && strspn(device, allowed) == length;
}

size_t reading_id(const struct reading *reading, const char *device, char *out, size_t size)
{
    if (!reading_device_ok(device)) {
        return 0;
    }
    int length =
        snprintf(out, size, "%s-%" PRIu32 "-%" PRIu32, device, reading->boot, reading->seq);
    return length > 0 && (size_t)length < size ? (size_t)length : 0;
}

size_t reading_cbor(const struct reading *reading, const char *device, int64_t now_ms,
                    uint8_t *out, size_t size)
{
    char id[READING_ID_MAX];
    if (reading_id(reading, device, id, sizeof id) == 0) {
        return 0;
    }
    struct writer to = {.out = out, .size = size};
    put_head(&to, MAP,
             3 + (reading->battery_mV != READING_ABSENT) +
                 (reading->temperature_mC != READING_ABSENT) +
                 (reading->humidity_permille != READING_ABSENT));
    put_text(&to, "id");
    put_text(&to, id);
    put_text(&to, "seq");
    put_integer(&to, reading->seq);
    put_text(&to, "age_ms");
    put_integer(&to, now_ms > reading->taken_ms ? now_ms - reading->taken_ms : 0);
    put_measured(&to, "battery_mV", reading->battery_mV);
    put_measured(&to, "temperature_mC", reading->temperature_mC);
    put_measured(&to, "humidity_permille", reading->humidity_permille);
    return to.length <= to.size ? to.length : 0;
}
