"""Names of the record headers that belong to streamsched. Spelt out nowhere else."""

from typing import Final

PREFIX: Final = "streamsched-"

# On ingress (header mode).
ID: Final = "streamsched-id"
TENANT: Final = "streamsched-tenant"
DUE_AT: Final = "streamsched-due-at"
DELAY_MS: Final = "streamsched-delay-ms"
EXPIRES_AT: Final = "streamsched-expires-at"
KEY: Final = "streamsched-key"
OP: Final = "streamsched-op"

INGRESS: Final = frozenset({ID, TENANT, DUE_AT, DELAY_MS, EXPIRES_AT, KEY, OP})

# Added by the scheduler when it moves a misplaced record to the partition of its tenant.
MOVED: Final = "streamsched-moved"
"""The number of ingress partitions by which the record was moved."""

# On egress and on dead letters (with ID, TENANT and DUE_AT).
DISPATCHED_AT: Final = "streamsched-dispatched-at"
OCCURRENCE: Final = "streamsched-occurrence"
SOURCE: Final = "streamsched-source"
"""`partition-offset` of the ingress record that scheduled the job; also on moved records."""

# On rejected records and dead letters.
ERROR_CODE: Final = "streamsched-error-code"
ERROR_MESSAGE: Final = "streamsched-error-message"
ERROR_TOPIC: Final = "streamsched-error-topic"
ERROR_PARTITION: Final = "streamsched-error-partition"
ERROR_OFFSET: Final = "streamsched-error-offset"
ERROR_TIMESTAMP: Final = "streamsched-error-timestamp"
ERROR_SIZE: Final = "streamsched-error-size"
ERROR_SHA256: Final = "streamsched-error-sha256"
