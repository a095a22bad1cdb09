"""Turns: bounds of a cycle, topics with problems, order, and what counts as whose lateness."""

import pytest

from streamsched.core import dispatch, sending
from streamsched.core.destinations import Problem
from streamsched.core.limits import EGRESS_PARTITIONS_PER_CYCLE_MAX
from streamsched.testing import Driver, headers_of


def topics_of(cycle_records: list[str], driver: Driver) -> set[str]:
    """The egress topics among topic names."""
    return {topic for topic in cycle_records if topic.startswith(driver.names.egress_prefix)}


def test_more_tenants_than_egress_partitions() -> None:
    """200 tenants are served in several cycles of at most 48 topics, each once, none forgotten."""
    driver = Driver()
    for number in range(200):
        driver.submit(f"t{number}", "a")
    driver.settle()
    for number in range(200):
        assert len(driver.read_egress(f"t{number}")) == 1
    for cycle in driver.cycles:
        found = topics_of([record.topic for record in cycle.records], driver)
        assert len(found) <= EGRESS_PARTITIONS_PER_CYCLE_MAX


def test_keyed_jobs_stay_within_the_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    """Jobs with keys on a topic of many partitions do not exceed a cycle's partitions either."""
    for module in (dispatch, sending):
        monkeypatch.setattr(module, "EGRESS_PARTITIONS_PER_CYCLE_MAX", 3)
    driver = Driver()
    driver.set_tenant(egress_topic="shared", egress_partitions=20)
    for number in range(60):
        driver.submit(f"t{number % 7}", f"{number}", key=f"k{number}")
    driver.settle()
    assert len(driver.read("shared")) == 60
    for cycle in driver.cycles:
        places = {(r.topic, r.partition) for r in cycle.records if r.topic == "shared"}
        assert len(places) <= 3


def test_cycle_is_closed_at_its_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    """One tenant's large jobs leave over several cycles."""
    for module in (dispatch, sending):
        monkeypatch.setattr(module, "CYCLE_BYTES_MAX", 10_000)
    driver = Driver()
    for number in range(50):
        driver.submit("acme", f"{number}", payload=b"x" * 1_000)
    driver.settle()
    found = driver.read_egress("acme")
    assert [record.key for record in found] == [b"%d" % number for number in range(50)]
    assert max(len(cycle.records) for cycle in driver.cycles) <= 10


@pytest.mark.parametrize("problem", list(Problem))
def test_bad_topic_stops_its_tenant_alone(problem: Problem) -> None:
    """Whatever is wrong with a topic, others go on; once it is mended, its tenant does."""
    driver = Driver()
    driver.directory.break_topic(driver.names.egress("bad"), problem, "because")
    for tenant in ("bad", "good"):
        driver.submit(tenant, "a")
    driver.advance(5_000)
    assert driver.read_egress("bad") == []
    assert len(driver.read_egress("good")) == 1
    assert driver.status("bad") == "unconfigured"
    assert "because" in driver.partitions[0].tenants["bad"].blocked_detail
    driver.directory.mend(driver.names.egress("bad"))
    driver.advance(1_000)
    assert len(driver.read_egress("bad")) == 1


def test_topic_too_small_for_a_job() -> None:
    """Jobs before the large one leave; the rest goes on when the topic grows."""
    driver = Driver()
    topic = driver.names.egress("acme")
    driver.directory.set_topic(topic, max_message_bytes=2_000)
    for name, size in (("a", 10), ("b", 5_000), ("c", 10)):
        driver.submit("acme", name, payload=b"x" * size)
    driver.settle()
    assert [record.key for record in driver.read_egress("acme")] == [b"a"]
    assert driver.status("acme") == "unconfigured"
    driver.directory.set_topic(topic, max_message_bytes=10_000)
    driver.advance(1_000)
    assert [record.key for record in driver.read_egress("acme")] == [b"b", b"c"]


@pytest.mark.parametrize("way", ["cancel", "replace", "expire"])
def test_tenant_goes_on_without_the_job_that_was_too_large(way: str) -> None:
    """Cancelled, replaced by a smaller one or expired: the jobs behind it leave."""
    driver = Driver()
    driver.directory.set_topic(driver.names.egress("acme"), max_message_bytes=2_000)
    driver.submit("acme", "b", payload=b"x" * 5_000, expires_at_ms=driver.now_ms + 3_000)
    driver.submit("acme", "c")
    driver.settle()
    assert driver.read_egress("acme") == []
    if way == "cancel":
        driver.cancel("acme", "b")
    elif way == "replace":
        driver.submit("acme", "b", due_at_ms=driver.now_ms + 5_000)
    driver.advance(4_000)
    assert [record.key for record in driver.read_egress("acme")] == [b"c"]


