"""The demo's checker must be able to fail: fabricated topics with each kind of violation."""

import json
from collections.abc import Iterator

import pytest

from streamsched.core.names import TopicNames
from streamsched.demo.checker import judge
from streamsched.demo.evidence import Facts
from streamsched.demo.ledger import Ledger
from streamsched.demo.seen import Header, SeenRecord
from streamsched.demo.verdict import Verdict

T0 = 1_800_000_000_000
"""The moment at which every fabricated story begins, in epoch ms."""

NAMES = TopicNames("checked")


class Topics:
    """Writes records as producers and a scheduler would, into a ledger."""

    def __init__(self) -> None:
        self.ledger = Ledger(NAMES)
        self.end_ms = T0 + 60_000
        self.kills_ms: list[int] = []
        self._offsets: dict[str, int] = {}

    def put(
        self,
        topic: str,
        at_ms: int,
        key: bytes | None,
        value: bytes | None,
        headers: list[Header],
        *,
        received_ms: int | None = None,
    ) -> str:
        """Append a record; its place as `partition-offset`."""
        offset = self._offsets.get(topic, 0)
        self._offsets[topic] = offset + 1
        self.ledger.feed(
            SeenRecord(topic, 0, offset, at_ms, key, value, headers, received_ms or at_ms)
        )
        return f"0-{offset}"

    def job(
        self, job_id: str, due: int, *, at: int = 0, tenant: str = "acme", expires: int = 0
    ) -> str:
        """A job; times are ms after T0."""
        headers: list[Header] = [
            ("streamsched-id", job_id.encode()),
            ("streamsched-due-at", b"%d" % (T0 + due)),
        ]
        if expires:
            headers.append(("streamsched-expires-at", b"%d" % (T0 + expires)))
        return self.put(NAMES.jobs, T0 + at, tenant.encode(), b"payload", headers)

    def cancel(self, job_id: str, at: int, tenant: str = "acme") -> None:
        """A cancel."""
        headers: list[Header] = [("streamsched-id", job_id.encode())]
        self.put(NAMES.jobs, T0 + at, tenant.encode(), None, headers)

    def dispatch(
        self,
        source: str,
        at: int,
        *,
        tenant: str = "acme",
        received: int | None = None,
        payload: bytes = b"payload",
    ) -> None:
        """A dispatched job, as the ingress record `source` asked for it."""
        job = self.ledger.jobs.get(source)
        headers: list[Header] = [
            ("streamsched-id", job.job_id.encode() if job else b"?"),
            ("streamsched-tenant", tenant.encode()),
            ("streamsched-due-at", b"%d" % (job.due_ms if job else T0)),
            ("streamsched-dispatched-at", b"%d" % (T0 + at)),
            ("streamsched-source", source.encode()),
        ]
        received_ms = T0 + (at + 5 if received is None else received)
        topic = NAMES.egress(tenant)
        self.put(topic, T0 + at, b"key", payload, headers, received_ms=received_ms)

    def event(
        self, kind: str, job_id: str | None, at: int, source: str = "", **more: object
    ) -> None:
        """An event of tenant acme, or of nobody where there is no id."""
        tenant = None if job_id is None else "acme"
        body = {"event": kind, "tenant": tenant, "id": job_id, "at": T0 + at, "source": source}
        self.put(NAMES.events, T0 + at, None, json.dumps({**body, **more}).encode(), [])

    def dead_letter(self, source: str, at: int) -> None:
        """An expired job among the dead letters."""
        headers: list[Header] = [
            ("streamsched-source", source.encode()),
            ("streamsched-error-code", b"expired"),
        ]
        self.put(NAMES.dead_letters, T0 + at, b"key", b"payload", headers)

    def settings(self, at: int, tenant: str = "acme", **fields: object) -> None:
        """A settings record."""
        value = json.dumps(fields).encode()
        self.put(NAMES.tenant_settings, T0 + at, tenant.encode(), value, [])

    def bad(self, reason: str = "not_json") -> str:
        """A record that its sender wants to be rejected."""
        return self.put(NAMES.jobs, T0, b"acme", b"{", [("demo-expected-reason", reason.encode())])

    def reject(self, source: str, reason: str = "not_json", value: bytes = b"{") -> None:
        """The rejection of such a record, with its event."""
        partition, offset = source.split("-")
        headers: list[Header] = [
            ("demo-expected-reason", b"not_json"),
            ("streamsched-error-code", reason.encode()),
            ("streamsched-error-message", b"why"),
            ("streamsched-error-partition", partition.encode()),
            ("streamsched-error-offset", offset.encode()),
        ]
        self.put(NAMES.rejected, T0, b"acme", value, headers)
        self.event("rejected", None, 1, source, reason=reason)

    def paced(self, first: int, count: int, every: float, *, waiting_since: int = 0) -> None:
        """Jobs that are due long before, dispatched one every so many ms."""
        sources = [
            self.job(f"paced-{first}-{n}", waiting_since, at=waiting_since) for n in range(count)
        ]
        for number, source in enumerate(sources):
            self.dispatch(source, first + int(number * every))

    def verdict(self, promise: str) -> Verdict:
        """What the checker says of one promise."""
        facts = Facts(self.end_ms, self.kills_ms)
        return next(v for v in judge(self.ledger, facts) if v.promise == promise)

    def is_broken(self, promise: str, text: str = "") -> bool:
        """Whether the promise was seen broken, with such a text."""
        verdict = self.verdict(promise)
        return not verdict.kept and any(text in example for example in verdict.broken)


