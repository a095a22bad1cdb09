"""On a real Kafka, with kills and stops."""
