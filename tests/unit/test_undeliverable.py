"""Jobs that the broker refuses: whether it is the job or its topic, and what becomes of both."""

from collections.abc import Callable, Iterable
from itertools import pairwise

import pytest

from streamsched.core.cycle import OutRecord
from streamsched.core.limits import CONDEMNED_REST_MS, SUSPECTS_IN_A_ROW_MAX
from streamsched.testing import Driver, headers_of

BAD = b"bad"


def is_bad(record: OutRecord) -> bool:
    """What the broker refuses in these tests."""
    return record.value == BAD


def everything(record: OutRecord) -> bool:
    """A topic at fault."""
    del record
    return True


def refusing(tenant: str = "acme", is_refused: Callable[[OutRecord], bool] = is_bad) -> Driver:
    """A driver whose broker refuses records for the tenant's topic."""
    driver = Driver()
    driver.refuse_records(driver.names.egress(tenant), is_refused)
    return driver


def submit(driver: Driver, ids: Iterable[str], bad: Iterable[str] = (), tenant: str = "a") -> None:
    """Submit jobs that are due now."""
    bad = set(bad)
    for job_id in ids:
        driver.submit(tenant, job_id, payload=BAD if job_id in bad else b"good")


def left(driver: Driver, topic: str) -> list[str]:
    """Ids of all that was ever dispatched to a topic, in order."""
    return [
        (headers_of(record)["streamsched-id"] or b"").decode()
        for record in driver.log
        if record.topic == topic
    ]


def given_up(driver: Driver) -> list[str]:
    """Ids of all dead letters; each has its event, exactly once."""
    letters = [record for record in driver.log if record.topic == driver.names.dead_letters]
    ids = [(headers_of(record)["streamsched-id"] or b"").decode() for record in letters]
    events = [it for it in driver.read_events() if it["event"] == "undeliverable"]
    assert [event["id"] for event in events] == ids
    for record, event in zip(letters, events, strict=True):
        marks = headers_of(record)
        assert record.value == BAD
        assert marks["streamsched-error-code"] == b"undeliverable"
        assert b"not taken" in (marks["streamsched-error-message"] or b"")
        assert event["reason"] == "undeliverable"
        assert event["source"] == (marks["streamsched-source"] or b"").decode()
        assert event["due_at"] == int(marks["streamsched-due-at"] or b"")
    assert sum(cycle.counts["undeliverable"] for cycle in driver.cycles) == len(ids)
    return ids


@pytest.mark.parametrize("place", [0, 1, 7, 150, 299])
def test_a_job_that_is_refused_alone_leaves_as_undeliverable(place: int) -> None:
    """Wherever it stands in its tenant's line: all others leave in order, and nobody else waits."""
    driver = refusing("a")
    ids = [f"{number}" for number in range(300)]
    submit(driver, ids, bad=[ids[place]])
    submit(driver, ["x"], tenant="b")
    driver.settle()
    assert left(driver, driver.names.egress("b")) == ["x"]
    if place == len(ids) - 1:
        driver.advance(16_000)
        submit(driver, ["after", "all"])
        ids += ["after", "all"]
    driver.advance(60_000)
    assert given_up(driver) == [ids[place]]
    topic = driver.names.egress("a")
    assert left(driver, topic) == ids[:place] + ids[place + 1 :]
    assert (driver.pending("a"), driver.status("a")) == (0, "ok")
    aborted = driver.aborted
    submit(driver, ["x", "y", "z"])
    driver.settle()
    assert left(driver, topic)[-3:] == ["x", "y", "z"]
    assert driver.aborted == aborted


def test_several_bad_jobs_leave_and_all_good_ones_in_order() -> None:
    """Fewer in a row than are taken for the topic's fault; each costs its tenant a rest."""
    driver = refusing("a")
    ids = [f"{number}" for number in range(200)]
    bad = ["0", "1", "2", "50", "90", "91", "190"]
    submit(driver, ids, bad)
    driver.advance(180_000)
    assert sorted(given_up(driver), key=int) == bad
    assert left(driver, driver.names.egress("a")) == [one for one in ids if one not in bad]
    assert driver.aborted < 60
    times = [cycle.now_ms for cycle in driver.cycles if cycle.counts["undeliverable"]]
    assert min(b - a for a, b in pairwise(times)) >= CONDEMNED_REST_MS


def test_a_topic_that_refuses_everything_loses_no_job() -> None:
    """Nothing is undeliverable, however long it lasts; mended, all leave from the first job on."""
    driver = refusing("a", everything)
    ids = [f"{number}" for number in range(40)]
    submit(driver, ids)
    driver.advance(120_000)
    assert given_up(driver) == []
    assert (driver.pending("a"), driver.status("a")) == (40, "unconfigured")
    assert "not taken" in driver.partitions[0].tenants["a"].blocked_detail
    assert driver.aborted <= 1 + 8 * SUSPECTS_IN_A_ROW_MAX
    driver.take_records(driver.names.egress("a"))
    driver.advance(16_000)
    assert left(driver, driver.names.egress("a")) == ids
    assert given_up(driver) == []


