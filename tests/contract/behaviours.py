"""Design section 2 as tests that know nothing but raw records and the `world` fixture.

A module that imports everything from here and defines `world` runs them all.
"""

import hashlib
import json
from typing import Any

from streamsched.core import headers as h
from streamsched.core.limits import HEADER_BYTES, JOB_BYTES_MAX
from streamsched.core.names import TopicNames
from streamsched.core.placement import partition_for
from tests.contract.world import Headers, Produced, Received, World


def job(
    world: World,
    tenant: str,
    job_id: str,
    due_at_ms: int,
    *more: tuple[str, bytes | None],
    value: bytes | None = b"payload",
    partition: int | None = None,
) -> Produced:
    """Submit a job in header mode."""
    marks: Headers = [(h.ID, job_id.encode()), (h.DUE_AT, b"%d" % due_at_ms), *more]
    return world.submit(tenant.encode(), value, marks, partition=partition)


def cancel(world: World, tenant: str, job_id: str, partition: int | None = None) -> Produced:
    """Submit a cancel: a null value under the id."""
    return world.submit(tenant.encode(), None, [(h.ID, job_id.encode())], partition=partition)


def envelope(world: World, record_key: str | None, own: Headers = (), **fields: Any) -> Produced:
    """Submit a job as a JSON envelope."""
    raw_key = None if record_key is None else record_key.encode()
    return world.submit(raw_key, json.dumps(fields).encode(), own)


def settings(world: World, tenant: str, **fields: Any) -> None:
    """Publish a settings record."""
    world.publish_settings(tenant.encode(), json.dumps(fields).encode())


def egress(world: World, tenant: str) -> str:
    """The tenant's default topic."""
    return TopicNames(world.app_id).egress(tenant)


def ids(records: list[Received]) -> list[bytes | None]:
    """The ids of dispatched jobs."""
    return [record.header(h.ID) for record in records]


def dispatched_at(record: Received) -> int:
    """When a job left, by its header."""
    return int(record.header(h.DISPATCHED_AT) or b"")


def wrong_partition(world: World, tenant: str) -> int:
    """A partition that does not own the tenant."""
    return (partition_for(tenant.encode(), world.partitions) + 1) % world.partitions


# --- both modes ----------------------------------------------------------------------------


def test_header_mode_passes_everything_through(world: World) -> None:
    """Value and foreign headers arrive byte for byte, in order, repeated and non-UTF-8 ones too."""
    foreign: list[tuple[str, bytes | None]] = [
        ("trace", b"\x00\xff\xfe"),
        ("again", b"1"),
        ("ü", "ä".encode()),
        ("again", b"2"),
        ("null", None),
        ("empty", b""),
    ]
    body = bytes(range(256))
    due = world.now_ms()
    marks = [(h.ID, b"a"), *foreign[:3], (h.DUE_AT, b"%d" % due), *foreign[3:]]
    where = world.submit(b"acme", body, marks)
    [record] = world.wait_for_egress(egress(world, "acme"), 1)
    assert record.value == body
    assert record.key == b"a"
    assert record.headers[:6] == foreign
    assert [name for name, _ in record.headers[6:]] == [
        h.ID,
        h.TENANT,
        h.DUE_AT,
        h.DISPATCHED_AT,
        h.OCCURRENCE,
        h.SOURCE,
    ]
    assert record.header(h.TENANT) == b"acme"
    assert record.header(h.DUE_AT) == b"%d" % due
    assert record.header(h.OCCURRENCE) == b"0"
    assert record.header(h.SOURCE) == b"%d-%d" % where
    assert dispatched_at(record) == record.timestamp_ms


def test_envelope_payload_keeps_its_bytes(world: World) -> None:
    """Big integers, trailing zeros, key order and blanks of a payload reach the worker as sent."""
    payload = b'{"z": 123456789012345678901234567890, "a":1.10 ,  "e": 1e400, "u": "\\u00fc"}'
    body = b'{"payload":' + payload + b',"id":"a","due_at":%d}' % world.now_ms()
    world.submit(b"acme", body)
    [record] = world.wait_for_egress(egress(world, "acme"), 1)
    assert record.value == payload


def test_envelope_headers_follow_those_of_the_record(world: World) -> None:
    """The record's own headers come first, then those of the envelope, then ours."""
    envelope(
        world,
        "other",
        [("own", b"\xff"), ("own", b"2")],
        id="a",
        tenant="acme",
        due_at=world.now_ms(),
        payload=None,
        headers={"added": "ü"},
        key="k",
    )
    [record] = world.wait_for_egress(egress(world, "acme"), 1)
    assert record.value == b"null"
    assert record.key == b"k"
    assert record.headers[:3] == [("own", b"\xff"), ("own", b"2"), ("added", "ü".encode())]


