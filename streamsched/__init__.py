"""streamsched: a Kafka-native scheduler for many tenants."""

__version__ = "0.1.0"
