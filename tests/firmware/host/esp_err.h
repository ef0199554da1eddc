/* What firmware-notes/esp32 uses of ESP-IDF 6 and esp-mqtt 1.1, with the names, types and values of
   their headers. Fields that are not used are left out; board.c does what stands here. */
#pragma once
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

typedef int esp_err_t;
#define ESP_OK 0
#define ESP_FAIL -1