@pytest.fixture
def topics() -> Iterator[Topics]:
    """Empty topics."""
    made = Topics()
    yield made
    assert not made.ledger.unreadable


def test_an_orderly_run_keeps_every_promise(topics: Topics) -> None:
    """Dispatches, a cancel, a replacement, an expiry, a rejection, a pause: nothing is broken."""
    topics.settings(0, rate="10/s")
    topics.dispatch(topics.job("plain", 1_000), 1_003)
    gone = topics.job("gone", 20_000)
    topics.cancel("gone", 2_000)
    topics.event("cancelled", "gone", 2_010, gone)
    topics.cancel("nobody", 2_500)
    topics.event("cancel_not_found", "nobody", 2_510)
    old = topics.job("twice", 20_000)
    new = topics.job("twice", 4_000, at=3_000)
    topics.event("replaced", "twice", 3_010, old)
    topics.dispatch(new, 4_010)
    late = topics.job("late", 5_000, expires=4_900)
    topics.event("expired", "late", 5_010, late, reason="expired")
    topics.dead_letter(late, 5_010)
    topics.reject(topics.bad())
    topics.paced(10_000, 100, 100, waiting_since=9_900)
    facts = Facts(topics.end_ms)
    assert [v for v in judge(topics.ledger, facts) if not v.kept] == []


# --- once ----------------------------------------------------------------------------------


def test_a_second_dispatch_is_seen(topics: Topics) -> None:
    """The same job on the egress topic twice."""
    source = topics.job("a", 1_000)
    topics.dispatch(source, 1_010)
    topics.dispatch(source, 9_000)
    assert topics.is_broken("once", "ended 2 times")


def test_a_lost_job_is_seen(topics: Topics) -> None:
    """A due job without any outcome, and no rate that could hold it back."""
    topics.job("a", 1_000)
    assert topics.is_broken("once", "never ended")


def test_a_job_that_came_from_nowhere_is_seen(topics: Topics) -> None:
    """A dispatch whose source is no ingress record."""
    topics.dispatch("0-77", 1_000)
    assert topics.is_broken("once", "never submitted")


def test_a_throttled_job_may_be_pending_at_the_end(topics: Topics) -> None:
    """What waits behind a rate that was used to the end is not lost."""
    topics.settings(0, rate="1/s")
    topics.paced(1_000, 60, 1_000)
    topics.job("waiting", 2_000)
    assert topics.verdict("once").kept
    assert "1 still throttled" in topics.verdict("once").checked


