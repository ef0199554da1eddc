"""MQTT: connections to brokers, and what goes through them."""
