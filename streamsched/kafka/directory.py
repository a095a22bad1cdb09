"""Which egress topics may be written to, kept current outside the data path.

One thread asks the broker; the scheduler reads what it found from memory. A topic that nobody
asked for is never looked at. One that disappears is created again while it is in use; otherwise it
was deleted on purpose, and is forgotten until somebody asks for it again.
"""

import threading
import time
from collections.abc import Callable, Iterable, Mapping
from collections.abc import Set as AbstractSet
from dataclasses import replace
from typing import Final

import structlog

from streamsched.core.destinations import Destination, Problem
from streamsched.core.limits import REFUSED_REST_MS
from streamsched.kafka.connection import Connection, KafkaAway
from streamsched.kafka.egress_survey import ANSWER_SECONDS_MAX, EgressSurvey, unusable
from streamsched.settings import Settings

REFUSAL_SECONDS: Final = REFUSED_REST_MS / 1000
"""How long a topic whose records the broker refused is left alone before it is tried again."""

IDLE_SECONDS: Final = 60.0
"""A topic that nobody has looked up for so long is not created again when it is deleted."""

REFRESH_SECONDS: Final = 2.0
"""How late at most a deleted topic or a lost leader is noticed."""

# Until the next survey where something is still unknown: what was created takes a moment to be
# seen. Doubled each time, so that a topic that stays unknown does not keep the broker busy.
_SOON_SECONDS = 0.03

log = structlog.get_logger()