def test_tenant_header_wins_over_the_key(world: World) -> None:
    """A job belongs to the tenant it names, whatever its key is."""
    job(world, "somebody", "a", world.now_ms(), (h.TENANT, b"acme"))
    [record] = world.wait_for_egress(egress(world, "acme"), 1)
    assert record.header(h.TENANT) == b"acme"


def test_empty_value_is_a_payload(world: World) -> None:
    """An empty value in header mode is dispatched as it is."""
    job(world, "acme", "a", world.now_ms(), value=b"")
    [record] = world.wait_for_egress(egress(world, "acme"), 1)
    assert record.value == b""


# --- time ----------------------------------------------------------------------------------


def test_delay_counts_from_the_record_timestamp(world: World) -> None:
    """A delay is added to the record's own timestamp, in both modes."""
    then = world.now_ms() - 10_000
    world.submit(b"acme", b"", [(h.ID, b"a"), (h.DELAY_MS, b"2500")], timestamp_ms=then)
    body = json.dumps({"id": "b", "delay_ms": 3_000, "payload": 1}).encode()
    world.submit(b"acme", body, timestamp_ms=then)
    found = world.wait_for_egress(egress(world, "acme"), 2)
    dues = {record.header(h.ID): record.header(h.DUE_AT) for record in found}
    assert dues == {b"a": b"%d" % (then + 2_500), b"b": b"%d" % (then + 3_000)}


def test_nothing_leaves_before_it_is_due(world: World) -> None:
    """A job that is due later leaves at its time or after, one that is past due leaves first."""
    later = world.now_ms() + world.lead_ms
    job(world, "acme", "later", later)
    job(world, "acme", "past", world.now_ms() - 100_000)
    first, second = world.wait_for_egress(egress(world, "acme"), 2)
    assert ids([first, second]) == [b"past", b"later"]
    assert dispatched_at(first) < later <= dispatched_at(second)


def test_order_is_by_due_time_then_arrival(world: World) -> None:
    """Jobs of a tenant leave by due time; of the same due time in the order of arrival."""
    settings(world, "acme", rate="1000/s")
    due = world.now_ms() + world.lead_ms
    for name, offset in (("d", 2), ("b", 1), ("a", 0), ("c", 1), ("e", 2)):
        job(world, "acme", name, due + offset)
    found = world.wait_for_egress(egress(world, "acme"), 5)
    assert ids(found) == [b"a", b"b", b"c", b"d", b"e"]


# --- identity ------------------------------------------------------------------------------


def test_replaced_job_leaves_once_and_says_so(world: World) -> None:
    """The last job under an id wins; one event names the job that it replaced."""
    due = world.now_ms() + world.lead_ms
    first = job(world, "acme", "a", due, value=b"old")
    job(world, "acme", "a", due + 1, value=b"new")
    job(world, "acme", "z", due + 2)
    found = world.wait_for_egress(egress(world, "acme"), 2)
    assert [record.value for record in found] == [b"new", b"payload"]
    [event] = world.wait_for_events(1)
    assert (event["event"], event["tenant"], event["id"]) == ("replaced", "acme", "a")
    assert event["source"] == f"{first.partition}-{first.offset}"
    assert world.count(TopicNames(world.app_id).events) == 1


def test_cancelled_job_never_leaves(world: World) -> None:
    """Cancel of a pending job: cancelled, once. Of anything else: cancel_not_found."""
    due = world.now_ms() + world.lead_ms
    job(world, "acme", "a", due)
    cancel(world, "acme", "a")
    cancel(world, "acme", "a")
    world.submit(b"acme", b'{"id":"never","op":"cancel"}')
    world.submit(b"acme", b"x", [(h.ID, b"no"), (h.OP, b"cancel")])
    job(world, "acme", "z", due + 1)
    assert ids(world.wait_for_egress(egress(world, "acme"), 1)) == [b"z"]
    kinds = [(event["event"], event["id"]) for event in world.wait_for_events(4)]
    assert kinds == [
        ("cancelled", "a"),
        ("cancel_not_found", "a"),
        ("cancel_not_found", "never"),
        ("cancel_not_found", "no"),
    ]
    assert world.count(TopicNames(world.app_id).events) == 4


