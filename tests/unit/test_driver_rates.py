"""Change of rate, credit and restarts (design 2.5), through whole partitions."""

import pytest

from streamsched.core.limits import STALE_TURNS_MAX
from streamsched.testing import Driver

WAYS = ["none", "store", "changelog"]


def submit(driver: Driver, count: int, tenant: str = "acme") -> None:
    """Submit jobs that are due now, under new ids."""
    for _ in range(count):
        driver.submit(tenant, f"{len(driver._ingress[0])}")


def moments(driver: Driver, tenant: str = "acme") -> list[int]:
    """When the jobs read now left, relative to the driver's clock."""
    return [record.timestamp_ms - driver.now_ms for record in driver.read_egress(tenant)]


def restart(driver: Driver, way: str) -> None:
    """Restart from the store, from the changelog, or not at all."""
    if way != "none":
        driver.restart(from_changelog=way == "changelog")


@pytest.mark.parametrize("way", WAYS)
def test_tenant_never_seen_starts_at_burst(way: str) -> None:
    """The first jobs of a tenant leave in a burst, however late they come."""
    driver = Driver()
    driver.set_tenant("acme", rate="1/m", burst=4)
    driver.advance(10_000)
    restart(driver, way)
    submit(driver, 6)
    driver.settle()
    assert moments(driver) == [0] * 4


@pytest.mark.parametrize("way", WAYS)
def test_from_unlimited_the_level_is_zero(way: str) -> None:
    """A tenant that was unlimited starts without credit, through a restart too."""
    driver = Driver()
    submit(driver, 3)
    driver.settle()
    driver.read_egress("acme")
    restart(driver, way)
    driver.set_tenant("acme", rate="1/s", burst=5)
    driver.settle()
    submit(driver, 2)
    driver.settle()
    assert moments(driver) == []
    driver.advance(1_000)
    assert moments(driver) == [0]


@pytest.mark.parametrize("way", WAYS)
def test_level_is_kept_when_the_burst_grows(way: str) -> None:
    """A tenant that was seen keeps its level: a larger burst gives no credit at once."""
    driver = Driver()
    driver.set_tenant("acme", rate="1/m", burst=2)
    driver.submit("acme", "later", due_at_ms=driver.now_ms + 10_000)
    driver.settle()
    restart(driver, way)
    driver.set_tenant("acme", rate="1/m", burst=10)
    driver.settle()
    submit(driver, 10)
    driver.settle()
    assert moments(driver) == [0] * 2


def test_level_is_capped_when_the_burst_shrinks() -> None:
    """Credit above the new burst is lost."""
    driver = Driver()
    driver.set_tenant("acme", rate="10/m", burst=5)
    submit(driver, 1)
    driver.advance(60_000)
    driver.read_egress("acme")
    driver.set_tenant("acme", rate="10/m", burst=2)
    driver.settle()
    submit(driver, 5)
    driver.settle()
    assert moments(driver) == [0] * 2


@pytest.mark.parametrize("way", WAYS)
def test_credit_accrues_while_paused(way: str) -> None:
    """A pause of any length gives a burst, and no more."""
    driver = Driver()
    driver.set_tenant("acme", rate="1/s", burst=3)
    submit(driver, 20)
    driver.settle()
    driver.read_egress("acme")
    driver.set_tenant("acme", rate="1/s", burst=3, paused=True)
    driver.advance(60_000)
    restart(driver, way)
    driver.advance(500)
    driver.set_tenant("acme", rate="1/s", burst=3)
    driver.settle()
    assert moments(driver) == [0] * 3


@pytest.mark.parametrize("way", WAYS)
def test_limiter_survives(way: str) -> None:
    """A restart neither gives credit nor takes it."""
    driver = Driver()
    driver.set_tenant("acme", rate="1/2s", burst=3)
    submit(driver, 8)
    driver.settle()
    driver.read_egress("acme")
    driver.advance(1_500)
    restart(driver, way)
    driver.advance(499)
    assert moments(driver) == []
    driver.advance(1)
    assert moments(driver) == [0]


@pytest.mark.parametrize("way", ["store", "changelog"])
def test_state_without_pending_jobs_survives(way: str) -> None:
    """A tenant that is drained keeps its limiter through a restart."""
    driver = Driver()
    driver.set_tenant("acme", rate="1/m")
    submit(driver, 1)
    driver.settle()
    driver.read_egress("acme")
    restart(driver, way)
    submit(driver, 1)
    driver.advance(59_999)
    assert moments(driver) == []
    driver.advance(1)
    assert moments(driver) == [0]


def test_change_acts_on_pending_jobs_at_once() -> None:
    """A faster rate wakes a tenant whose next turn was an hour away."""
    driver = Driver()
    driver.set_tenant("acme", rate="1/h")
    submit(driver, 5)
    driver.settle()
    driver.read_egress("acme")
    driver.set_tenant("acme", rate="10/s")
    driver.advance(1_000)
    assert moments(driver) == [-900, -800, -700, -600]
    driver.set_tenant("acme", rate="1/h")
    submit(driver, 5)
    driver.advance(60_000)
    assert len(moments(driver)) <= 1


