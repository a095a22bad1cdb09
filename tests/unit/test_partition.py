"""The life of a partition: cycles in order, aborts, holding back, positions."""

import pytest

from streamsched.core import headers as h
from streamsched.core import state
from streamsched.core.cycle import Chunk
from streamsched.core.partition import CycleRefusedError
from streamsched.core.placement import partition_for
from streamsched.core.store import META
from streamsched.testing import Driver, Record, headers_of
from tests.property.model import dump


def test_wrong_chunk_is_refused_without_a_trace() -> None:
    """A chunk that does not start where the last one ended changes nothing, settings included."""
    driver = Driver()
    driver.set_tenant("acme", rate="1/m")
    it = driver.partitions[0]
    with pytest.raises(CycleRefusedError, match="offset 0"):
        it.run_once(driver.now_ms, Chunk(5, 6, []))
    driver.settle()
    assert it.store.get(META, state.SETTINGS_PREFIX + b"acme") is not None


def test_cycles_are_finished_one_by_one() -> None:
    """No cycle begins before the last one was committed or aborted, none is applied twice."""
    driver = Driver()
    it = driver.partitions[0]
    cycle = it.run_once(driver.now_ms)
    with pytest.raises(CycleRefusedError):
        it.run_once(driver.now_ms)
    it.commit(cycle)
    for finish in (it.commit, it.abort):
        with pytest.raises(CycleRefusedError):
            finish(cycle)


def test_transaction_must_move_the_changelog() -> None:
    """A cycle with records is only applied with a changelog offset beyond its base."""
    driver = Driver()
    driver.submit("acme", "a")
    it = driver.partitions[0]
    cycle = it.run_once(driver.now_ms, Chunk(0, 1, driver._ingress[0]))
    before = dump(it.store)
    for offset in (None, 0):
        with pytest.raises(CycleRefusedError):
            it.commit(cycle, offset)
    assert dump(it.store) == before
    it.commit(cycle, 7)
    assert it.changelog_offset == 7


def test_a_cycle_is_refused_once_another_owner_has_moved_the_store_on() -> None:
    """Applied late, it would bring back jobs that have left and forget others."""
    driver = Driver()
    driver.submit("acme", "a")
    it = driver.partitions[0]
    cycle = it.run_once(driver.now_ms, Chunk(0, 1, driver._ingress[0]))
    moved = state.encode_changelog_offset(5, "")
    it.store.write([(META, state.CHANGELOG_KEY, moved)])
    before = dump(it.store)
    with pytest.raises(CycleRefusedError, match="the state of partition 0 is at 5"):
        it.commit(cycle, 7)
    assert dump(it.store) == before


def test_a_tombstone_counts_though_an_invalid_record_follows_it_in_one_cycle() -> None:
    """The settings that it took away are not in force any more, as if it had been seen alone."""
    driver = Driver()
    driver.set_tenant("acme", burst=2)
    driver.settle()
    it = driver.partitions[0]
    assert it.store.get(META, state.SETTINGS_PREFIX + b"acme") is not None
    driver.pipe_settings(b"acme", None)
    driver.pipe_settings(b"acme", b"nonsense")
    driver.settle()
    assert it.store.get(META, state.SETTINGS_PREFIX + b"acme") is None
    assert it.tenants["acme"].own_invalid


def test_gaps_and_commit_markers_are_passed() -> None:
    """A chunk without records still moves the position, by a transaction."""
    driver = Driver()
    it = driver.partitions[0]
    cycle = it.run_once(driver.now_ms, Chunk(0, 9, []))
    assert cycle.needs_transaction
    it.commit(cycle, 1)
    assert it.next_offset == 9
    assert it.position == state.Position(9, driver.now_ms, "")


def test_abort_then_rerun_equals_a_fresh_run() -> None:
    """After an abort the same input gives the same records, changelog and batch."""
    cycles = []
    for aborts in (0, 3):
        driver = Driver()
        driver.set_tenant("acme", rate="10/s", burst=2)
        for number in range(5):
            driver.submit("acme", f"{number}", expires_at_ms=driver.now_ms + number * 500)
        driver.settle()
        driver.set_tenant("acme", rate="20/s")
        driver.submit("acme", "1", due_at_ms=driver.now_ms + 1)
        driver.cancel("acme", "3")
        driver.submit("acme", "4", due_at_ms=driver.now_ms + 700)
        driver.now_ms += 600
        for _ in range(aborts):
            driver.abort_once()
        cycle = driver.run_once()
        cycles.append((cycle.records, cycle.changelog, cycle.batch))
    assert cycles[0] == cycles[1]


