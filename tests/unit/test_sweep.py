"""Due rows are taken fairly and in bounds, and none is lost below the cursor."""

import pytest

from streamsched.core import headers as h
from streamsched.core import sweep
from streamsched.core.limits import DUE_ROWS_PER_CYCLE_MAX
from streamsched.core.store import DUE
from streamsched.testing import Driver, headers_of
from tests.property.model import rows_of


def fill(driver: Driver, tenant: str, count: int, due_at_ms: int, spread_ms: int = 1) -> None:
    """Submit jobs of a tenant, due within `spread_ms`; its topic is known already."""
    driver.directory.want(driver.names.egress(tenant), 1)
    for number in range(count):
        due = due_at_ms + number % spread_ms
        driver.submit(tenant, f"{due_at_ms}-{number}", due_at_ms=due)


def take_in(driver: Driver) -> None:
    """Let everything submitted so far become pending."""
    while driver.run_once().next_offset < len(driver._ingress[0]):
        pass


def test_nobody_waits_for_a_tenant_with_a_huge_second() -> None:
    """With 20,000 rows of A in one second, B's in the same second and the next leave at once."""
    driver = Driver()
    start = driver.now_ms + 5_000
    fill(driver, "A", 20_000, start)
    for tenant in ("B", "0"):
        fill(driver, tenant, 3, start)
    fill(driver, "B", 3, start + 1_000)
    take_in(driver)
    driver.now_ms = start
    driver.run_once()
    assert len(driver.read_egress("B")) == 3
    assert len(driver.read_egress("0")) == 3
    driver.now_ms = start + 1_000
    driver.run_once()
    assert len(driver.read_egress("B")) == 3
    driver.settle()
    assert len(driver.read_egress("A")) == 20_000


def test_nobody_waits_for_backlogs_over_many_seconds() -> None:
    """After an outage ten heavy seconds of one tenant do not hold up another's jobs."""
    driver = Driver()
    start = driver.now_ms + 5_000
    for second in range(10):
        fill(driver, "A", 2_500, start + second * 1_000)
        fill(driver, "B", 1, start + second * 1_000)
    take_in(driver)
    driver.now_ms = start + 10_000
    driver.run_once()
    assert len(driver.read_egress("B")) == 10
    driver.settle()
    dues = [record.headers[2][1] for record in driver.read_egress("A")]
    assert len(dues) == 25_000
    assert dues == sorted(dues, key=lambda due: due or b"")


def test_heavy_tenants_do_not_shut_later_seconds(monkeypatch: pytest.MonkeyPatch) -> None:
    """Many tenants behind at once leave room to open the next second."""
    monkeypatch.setattr(sweep, "DUE_ROWS_PER_CYCLE_MAX", 40)
    monkeypatch.setattr(sweep, "DUE_ROWS_FOR_BEHIND_MIN", 10)
    monkeypatch.setattr(sweep, "DUE_ROWS_PER_TENANT_MAX", 10)
    monkeypatch.setattr(sweep, "DUE_ROWS_AT_FIRST_MAX", 2)
    driver = Driver()
    driver.set_tenant(paused=True)
    driver.set_tenant("b", paused=False)
    start = driver.now_ms + 5_000
    for number in range(6):
        fill(driver, f"a{number}", 300, start)
    fill(driver, "b", 1, start + 1_000)
    take_in(driver)
    driver.now_ms = start
    driver.run_once()
    driver.now_ms = start + 1_000
    driver.run_once()
    assert len(driver.read_egress("b")) == 1


def test_a_cycle_takes_a_bounded_number_of_rows() -> None:
    """No cycle takes more rows of `due` than the bound says."""
    driver = Driver()
    driver.set_tenant(paused=True)
    start = driver.now_ms + 5_000
    for number in range(40):
        fill(driver, f"t{number}", 500, start, spread_ms=900)
    take_in(driver)
    driver.now_ms = start + 1_000
    left = len(rows_of(driver.partitions[0].store, DUE))
    while left:
        driver.run_once()
        now = len(rows_of(driver.partitions[0].store, DUE))
        assert 0 < left - now <= DUE_ROWS_PER_CYCLE_MAX
        left = now