def test_default_rate_changes_every_tenant() -> None:
    """A new default applies to tenants without a rate of their own, and to nobody else."""
    driver = Driver()
    driver.set_tenant("own", rate="unlimited")
    driver.set_tenant(rate="1/m")
    for tenant in ("own", "acme"):
        submit(driver, 3, tenant)
    driver.settle()
    assert len(moments(driver)) == 1
    assert len(moments(driver, "own")) == 3
    driver.unset_tenant()
    driver.settle()
    assert len(moments(driver)) == 2


@pytest.mark.parametrize("way", ["store", "changelog"])
def test_only_invalid_record_after_compaction(way: str) -> None:
    """The state knows the last valid settings when the log has only an invalid record left."""
    driver = Driver()
    driver.set_tenant("acme", rate="1/m")
    driver.settle()
    assert driver.set_tenant("acme", rate="0/m")
    old = driver.view
    driver.view = type(old)(driver.names, complete=True)
    driver.view.feed(old.position, b"acme", b'{"rate":"0/m"}')
    restart(driver, way)
    submit(driver, 3)
    driver.settle()
    assert len(moments(driver)) == 1
    assert driver.status("acme") == "throttled"
    assert driver.partitions[0].settings_offset == 0


@pytest.mark.parametrize("way", ["store", "changelog"])
def test_settings_topic_made_anew_frees_nobody(way: str) -> None:
    """Settings stay in force until the new topic has a word on their tenant."""
    driver = Driver()
    driver.view.topic_id = "first"
    driver.set_tenant(burst=2)
    for tenant in ("kept", "set", "unset", "broken"):
        driver.set_tenant(tenant, rate="1/m")
    driver.settle()

    def begin_anew() -> None:
        driver.view = type(driver.view)(driver.names, complete=True, topic_id="second")
        driver.set_tenant("set", rate="2/m")
        driver.unset_tenant("unset")
        assert driver.set_tenant("broken", rate="0/m")
        restart(driver, way)
        driver.settle()

    def rates() -> list[str]:
        tenant = driver.partitions[0]._base.tenant
        return [str(tenant(name).effective.rate) for name in ("kept", "set", "unset", "broken")]

    def bursts() -> set[int]:
        return {tenant.effective.burst for tenant in driver.partitions[0].tenants.values()}

    begin_anew()
    assert rates() == ["1/m", "2/m", "None", "1/m"]
    assert bursts() == {2}
    # Once more: what is kept of the first topic is still known as such.
    begin_anew()
    assert rates() == ["1/m", "2/m", "None", "1/m"]
    assert driver.status("broken") == "ok"
    # A word of the new topic counts, though its offset may be any.
    driver.set_tenant("kept", rate="3/m")
    driver.set_tenant(burst=5)
    driver.settle()
    assert rates() == ["3/m", "2/m", "None", "1/m"]
    assert bursts() == {5}
    driver.unset_tenant("kept")
    driver.unset_tenant()
    driver.settle()
    assert rates() == ["None", "2/m", "None", "1/m"]
    assert bursts() == {1}


def test_throttled_tenant_has_a_bounded_queue_of_turns() -> None:
    """Nothing is kept in memory for each job that falls due while its tenant may not dispatch."""
    driver = Driver()
    driver.set_tenant("acme", rate="1/d")
    for number in range(STALE_TURNS_MAX + 100):
        driver.submit("acme", f"{number}", due_at_ms=driver.now_ms + number)
    driver.advance(STALE_TURNS_MAX + 200)
    assert len(driver.read_egress("acme")) == 1
    assert len(driver.partitions[0]._base.turns) <= STALE_TURNS_MAX + 3
    driver.advance(86_400_000)
    assert len(driver.read_egress("acme")) == 1


def test_invalid_default_blocks_those_who_need_it() -> None:
    """With no valid default known, only tenants with complete settings of their own go on."""
    driver = Driver()
    whole = {"rate": "unlimited", "burst": 1, "paused": False, "egress_topic": "x"}
    driver.set_tenant("whole", **whole, egress_partitions=1, events="outcomes")
    driver.set_tenant("half", rate="1/s")
    assert driver.set_tenant(burst=0)
    for tenant in ("whole", "half", "none"):
        submit(driver, 1, tenant)
    driver.advance(1_000)
    assert len(driver.read("x")) == 1
    assert [driver.status(name) for name in ("whole", "half", "none")] == [
        "ok",
        "unconfigured",
        "unconfigured",
    ]
    assert "burst" in driver.partitions[0].tenants["half"].blocked_detail
    driver.set_tenant()
    driver.advance(1_000)
    assert len(moments(driver, "half")) == len(moments(driver, "none")) == 1


@pytest.mark.parametrize(
    ("key", "value"),
    [(b"acme", b"{"), (b"acme", b'{"rate":"10/s"}'), (b"*", b"{"), (b"*", b'{"burst":1}')],
    ids=["broken", "the same again", "broken default", "the same default again"],
)
def test_settings_that_change_nothing_take_nothing_of_the_rate(key: bytes, value: bytes) -> None:
    """However often they come, a tenant with a backlog keeps its right to catch up."""
    driver = Driver()
    driver.set_tenant(burst=1)
    driver.set_tenant("acme", rate="10/s")
    submit(driver, 400)
    driver.settle()
    driver.read_egress("acme")
    for cycle in range(200):
        # Not a multiple of the period, so that each cycle is late for its job.
        driver.now_ms += 120
        if cycle % 2:
            driver.pipe_settings(key, value)
        driver.run_once()
    assert len(driver.read_egress("acme")) == 200 * 120 // 100
