/* A board on which main.c runs for one waking, told by the environment what it meets.

   BOARD       directory: `sensor.KEY` and `count.boot` are its flash, `rtc` what stays on in sleep
   BOARD_NOW_MS  what its clock says
   BOARD_SENSOR  the six bytes of the sensor's answer, in hex; without it there is no sensor
   BOARD_WIFI    1: there is a network; BOARD_BROKER 1: a broker in it
   BOARD_TAKES   how many messages that acknowledges before it falls silent
   BOARD_REASON  the reason it gives, in hex

   Says on stdout what it is told to do. Events are delivered while main.c waits, as if by another
   task; a wait that nothing ends takes its whole time on the board's own clock. */

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/time.h>

#include "driver/i2c_master.h"
#include "esp_event.h"
#include "esp_netif.h"
#include "esp_random.h"
#include "esp_sleep.h"
#include "esp_timer.h"
#include "esp_wifi.h"
#include "freertos/event_groups.h"
#include "freertos/task.h"
#include "mqtt_client.h"
#include "nvs.h"
#include "nvs_flash.h"

ESP_EVENT_DEFINE_BASE(WIFI_EVENT);
ESP_EVENT_DEFINE_BASE(IP_EVENT);
static ESP_EVENT_DEFINE_BASE(MQTT_EVENTS);

extern char __start_rtc_data[], __stop_rtc_data[]; /* the linker's, of the section's ends */
void app_main(void);
int board_gettimeofday(struct timeval *now, void *zone);

static int64_t clock_us = 300000; /* since the waking */

static const char *environment(const char *name, const char *otherwise)
{
    const char *value = getenv(name);
    return value != NULL ? value : otherwise;
}

static void fail(const char *why)
{
    fprintf(stderr, "board: %s\n", why);
    exit(3);
}

int board_gettimeofday(struct timeval *now, void *zone)
{
    (void)zone;
    int64_t now_ms = strtoll(environment("BOARD_NOW_MS", "0"), NULL, 10);
    now->tv_sec = now_ms / 1000;
    now->tv_usec = now_ms % 1000 * 1000;
    return 0;
}

int64_t esp_timer_get_time(void) { return clock_us; }

uint32_t esp_random(void) { return 0x80000001; }

void vTaskDelay(const TickType_t ticks) { clock_us += ticks * (1000000 / configTICK_RATE_HZ); }

/* ---- flash, and memory that stays on -------------------------------------------------------- */

static FILE *file(const char *name, const char *mode)
{
    char path[1024];
    snprintf(path, sizeof path, "%s/%s", environment("BOARD", "."), name);
    return fopen(path, mode);
}

static const char *const namespaces[] = {"sensor", "count"};
static bool unwritten;
static uint32_t written;

esp_err_t nvs_flash_init(void) { return ESP_OK; }

esp_err_t nvs_open(const char *name, nvs_open_mode_t mode, nvs_handle_t *handle)
{
    for (uint32_t i = 0; i < 2; i++) {
        if (strcmp(name, namespaces[i]) == 0) {
            if ((mode == NVS_READWRITE) != (i == 1)) {
                fail("settings are read, and the count is written");
            }
            *handle = i;
            return ESP_OK;
        }
    }
    return ESP_ERR_NVS_NOT_FOUND;
}

esp_err_t nvs_get_str(nvs_handle_t handle, const char *key, char *out, size_t *size)
{
    char name[64], text[4096] = "";
    snprintf(name, sizeof name, "%s.%s", namespaces[handle], key);
    FILE *from = file(name, "r");
    if (from == NULL) {
        return ESP_ERR_NVS_NOT_FOUND;
    }
    size_t length = fread(text, 1, sizeof text - 1, from) + 1; /* with the zero */
    fclose(from);
    if (length > *size) {
        return ESP_ERR_NVS_INVALID_LENGTH;
    }
    memcpy(out, text, length);
    *size = length;
    return ESP_OK;
}

esp_err_t nvs_get_u32(nvs_handle_t handle, const char *key, uint32_t *out)
{
    char text[32];
    size_t size = sizeof text;
    esp_err_t error = nvs_get_str(handle, key, text, &size);
    if (error == ESP_OK) {
        *out = (uint32_t)strtoul(text, NULL, 10);
    }
    return error;
}

esp_err_t nvs_set_u32(nvs_handle_t handle, const char *key, uint32_t value)
{
    (void)handle;
    if (strcmp(key, "boot") != 0) {
        fail("only the boots are counted");
    }
    unwritten = true;
    written = value;
    return ESP_OK;
}

esp_err_t nvs_commit(nvs_handle_t handle)
{
    (void)handle;
    FILE *to = file("count.boot", "w");
    if (to == NULL) {
        return ESP_FAIL;
    }
    fprintf(to, "%" PRIu32, written);
    fclose(to);
    unwritten = false;
    puts("commit");
    return ESP_OK;
}

void nvs_close(nvs_handle_t handle) { (void)handle; }

