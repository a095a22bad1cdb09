"""Inputs for the property tests: records of every kind, settings, rates, and small limits."""

import json
from typing import Any

import pytest
from hypothesis import strategies as st

from streamsched.core import dispatch, headers, sending, sweep
from streamsched.core.rate import Rate
from streamsched.testing import Record
from streamsched.testing.driver import START_MS

SMALL_LIMITS: dict[Any, dict[str, int]] = {
    sweep: {
        "DUE_ROWS_PER_CYCLE_MAX": 6,
        "DUE_ROWS_FOR_BEHIND_MIN": 2,
        "DUE_ROWS_PER_TENANT_MAX": 3,
        "DUE_ROWS_AT_FIRST_MAX": 2,
        "DUE_GROUPS_BEHIND_MAX": 4,
        "_EXPIRED_READ_ROWS": 1,
        "CYCLE_BYTES_MAX": 200,
    },
    dispatch: {
        "JOBS_PER_CYCLE_MAX": 5,
        "JOBS_PER_TENANT_PER_CYCLE_MAX": 3,
        "EGRESS_PARTITIONS_PER_CYCLE_MAX": 2,
        "PASSED_OVER_MAX": 2,
        "CYCLE_BYTES_MAX": 300,
    },
    sending: {
        "JOBS_PER_READ_MAX": 2,
        "EGRESS_PARTITIONS_PER_CYCLE_MAX": 2,
        "CYCLE_BYTES_MAX": 300,
    },
}
"""Bounds of a cycle so small that a handful of jobs hits each of them, by importing module."""


def use_small_limits(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make every bound of a cycle small until the monkeypatch is undone."""
    for module, values in SMALL_LIMITS.items():
        for name, value in values.items():
            monkeypatch.setattr(module, name, value)


tenants = st.sampled_from(["a", "b", "a-", "A_1", "t" * 100])
job_ids = st.sampled_from(["1", "2", "3", "ü" * 127, "a b", "*"])

rates = st.builds(
    Rate,
    st.one_of(st.integers(1, 50), st.integers(1, 3_000)),
    st.one_of(st.sampled_from([1_000, 333, 60_000, 1, 7]), st.integers(1, 10_000)),
)
"""From one job in ten seconds to three thousand in a millisecond."""

json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(exclude_categories=["Cs"])),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(st.text(st.characters(exclude_categories=["Cs"])), inner, max_size=4)
    ),
    max_leaves=12,
)
"""Any JSON value without lone surrogates."""

_NUMBERS = [0, -1, 1.5, 1_800_000_000, START_MS, START_MS + 5_000, START_MS * 1_000, 10**30]
_TIMES = [
    "2027-01-15T08:00:01Z",
    "2027-01-15T08:00:01.0001+00:00",
    "2027-01-15T08:00:01",
    "9999-12-31T23:59:60Z",
    "0001-01-01T00:00:00+23:59",
]
_odd = st.one_of(st.sampled_from([None, True, "", *_NUMBERS, *_TIMES]), json_values)

envelope_dicts = st.fixed_dictionaries(
    {},
    optional={
        "id": st.one_of(job_ids, st.text(max_size=4), _odd),
        "tenant": st.one_of(tenants, _odd),
        "due_at": _odd,
        "delay_ms": _odd,
        "payload": json_values,
        "key": st.one_of(st.text(max_size=3), _odd),
        "headers": st.one_of(st.dictionaries(st.text(max_size=3), st.text(max_size=3)), _odd),
        "expires_at": _odd,
        "op": st.one_of(st.sampled_from(["schedule", "cancel", ""]), _odd),
        "expire_at": _odd,
    },
)


def _dump(value: Any) -> bytes:
    return json.dumps(value).encode()


def _deep(depth: int) -> bytes:
    return b'{"id":"a","payload":' + b"[" * depth + b"]" * depth + b"}"


values = st.one_of(
    st.none(),
    st.binary(max_size=30),
    envelope_dicts.map(_dump),
    json_values.map(_dump),
    st.sampled_from([510, 512, 600, 5_000]).map(_deep),
    st.text(st.sampled_from('{}[]":,\\01e-d8u"NaN '), max_size=40).map(lambda text: text.encode()),
    st.integers(4_290, 4_310).map(lambda n: b'{"id":"a","delay_ms":' + b"9" * n + b',"payload":1}'),
)

_header_names = st.one_of(
    st.sampled_from([*sorted(headers.INGRESS), headers.MOVED, headers.SOURCE, "streamsched-x"]),
    st.text(st.characters(exclude_categories=["Cs"]), max_size=5),
)
_header_values = st.one_of(
    st.none(),
    st.binary(max_size=6),
    st.sampled_from([b"a", b"1", b"1-7", b"cancel", b"schedule", b"\xff", b"%d" % START_MS]),
)

records = st.builds(
    Record,
    key=st.one_of(st.none(), st.binary(max_size=3), tenants.map(str.encode)),
    value=values,
    headers=st.lists(st.tuples(_header_names, _header_values), max_size=5),
    timestamp=st.sampled_from([None, -1, 0, START_MS, START_MS - 1_000]),
)
"""Ingress records: some legal, most nearly so, some noise."""

_settings_fields = st.fixed_dictionaries(
    {},
    optional={
        "rate": st.one_of(st.sampled_from(["40/s", "unlimited", "0/s", "1/", "1/333ms"]), _odd),
        "burst": st.one_of(st.integers(-1, 20), _odd),
        "paused": st.one_of(st.booleans(), _odd),
        "egress_topic": st.one_of(st.sampled_from(["shared", "__x", "streamsched.jobs"]), _odd),
        "egress_partitions": st.one_of(st.integers(-1, 5), _odd),
        "events": st.one_of(st.sampled_from(["all", "outcomes"]), _odd),
        "brust": _odd,
    },
)
settings_values = st.one_of(st.none(), st.binary(max_size=20), _settings_fields.map(_dump))
"""Values of settings records, legal or not."""

settings_keys = st.one_of(
    st.none(), st.just(b"*"), tenants.map(str.encode), st.binary(max_size=101)
)
