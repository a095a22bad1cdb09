"""Kafka outside the scheduler's data path: client options, topics, the embedded broker."""
