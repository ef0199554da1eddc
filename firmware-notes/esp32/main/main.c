/* A sensor on a battery: wake, measure, now and then publish what has gathered, sleep.

   A reading leaves the memory only once the broker has acknowledged it. It is published again under
   the same id until then, and Shoal makes one job of it however often it comes. */

#include <stdio.h>
#include <string.h>
#include <sys/time.h>

#include "driver/i2c_master.h"
#include "esp_attr.h"
#include "esp_event.h"
#include "esp_log.h"
#include "esp_netif.h"
#include "esp_random.h"
#include "esp_sleep.h"
#include "esp_timer.h"
#include "esp_wifi.h"
#include "freertos/FreeRTOS.h"
#include "freertos/event_groups.h"
#include "freertos/task.h"
#include "mqtt_client.h"
#include "nvs.h"
#include "nvs_flash.h"

#include "reading.h"
#include "sht4x.h"

#define PERIOD_S 600    /* between two readings */
#define SEND_EVERY 1    /* readings; more of them spare the battery, and come later */
#define WAITING_MAX 48  /* readings, 1.5 KiB of the 8 KiB that stay on in deep sleep */
#define AWAKE_MS_MAX 20000 /* then it sleeps, whatever the network does */
#define I2C_MS_MAX 100
#define SDA GPIO_NUM_21
#define SCL GPIO_NUM_22

enum { ONLINE = 1 << 0, CONNECTED = 1 << 1, TAKEN = 1 << 2, FAILED = 1 << 3 };

static const char TAG[] = "sensor";

struct settings {
    char device[READING_DEVICE_MAX + 1]; /* its name, and its user at the broker */
    char ssid[33];
    char wifi_password[65];
    char uri[128]; /* mqtts://HOST:8883 */
    char password[65];
    char ca[2048]; /* PEM */
};

/* Lost with the power, and with each reset that is no waking: then a new boot number is taken. */
static RTC_DATA_ATTR struct {
    uint32_t boot; /* 0: started cold */
    uint32_t seq;
    uint32_t failures; /* in a row */
    uint32_t pause;    /* readings until it is tried to send */
    uint32_t first, count;
    struct reading waiting[WAITING_MAX];
} kept;

static struct settings settings;
static EventGroupHandle_t happened;

/* Nobody sets this clock: it begins with the power and goes on in deep sleep. */
static int64_t now_ms(void)
{
    struct timeval now;
    gettimeofday(&now, NULL);
    return (int64_t)now.tv_sec * 1000 + now.tv_usec / 1000;
}

/* ---- what is kept on flash ------------------------------------------------------------------- */

static bool read_text(nvs_handle_t nvs, const char *key, char *out, size_t size)
{
    esp_err_t error = nvs_get_str(nvs, key, out, &size);
    if (error != ESP_OK) {
        ESP_LOGE(TAG, "no %s in the settings (0x%x)", key, error);
    }
    return error == ESP_OK;
}

static bool read_settings(void)
{
    nvs_handle_t nvs;
    if (nvs_open("sensor", NVS_READONLY, &nvs) != ESP_OK) {
        ESP_LOGE(TAG, "no settings: flash the partition with this device's");
        return false;
    }
    bool complete = read_text(nvs, "device", settings.device, sizeof settings.device) &&
                    read_text(nvs, "ssid", settings.ssid, sizeof settings.ssid) &&
                    read_text(nvs, "wifi_password", settings.wifi_password,
                              sizeof settings.wifi_password) &&
                    read_text(nvs, "uri", settings.uri, sizeof settings.uri) &&
                    read_text(nvs, "password", settings.password, sizeof settings.password) &&
                    read_text(nvs, "ca", settings.ca, sizeof settings.ca);
    nvs_close(nvs);
    if (complete && !reading_device_ok(settings.device)) {
        ESP_LOGE(TAG, "device: allowed: %d letters, digits, - and _", READING_DEVICE_MAX);
        return false;
    }
    return complete;
}

/* One write to flash for each start with new power, none for a waking. */
static bool count_boot(void)
{
    nvs_handle_t nvs;
    if (nvs_open("count", NVS_READWRITE, &nvs) != ESP_OK) {
        return false;
    }
    uint32_t boot = 0;
    esp_err_t error = nvs_get_u32(nvs, "boot", &boot);
    if (error == ESP_ERR_NVS_NOT_FOUND) {
        /* New, or erased: from 1 its first ids would be those of an earlier life. */
        boot = esp_random() >> 1;
        error = ESP_OK;
    }
    boot++;
    if (error == ESP_OK) {
        error = nvs_set_u32(nvs, "boot", boot);
    }
    if (error == ESP_OK) {
        error = nvs_commit(nvs);
    }
    nvs_close(nvs);
    if (error == ESP_OK) {
        kept.boot = boot;
    }
    return error == ESP_OK;
}

