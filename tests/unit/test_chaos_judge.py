"""The judge of the chaos tests must be able to fail: forged evidence of each kind of violation."""

import json
from typing import Any

import pytest

from streamsched.core.names import TopicNames
from streamsched.demo.ledger import Ledger
from streamsched.demo.seen import Header, SeenRecord
from streamsched.demo.spans import Span
from streamsched.demo.verdict import Verdict
from tests.chaos.judge import Circumstances, Deletion, Trouble, judge

T0 = 1_800_000_000_000
"""The moment at which every forged story begins, in epoch ms."""

NAMES = TopicNames("judged")
TENANT = "acme"


class Forgery:
    """Writes what a scheduler would have written, and what it must not. Times are ms after T0."""

    def __init__(self) -> None:
        self.ledger = Ledger(NAMES)
        self.deletions: list[Deletion] = []
        self.acknowledged: set[tuple[str, str]] = set()
        self._offsets: dict[str, int] = {}

    def settings(self, **fields: object) -> None:
        """A settings record, published before everything else."""
        self._put(NAMES.tenant_settings, -5_000, json.dumps({"events": "all", **fields}).encode())

    def job(self, job_id: str, due: int, at: int = 0) -> str:
        """A job that was sent, acknowledged and not yet accepted."""
        headers: list[Header] = [
            ("streamsched-id", job_id.encode()),
            ("streamsched-due-at", b"%d" % (T0 + due)),
        ]
        self.acknowledged.add((TENANT, job_id))
        return self._put(NAMES.jobs, at, b"payload", headers)

    def cancel(self, job_id: str, at: int) -> None:
        """A cancel."""
        self._put(NAMES.jobs, at, None, [("streamsched-id", job_id.encode())])

    def event(self, kind: str, source: str, at: int, **more: Any) -> None:
        """An event about a job."""
        job = self.ledger.jobs[source]
        body = {"event": kind, "tenant": TENANT, "id": job.job_id, "at": T0 + at, "source": source}
        self._put(NAMES.events, at, json.dumps({**body, **more}).encode())

    def record(self, source: str, at: int, topic: str = NAMES.egress(TENANT)) -> None:
        """A record on the tenant's topic, without its event."""
        job = self.ledger.jobs[source]
        headers: list[Header] = [
            ("streamsched-id", job.job_id.encode()),
            ("streamsched-tenant", TENANT.encode()),
            ("streamsched-due-at", b"%d" % job.due_ms),
            ("streamsched-dispatched-at", b"%d" % (T0 + at)),
            ("streamsched-source", source.encode()),
        ]
        self._put(topic, at, b"payload", headers)

    def dead_letter(self, source: str, at: int) -> None:
        """An expired job among the dead letters."""
        headers: list[Header] = [
            ("streamsched-source", source.encode()),
            ("streamsched-error-code", b"expired"),
        ]
        self._put(NAMES.dead_letters, at, b"payload", headers)

    def dispatch(self, source: str, at: int) -> None:
        """A record with its event."""
        self.record(source, at)
        self.event("dispatched", source, at)

    def accepted(self, job_id: str, due: int, at: int = 0) -> str:
        """A job, and the event that tells that it was accepted 10 ms later."""
        source = self.job(job_id, due, at)
        self.event("scheduled", source, at + 10)
        return source

    def verdicts(self) -> dict[str, Verdict]:
        """What the judge says."""
        circumstances = Circumstances(
            T0 + 600_000,
            [Trouble("kill", Span(T0 + 5_900, T0 + 6_100))],
            self.deletions,
            frozenset(self.acknowledged),
        )
        return {verdict.promise: verdict for verdict in judge(self.ledger, circumstances)}

    def broken(self) -> dict[str, str]:
        """The promises that the judge sees broken, with the first example."""
        return {name: v.broken[0] for name, v in self.verdicts().items() if not v.kept}

    def _put(
        self, topic: str, at: int, value: bytes | None, headers: list[Header] | None = None
    ) -> str:
        offset = self._offsets.get(topic, 0)
        self._offsets[topic] = offset + 1
        self.ledger.feed(
            SeenRecord(
                topic, 0, offset, T0 + at, TENANT.encode(), value, headers or [], T0 + at + 5
            )
        )
        return f"0-{offset}"


@pytest.fixture
def forgery() -> Forgery:
    """Ten jobs that all went well, one second apart."""
    made = Forgery()
    made.settings()
    for number in range(10):
        source = made.accepted(f"fine-{number}", due=1_000 * number)
        made.dispatch(source, 1_000 * number + 20)
    return made