def test_dispatch_waits_for_ingest_after_a_takeover() -> None:
    """A cancel that stands on the ingress topic at takeover is seen before anything leaves."""
    driver = Driver()
    driver.submit("acme", "a")
    driver.cancel("acme", "a")
    it = driver.partitions[0]
    it.hold_dispatch_until(2, driver.now_ms)
    driver.run_once(records_max=1)
    assert driver.read_egress("acme") == []
    driver.abort_once()
    assert not [r for r in driver.run_once(records_max=0).records if r.topic.endswith("acme")]
    driver.settle()
    assert driver.read_egress("acme") == []


def test_waiting_for_ingest_is_bounded() -> None:
    """After five seconds dispatch goes on, whatever the end was."""
    driver = Driver()
    driver.submit("acme", "a")
    driver.partitions[0].hold_dispatch_until(1_000, driver.now_ms)
    driver.advance(4_999)
    assert driver.read_egress("acme") == []
    driver.advance(1)
    assert len(driver.read_egress("acme")) == 1


def test_holding_again_and_again_is_bounded_too() -> None:
    """A process that stands still each second dispatches every five seconds all the same."""
    driver = Driver()
    driver.submit("acme", "a")
    for _ in range(5):
        driver.partitions[0].hold_dispatch_until(1_000, driver.now_ms, 1_200)
        driver.advance(1_000)
    assert len(driver.read_egress("acme")) == 1


def test_a_hold_is_over_while_the_settings_are_unknown() -> None:
    """A partition that waits for settings alone is not looked at again and again."""
    driver = Driver()
    driver.view.complete = False
    it = driver.partitions[0]
    it.hold_dispatch_until(1_000, driver.now_ms, 1_200)
    for _ in range(3):
        driver.now_ms += 1_000
        cycle = driver.run_once()
    assert cycle.wake_at_ms > driver.now_ms


def test_nothing_leaves_before_the_settings_are_known() -> None:
    """Jobs are taken in while the settings log is being read, and wait; then a burst is kept."""
    driver = Driver()
    driver.view.complete = False
    driver.set_tenant("acme", rate="1/m", burst=2)
    for name in "abc":
        driver.submit("acme", name)
    driver.advance(3_000)
    assert driver.read_egress("acme") == []
    assert driver.pending("acme") == 3
    driver.view.complete = True
    driver.advance(1_000)
    assert len(driver.read_egress("acme")) == 2


def test_start_offset_is_only_for_a_new_state() -> None:
    """A state with a position goes on there."""
    driver = Driver()
    driver.partitions[0].start_at(0)
    driver.submit("acme", "a")
    driver.settle()
    with pytest.raises(CycleRefusedError, match="goes on at 1"):
        driver.partitions[0].start_at(0)


def test_newer_state_is_refused_by_name() -> None:
    """State of a newer version stops the partition from opening."""
    driver = Driver()
    driver.submit("acme", "a")
    driver.settle()
    driver.partitions[0].store.write([(META, state.POSITION_KEY, b"\x02" + b"\x00" * 16)])
    with pytest.raises(state.UnknownVersion, match="position has format version 2"):
        driver.restart()


def test_moved_record_is_never_moved_in_a_circle() -> None:
    """A record that says it was moved for this partition count is rejected on a wrong partition."""
    driver = Driver(partitions=3)
    owner = partition_for(b"acme", 3)
    marks: list[tuple[str, bytes | None]] = [
        (h.ID, b"a"),
        (h.DUE_AT, b"%d" % driver.now_ms),
        (h.MOVED, b"3"),
        (h.SOURCE, b"1-7"),
    ]
    driver.pipe(Record(b"acme", b"", marks), (owner + 1) % 3)
    driver.settle()
    [record] = driver.read(driver.names.rejected)
    assert headers_of(record)[h.ERROR_CODE] == b"moved_in_circle"
    marks[2] = (h.MOVED, b"2")
    driver.pipe(Record(b"acme", b"", marks), (owner + 1) % 3)
    driver.settle()
    [record] = driver.read_egress("acme")
    assert headers_of(record)[h.SOURCE] == b"1-7"


def test_expired_replacement_of_a_pending_job() -> None:
    """A job replaced by one that has expired: replaced and expired, and nothing is pending."""
    driver = Driver()
    driver.submit("acme", "a", due_at_ms=driver.now_ms + 1_000)
    driver.submit("acme", "a", expires_at_ms=driver.now_ms - 1)
    driver.settle()
    assert [event["event"] for event in driver.read_events()] == ["replaced", "expired"]
    assert driver.pending("acme") == 0
    driver.advance(5_000)
    assert driver.read_egress("acme") == []