void esp_deep_sleep(uint64_t time_us)
{
    FILE *to = file("rtc", "w");
    if (to == NULL) {
        fail("no place for the memory");
    }
    fwrite(__start_rtc_data, 1, (size_t)(__stop_rtc_data - __start_rtc_data), to);
    fclose(to);
    printf("sleep %" PRIu64 " after %" PRId64 "\n", time_us, clock_us);
    exit(0);
}

/* ---- the sensor ------------------------------------------------------------------------------ */

static bool measuring;

esp_err_t i2c_new_master_bus(const i2c_master_bus_config_t *config, i2c_master_bus_handle_t *bus)
{
    *bus = NULL;
    return config->sda_io_num != config->scl_io_num ? ESP_OK : ESP_FAIL;
}

esp_err_t i2c_master_bus_add_device(i2c_master_bus_handle_t bus, const i2c_device_config_t *config,
                                    i2c_master_dev_handle_t *device)
{
    (void)bus;
    *device = NULL;
    return config->device_address == 0x44 ? ESP_OK : ESP_FAIL;
}

esp_err_t i2c_master_transmit(i2c_master_dev_handle_t device, const uint8_t *bytes, size_t size,
                              int timeout_ms)
{
    (void)device;
    (void)timeout_ms;
    measuring = size == 1 && bytes[0] == 0xFD && getenv("BOARD_SENSOR") != NULL;
    return measuring ? ESP_OK : ESP_FAIL;
}

esp_err_t i2c_master_receive(i2c_master_dev_handle_t device, uint8_t *bytes, size_t size,
                             int timeout_ms)
{
    (void)device;
    (void)timeout_ms;
    const char *hex = environment("BOARD_SENSOR", "");
    if (!measuring || strlen(hex) != 2 * size || clock_us < 300000 + 8300) {
        return ESP_FAIL;
    }
    for (size_t i = 0; i < size; i++) {
        sscanf(hex + 2 * i, "%2hhx", &bytes[i]);
    }
    return ESP_OK;
}

/* ---- events ---------------------------------------------------------------------------------- */

struct EventGroupDef_t {
    EventBits_t bits;
};
struct event {
    esp_event_base_t base;
    int32_t id;
    esp_mqtt_event_t mqtt;
};
static struct EventGroupDef_t group;
static struct event queue[64];
static size_t queued, delivered;
static struct {
    esp_event_base_t base;
    int32_t id;
    esp_event_handler_t handler;
} handlers[8];
static size_t handled;

static void happens(esp_event_base_t base, int32_t id, esp_mqtt5_reason_code_t reason)
{
    if (queued - delivered == 64) {
        fail("too many events");
    }
    queue[queued++ % 64] = (struct event){base, id, {.event_id = id, .reason_code = reason}};
}

static void deliver(struct event event)
{
    for (size_t i = 0; i < handled; i++) {
        if (handlers[i].base == event.base && (handlers[i].id < 0 || handlers[i].id == event.id)) {
            handlers[i].handler(NULL, event.base, event.id, &event.mqtt);
        }
    }
}

static esp_err_t handle(esp_event_base_t base, int32_t id, esp_event_handler_t handler)
{
    handlers[handled].base = base;
    handlers[handled].id = id;
    handlers[handled++].handler = handler;
    return ESP_OK;
}

esp_err_t esp_event_loop_create_default(void) { return ESP_OK; }

esp_err_t esp_event_handler_register(esp_event_base_t base, int32_t id, esp_event_handler_t handler,
                                     void *argument)
{
    (void)argument;
    return handle(base, id, handler);
}

EventGroupHandle_t xEventGroupCreate(void) { return &group; }

EventBits_t xEventGroupSetBits(EventGroupHandle_t to, const EventBits_t bits)
{
    return to->bits |= bits;
}

EventBits_t xEventGroupClearBits(EventGroupHandle_t to, const EventBits_t bits)
{
    EventBits_t before = to->bits;
    to->bits &= ~bits;
    return before;
}

EventBits_t xEventGroupWaitBits(EventGroupHandle_t on, const EventBits_t bits,
                                const BaseType_t clear, const BaseType_t all, TickType_t ticks)
{
    if (clear || all) {
        fail("waits for one bit, and leaves it set");
    }
    int64_t until_us = clock_us + ticks * (1000000LL / configTICK_RATE_HZ);
    while ((on->bits & bits) == 0) {
        if (delivered == queued || clock_us >= until_us) {
            clock_us = until_us;
            break;
        }
        clock_us += 10000;
        deliver(queue[delivered++ % 64]);
    }
    return on->bits;
}

/* ---- the network ----------------------------------------------------------------------------- */

static bool there(const char *name) { return strcmp(environment(name, "0"), "1") == 0; }

esp_err_t esp_netif_init(void) { return ESP_OK; }

esp_netif_t *esp_netif_create_default_wifi_sta(void) { return (esp_netif_t *)&group; }

esp_err_t esp_wifi_init(const wifi_init_config_t *config)
{
    return config->magic == 0x1F2F3F4F ? ESP_OK : ESP_FAIL;
}

esp_err_t esp_wifi_set_mode(wifi_mode_t mode) { return mode == WIFI_MODE_STA ? ESP_OK : ESP_FAIL; }

