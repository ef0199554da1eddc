/* What an SHT4x of Sensirion answers (data sheet, 4.1 to 4.6). Portable C11. */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#define SHT4X_ADDRESS 0x44
#define SHT4X_MEASURE 0xFD  /* with high precision; ready after 8.3 ms at most */
#define SHT4X_MEASURE_MS 10
#define SHT4X_ANSWER_BYTES 6

/* False where a checksum is wrong: a line that floats reads as something, too. */
bool sht4x_read(const uint8_t answer[SHT4X_ANSWER_BYTES], int32_t *temperature_mC,
                int32_t *humidity_permille);