class EgressDirectory:
    """`core.destinations.Directory` over a real cluster. `start()` before use, `stop()` after.

    Look-ups are safe from any thread and never wait. `on_change` is called from the directory's
    own thread after the version grew; it must return at once. `message_bytes_min` is the
    largest batch that the scheduler's producers build of small jobs (their `batch.size`): a topic
    that takes less would refuse a whole batch although each job in it is small enough.
    """

    def __init__(
        self,
        settings: Settings,
        *,
        on_change: Callable[[], None] | None = None,
        message_bytes_min: int = 0,
    ) -> None:
        self._settings = settings
        self._names = settings.names
        self._on_change = on_change
        self._message_bytes_min = message_bytes_min
        self._thread: threading.Thread | None = None
        self._stopping = threading.Event()
        self._wake = threading.Event()
        self._away = False
        # Guards all below, for operations in memory only; single reads go without it.
        self._lock = threading.Lock()
        self._version = 0
        self._wanted: dict[str, int] = {}
        self._suspects: set[str] = set()
        self._refusals: dict[str, tuple[float, str]] = {}  # until (monotonic), and why
        self._entries: dict[str, Destination] = {}
        self._used_at: dict[str, float] = {}  # when it was last looked up (monotonic)

    @property
    def version(self) -> int:
        """Grows whenever any destination changes."""
        return self._version

    def lookup(self, topic: str) -> Destination | None:
        """The topic as last seen, or `None` where nobody asked for it yet."""
        self._used_at[topic] = time.monotonic()
        return self._entries.get(topic)

    def want(self, topic: str, partitions: int) -> None:
        """Ask for `topic` to be looked at, and created with `partitions` where it is missing."""
        reserved = self._names.is_reserved(topic)
        with self._lock:
            if not reserved:
                self._wanted[topic] = partitions
            if topic in self._entries:
                return
            self._used_at[topic] = time.monotonic()
            self._entries[topic] = (
                unusable(topic, Problem.FORBIDDEN, "is not for tenants: name another topic")
                if reserved
                else unusable(topic, Problem.UNKNOWN, "is being looked at")
            )
            self._version += 1
        self._wake.set()

    def suspect(self, topics: Iterable[str]) -> None:
        """Take known `topics` out of use until each was looked at again, which happens at once."""
        detail = "was part of a transaction that failed and is being checked"
        with self._lock:
            known = [topic for topic in topics if topic in self._wanted]
            for topic in known:
                entry = self._entries[topic]
                self._entries[topic] = replace(entry, problem=Problem.SUSPECT, detail=detail)
            self._suspects.update(known)
            self._version += bool(known)
        if known:
            self._wake.set()

    def refuse(self, topic: str, detail: str) -> None:
        """Take `topic` out of use for a while: it looks good, but refuses records.

        After `REFUSAL_SECONDS` it is given another try, unless the survey finds a reason not to.
        """
        with self._lock:
            if topic not in self._wanted:
                return
            self._refusals[topic] = (time.monotonic() + REFUSAL_SECONDS, detail)
            self._entries[topic] = replace(
                self._entries[topic], problem=Problem.REFUSES, detail=detail
            )
            self._version += 1
        log.warning("egress_topic_unusable", topic=topic, problem="topic_refuses", detail=detail)

    def start(self) -> None:
        """Begin to look; raises `KafkaProblem` where a client option is wrong."""
        survey = EgressSurvey(
            Connection(self._settings),
            self._names,
            topics_max=self._settings.egress_topics_max,
            replication_factor=self._settings.replication_factor,
            min_insync_replicas=self._settings.min_insync_replicas,
            message_bytes_min=self._message_bytes_min,
        )
        self._stopping.clear()
        self._thread = threading.Thread(
            target=self._run, args=(survey,), name="egress-directory", daemon=True
        )
        self._thread.start()

    def stop(self) -> None:
        """End the thread; waits for the request under way (5 s) at most."""
        self._stopping.set()
        self._wake.set()
        if self._thread is not None:
            self._thread.join(ANSWER_SECONDS_MAX + 1)
            self._thread = None

    def _run(self, survey: EgressSurvey) -> None:
        delay = _SOON_SECONDS
        while not self._stopping.is_set():
            # Cleared first: what is asked for from here on is in this survey or wakes the next.
            self._wake.clear()
            soon = False
            try:
                soon = self._survey_once(survey)
            except Exception:
                # The scheduler goes on with what was last seen, and the next look may succeed.
                log.exception("egress_directory_failed")
            delay = min(2 * delay, REFRESH_SECONDS) if soon else _SOON_SECONDS
            self._wake.wait(delay if soon else REFRESH_SECONDS)

    def _survey_once(self, survey: EgressSurvey) -> bool:
        """One look at the cluster; whether something is still unknown."""
        with self._lock:
            wanted = dict(self._wanted)
            suspects, self._suspects = self._suspects, set()
        now = time.monotonic()
        idle = {topic for topic in wanted if now - self._used_at.get(topic, now) > IDLE_SECONDS}
        try:
            findings = survey.run_once(wanted, suspects, idle, now)
        except BaseException as error:
            with self._lock:
                self._suspects |= suspects
            if not isinstance(error, KafkaAway):
                raise
            if not self._away:
                self._away = True
                log.warning("egress_directory_keeps_last_state", reason=str(error))
            return False
        if self._away:
            self._away = False
            log.info("egress_directory_is_current")
        self._forget(idle - findings.destinations.keys())
        self._publish(findings.destinations)
        return findings.soon

    def _forget(self, topics: AbstractSet[str]) -> None:
        """Drop topics that are gone and that nobody uses; who needs one again asks for it."""
        with self._lock:
            for topic in topics:
                self._wanted.pop(topic, None)
                self._entries.pop(topic, None)
                self._used_at.pop(topic, None)
            self._version += bool(topics)

    def _unless_refused(self, found: Destination) -> Destination:
        """What was found, or the refusal that the survey cannot see."""
        until, detail = self._refusals.get(found.topic, (0.0, ""))
        if time.monotonic() >= until:
            self._refusals.pop(found.topic, None)
            return found
        if found.problem is not None:
            return found
        return replace(found, problem=Problem.REFUSES, detail=detail)

    def _publish(self, found: Mapping[str, Destination]) -> None:
        with self._lock:
            # Suspected while the survey was under way: what it saw may be older than that.
            fresh = [
                self._unless_refused(d) for topic, d in found.items() if topic not in self._suspects
            ]
            changed = [d for d in fresh if self._entries.get(d.topic) != d]
            for destination in changed:
                self._entries[destination.topic] = destination
            self._version += bool(changed)
        for destination in changed:
            if destination.problem not in {None, Problem.UNKNOWN}:
                log.warning(
                    "egress_topic_unusable",
                    topic=destination.topic,
                    problem=str(destination.problem),
                    detail=destination.detail,
                )
        if changed and self._on_change is not None:
            self._on_change()
