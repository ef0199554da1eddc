#pragma once
/* board.c keeps this section over a sleep, as the chip does with that memory. */
#define RTC_DATA_ATTR __attribute__((section("rtc_data")))