def test_id_can_be_used_again_after_its_job_left(world: World) -> None:
    """An id submitted again after its job has left is a new job."""
    job(world, "acme", "a", world.now_ms(), value=b"1")
    world.wait_for_egress(egress(world, "acme"), 1)
    job(world, "acme", "a", world.now_ms(), value=b"2")
    found = world.wait_for_egress(egress(world, "acme"), 2)
    assert [record.value for record in found] == [b"1", b"2"]
    assert found[0].header(h.SOURCE) != found[1].header(h.SOURCE)


def test_expired_job_becomes_a_dead_letter(world: World) -> None:
    """A paused job past its expiry leaves as a dead letter with its reason, and one event."""
    settings(world, "acme", paused=True)
    now = world.now_ms()
    expires = (h.EXPIRES_AT, b"%d" % (now + 500))
    where = job(world, "acme", "a", now, ("own", b"\xff"), (h.KEY, b"k"), expires)
    [letter] = world.wait_for_dead_letters(1)
    assert (letter.key, letter.value) == (b"k", b"payload")
    assert letter.headers[0] == ("own", b"\xff")
    assert letter.header(h.ID) == b"a"
    assert letter.header(h.TENANT) == b"acme"
    assert letter.header(h.DUE_AT) == b"%d" % now
    assert letter.header(h.OCCURRENCE) == b"0"
    assert letter.header(h.SOURCE) == b"%d-%d" % where
    assert letter.header(h.ERROR_CODE) == b"expired"
    assert letter.timestamp_ms > now + 500
    [event] = world.wait_for_events(1)
    assert (event["event"], event["id"], event["reason"]) == ("expired", "a", "expired")
    settings(world, "acme")
    job(world, "acme", "z", world.now_ms())
    assert ids(world.wait_for_egress(egress(world, "acme"), 1)) == [b"z"]


def test_expired_on_arrival_is_accepted_then_expired(world: World) -> None:
    """A job whose expiry has passed when it arrives is no rejection."""
    now = world.now_ms()
    job(world, "acme", "a", now, (h.EXPIRES_AT, b"%d" % (now - 60_000)))
    [event] = world.wait_for_events(1)
    assert event["event"] == "expired"
    assert world.count(egress(world, "acme")) == 0
    assert world.count(TopicNames(world.app_id).rejected) == 0


# --- refused -------------------------------------------------------------------------------


def test_refused_record_keeps_its_bytes(world: World) -> None:
    """A refused record is on `rejected` as received, with the reason; the next one is served."""
    body = b'{"id": "a", "expire_at": 1}\xff'
    given: Headers = [("own", b"\xff"), ("own", None)]
    where = world.submit(b"key\xff", body, given, timestamp_ms=world.now_ms() - 5)
    job(world, "acme", "z", world.now_ms())
    [record] = world.wait_for_rejected(1)
    assert (record.key, record.value) == (b"key\xff", body)
    assert record.headers[:2] == given
    assert record.header(h.ERROR_CODE) == b"not_utf8"
    assert record.header(h.ERROR_MESSAGE)
    assert record.header(h.ERROR_TOPIC) == TopicNames(world.app_id).jobs.encode()
    assert record.header(h.ERROR_PARTITION) == b"%d" % where.partition
    assert record.header(h.ERROR_OFFSET) == b"%d" % where.offset
    assert ids(world.wait_for_egress(egress(world, "acme"), 1)) == [b"z"]
    [event] = world.wait_for_events(1)
    assert (event["event"], event["reason"]) == ("rejected", "not_utf8")
    assert event["source"] == f"{where.partition}-{where.offset}"


def test_job_too_large_is_refused_by_its_digest(world: World) -> None:
    """A job over the limit is refused with its size and SHA-256 instead of its bytes."""
    body = b"\x00" * (JOB_BYTES_MAX + 1)
    job(world, "acme", "a", world.now_ms(), value=body)
    [record] = world.wait_for_rejected(1)
    assert record.header(h.ERROR_CODE) == b"too_large"
    assert record.header(h.ERROR_SHA256) == hashlib.sha256(body).hexdigest().encode()
    assert int(record.header(h.ERROR_SIZE) or b"") > JOB_BYTES_MAX
    assert record.key is None
    assert not record.value