/* ---- readings -------------------------------------------------------------------------------- */

static bool measure_climate(struct reading *reading)
{
    i2c_master_bus_handle_t bus;
    i2c_master_dev_handle_t sensor;
    i2c_master_bus_config_t bus_config = {
        .i2c_port = -1,
        .sda_io_num = SDA,
        .scl_io_num = SCL,
        .clk_source = I2C_CLK_SRC_DEFAULT,
        .glitch_ignore_cnt = 7,
        .flags.enable_internal_pullup = true,
    };
    i2c_device_config_t sensor_config = {
        .dev_addr_length = I2C_ADDR_BIT_LEN_7,
        .device_address = SHT4X_ADDRESS,
        .scl_speed_hz = 100000,
    };
    const uint8_t command = SHT4X_MEASURE;
    uint8_t answer[SHT4X_ANSWER_BYTES];
    if (i2c_new_master_bus(&bus_config, &bus) != ESP_OK ||
        i2c_master_bus_add_device(bus, &sensor_config, &sensor) != ESP_OK ||
        i2c_master_transmit(sensor, &command, 1, I2C_MS_MAX) != ESP_OK) {
        return false;
    }
    vTaskDelay(pdMS_TO_TICKS(SHT4X_MEASURE_MS) + 1);
    return i2c_master_receive(sensor, answer, sizeof answer, I2C_MS_MAX) == ESP_OK &&
           sht4x_read(answer, &reading->temperature_mC, &reading->humidity_permille);
}

/* Also where nothing could be measured: a reading without values says that the sensor is broken. */
static void take_reading(void)
{
    struct reading reading = {
        .boot = kept.boot,
        .seq = ++kept.seq,
        .taken_ms = now_ms(),
        .temperature_mC = READING_ABSENT,
        .humidity_permille = READING_ABSENT,
        .battery_mV = READING_ABSENT, /* boards have no divider for it, or each its own */
    };
    if (!measure_climate(&reading)) {
        ESP_LOGE(TAG, "the sensor does not answer");
    }
    if (kept.count == WAITING_MAX) { /* the oldest goes; that one is missing shows in `seq` */
        kept.first = (kept.first + 1) % WAITING_MAX;
        kept.count--;
    }
    kept.waiting[(kept.first + kept.count) % WAITING_MAX] = reading;
    kept.count++;
}

/* ---- the network ----------------------------------------------------------------------------- */

static bool wait_for(EventBits_t bit)
{
    int64_t left_ms = AWAKE_MS_MAX - esp_timer_get_time() / 1000;
    if (left_ms <= 0) {
        return false;
    }
    EventBits_t bits = xEventGroupWaitBits(happened, bit | FAILED, pdFALSE, pdFALSE,
                                           pdMS_TO_TICKS((uint32_t)left_ms));
    return (bits & bit) != 0 && (bits & FAILED) == 0;
}

static void on_network(void *unused, esp_event_base_t base, int32_t id, void *data)
{
    (void)unused;
    (void)data;
    if (base == WIFI_EVENT && (id == WIFI_EVENT_STA_START || id == WIFI_EVENT_STA_DISCONNECTED)) {
        esp_wifi_connect(); /* again and again until wait_for gives up: the first try often fails */
    } else if (base == IP_EVENT && id == IP_EVENT_STA_GOT_IP) {
        xEventGroupSetBits(happened, ONLINE);
    }
}

static void on_mqtt(void *unused, esp_event_base_t base, int32_t id, void *data)
{
    (void)unused;
    (void)base;
    const esp_mqtt_event_t *event = data;
    switch ((esp_mqtt_event_id_t)id) {
    case MQTT_EVENT_CONNECTED:
        xEventGroupSetBits(happened, CONNECTED);
        break;
    case MQTT_EVENT_PUBLISHED: /* from 0x80 on a reason is a refusal (MQTT 5, 2.4) */
        xEventGroupSetBits(happened, event->reason_code < 0x80 ? TAKEN : FAILED);
        break;
    case MQTT_EVENT_ERROR:
    case MQTT_EVENT_DISCONNECTED:
        xEventGroupSetBits(happened, FAILED);
        break;
    default:
        break;
    }
}

