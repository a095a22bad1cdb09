"""Byte layouts: what is written is read, keys sort as their meaning, versions are checked."""

import msgspec
import pytest

from streamsched.core import state
from streamsched.core.rate import Rate

HEADERS: list[tuple[str, bytes | None]] = [
    ("a", b""),
    ("a", None),
    ("", b"\xff"),
    ("ü" * 40_000, b"x" * 70_000),
]


@pytest.mark.parametrize("headers", [[], HEADERS])
@pytest.mark.parametrize("key", [None, b"", b"\x00\xff"])
@pytest.mark.parametrize("payload", [b"", b"\x00payload"])
def test_job_row(
    headers: list[tuple[str, bytes | None]], key: bytes | None, payload: bytes
) -> None:
    """A job comes back as it was, null told from empty, long header names included."""
    row = state.encode_job(1_800, 2**40, 1_900, 1_700, 77, 3, key, headers, payload)
    job = state.decode_job(row)
    assert msgspec.structs.replace(job, headers=list(job.headers)) == state.JobRow(
        1_800, 2**40, 1_900, 1_700, 77, 3, key, headers, payload
    )
    assert state.job_times(row) == (1_800, 2**40, 1_900)


def test_keys_are_read_back() -> None:
    """Keys of all families give back what they were made of."""
    assert state.split_job_key(state.job_key(b"t", "ü".encode())) == (b"t", "ü".encode())
    key = state.due_key(1_800_000_000_999, b"t-1", 2**60)
    assert state.split_due_key(key) == (b"t-1", 1_800_000_000_999, 2**60)
    key = state.ready_key(b"t", 1_800_000_000_999, 2**60)
    assert state.split_ready_key(key) == (1_800_000_000_999, 2**60)
    assert state.split_due_value(state.due_value(b"id")) == (state.KIND_DUE, b"id")
    assert state.split_due_value(state.expiry_value(b"id")) == (state.KIND_EXPIRY, b"id")
    assert state.split_ready_value(state.ready_value(b"id")) == b"id"


def test_due_sorts_by_second_tenant_moment_sequence() -> None:
    """Bytes sort as second, tenant, millisecond, sequence; `after_group` stands between groups."""
    rows = [
        (0, b"z", 0),
        (1_000, b"a", 9),
        (1_001, b"a", 1),
        (1_001, b"a", 256),
        (1_500, b"a-", 0),
        (1_000, b"aa", 0),
        (1_000, b"b", 0),
        (2_000, b"a", 0),
    ]
    keys = [state.due_key(at_ms, tenant, sequence) for at_ms, tenant, sequence in rows]
    assert keys == sorted(keys)
    assert keys[3] < state.after_group(keys[1]) < keys[4]
    assert state.second_key(1) <= keys[1] < state.second_key(2) <= keys[7]


def test_ready_sorts_by_due_then_sequence() -> None:
    """Within a tenant by due time, then sequence."""
    keys = [state.ready_key(b"a", *line) for line in ((1, 9), (2, 1), (2, 256), (300, 0))]
    assert keys == sorted(keys)
    assert all(key < b"a" + state.AFTER_NUL <= state.ready_key(b"a-", 0, 0) for key in keys)


def test_meta_values() -> None:
    """Position, limiter, settings, cursor, counts, offset and time come back."""
    position = state.Position(2**40, 1_800_000_000_000, "topic-id")
    assert state.decode_position(state.encode_position(position)) == position
    for pace, at_ticks in (((Rate(40, 1_000), 10), -(2**90)), ((Rate(1, 1), 1), 2**90)):
        assert state.decode_limiter(state.encode_limiter(pace, at_ticks)) == (pace, at_ticks)
    assert state.decode_limiter(state.encode_limiter(None, 0)) == (None, 0)
    assert state.decode_own_settings(state.encode_own_settings(7, b"{}")) == (7, b"{}")
    assert state.decode_cursor(state.encode_cursor(2**33)) == 2**33
    assert state.decode_tenant(state.encode_tenant(5, 3, (9, 8))) == (5, 3, (9, 8))
    assert state.decode_changelog_offset(state.encode_changelog_offset(7, "x")) == (7, "x")
    assert state.decode_now(state.encode_now(1_800_000_000_000)) == 1_800_000_000_000


@pytest.mark.parametrize(
    "decode",
    [
        state.decode_job,
        state.job_times,
        state.split_due_value,
        state.split_ready_value,
        state.decode_position,
        state.decode_limiter,
        state.decode_own_settings,
        state.decode_cursor,
        state.decode_tenant,
        state.decode_changelog_offset,
        state.decode_now,
    ],
)
def test_unknown_version_is_refused_by_name(decode: object) -> None:
    """A value of a newer version is refused with both versions in the text."""
    assert callable(decode)
    with pytest.raises(state.UnknownVersion, match=r"version 2, .* knows 1"):
        decode(b"\x02" + b"\x00" * 80)