def test_largest_job_passes(world: World) -> None:
    """A job of exactly the limit is dispatched whole, even from a wrong partition."""
    due = b"%d" % world.now_ms()
    marks = ((h.ID, b"a"), (h.DUE_AT, due))
    used = len(b"acme") + sum(len(n) + len(v) + HEADER_BYTES for n, v in marks)
    body = b"\x01" * (JOB_BYTES_MAX - used)
    wrong = wrong_partition(world, "acme")
    world.submit(b"acme", body, marks, partition=wrong)
    [record] = world.wait_for_egress(egress(world, "acme"), 1)
    assert record.value == body


# --- placement -----------------------------------------------------------------------------


def test_misplaced_job_is_moved_once(world: World) -> None:
    """A job on a wrong partition leaves once, with an absolute due time and its first source."""
    then = world.now_ms() - 5_000
    where = world.submit(
        b"acme",
        b'{"id":"a","delay_ms":100,"payload":[1.10],"key":"k","headers":{"x":"y"}}',
        [("own", b"\xff")],
        timestamp_ms=then,
        partition=wrong_partition(world, "acme"),
    )
    job(world, "acme", "z", world.now_ms() + world.lead_ms)
    record, other = world.wait_for_egress(egress(world, "acme"), 2)
    assert (record.header(h.ID), other.header(h.ID)) == (b"a", b"z")
    # A second copy may come after both, so it gets the time to.
    world.settle()
    assert world.count(egress(world, "acme")) == 2
    assert (record.key, record.value) == (b"k", b"[1.10]")
    assert record.headers[:2] == [("own", b"\xff"), ("x", b"y")]
    assert record.header(h.DUE_AT) == b"%d" % (then + 100)
    assert record.header(h.SOURCE) == b"%d-%d" % where
    assert h.MOVED not in dict(record.headers)


def test_misplaced_job_can_be_replaced_and_cancelled(world: World) -> None:
    """Replace and cancel reach a job from and on any partition; each leaves its event, once."""
    due = world.now_ms() + world.lead_ms
    wrong = wrong_partition(world, "acme")
    first = job(world, "acme", "a", due, partition=wrong)
    job(world, "acme", "b", due, partition=wrong)
    world.settle()
    job(world, "acme", "a", due, value=b"new")
    cancel(world, "acme", "b", partition=wrong)
    job(world, "acme", "z", due + 1)
    found = world.wait_for_egress(egress(world, "acme"), 2)
    assert [record.value for record in found] == [b"new", b"payload"]
    events = {event["event"]: event for event in world.wait_for_events(2)}
    assert set(events) == {"replaced", "cancelled"}
    assert events["replaced"]["source"] == f"{first.partition}-{first.offset}"
    assert world.count(TopicNames(world.app_id).events) == 2


# --- settings ------------------------------------------------------------------------------


def window_is_kept(found: list[Received], period_ms: int, most: int) -> None:
    """No window of a period holds more than `most` dispatches."""
    times = [dispatched_at(record) for record in found]
    for first in times:
        assert sum(first <= at < first + period_ms for at in times) <= most


def test_rate_is_kept(world: World) -> None:
    """A tenant's backlog leaves no faster than count per period and the effective burst."""
    settings(world, "acme", rate="10/s")
    for number in range(25):
        job(world, "acme", f"{number}", world.now_ms())
    found = world.wait_for_egress(egress(world, "acme"), 25)
    window_is_kept(found, 1_000, 10 + 3)
    assert dispatched_at(found[-1]) - dispatched_at(found[0]) >= 2_100


def test_rate_changes_in_both_directions(world: World) -> None:
    """A new rate applies to jobs that are pending already, slower and faster."""
    settings(world, "acme", rate="1/h")
    for number in range(40):
        job(world, "acme", f"{number}", world.now_ms())
    world.wait_for_egress(egress(world, "acme"), 1)
    settings(world, "acme", rate="10/s")
    found = world.wait_for_egress(egress(world, "acme"), 12)
    window_is_kept(found[1:], 1_000, 13)
    settings(world, "acme", rate="1/h")
    before = world.count(egress(world, "acme"))
    world.pass_time(2_000)
    assert world.count(egress(world, "acme")) <= before + 1
    settings(world, "acme", rate="unlimited")
    assert len(world.wait_for_egress(egress(world, "acme"), 40)) == 40


