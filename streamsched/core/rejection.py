"""Why ingest refuses a record. Each reason has a code that goes on the wire."""

from enum import StrEnum
from typing import NamedTuple


class Reason(StrEnum):
    """Reason codes of rejected records, as in the header `streamsched-error-code`."""

    NOT_UTF8 = "not_utf8"  #: the value of an envelope is no UTF-8
    NOT_JSON = "not_json"  #: the value is no JSON, or has a lone surrogate
    NOT_AN_OBJECT = "not_an_object"  #: the value is JSON, but no object
    TOO_DEEP = "too_deep"  #: nested deeper than 512 levels
    UNKNOWN_FIELD = "unknown_field"  #: a field that no envelope has
    WRONG_TYPE = "wrong_type"  #: a field or header has a value of the wrong type
    MISSING_ID = "missing_id"  #: no id, or a null value that names none
    ILLEGAL_ID = "illegal_id"  #: no text, empty, too long, or with control characters
    MISSING_TENANT = "missing_tenant"  #: neither named nor given as the record's key
    ILLEGAL_TENANT = "illegal_tenant"  #: not 1 to 100 of A-Z a-z 0-9 _ -
    FOREIGN_TENANT = "foreign_tenant"  #: another one than that of the ingress topic it came by
    MISSING_DUE = "missing_due"  #: neither a due time nor a delay
    TWO_DUES = "two_dues"  #: both a due time and a delay
    ILLEGAL_TIME = "illegal_time"  #: no RFC 3339 time with an offset, no epoch milliseconds
    TIME_IN_SECONDS = "time_in_seconds"  #: below 10^11: seconds taken for milliseconds
    TIME_TOO_FAR = "time_too_far"  #: over ten years ahead: microseconds taken for milliseconds
    ILLEGAL_DELAY = "illegal_delay"  #: no whole number of milliseconds from 0 on
    NO_TIMESTAMP = "no_timestamp"  #: a delay on a record without a timestamp
    MISSING_PAYLOAD = "missing_payload"  #: a schedule without a payload, or with a null value
    ILLEGAL_KEY = "illegal_key"  #: the egress key is no text
    ILLEGAL_HEADERS = (
        "illegal_headers"  #: `headers` is no object of strings, or has a name that cannot be
    )
    UNKNOWN_HEADER = "unknown_header"  #: a `streamsched-*` header that is not an ingress header
    DUPLICATE_HEADER = "duplicate_header"  #: one of our headers stands twice
    HEADER_NOT_UTF8 = "header_not_utf8"  #: one of our headers, or any header's name, is no UTF-8
    ILLEGAL_OP = "illegal_op"  #: neither `schedule` nor `cancel`
    TOO_LARGE = "too_large"  #: over `job_bytes_max`, uncompressed
    MOVED_IN_CIRCLE = "moved_in_circle"  #: moved for this partition count, yet not in its place


class Rejection(NamedTuple):
    """A refused record: the code for programs, the message for people."""

    reason: Reason
    message: str