def test_a_job_that_waits_though_its_rate_is_not_used_is_seen(topics: Topics) -> None:
    """The tenant's dispatches stopped long before the end."""
    topics.settings(0, rate="1/s")
    topics.paced(1_000, 20, 1_000)
    topics.job("waiting", 2_000)
    assert topics.is_broken("once", "waiting")


def test_a_job_that_ends_in_two_ways_is_seen(topics: Topics) -> None:
    """Cancelled, as its event says, yet dispatched."""
    source = topics.job("a", 10_000)
    topics.cancel("a", 1_000)
    topics.event("cancelled", "a", 1_010, source)
    topics.dispatch(source, 10_000)
    assert topics.is_broken("once", "ended 2 times")
    assert topics.is_broken("identity", "was cancelled")


# --- time ----------------------------------------------------------------------------------


def test_a_dispatch_before_due_is_seen(topics: Topics) -> None:
    """One millisecond early is early."""
    topics.dispatch(topics.job("a", 1_000), 999)
    assert topics.is_broken("time", "1 ms before it was due")


def test_a_dispatch_after_expiry_is_seen(topics: Topics) -> None:
    """One millisecond after the last allowed moment."""
    topics.dispatch(topics.job("a", 1_000, expires=2_000), 2_001)
    assert topics.is_broken("time", "1 ms after it had expired")


def test_a_changed_payload_is_seen(topics: Topics) -> None:
    """What leaves must be what came."""
    topics.dispatch(topics.job("a", 1_000), 1_000, payload=b"other")
    assert topics.is_broken("time", "another payload")


# --- identity ------------------------------------------------------------------------------


def test_a_cancelled_job_that_leaves_without_an_event_is_seen(topics: Topics) -> None:
    """The cancel was there for seconds, yet the job was dispatched; and nobody answered."""
    source = topics.job("a", 10_000)
    topics.cancel("a", 1_000)
    topics.dispatch(source, 10_000)
    assert topics.is_broken("identity", "was cancelled")
    assert topics.is_broken("identity", "1 cancels, 0 answers")


def test_a_replaced_job_that_leaves_is_seen(topics: Topics) -> None:
    """The old job of an id was dispatched long after the new one had come."""
    source = topics.job("a", 10_000)
    topics.job("a", 20_000, at=1_000)
    topics.dispatch(source, 10_000)
    assert topics.is_broken("identity", "was replaced")


def test_a_cancel_that_meets_the_dispatch_is_no_violation(topics: Topics) -> None:
    """A cancel that arrives while the job leaves finds nothing any more."""
    source = topics.job("a", 1_000)
    topics.cancel("a", 1_000)
    topics.dispatch(source, 1_005)
    topics.event("cancel_not_found", "a", 1_020)
    assert topics.verdict("identity").kept


@pytest.mark.parametrize("others", [[], ["b"], ["a of birch"]], ids=["none", "id", "tenant"])
def test_a_replacement_by_nothing_is_seen(topics: Topics, others: list[str]) -> None:
    """An event calls a job replaced, and no later one of its tenant and id was ever sent."""
    topics.dispatch(topics.job("a", 500), 500)
    source = topics.job("a", 10_000)
    for other in others:
        job_id, _, tenant = other.partition(" of ")
        topics.job(job_id, 20_000, at=1_000, tenant=tenant or "acme")
    topics.event("replaced", "a", 1_010, source)
    assert topics.is_broken("identity", f"({source}) was replaced at")


# --- records of the outcomes ---------------------------------------------------------------


def test_an_expiry_without_event_is_seen(topics: Topics) -> None:
    """A dead letter alone."""
    topics.dead_letter(topics.job("a", 1_000, expires=2_000), 2_010)
    assert topics.is_broken("dead letters", "0 events and 1 dead letters")


