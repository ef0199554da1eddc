#pragma once
#include "esp_event.h"

ESP_EVENT_DECLARE_BASE(IP_EVENT);
typedef enum { IP_EVENT_STA_GOT_IP } ip_event_t;
typedef struct esp_netif_obj esp_netif_t;
esp_err_t esp_netif_init(void);