def test_row_written_in_the_running_second_survives_a_restart() -> None:
    """A job due later in a second that was opened already is found again after a restart."""
    driver = Driver()
    driver.advance(5)
    driver.submit("acme", "a", due_at_ms=driver.now_ms + 100)
    driver.settle()
    driver.restart()
    driver.advance(2_000)
    assert len(driver.read_egress("acme")) == 1


def test_clock_that_went_back_over_a_restart_loses_nothing() -> None:
    """A job submitted after clock and process went back is dispatched, at the later time."""
    driver = Driver()
    driver.set_tenant("acme", paused=True)
    driver.submit("acme", "a", due_at_ms=driver.now_ms + 4_000)
    driver.advance(10_000)
    driver.now_ms -= 8_000
    driver.restart()
    driver.submit("acme", "b", due_at_ms=driver.now_ms + 1_000)
    driver.cancel("acme", "a")
    driver.set_tenant("acme", paused=False)
    driver.advance(20_000)
    assert [record.key for record in driver.read_egress("acme")] == [b"b"]
    assert [event["event"] for event in driver.read_events()] == ["cancelled"]


def test_mass_expiry_is_bounded_in_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Large jobs that expire together become dead letters over several cycles, each once."""
    monkeypatch.setattr(sweep, "CYCLE_BYTES_MAX", 10_000)
    monkeypatch.setattr(sweep, "_EXPIRED_READ_ROWS", 2)
    driver = Driver()
    driver.set_tenant("acme", paused=True)
    for number in range(40):
        expires = driver.now_ms + 1_000 + number % 3
        driver.submit("acme", f"{number}", expires_at_ms=expires, payload=b"x" * 1_000)
    driver.settle()
    driver.advance(2_000)
    letters = driver.read(driver.names.dead_letters)
    assert len({record.key for record in letters}) == len(letters) == 40
    most = max(
        sum(record.topic == driver.names.dead_letters for record in cycle.records)
        for cycle in driver.cycles
    )
    assert most <= 12
    assert driver.pending("acme") == 0


def test_idle_partition_sleeps() -> None:
    """A paused backlog gives no reason to wake."""
    driver = Driver()
    driver.set_tenant("acme", paused=True)
    fill(driver, "acme", 5_000, driver.now_ms)
    driver.settle()
    before = len(driver.cycles)
    driver.advance(10_000)
    assert len(driver.cycles) - before <= 12


@pytest.mark.parametrize("restarts", [False, True])
def test_late_arrival_does_not_overtake_unread_rows(
    monkeypatch: pytest.MonkeyPatch,
    restarts: bool,  # noqa: FBT001
) -> None:
    """A job that is past due on arrival waits for earlier ones that the sweep has not reached."""
    monkeypatch.setattr(sweep, "DUE_ROWS_PER_CYCLE_MAX", 4)
    monkeypatch.setattr(sweep, "DUE_ROWS_FOR_BEHIND_MIN", 2)
    monkeypatch.setattr(sweep, "DUE_ROWS_PER_TENANT_MAX", 2)
    monkeypatch.setattr(sweep, "DUE_ROWS_AT_FIRST_MAX", 2)
    driver = Driver()
    start = driver.now_ms + 5_000
    for second in range(3):
        fill(driver, "acme", 8, start + second * 1_000, spread_ms=8)
    take_in(driver)
    driver.now_ms = start + 3_000
    if restarts:
        driver.run_once()
        driver.restart()
    driver.submit("acme", "late", due_at_ms=start + 1_500)
    driver.settle()
    dues = [int(headers_of(record)[h.DUE_AT] or b"") for record in driver.read_egress("acme")]
    assert len(dues) == 25
    assert dues == sorted(dues)