def test_an_expiry_without_dead_letter_is_seen(topics: Topics) -> None:
    """An event alone."""
    topics.event("expired", "a", 2_010, topics.job("a", 1_000, expires=2_000))
    assert topics.is_broken("dead letters", "1 events and 0 dead letters")


def test_an_early_expiry_is_seen(topics: Topics) -> None:
    """Expired at a moment at which it could still have left."""
    source = topics.job("a", 1_000, expires=2_000)
    topics.event("expired", "a", 2_000, source)
    topics.dead_letter(source, 2_000)
    assert topics.is_broken("dead letters", "expired at")


def test_an_expiry_of_a_job_that_has_none_is_seen(topics: Topics) -> None:
    """With its dead letter and all: nobody had asked for it."""
    source = topics.job("a", 1_000)
    topics.event("expired", "a", 2_000, source)
    topics.dead_letter(source, 2_000)
    assert topics.is_broken("dead letters", "though it has no expiry")


def test_a_bad_record_that_is_not_rejected_is_seen(topics: Topics) -> None:
    """It vanished."""
    topics.bad()
    assert topics.is_broken("rejected", "rejected 0 times")


def test_a_wrong_reason_is_seen(topics: Topics) -> None:
    """Rejected, but not for what is wrong with it."""
    topics.reject(topics.bad(), reason="too_deep")
    assert topics.is_broken("rejected", "too_deep instead of not_json")


def test_a_changed_bad_record_is_seen(topics: Topics) -> None:
    """Its bytes must be as they were received."""
    topics.reject(topics.bad(), value=b"{}")
    assert topics.is_broken("rejected", "not as it was sent")


def test_the_rejection_of_a_good_record_is_seen(topics: Topics) -> None:
    """Nobody called it bad."""
    topics.reject(topics.job("a", 1_000))
    assert topics.is_broken("rejected", "though it is good")


# --- rates ---------------------------------------------------------------------------------


@pytest.mark.parametrize(("extra", "broken"), [(0, False), (1, True)])
def test_the_window_bound_is_exact(topics: Topics, extra: int, *, broken: bool) -> None:
    """10/s allows 10 jobs and a burst of 3 in any second, not one more."""
    topics.settings(0, rate="10/s")
    for number in range(13 + extra):
        topics.dispatch(topics.job(f"j{number}", 5_000), 5_000 + number)
    assert topics.is_broken("rate") == broken


def test_a_window_does_not_hold_its_end(topics: Topics) -> None:
    """A job exactly one period after the first of a full window belongs to the next one."""
    topics.settings(0, rate="10/s")
    for number in range(14):
        topics.dispatch(topics.job(f"j{number}", 5_000), 5_000 if number < 13 else 6_000)
    assert topics.verdict("rate").kept


def test_a_rate_that_is_a_little_too_fast_is_seen(topics: Topics) -> None:
    """11/s at 10/s breaks no single second, but a longer window."""
    topics.settings(0, rate="10/s")
    topics.paced(5_000, 440, 1_000 / 11)
    assert topics.is_broken("rate")


def test_a_rate_through_a_pause_is_one_rate(topics: Topics) -> None:
    """What was not used during a pause is no credit beyond the burst."""
    topics.settings(0, rate="10/s")
    topics.settings(10_000, rate="10/s", paused=True)
    topics.settings(20_000, rate="10/s")
    for number in range(14):
        topics.dispatch(topics.job(f"j{number}", 10_000, at=9_000), 20_100 + number)
    assert topics.is_broken("rate")


def test_a_rate_that_is_not_used_is_seen(topics: Topics) -> None:
    """9/s for a minute of backlog at 10/s."""
    topics.settings(0, rate="10/s")
    topics.paced(1_000, 540, 1_000 / 9)
    assert topics.is_broken("rate used", "acme at 10/s")


def test_dispatch_that_stops_in_a_backlog_is_seen(topics: Topics) -> None:
    """At the rate for 30 s, then nothing though jobs wait."""
    topics.settings(0, rate="10/s")
    topics.paced(1_000, 300, 100)
    topics.job("waiting", 1_000)
    assert topics.is_broken("rate used")


