#pragma once
#include "esp_event.h"

typedef struct esp_mqtt_client *esp_mqtt_client_handle_t;
typedef struct esp_mqtt_client *esp_mqtt5_client_handle_t;
typedef enum esp_mqtt_event_id_t {
    MQTT_EVENT_ANY = -1,
    MQTT_EVENT_ERROR = 0,
    MQTT_EVENT_CONNECTED,
    MQTT_EVENT_DISCONNECTED,
    MQTT_EVENT_SUBSCRIBED,
    MQTT_EVENT_UNSUBSCRIBED,
    MQTT_EVENT_PUBLISHED,
} esp_mqtt_event_id_t;
typedef enum esp_mqtt_protocol_ver_t {
    MQTT_PROTOCOL_UNDEFINED = 0,
    MQTT_PROTOCOL_V_3_1,
    MQTT_PROTOCOL_V_3_1_1,
    MQTT_PROTOCOL_V_5,
} esp_mqtt_protocol_ver_t;
typedef enum mqtt5_reason_code_t {
    MQTT5_SUCCESS = 0x00,
    MQTT5_NOT_AUTHORIZED = 0x87,
} esp_mqtt5_reason_code_t;
typedef struct esp_mqtt_event_t {
    esp_mqtt_event_id_t event_id;
    esp_mqtt_client_handle_t client;
    esp_mqtt5_reason_code_t reason_code;
} esp_mqtt_event_t;
typedef struct esp_mqtt_client_config_t {
    struct broker_t {
        struct address_t {
            const char *uri;
        } address;
        struct verification_t {
            const char *certificate;
        } verification;
    } broker;
    struct credentials_t {
        const char *username;
        const char *client_id;
        struct authentication_t {
            const char *password;
        } authentication;
    } credentials;
    struct session_t {
        esp_mqtt_protocol_ver_t protocol_ver;
    } session;
    struct network_t {
        int timeout_ms;
        bool disable_auto_reconnect;
    } network;
} esp_mqtt_client_config_t;
typedef struct mqtt5_user_property_list_t *mqtt5_user_property_handle_t;
typedef struct {
    const char *key;
    const char *value;
} esp_mqtt5_user_property_item_t;
typedef struct {
    const char *content_type;
    mqtt5_user_property_handle_t user_property;
} esp_mqtt5_publish_property_config_t;
esp_mqtt_client_handle_t esp_mqtt_client_init(const esp_mqtt_client_config_t *config);
esp_err_t esp_mqtt_client_start(esp_mqtt_client_handle_t client);
esp_err_t esp_mqtt_client_stop(esp_mqtt_client_handle_t client);
int esp_mqtt_client_publish(esp_mqtt_client_handle_t client, const char *topic, const char *data,
                            int len, int qos, int retain);
esp_err_t esp_mqtt_client_register_event(esp_mqtt_client_handle_t client, esp_mqtt_event_id_t event,
                                         esp_event_handler_t event_handler,
                                         void *event_handler_arg);
esp_err_t esp_mqtt5_client_set_publish_property(
    esp_mqtt5_client_handle_t client, const esp_mqtt5_publish_property_config_t *property);
esp_err_t esp_mqtt5_client_set_user_property(mqtt5_user_property_handle_t *user_property,
                                             esp_mqtt5_user_property_item_t item[],
                                             uint8_t item_num);
void esp_mqtt5_client_delete_user_property(mqtt5_user_property_handle_t user_property);