def test_what_went_well_is_kept(forgery: Forgery) -> None:
    """Without a violation nothing is called broken."""
    cancelled = forgery.accepted("cancelled", due=20_000)
    forgery.cancel("cancelled", at=100)
    forgery.event("cancelled", cancelled, 110)
    assert forgery.broken() == {}
    assert forgery.ledger.unreadable == []


def test_lateness_is_told_by_what_caused_it(forgery: Forgery) -> None:
    """Jobs that were under way when a fault began, and those that met none."""
    forgery.dispatch(forgery.accepted("hit", due=5_950, at=5_850), 9_000)
    forgery.dispatch(forgery.accepted("missed", due=9_000, at=8_000), 9_100)
    checked = forgery.verdicts()["lateness"].checked
    assert checked.startswith("calm ")
    assert "longest 105 ms" in checked
    assert checked.endswith("longest through kill 3.1 s")


def test_a_duplicate_is_seen(forgery: Forgery) -> None:
    """A job that is on its topic twice ended twice."""
    forgery.record("0-3", 3_500)
    assert "fine-3 (0-3) ended 2 times" in forgery.broken()["once"]


def test_a_duplicate_across_the_deletion_of_its_topic_is_seen(forgery: Forgery) -> None:
    """What was read before the deletion counts."""
    forgery.deletions.append(Deletion(NAMES.egress(TENANT), T0 + 20_000, T0 + 21_000))
    forgery.record("0-3", 22_000, f"{NAMES.egress(TENANT)}~1")
    assert "fine-3 (0-3) ended 2 times" in forgery.broken()["once"]


def test_a_loss_is_seen(forgery: Forgery) -> None:
    """A job that was accepted and never ended."""
    forgery.accepted("lost", due=5_000)
    assert "lost (0-10), due at" in forgery.broken()["once"]


def test_a_job_that_never_was_accepted_is_seen(forgery: Forgery) -> None:
    """A record of the ingress that was passed over."""
    forgery.job("skipped", due=5_000)
    broken = forgery.broken()
    assert "skipped (0-10), due at" in broken["once"]
    assert "was accepted 0 times" in broken["events"]


def test_a_loss_by_the_cluster_is_seen(forgery: Forgery) -> None:
    """What Kafka acknowledged has to be in the ingress."""
    forgery.acknowledged.add((TENANT, "vanished"))
    assert "acme/vanished was acknowledged" in forgery.broken()["ingress"]


def test_a_job_that_was_dispatched_and_cancelled_is_seen(forgery: Forgery) -> None:
    """Two ways to end are one too many, whichever they are."""
    forgery.cancel("fine-2", at=100)
    forgery.event("cancelled", "0-2", 110)
    assert "fine-2 (0-2) ended 2 times: dispatched" in forgery.broken()["once"]


def test_a_missing_event_is_seen(forgery: Forgery) -> None:
    """A dispatch without the event that was to tell of it."""
    source = forgery.accepted("silent", due=5_000)
    forgery.record(source, 5_010)
    assert "silent (0-10): 0 events tell that it was dispatched" in forgery.broken()["events"]


def test_an_event_too_many_is_seen(forgery: Forgery) -> None:
    """Accepted once, told twice."""
    forgery.event("scheduled", "0-4", 200)
    assert "was accepted 2 times" in forgery.broken()["events"]


def test_a_missing_answer_to_a_cancel_is_seen(forgery: Forgery) -> None:
    """A cancel that nobody answered."""
    forgery.cancel("nobody", at=100)
    assert "acme/nobody: 1 cancels, 0 answers" in forgery.broken()["identity"]


def test_an_expiry_without_its_dead_letter_is_seen(forgery: Forgery) -> None:
    """The event alone is half of it."""
    source = forgery.accepted("late", due=5_000)
    forgery.event("expired", source, 9_000)
    assert "1 events and 0 dead letters" in forgery.broken()["dead letters"]


def test_an_expiry_of_a_job_that_has_none_is_seen(forgery: Forgery) -> None:
    """With its dead letter and all: nobody had asked for it."""
    source = forgery.accepted("endless", due=20_000)
    forgery.event("expired", source, 20_000)
    forgery.dead_letter(source, 20_000)
    assert list(forgery.broken()) == ["dead letters"]
    assert "endless (0-10) expired at" in forgery.broken()["dead letters"]
    assert "though it has no expiry" in forgery.broken()["dead letters"]


def test_a_replacement_by_nothing_is_seen(forgery: Forgery) -> None:
    """A job that vanished as replaced, though only an earlier one of its id was ever sent."""
    forgery.dispatch(forgery.accepted("twice", due=100), 120)
    source = forgery.accepted("twice", due=20_000)
    forgery.event("replaced", source, 1_000)
    assert list(forgery.broken()) == ["identity"]
    assert "twice (0-11) was replaced at" in forgery.broken()["identity"]


