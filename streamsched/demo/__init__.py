"""The demo: a Kafka, a scheduler, traffic of 20 tenants, and a checker that trusts neither."""
