/* A reading: what was measured once, its id, and its bytes as CBOR (RFC 8949). Portable C11. */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define READING_ABSENT INT32_MIN /* was not measured: left out, for 0 would be a value */
#define READING_DEVICE_MAX 24    /* characters of a device's name */
#define READING_ID_MAX (READING_DEVICE_MAX + 23) /* "-4294967295-4294967295" and the zero */
#define READING_BYTES_MAX 160                    /* of one reading as CBOR */

struct reading {
    uint32_t boot; /* how often the device has started cold; with seq it never comes twice */
    uint32_t seq;
    int64_t taken_ms; /* by the clock that now_ms is read from */
    int32_t temperature_mC;
    int32_t humidity_permille;
    int32_t battery_mV;
};

/* Letters, digits, - and _: it stands in topics, where / + and # mean something. */
bool reading_device_ok(const char *device);

/* "<device>-<boot>-<seq>" and a zero; its length, or 0 where that does not fit. */
size_t reading_id(const struct reading *reading, const char *device, char *out, size_t size);

/* A map with the keys in the order of RFC 8949, 4.2.1; its length, or 0 where it does not fit.
   `now_ms` gives the age, the only thing in which two copies of one reading may differ. */
size_t reading_cbor(const struct reading *reading, const char *device, int64_t now_ms,
                    uint8_t *out, size_t size);