def test_a_replacement_by_a_later_job_is_kept(forgery: Forgery) -> None:
    """The old job ended as replaced, the new one left."""
    old = forgery.accepted("twice", due=20_000)
    new = forgery.accepted("twice", due=19_000, at=900)
    forgery.event("replaced", old, 1_000)
    forgery.dispatch(new, 19_010)
    assert forgery.broken() == {}


def test_an_undeliverable_job_is_seen(forgery: Forgery) -> None:
    """No fault of these tests makes a job undeliverable."""
    source = forgery.accepted("refused", due=5_000)
    forgery.event("undeliverable", source, 9_000)
    assert "1 jobs ended as undeliverable" in forgery.broken()["once"]


def test_a_rate_that_is_exceeded_across_a_takeover_is_seen(forgery: Forgery) -> None:
    """A limiter that began anew in the middle of a fault."""
    forgery.settings(rate="2/s", burst=1)
    for number in range(40):
        source = forgery.accepted(f"paced-{number}", due=0, at=10)
        # Two a second, and five more at once where another one took over.
        at = 20_000 + 500 * number if number < 20 else 30_000 + 500 * (number - 25)
        forgery.dispatch(source, at)
    assert "acme at 2/s: " in forgery.broken()["rate"]


def test_a_rate_that_is_exceeded_on_a_deleted_topic_is_seen(forgery: Forgery) -> None:
    """What vanished with its topic has left all the same."""
    forgery.settings(rate="2/s", burst=1)
    forgery.deletions.append(Deletion(NAMES.egress(TENANT), T0 + 20_000, T0 + 21_000))
    for number in range(10):
        source = forgery.accepted(f"paced-{number}", due=0, at=10)
        forgery.event("dispatched", source, 20_500 + number)
    assert "rate" in forgery.broken()


def test_an_order_that_is_broken_is_seen(forgery: Forgery) -> None:
    """The job that was due first had been accepted, and left second."""
    first = forgery.accepted("first", due=20_000)
    second = forgery.accepted("second", due=20_001)
    forgery.dispatch(second, 20_030)
    forgery.dispatch(first, 20_040)
    assert "second (0-11), due at" in forgery.broken()["order"]


def test_an_order_among_equals_that_is_broken_is_seen(forgery: Forgery) -> None:
    """Due in the same millisecond: the one that came first leaves first."""
    first = forgery.accepted("first", due=20_000)
    second = forgery.accepted("second", due=20_000)
    forgery.dispatch(second, 20_030)
    forgery.dispatch(first, 20_030)
    assert "second (0-11), due at" in forgery.broken()["order"]


def test_a_job_that_was_not_accepted_yet_does_not_break_the_order(forgery: Forgery) -> None:
    """A record may wait in the ingress while its partition has no leader."""
    first = forgery.job("first", due=20_000)
    forgery.event("scheduled", first, 20_035)
    second = forgery.accepted("second", due=20_001)
    forgery.dispatch(second, 20_030)
    forgery.dispatch(first, 20_040)
    assert forgery.broken() == {}


def test_a_dispatch_before_its_time_is_seen(forgery: Forgery) -> None:
    """Not even by a millisecond."""
    source = forgery.accepted("early", due=20_000)
    forgery.dispatch(source, 19_999)
    assert "early (0-10) left 1 ms before it was due" in forgery.broken()["time"]


def test_what_vanished_with_its_topic_has_ended(forgery: Forgery) -> None:
    """The event tells that it was there; the deletion, why nobody could read it."""
    forgery.deletions.append(Deletion(NAMES.egress(TENANT), T0 + 20_000, T0 + 21_000))
    source = forgery.accepted("gone", due=19_000)
    forgery.event("dispatched", source, 20_500)
    assert forgery.broken() == {}
    assert "1 of them on topics that were deleted" in forgery.verdicts()["once"].checked


@pytest.mark.parametrize("at", [5_000, 22_000])
def test_what_is_missing_without_a_deletion_is_a_loss(forgery: Forgery, at: int) -> None:
    """A deletion explains what was dispatched while it happened, and nothing else."""
    forgery.deletions.append(Deletion(NAMES.egress(TENANT), T0 + 20_000, T0 + 21_000))
    source = forgery.accepted("gone", due=4_000)
    forgery.event("dispatched", source, at)
    broken = forgery.broken()
    assert "has no record of it" in broken["events"]
    assert "gone (0-10), due at" in broken["once"]
