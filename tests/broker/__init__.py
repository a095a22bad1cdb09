"""On a real Kafka."""