def test_a_pause_that_does_not_act_is_seen(topics: Topics) -> None:
    """A dispatch a second and a half after the pause."""
    topics.settings(0, rate="10/s")
    topics.settings(10_000, rate="10/s", paused=True)
    topics.dispatch(topics.job("a", 11_500), 11_500)
    assert topics.is_broken("pause", "1 dispatches while paused")


def test_a_resume_that_does_not_act_is_seen(topics: Topics) -> None:
    """The waiting job leaves two seconds after the tenant was resumed."""
    topics.settings(0, rate="10/s")
    topics.settings(10_000, rate="10/s", paused=True)
    topics.settings(20_000, rate="10/s")
    topics.dispatch(topics.job("a", 12_000), 22_000)
    assert topics.is_broken("pause", "resumed at")


def test_a_change_of_rate_that_acts_too_late_is_seen(topics: Topics) -> None:
    """The old rate goes on for three seconds after the change."""
    topics.settings(0, rate="10/s")
    sources = [topics.job(f"j{n}", 1_000) for n in range(900)]
    topics.settings(10_000, rate="40/s")
    at: list[float] = [1_000 + 100.0 * n for n in range(120)]
    at += [13_000 + 25.0 * n for n in range(780)]
    for source, moment in zip(sources, at, strict=True):
        topics.dispatch(source, int(moment))
    assert topics.is_broken("change of rate", "10/s to 40/s")


def test_a_change_of_rate_that_acts_at_once_is_right(topics: Topics) -> None:
    """The new rate is there within the second that it may take."""
    topics.settings(0, rate="10/s")
    sources = [topics.job(f"j{n}", 1_000) for n in range(900)]
    topics.settings(10_000, rate="40/s")
    at: list[float] = [1_000 + 100.0 * n for n in range(95)]
    at += [10_500 + 25.0 * n for n in range(805)]
    for source, moment in zip(sources, at, strict=True):
        topics.dispatch(source, int(moment))
    for promise in ("change of rate", "rate", "rate used"):
        assert topics.verdict(promise).kept


# --- order ---------------------------------------------------------------------------------


def test_a_wrong_order_is_seen(topics: Topics) -> None:
    """A job that is due earlier leaves after one that is due later."""
    early, late = topics.job("early", 10_000), topics.job("late", 11_000)
    topics.dispatch(late, 12_000)
    topics.dispatch(early, 12_001)
    assert topics.is_broken("order", "before early")


def test_a_wrong_order_is_seen_across_others(topics: Topics) -> None:
    """The two are not neighbours; a third that came late stands between them."""
    early, late = topics.job("early", 10_000), topics.job("late", 11_000)
    topics.dispatch(late, 12_000)
    topics.dispatch(topics.job("fresh", 9_000, at=11_990), 12_001)
    topics.dispatch(early, 12_002)
    assert topics.is_broken("order", "before early")


def test_equal_due_times_leave_in_the_order_of_ingress(topics: Topics) -> None:
    """Of two jobs with one due time the second must not leave first."""
    first, second = topics.job("first", 10_000), topics.job("second", 10_000)
    topics.dispatch(second, 10_001)
    topics.dispatch(first, 10_002)
    assert topics.is_broken("order", "before first")


def test_a_job_that_is_passed_over_for_ever_is_seen(topics: Topics) -> None:
    """It never left, though others that are due later did."""
    topics.job("forgotten", 10_000)
    topics.dispatch(topics.job("other", 11_000), 11_000)
    assert topics.is_broken("order", "before forgotten")


def test_a_job_that_came_too_late_for_its_place_is_no_violation(topics: Topics) -> None:
    """Nobody could know of it when the other one left."""
    topics.dispatch(topics.job("late", 11_000), 12_000)
    topics.dispatch(topics.job("early", 10_000, at=11_990), 12_001)
    assert topics.verdict("order").kept


