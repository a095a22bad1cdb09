"""Every bound of the scheduler as a named constant, with its unit in the name."""

from typing import Final

# --- what a job may be ---------------------------------------------------------------------

JOB_BYTES_MAX: Final = 900 * 1024
"""Key, value and headers of a job together, uncompressed."""

HEADER_BYTES: Final = 8
"""What a header counts beside its name and value: the two lengths that are kept with them."""

ADDED_HEADERS_BYTES_MAX: Final = 64 * 1024
"""Room that our topics and producers leave, above a job, for the headers we add."""

MOVED_MARKS_BYTES_MAX: Final = 1024
"""What the headers add at most that a misplaced job gets when it is moved."""

KAFKA_MESSAGE_BYTES_DEFAULT: Final = 1_048_588
"""What Kafka's own topics take. It counts batches: a producer that is used to it builds batches
of up to a million bytes, which a smaller limit would refuse with every job in them."""

MESSAGE_BYTES_MAX: Final = max(JOB_BYTES_MAX + ADDED_HEADERS_BYTES_MAX, KAFKA_MESSAGE_BYTES_DEFAULT)
"""`max.message.bytes` of our topics and `message.max.bytes` of our producers."""

TENANT_LENGTH_MAX: Final = 100
JOB_ID_BYTES_MAX: Final = 255
ENVELOPE_DEPTH_MAX: Final = 512

EPOCH_MS_MIN: Final = 100_000_000_000
"""Smaller integers are seconds taken for milliseconds (10^11 ms is March 1973)."""

DUE_AHEAD_MS_MAX: Final = 3_653 * 86_400_000
"""Ten years. Times further ahead are microseconds taken for milliseconds."""

RATE_COUNT_MAX: Final = 1_000_000_000
RATE_PERIOD_MS_MAX: Final = 366 * 86_400_000
BURST_MAX: Final = 1_000_000
EGRESS_PARTITIONS_MAX: Final = 1_000

# --- the limiter ---------------------------------------------------------------------------

CATCH_UP_MS: Final = 250
"""How far a tenant's theoretical time may lag now while its jobs wait."""

# --- one cycle -----------------------------------------------------------------------------

INGRESS_RECORDS_PER_CYCLE_MAX: Final = 4_000
DUE_ROWS_PER_CYCLE_MAX: Final = 4_000
DUE_ROWS_AT_FIRST_MAX: Final = 250
"""Due rows of one tenant in one second that are taken before all others were looked at."""

DUE_ROWS_FOR_BEHIND_MIN: Final = 2_000
"""Due rows that a cycle reserves for tenants with more of them than are taken at first."""

DUE_ROWS_PER_TENANT_MAX: Final = 2_000
"""Due rows of one tenant that is behind that one cycle takes before it moves on."""

DUE_GROUPS_BEHIND_MAX: Final = 10_000
"""Pairs of tenant and second with unread due rows that are kept in memory."""

JOBS_PER_CYCLE_MAX: Final = 4_000
JOBS_PER_TENANT_PER_CYCLE_MAX: Final = 2_000
JOBS_PER_READ_MAX: Final = 200
"""Jobs whose payloads are read at once, before the bound on bytes is looked at again."""

RECORD_OVERHEAD_BYTES_MAX: Final = 512
"""What our headers and Kafka's framing add to a dispatched job, its id aside."""

EGRESS_PARTITIONS_PER_CYCLE_MAX: Final = 48
PASSED_OVER_MAX: Final = 256
"""Tenants whose turn one cycle puts off because its egress partitions are used up."""

SUSPECTS_IN_A_ROW_MAX: Final = 5
"""Jobs that are refused alone, one after the other, before it is taken for their topic's fault."""

REFUSED_REST_MS: Final = 15_000
"""How long a topic that refuses records, or a job that is refused alone, is left alone."""

CONDEMNED_REST_MS: Final = 5_000
"""How long a tenant waits of whom a job is undeliverable: finding it out cost the others aborts."""

PROOFS_NEEDED: Final = 2
"""How often a job must be refused right before another one of its topic is committed."""

PROOF_MS_MAX: Final = 5_000
"""How long after a job was refused another one's commit still says that the topic was good."""

STALE_TURNS_MAX: Final = 1_000
"""Entries that the queue of turns may have beside two for each tenant before it is cleaned."""

CYCLE_BYTES_MAX: Final = 16 * 1024 * 1024
"""Payload that one transaction carries before the cycle is closed early."""

INGEST_CATCH_UP_MS_MAX: Final = 5_000
"""After a takeover, how long dispatch waits for ingest to reach the end it had then."""

CLOCK_STEP_BACK_MS_MAX: Final = 1_000
"""A wall clock further behind the last cycle than this turns readiness off."""

IDLE_WAKE_MS_MAX: Final = 1_000
"""The longest a partition sleeps when it knows of nothing to do."""

# --- the cluster ---------------------------------------------------------------------------

EGRESS_TOPICS_MAX: Final = 2_000
"""Egress topics created on first need; beyond it a new tenant is unconfigured."""

if not DUE_ROWS_AT_FIRST_MAX <= DUE_ROWS_PER_TENANT_MAX <= DUE_ROWS_PER_CYCLE_MAX:
    raise AssertionError("a tenant's share of due rows cannot exceed the cycle's")
if not 0 < DUE_ROWS_FOR_BEHIND_MIN < DUE_ROWS_PER_CYCLE_MAX:
    raise AssertionError("the reserve for those behind must leave due rows to the others")
if JOBS_PER_TENANT_PER_CYCLE_MAX > JOBS_PER_CYCLE_MAX:
    raise AssertionError("a tenant's share of jobs cannot exceed the cycle's")
