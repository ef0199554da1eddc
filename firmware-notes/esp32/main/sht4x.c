#include "sht4x.h"

static uint8_t checksum(const uint8_t *bytes) /* of two: CRC-8 with 0x31, from 0xFF */
{
    uint8_t crc = 0xFF;
    for (int i = 0; i < 2; i++) {
        crc ^= bytes[i];
        for (int bit = 0; bit < 8; bit++) {
            crc = (uint8_t)(crc & 0x80 ? crc << 1 ^ 0x31 : crc << 1);
        }
    }
    return crc;
}

bool sht4x_read(const uint8_t answer[SHT4X_ANSWER_BYTES], int32_t *temperature_mC,
                int32_t *humidity_permille)
{
    if (checksum(answer) != answer[2] || checksum(answer + 3) != answer[5]) {
        return false;
    }
    int32_t temperature = answer[0] << 8 | answer[1];
    int32_t humidity = answer[3] << 8 | answer[4];
    *temperature_mC = (int32_t)(175000LL * temperature / 65535) - 45000;
    humidity = 1250 * humidity / 65535 - 60;
    *humidity_permille = humidity < 0 ? 0 : humidity > 1000 ? 1000 : humidity;
    return true;
}
