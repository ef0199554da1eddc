#pragma once
#include <stdint.h>
void esp_deep_sleep(uint64_t time_in_us) __attribute__((__noreturn__));