def test_a_topic_that_is_mended_between_two_tries_loses_no_job() -> None:
    """One commit after a refusal is not enough: the job is tried once more, and leaves."""
    driver = Driver()
    topic = driver.names.egress("a")
    asked: list[bytes | None] = []

    def at_first(record: OutRecord) -> bool:
        asked.append(record.key)
        return record.key == b"0" and asked.count(b"0") <= 2

    driver.refuse_records(topic, at_first)
    submit(driver, "0123")
    driver.advance(20_000)
    assert asked.count(b"0") == 3
    assert given_up(driver) == []
    assert sorted(left(driver, topic)) == list("0123")


def test_a_topic_that_was_good_for_a_moment_loses_no_job() -> None:
    """It takes one job between two spells of refusing everything; that condemns nobody."""
    driver = Driver()
    topic = driver.names.egress("a")
    tries = 0

    def but_one(record: OutRecord) -> bool:
        nonlocal tries
        tries += record.key in {b"0", b"1"}
        return not (record.key == b"1" and tries == 3)

    driver.refuse_records(topic, but_one)
    submit(driver, "0123456789")
    driver.advance(100_000)
    assert left(driver, topic) == ["1"]
    assert given_up(driver) == []
    driver.take_records(topic)
    driver.advance(16_000)
    assert left(driver, topic) == list("1023456789")
    assert given_up(driver) == []


def test_so_many_bad_jobs_in_a_row_are_taken_for_the_topics_fault() -> None:
    """They wait with the reason; once one of them is cancelled the others are found out."""
    driver = refusing("a")
    bad = [f"bad-{number}" for number in range(SUSPECTS_IN_A_ROW_MAX)]
    good = [f"{number}" for number in range(12)]
    submit(driver, [*bad, *good], bad)
    driver.advance(60_000)
    assert given_up(driver) == []
    assert driver.status("a") == "unconfigured"
    driver.cancel("a", bad[2])
    driver.advance(120_000)
    assert given_up(driver) == [one for one in bad if one != bad[2]]
    assert left(driver, driver.names.egress("a")) == good


def test_a_refused_job_without_others_waits_and_is_named() -> None:
    """Nothing tells whether it is the topic; the next job does."""
    driver = refusing("a")
    submit(driver, ["0"], "0")
    driver.advance(60_000)
    assert (driver.pending("a"), driver.status("a")) == (1, "unconfigured")
    assert "'0'" in driver.partitions[0].tenants["a"].blocked_detail
    assert given_up(driver) == []
    submit(driver, ["1"])
    driver.advance(20_000)
    assert given_up(driver) == []
    submit(driver, ["2"])
    driver.advance(20_000)
    assert given_up(driver) == ["0"]
    assert left(driver, driver.names.egress("a")) == ["1", "2"]
    assert driver.status("a") == "ok"


def test_a_refused_job_without_others_leaves_when_its_topic_is_mended() -> None:
    """It is tried again every 15 s."""
    driver = refusing("a", everything)
    submit(driver, ["0"])
    driver.advance(40_000)
    driver.take_records(driver.names.egress("a"))
    driver.advance(16_000)
    assert left(driver, driver.names.egress("a")) == ["0"]
    assert driver.status("a") == "ok"


@pytest.mark.parametrize("way", ["cancel", "replace", "expire", "move", "restart", "rebuild"])
def test_a_suspect_may_go_another_way(way: str) -> None:
    """Cancelled, replaced or expired, sent elsewhere or forgotten, it has one end."""
    driver = refusing("a")
    driver.submit("a", "0", payload=BAD, expires_at_ms=driver.now_ms + 17_500)
    driver.advance(16_000)
    assert "'0'" in driver.partitions[0].tenants["a"].blocked_detail
    topic = driver.names.egress("a")
    if way == "cancel":
        driver.cancel("a", "0")
    elif way == "replace":
        submit(driver, ["0"])
    elif way == "move":
        driver.set_tenant("a", egress_topic="other")
        topic = "other"
    elif way in {"restart", "rebuild"}:
        driver.restart(from_changelog=way == "rebuild")
    driver.settle()
    submit(driver, ["1"])
    driver.advance(40_000)
    ends = {
        "cancel": "cancelled", "replace": "replaced", "expire": "expired", "move": None,
        "restart": "expired", "rebuild": "expired",
    }  # fmt: skip
    kinds = [event["event"] for event in driver.read_events()]
    assert kinds == [end for end in [ends[way]] if end]
    ids = left(driver, topic)
    assert ids == {"replace": ["0", "1"], "move": ["0", "1"]}.get(way, ["1"])
    assert (driver.pending("a"), driver.status("a")) == (0, "ok")


