"""Checks in their order: what each found, and which could not be made because another failed."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from ssl import SSLContext

from confluent_kafka.admin import ClusterMetadata

from streamsched.kafka.connection import Connection, KafkaProblem
from streamsched.settings import Settings, SettingsError


class Outcome(StrEnum):
    """How a check went."""

    OK = "ok"
    WARNING = "warning"
    FAILED = "failed"
    SKIPPED = "skipped"


@dataclass(frozen=True, slots=True)
class Verdict:
    """What one check found, as a sentence that says what to do where something is wrong."""

    outcome: Outcome
    sentence: str


@dataclass(frozen=True, slots=True)
class Finding:
    """A check's name with its verdict."""

    check: str
    outcome: Outcome
    sentence: str


@dataclass(frozen=True, slots=True)
class Address:
    """Where a broker listens."""

    host: str
    port: int

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{host}:{self.port}"


@dataclass
class Subject:
    """What is looked at, and what earlier checks have found of it for later ones."""

    settings: Settings
    connection: Connection | None = None
    tls: SSLContext | None = None
    """Of the client options; `None` where they do not ask for TLS."""
    reachable: list[Address] = field(default_factory=list)
    """Bootstrap servers that take connections."""
    requests: dict[Address, dict[int, int]] = field(default_factory=dict)
    """The kinds of requests that a broker knows, each with its newest version."""
    cluster: ClusterMetadata | None = None

    @property
    def kafka(self) -> Connection:
        """The admin client; only after the check of the settings."""
        assert self.connection is not None
        return self.connection

    @property
    def metadata(self) -> ClusterMetadata:
        """Brokers and topics; only after the login."""
        assert self.cluster is not None
        return self.cluster

    @property
    def partitions(self) -> int:
        """Of the ingress topic; 0 where there is none."""
        found = self.cluster and self.cluster.topics.get(self.settings.names.jobs)
        return len(found.partitions) if found else 0


@dataclass(frozen=True, slots=True)
class Check:
    """One link. `needs` names the checks without which this one says nothing."""

    name: str
    look: Callable[[Subject], Verdict]
    needs: tuple[str, ...] = ()


def ok(sentence: str) -> Verdict:
    """All is well with it."""
    return Verdict(Outcome.OK, sentence)


def failed(sentence: str) -> Verdict:
    """A scheduler cannot work like this."""
    return Verdict(Outcome.FAILED, sentence)


def warning(sentence: str) -> Verdict:
    """It works, and something should be done."""
    return Verdict(Outcome.WARNING, sentence)


def worst(faults: Sequence[str], cautions: Sequence[str], well: str) -> Verdict:
    """Failed with all of `faults`, else a warning, else `well`; nothing of the worse is left out.

    `cautions` are told beside faults as well.
    """
    text = "; ".join([*faults, *cautions])
    if faults:
        return failed(text)
    return warning(text) if cautions else ok(well)


def examine(subject: Subject, checks: Sequence[Check]) -> list[Finding]:
    """Make the checks in their order; each one's verdict, or why it was not made."""
    findings: list[Finding] = []
    blocked_by: dict[str, str] = {}
    for check in checks:
        blocker = next((blocked_by[need] for need in check.needs if need in blocked_by), None)
        if blocker is not None:
            blocked_by[check.name] = blocker
            verdict = Verdict(Outcome.SKIPPED, f"not looked at, because {blocker} failed")
        else:
            verdict = _look(check, subject)
            if verdict.outcome is Outcome.FAILED:
                blocked_by[check.name] = check.name
        findings.append(Finding(check.name, verdict.outcome, verdict.sentence))
    return findings


def _look(check: Check, subject: Subject) -> Verdict:
    try:
        return check.look(subject)
    except (KafkaProblem, SettingsError) as problem:
        return failed(str(problem))