def test_replaced_while_throttled() -> None:
    """A job in `ready` that is replaced leaves at its new time, with its new payload, once."""
    driver = Driver()
    driver.set_tenant("acme", rate="1/s")
    for name in "abc":
        driver.submit("acme", name)
    driver.settle()
    driver.submit("acme", "b", due_at_ms=driver.now_ms + 10_000, payload=b"new")
    driver.advance(20_000)
    found = driver.read_egress("acme")
    assert [record.key for record in found] == [b"a", b"c", b"b"]
    assert found[2].value == b"new"


def test_cancel_in_the_chunk_of_its_job() -> None:
    """Submit and cancel in one chunk: nothing leaves, past due or not, with expiry or not."""
    driver = Driver()
    for name, due in (("a", -1), ("b", 0), ("c", 500), ("d", 5_000)):
        due_at_ms = driver.now_ms + due
        driver.submit("acme", name, due_at_ms=due_at_ms, expires_at_ms=driver.now_ms + 9_000)
        driver.cancel("acme", name)
    driver.advance(20_000)
    assert driver.read_egress("acme") == []
    assert [event["event"] for event in driver.read_events()] == ["cancelled"] * 4


def test_expires_at_is_the_last_moment() -> None:
    """A job may leave at its expiry and not a millisecond later."""
    driver = Driver()
    for name, expires in (("a", 1_000), ("b", 999)):
        driver.submit("acme", name, expires_at_ms=driver.now_ms + expires)
    driver.partitions[0].hold_dispatch_until(99, driver.now_ms)
    driver.settle()
    driver.now_ms += 1_000
    driver.partitions[0].hold_dispatch_until(0, driver.now_ms)
    driver.settle()
    assert [record.key for record in driver.read_egress("acme")] == [b"a"]
    assert [record.key for record in driver.read(driver.names.dead_letters)] == [b"b"]


def test_expiry_before_due() -> None:
    """A job that expires before it is due never leaves, and its dead letter comes at its expiry."""
    driver = Driver()
    now = driver.now_ms
    driver.submit("acme", "a", due_at_ms=now + 5_000, expires_at_ms=now + 1_000)
    driver.advance(1_000)
    assert driver.read(driver.names.dead_letters) == []
    driver.advance(1)
    assert len(driver.read(driver.names.dead_letters)) == 1
    driver.advance(10_000)
    assert driver.read_egress("acme") == []


def test_lateness_is_told_apart() -> None:
    """What the tenant's own rate or pause cost is not counted as the scheduler's lateness."""
    driver = Driver()
    driver.set_tenant("slow", rate="1/s")
    driver.set_tenant("paused", paused=True)
    for tenant in ("slow", "paused"):
        for name in "abc":
            driver.submit(tenant, name)
    driver.advance(5_000)
    driver.set_tenant("paused")
    driver.advance(0)
    ours = [late for cycle in driver.cycles for late in cycle.lateness_ms]
    theirs = [late for cycle in driver.cycles for late in cycle.throttled_ms]
    assert ours == [0] * 6
    assert sorted(theirs) == [0, 1_000, 2_000, 5_000, 5_000, 5_000]


def test_sticky_partition_moves_on() -> None:
    """Keyless jobs of one cycle share a partition; over cycles all partitions are used."""
    driver = Driver()
    driver.set_tenant("acme", egress_partitions=3)
    for number in range(40):
        for name in "ab":
            driver.submit("acme", f"{name}{number}")
        driver.advance(1_000)
    found = driver.read_egress("acme")
    assert {record.partition for record in found} == {0, 1, 2}
    for first, second in zip(found[::2], found[1::2], strict=True):
        assert first.partition == second.partition


def test_dispatched_at_is_the_time_of_the_cycle() -> None:
    """Header and timestamp of a dispatched record are the `now` of its cycle."""
    driver = Driver()
    driver.submit("acme", "a", due_at_ms=driver.now_ms + 1)
    driver.advance(10)
    [record] = driver.read_egress("acme")
    at = b"%d" % record.timestamp_ms
    assert headers_of(record)["streamsched-dispatched-at"] == at
    assert record.timestamp_ms == driver.now_ms - 9


def test_a_tenant_with_little_does_not_wait_for_many_with_much() -> None:
    """A job that falls due beside sixteen heavy backlogs leaves in the first cycle that sees it."""
    driver = Driver()
    heavy = [f"heavy-{number}" for number in range(16)]
    for tenant in [*heavy, "light"]:
        driver.submit(tenant, "first")
    driver.advance(10)
    for tenant in heavy:
        for number in range(1_000):
            driver.submit(tenant, f"{number}")
    driver.submit("light", "second", due_at_ms=driver.now_ms + 5)
    driver.run_once(records_max=20_000)
    driver.now_ms += 5
    cycle = driver.run_once()
    assert driver.names.egress("light") in cycle.egress_topics