static bool go_online(void)
{
    wifi_init_config_t init = WIFI_INIT_CONFIG_DEFAULT();
    wifi_config_t config = {0};
    memcpy(config.sta.ssid, settings.ssid, strnlen(settings.ssid, sizeof config.sta.ssid));
    memcpy(config.sta.password, settings.wifi_password,
           strnlen(settings.wifi_password, sizeof config.sta.password));
    if (esp_netif_init() != ESP_OK || esp_event_loop_create_default() != ESP_OK ||
        esp_netif_create_default_wifi_sta() == NULL || esp_wifi_init(&init) != ESP_OK) {
        return false;
    }
    return esp_event_handler_register(WIFI_EVENT, ESP_EVENT_ANY_ID, on_network, NULL) == ESP_OK &&
           esp_event_handler_register(IP_EVENT, IP_EVENT_STA_GOT_IP, on_network, NULL) == ESP_OK &&
           esp_wifi_set_storage(WIFI_STORAGE_RAM) == ESP_OK &&
           esp_wifi_set_mode(WIFI_MODE_STA) == ESP_OK &&
           esp_wifi_set_config(WIFI_IF_STA, &config) == ESP_OK && esp_wifi_start() == ESP_OK &&
           wait_for(ONLINE);
}

static bool publish(esp_mqtt_client_handle_t client, const struct reading *reading)
{
    char topic[sizeof "sensors//reading" + READING_DEVICE_MAX];
    char id[READING_ID_MAX];
    uint8_t payload[READING_BYTES_MAX];
    snprintf(topic, sizeof topic, "sensors/%s/reading", settings.device);
    size_t length =
        reading_cbor(reading, settings.device, now_ms(), payload, sizeof payload);
    if (length == 0 || reading_id(reading, settings.device, id, sizeof id) == 0) {
        return false;
    }
    esp_mqtt5_user_property_item_t item = {"id", id};
    esp_mqtt5_publish_property_config_t property = {.content_type = "application/cbor"};
    if (esp_mqtt5_client_set_user_property(&property.user_property, &item, 1) != ESP_OK) {
        return false;
    }
    xEventGroupClearBits(happened, TAKEN);
    bool sent = esp_mqtt5_client_set_publish_property(client, &property) == ESP_OK &&
                esp_mqtt_client_publish(client, topic, (const char *)payload, (int)length,
                                        /* qos */ 1, /* retain */ 0) >= 0;
    esp_mqtt5_client_delete_user_property(property.user_property);
    return sent && wait_for(TAKEN);
}

/* One after the other, and each gone from memory as soon as the broker has it. */
static bool publish_waiting(void)
{
    esp_mqtt_client_config_t config = {
        .broker.address.uri = settings.uri,
        .credentials.username = settings.device,
        .credentials.client_id = settings.device,
        .credentials.authentication.password = settings.password,
        .session.protocol_ver = MQTT_PROTOCOL_V_5,
        .network.timeout_ms = 5000,
        .network.disable_auto_reconnect = true, /* the next waking is soon enough */
    };
    if (strncmp(settings.uri, "mqtts://", 8) == 0) {
        config.broker.verification.certificate = settings.ca;
    }
    esp_mqtt_client_handle_t client = esp_mqtt_client_init(&config);
    if (client == NULL) {
        return false;
    }
    bool going =
        esp_mqtt_client_register_event(client, MQTT_EVENT_ANY, on_mqtt, NULL) == ESP_OK &&
        esp_mqtt_client_start(client) == ESP_OK && wait_for(CONNECTED);
    while (going && kept.count > 0) {
        going = publish(client, &kept.waiting[kept.first]);
        if (going) {
            kept.first = (kept.first + 1) % WAITING_MAX;
            kept.count--;
        }
    }
    esp_mqtt_client_stop(client); /* with a goodbye, so that no session lingers */
    return going;
}

static void send_waiting(void)
{
    happened = xEventGroupCreate();
    bool sent = happened != NULL && go_online() && publish_waiting();
    kept.failures = sent ? 0 : kept.failures + 1;
    /* Ever more seldom where nobody is there: a search for a network costs more than a message. */
    uint32_t doubled = kept.failures < 5 ? kept.failures : 5;
    kept.pause = (uint32_t)SEND_EVERY << doubled;
    if (kept.pause > WAITING_MAX) {
        kept.pause = WAITING_MAX;
    }
    if (!sent) {
        ESP_LOGE(TAG, "not sent; next try in %d readings", (int)kept.pause);
    }
}

void app_main(void)
{
    /* Not erased where it cannot be read, as examples do: the settings are in it. */
    if (nvs_flash_init() == ESP_OK && read_settings() && (kept.boot != 0 || count_boot())) {
        take_reading();
        if (kept.pause > 0) {
            kept.pause--;
        }
        if (kept.pause == 0) {
            send_waiting();
        }
    }
    /* After a power cut all sensors start together: let them drift apart. */
    esp_deep_sleep(PERIOD_S * 1000000ULL + esp_random() % 10000000);
}