def test_a_job_whose_record_nobody_had_read_is_no_violation(topics: Topics) -> None:
    """A slow scheduler may be seconds behind; nothing that lies behind the record had an effect."""
    topics.dispatch(topics.job("late", 11_000), 15_000)
    early, behind = topics.job("early", 10_000), topics.job("behind", 16_000)
    topics.dispatch(early, 15_001)
    topics.dispatch(behind, 16_000)
    assert topics.verdict("order").kept


def test_a_job_was_known_when_another_behind_it_had_left(topics: Topics) -> None:
    """The ingress partition is read in order, whoever's job it is that lies behind."""
    late = topics.job("late", 11_000)
    early = topics.job("early", 10_000)
    topics.dispatch(topics.job("behind", 9_000, tenant="birch"), 11_500, tenant="birch")
    topics.dispatch(late, 12_000)
    topics.dispatch(early, 12_001)
    assert topics.is_broken("order", "before early")


# --- lateness and recovery -----------------------------------------------------------------


def test_lateness_without_a_reason_is_seen(topics: Topics) -> None:
    """An unlimited tenant's jobs arrive one and a half seconds after they were due."""
    for number in range(50):
        topics.dispatch(topics.job(f"j{number}", 1_000 * number), 1_000 * number + 1_500)
    assert topics.is_broken("lateness", "p99 is 1505 ms")


def test_lateness_by_the_own_rate_is_no_lateness(topics: Topics) -> None:
    """Ten seconds late because of 1/s, beside one that is in time."""
    topics.settings(0, rate="1/s")
    topics.paced(5_000, 10, 1_000, waiting_since=5_000)
    assert topics.verdict("lateness").kept


def test_a_job_that_a_pause_catches_is_not_late(topics: Topics) -> None:
    """Due a few ms before the pause, it leaves when the tenant is resumed."""
    topics.dispatch(topics.job("in time", 1_000), 1_003)
    topics.settings(10_000, paused=True)
    topics.settings(20_000, paused=False)
    topics.dispatch(topics.job("caught", 9_998), 20_005)
    assert topics.verdict("lateness").kept


def steady(topics: Topics, gap_from: int, gap_to: int) -> None:
    """A job every 100 ms for 50 s; those of a gap leave at its end."""
    for at in range(0, 50_000, 100):
        leaves = gap_to + at // 100 if gap_from < at < gap_to else at + 3
        topics.dispatch(topics.job(f"j{at}", at), leaves)


def test_a_kill_excuses_the_gap_it_makes(topics: Topics) -> None:
    """Nine seconds without dispatch after a kill: said, and neither late nor broken."""
    steady(topics, 20_000, 29_000)
    topics.kills_ms = [T0 + 20_050]
    assert topics.verdict("recovery").kept
    assert "9.0 s" in topics.verdict("recovery").checked
    assert topics.verdict("lateness").kept


def test_a_gap_without_a_kill_is_seen(topics: Topics) -> None:
    """The same nine seconds without any excuse."""
    steady(topics, 20_000, 29_000)
    assert topics.is_broken("lateness")


def test_a_recovery_that_takes_too_long_is_seen(topics: Topics) -> None:
    """Sixteen seconds are more than the promised fifteen."""
    steady(topics, 20_000, 36_000)
    topics.kills_ms = [T0 + 20_050]
    assert topics.is_broken("recovery", "without a dispatch")


def test_a_scheduler_that_does_not_come_back_is_seen(topics: Topics) -> None:
    """Nothing after the kill, though jobs were due."""
    for at in range(0, 20_000, 100):
        topics.dispatch(topics.job(f"j{at}", at), at)
    topics.job("waiting", 20_500)
    topics.kills_ms = [T0 + 20_050]
    assert topics.is_broken("recovery", "nothing more came for acme")


def test_a_record_that_means_nothing_is_said(topics: Topics) -> None:
    """A dispatch without our headers counts against the scheduler."""
    topics.put(NAMES.egress("acme"), T0, None, b"x", [])
    assert topics.is_broken("once", "egress.acme")
    topics.ledger.unreadable.clear()