def condemned(driver: Driver) -> list[bytes]:
    """Ids of the jobs whose verdict is to be carried out."""
    trials = driver.partitions[0]._base.trials.values()
    return [s.job_id for trial in trials for s in trial.suspects.values() if s.is_condemned]


@pytest.mark.parametrize("way", ["cancel", "replace", "expire", "move"])
def test_a_condemned_job_may_yet_end_another_way(way: str) -> None:
    """What comes in the cycle that would give it up comes first, and the job ends once."""
    driver = refusing("a")
    driver.submit("a", "0", payload=BAD, expires_at_ms=driver.now_ms + 18_000)
    submit(driver, "123")
    driver.settle()
    while not condemned(driver):
        driver.now_ms += 100
        driver.run_once()
    if way == "cancel":
        driver.cancel("a", "0")
    elif way == "replace":
        submit(driver, "0")
    elif way == "move":
        driver.set_tenant("a", egress_topic="other")
    else:
        driver.now_ms += 18_001
    driver.advance(30_000)
    ends = {"cancel": ["cancelled"], "replace": ["replaced"], "expire": ["expired"], "move": []}
    assert [event["event"] for event in driver.read_events()] == ends[way]
    ids = left(driver, driver.names.egress("a")) + left(driver, "other")
    assert sorted(ids) == list("0123" if way in {"replace", "move"} else "123")


def test_what_is_the_topics_matter_makes_no_suspect() -> None:
    """Rights, size and timestamps: one job after the other is refused, and none is given up."""
    driver = Driver()
    topic = driver.names.egress("a")
    driver.refuse_records(topic, is_bad, of_topic=True)
    submit(driver, "012", "0")
    driver.advance(100_000)
    assert given_up(driver) == []
    assert (driver.pending("a"), driver.status("a")) == (3, "unconfigured")
    driver.take_records(topic)
    driver.advance(16_000)
    assert left(driver, topic) == list("012")


def test_tenants_of_a_shared_topic_find_each_others_bad_jobs() -> None:
    """A neighbour's commit proves the topic; only the bad job is given up."""
    driver = Driver()
    driver.set_tenant(egress_topic="shared")
    driver.refuse_records("shared", is_bad)
    submit(driver, ["first"])
    driver.settle()
    submit(driver, ["0"], "0")
    submit(driver, [f"b{number}" for number in range(50)], tenant="b")
    submit(driver, [f"c{number}" for number in range(50)], tenant="c")
    driver.advance(40_000)
    assert given_up(driver) == ["0"]
    others = [f"{tenant}{number}" for tenant in "bc" for number in range(50)]
    assert sorted(left(driver, "shared")) == sorted(["first", *others])
    assert [driver.status(tenant) for tenant in "abc"] == ["ok"] * 3


def test_a_slow_tenant_keeps_its_rate() -> None:
    """What was refused has not used up anything; the others leave at the tenant's pace."""
    driver = refusing("a")
    driver.set_tenant("a", rate="1/s")
    ids = [f"{number}" for number in range(20)]
    submit(driver, ids, ["3", "4"])
    driver.advance(120_000)
    assert given_up(driver) == ["3", "4"]
    records = [it for it in driver.log if it.topic == driver.names.egress("a")]
    times = [it.timestamp_ms for it in records]
    assert len(records) == 18
    assert min(b - a for a, b in pairwise(times)) >= 1_000


def test_dead_letters_that_are_refused_as_well_stop_nobody() -> None:
    """The condemned job stays where it is, all others leave, and later it is given up."""
    driver = refusing("a")
    driver.refuse_records(driver.names.dead_letters, is_bad)
    submit(driver, "012", "0")
    driver.advance(30_000)
    submit(driver, "34")
    submit(driver, "x", tenant="b")
    driver.advance(30_000)
    assert left(driver, driver.names.egress("a")) == list("1234")
    assert left(driver, driver.names.egress("b")) == ["x"]
    assert driver.pending("a") == 1
    driver.take_records(driver.names.dead_letters)
    driver.advance(30_000)
    assert given_up(driver) == ["0"]


def test_an_abort_does_not_lose_what_was_found_out() -> None:
    """Suspects and verdicts outlive cycles that fail for another reason."""
    driver = refusing("a")
    submit(driver, "01234", "1")
    driver.settle()
    for _ in range(200):
        driver.now_ms += 200
        driver.abort_once()
        driver.settle()
    assert given_up(driver) == ["1"]
    assert left(driver, driver.names.egress("a")) == list("0234")