esp_err_t esp_wifi_set_storage(wifi_storage_t storage)
{
    return storage == WIFI_STORAGE_RAM ? ESP_OK : ESP_FAIL;
}

esp_err_t esp_wifi_set_config(wifi_interface_t interface, wifi_config_t *config)
{
    printf("wifi %.32s %.64s\n", config->sta.ssid, config->sta.password);
    return interface == WIFI_IF_STA ? ESP_OK : ESP_FAIL;
}

esp_err_t esp_wifi_start(void)
{
    happens(WIFI_EVENT, WIFI_EVENT_STA_START, MQTT5_SUCCESS);
    return ESP_OK;
}

esp_err_t esp_wifi_connect(void)
{
    clock_us += 1000000;
    if (there("BOARD_WIFI")) {
        happens(IP_EVENT, IP_EVENT_STA_GOT_IP, MQTT5_SUCCESS);
    } else {
        happens(WIFI_EVENT, WIFI_EVENT_STA_DISCONNECTED, MQTT5_SUCCESS);
    }
    return ESP_OK;
}

/* ---- MQTT ------------------------------------------------------------------------------------ */

struct mqtt5_user_property_list_t {
    char id[64];
};
static char id[64], content_type[64];
static int published;

esp_mqtt_client_handle_t esp_mqtt_client_init(const esp_mqtt_client_config_t *config)
{
    const char *ca = config->broker.verification.certificate;
    if (config->session.protocol_ver != MQTT_PROTOCOL_V_5 ||
        !config->network.disable_auto_reconnect || config->network.timeout_ms <= 0) {
        fail("not the client that was meant");
    }
    printf("client %s %s %s %s %s\n", config->broker.address.uri, config->credentials.username,
           config->credentials.client_id, config->credentials.authentication.password,
           ca != NULL ? ca : "-");
    return (esp_mqtt_client_handle_t)&group;
}

esp_err_t esp_mqtt_client_register_event(esp_mqtt_client_handle_t client, esp_mqtt_event_id_t which,
                                         esp_event_handler_t handler, void *argument)
{
    (void)client;
    (void)argument;
    return handle(MQTT_EVENTS, which, handler);
}

esp_err_t esp_mqtt_client_start(esp_mqtt_client_handle_t client)
{
    (void)client;
    if (there("BOARD_BROKER")) {
        happens(MQTT_EVENTS, MQTT_EVENT_CONNECTED, MQTT5_SUCCESS);
    } else {
        happens(MQTT_EVENTS, MQTT_EVENT_ERROR, MQTT5_SUCCESS);
        happens(MQTT_EVENTS, MQTT_EVENT_DISCONNECTED, MQTT5_SUCCESS);
    }
    return ESP_OK;
}

esp_err_t esp_mqtt_client_stop(esp_mqtt_client_handle_t client)
{
    (void)client;
    puts("goodbye");
    return ESP_OK;
}

esp_err_t esp_mqtt5_client_set_user_property(mqtt5_user_property_handle_t *property,
                                             esp_mqtt5_user_property_item_t item[], uint8_t count)
{
    if (*property != NULL || count != 1 || strcmp(item[0].key, "id") != 0) {
        fail("one property, the id");
    }
    *property = calloc(1, sizeof **property);
    snprintf((*property)->id, sizeof(*property)->id, "%s", item[0].value);
    return ESP_OK;
}

void esp_mqtt5_client_delete_user_property(mqtt5_user_property_handle_t property)
{
    free(property);
}

esp_err_t esp_mqtt5_client_set_publish_property(
    esp_mqtt5_client_handle_t client, const esp_mqtt5_publish_property_config_t *property)
{
    (void)client;
    memcpy(id, property->user_property->id, sizeof id);
    snprintf(content_type, sizeof content_type, "%s", property->content_type);
    return ESP_OK;
}

int esp_mqtt_client_publish(esp_mqtt_client_handle_t client, const char *topic, const char *data,
                            int length, int qos, int retain)
{
    (void)client;
    if (unwritten) {
        fail("published before the boot was counted");
    }
    printf("publish %s %d %d %s %s ", topic, qos, retain, id, content_type);
    for (int i = 0; i < length; i++) {
        printf("%02x", (unsigned char)data[i]);
    }
    puts("");
    if (published++ < atoi(environment("BOARD_TAKES", "0"))) {
        unsigned long reason = strtoul(environment("BOARD_REASON", "0"), NULL, 16);
        happens(MQTT_EVENTS, MQTT_EVENT_PUBLISHED, (esp_mqtt5_reason_code_t)reason);
    }
    return published;
}

/* ---- a waking -------------------------------------------------------------------------------- */

int main(void)
{
    FILE *from = file("rtc", "r");
    if (from != NULL) {
        size_t size = (size_t)(__stop_rtc_data - __start_rtc_data);
        if (fread(__start_rtc_data, 1, size, from) != size) {
            fail("memory of another program");
        }
        fclose(from);
    }
    app_main();
    fail("it did not sleep");
}