def test_default_record_and_tombstone(world: World) -> None:
    """`*` fills what a tenant leaves out; a tombstone gives a tenant back to it."""
    settings(world, "*", paused=True)
    settings(world, "own", paused=False)
    for tenant in ("own", "acme"):
        job(world, tenant, "a", world.now_ms())
    world.wait_for_egress(egress(world, "own"), 1)
    world.publish_settings(b"own", None)
    job(world, "own", "b", world.now_ms())
    world.pass_time(1_500)
    assert world.count(egress(world, "own")) == 1
    assert world.count(egress(world, "acme")) == 0
    world.publish_settings(b"*", None)
    assert ids(world.wait_for_egress(egress(world, "own"), 2)) == [b"a", b"b"]
    assert ids(world.wait_for_egress(egress(world, "acme"), 1)) == [b"a"]


def test_invalid_record_leaves_the_last_valid_in_force(world: World) -> None:
    """An invalid settings record means neither 0 nor unlimited, and disturbs nobody."""
    settings(world, "acme", paused=True)
    settings(world, "acme", rate="0/s")
    world.publish_settings(b"acme", b"\xff")
    world.publish_settings(b"no tenant", b"{}")
    job(world, "acme", "a", world.now_ms())
    job(world, "other", "a", world.now_ms())
    world.wait_for_egress(egress(world, "other"), 1)
    world.pass_time(1_500)
    assert world.count(egress(world, "acme")) == 0
    settings(world, "acme", paused=False)
    world.wait_for_egress(egress(world, "acme"), 1)


def test_invalid_record_after_a_tombstone(world: World) -> None:
    """What a tombstone took away does not come back for an invalid record: the tenant waits."""
    settings(world, "acme", burst=2)
    job(world, "acme", "a", world.now_ms())
    world.wait_for_egress(egress(world, "acme"), 1)
    world.publish_settings(b"acme", None)
    world.publish_settings(b"acme", b"nonsense")
    world.pass_time(1_500)
    job(world, "acme", "b", world.now_ms())
    world.pass_time(1_500)
    assert world.count(egress(world, "acme")) == 1
    settings(world, "acme", burst=2)
    assert ids(world.wait_for_egress(egress(world, "acme"), 2)) == [b"a", b"b"]


def test_only_record_is_invalid(world: World) -> None:
    """A tenant of which no valid record is known waits, and goes on once there is one."""
    settings(world, "acme", burst=0)
    job(world, "acme", "a", world.now_ms())
    job(world, "other", "a", world.now_ms())
    world.wait_for_egress(egress(world, "other"), 1)
    world.pass_time(1_500)
    assert world.count(egress(world, "acme")) == 0
    world.publish_settings(b"acme", None)
    world.wait_for_egress(egress(world, "acme"), 1)


def test_pause_and_resume(world: World) -> None:
    """Nothing leaves while paused; on resume all of it does, in order."""
    settings(world, "acme", paused=True)
    for name in "abc":
        job(world, "acme", name, world.now_ms())
    job(world, "other", "a", world.now_ms())
    world.wait_for_egress(egress(world, "other"), 1)
    world.pass_time(1_500)
    assert world.count(egress(world, "acme")) == 0
    settings(world, "acme", paused=False)
    assert ids(world.wait_for_egress(egress(world, "acme"), 3)) == [b"a", b"b", b"c"]


def test_tenants_can_share_a_topic(world: World) -> None:
    """Two tenants with one topic: both arrive there, each by its own name."""
    shared = f"{world.app_id}.egress.shared"
    for tenant in ("one", "two"):
        settings(world, tenant, egress_topic=shared)
        job(world, tenant, "a", world.now_ms())
    found = world.wait_for_egress(shared, 2)
    assert {record.header(h.TENANT) for record in found} == {b"one", b"two"}


def test_keyed_jobs_go_by_the_hash_of_their_key(world: World) -> None:
    """On a topic of several partitions a job with a key goes where Kafka's default puts it."""
    settings(world, "acme", egress_partitions=4)
    for number in range(12):
        job(world, "acme", f"{number}", world.now_ms(), (h.KEY, b"k%d" % (number % 3)))
    found = world.wait_for_egress(egress(world, "acme"), 12)
    for record in found:
        assert record.partition == partition_for(record.key or b"", 4)


def test_all_events(world: World) -> None:
    """With `events: all` a job says when it is scheduled and when it is dispatched."""
    settings(world, "acme", events="all")
    where = job(world, "acme", "a", world.now_ms())
    first, second = world.wait_for_events(2)
    assert [first["event"], second["event"]] == ["scheduled", "dispatched"]
    for event in (first, second):
        assert (event["tenant"], event["id"]) == ("acme", "a")
        assert event["source"] == f"{where.partition}-{where.offset}"
