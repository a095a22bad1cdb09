"""An admin client that can say in a sentence why Kafka does not answer, and facts of topics."""

import logging
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeoutError
from dataclasses import dataclass
from enum import Enum
from typing import Any, Final

from confluent_kafka import KafkaError, KafkaException, Node, TopicCollection
from confluent_kafka.admin import (
    AdminClient,
    ClusterMetadata,
    ConfigResource,
    ResourceType,
    TopicDescription,
)

from streamsched.kafka.client_options import check_options
from streamsched.kafka.first_contact import fault_of
from streamsched.kafka.rights import Operation
from streamsched.settings import Settings

# The settings of 25 topics cost about 5 ms of Python in one go; more would hold up other threads.
TOPICS_PER_REQUEST_MAX: Final = 25

LOGIN_SECONDS: Final = 2.0
"""How long a request waits before it is looked whether the login was refused."""

_WHERE: Final = re.compile(r"^\S+: ")
_HOW_LONG: Final = re.compile(r" \(after [^()]*(\([^()]*\)[^()]*)?\)$")
"""What librdkafka puts around its reasons: an address, and how long it was in which state."""

# librdkafka prints a line for each refused connection unless it is given a logger; its last
# reason goes into our own sentence.
_SILENT: Final = logging.getLogger("streamsched.kafka.connection.librdkafka")
_SILENT.setLevel(logging.CRITICAL + 1)


class KafkaProblem(Exception):
    """Kafka cannot be used as wanted; the text is one sentence for the user."""


class KafkaAway(KafkaProblem):
    """No broker answers, or none lets this user in."""


class LoginRefused(KafkaAway):
    """The brokers do not let this user in."""


@dataclass(frozen=True, slots=True)
class TopicFacts:
    """One existing topic as the broker describes it."""

    topic: str
    topic_id: str
    partitions: int
    replication_factor: int
    leaderless: int  #: partitions that have no leader at the moment
    operations: frozenset[Operation]  #: what this user may do with it
    configs: Mapping[str, str]

    @property
    def compacted(self) -> bool:
        """Whether compaction may remove records of it."""
        return "compact" in self.configs["cleanup.policy"]

    @property
    def oldest_ms(self) -> int:
        """How old a record may be by its timestamp; brokers before 3.6 know no such limit."""
        return int(self.configs.get("message.timestamp.before.max.ms") or 2**63 - 1)

    def number(self, name: str) -> int | None:
        """A setting that is a whole number; `None` where the broker does not know it."""
        value = self.configs.get(name)
        return int(value) if value else None

    @property
    def max_message_bytes(self) -> int:
        """Largest batch of records that the topic takes."""
        return int(self.configs["max.message.bytes"])


@dataclass(frozen=True, slots=True)
class TopicRefusal:
    """The broker's refusal to tell of a topic: there is none, or this user may not know."""

    error: KafkaError
    operations: frozenset[Operation] = frozenset()  #: what this user may do with it, as far as seen

    @property
    def is_missing(self) -> bool:
        """Whether there is no such topic, and this user may know it."""
        return bool(self.error.code() == KafkaError.UNKNOWN_TOPIC_OR_PART)

    @property
    def is_of_rights(self) -> bool:
        """Whether a right is missing."""
        return bool(self.error.code() == KafkaError.TOPIC_AUTHORIZATION_FAILED)


class Connection:
    """An admin client with the reason of its last failure.

    Raises `KafkaProblem` or `SettingsError` where a client option is wrong.
    """

    def __init__(self, where: Settings | Mapping[str, Any]) -> None:
        config: dict[str, Any] = (
            where.client_config() if isinstance(where, Settings) else dict(where)
        )
        self.address = str(config.get("bootstrap.servers", ""))
        self._options = config
        self._reason = ""
        self._login_refused = False
        check_options(config)
        self.client = self._new_client()

    def _new_client(self) -> AdminClient:
        options = {"reconnect.backoff.max.ms": 1000, **self._options, "error_cb": self._remember}
        try:
            return AdminClient(options, logger=_SILENT)
        except (KafkaException, TypeError, ValueError) as error:
            raise KafkaProblem(
                f"Kafka's client does not accept its options ({error_text(error)}): "
                "correct STREAMSCHED_KAFKA__… or the table `kafka` in streamsched.toml"
            ) from error

    def refuse_hopeless(self) -> None:
        """Raise `KafkaProblem` for what waiting does not mend: TLS, a broker that is too old."""
        fault = fault_of(self.address, self._options)
        if fault:
            raise KafkaProblem(fault)

    def metadata(self, seconds: float) -> ClusterMetadata:
        """All topics with their partitions and leaders.

        Raises `KafkaAway` after `seconds`, and as soon as it is clear that the login is refused.
        """
        first_seconds = min(seconds, LOGIN_SECONDS)
        for wait_seconds in (first_seconds, seconds - first_seconds):
            self._login_refused = False
            try:
                return self.client.list_topics(timeout=wait_seconds)
            except KafkaException as error:
                last = error
                self.client.poll(0)
            if self._login_refused:
                break
        raise self.away(last, seconds) from last

    def away(self, error: BaseException, seconds: float) -> KafkaAway:
        """The sentence for a request that got no answer; the next one has a client of its own.

        Told once that there are no brokers, which one says that the controller has lost,
        librdkafka forgets all it knew and never asks again (ADR 26).
        """
        self.client.poll(0)
        self.client = self._new_client()
        if self._login_refused:
            user = self._options.get("sasl.username", "")
            return LoginRefused(
                f"Kafka at {self.address} does not let user {user!r} in "
                f"({_WHERE.sub('', self._reason)}): correct "
                "STREAMSCHED_KAFKA__SASL_USERNAME, STREAMSCHED_KAFKA__SASL_PASSWORD (or "
                "STREAMSCHED_KAFKA__SASL_PASSWORD_FILE) and STREAMSCHED_KAFKA__SASL_MECHANISM, or "
                "have the user created"
            )
        return KafkaAway(
            f"Kafka at {self.address} did not answer within {seconds:.0f} s "
            f"({self._reason or error_text(error)}): start it (`streamsched broker` starts one), "
            "or correct STREAMSCHED_BOOTSTRAP_SERVERS"
        )

    def facts(self, topics: Sequence[str], seconds: float) -> dict[str, TopicFacts | TopicRefusal]:
        """What the broker knows of `topics`, or its refusal, for each of them.

        Raises `KafkaAway` where it does not answer within `seconds`.
        """
        found: dict[str, TopicFacts | TopicRefusal] = {}
        for names in _batches(topics):
            described = self.client.describe_topics(
                TopicCollection(names),
                include_authorized_operations=True,
                request_timeout=seconds,
            )
            resources = [ConfigResource(ResourceType.TOPIC, name) for name in names]
            configs = self.client.describe_configs(resources, request_timeout=seconds)
            by_name = {resource.name: future for resource, future in configs.items()}
            for name in names:
                description = self.outcome(described[name], seconds)
                settings = self.outcome(by_name[name], seconds)
                if isinstance(description, KafkaError):
                    # The broker tells of a configuration whoever may see just that.
                    seen = () if isinstance(settings, KafkaError) else (Operation.DESCRIBE_CONFIGS,)
                    found[name] = TopicRefusal(description, frozenset(seen))
                elif isinstance(settings, KafkaError):
                    found[name] = TopicRefusal(
                        settings,
                        _allowed(description.authorized_operations) - {Operation.DESCRIBE_CONFIGS},
                    )
                else:
                    found[name] = _facts_of(description, settings)
        return found

    def topic_ids(self, topics: Sequence[str], seconds: float) -> dict[str, str | TopicRefusal]:
        """The id of each topic, or the broker's refusal to tell of it; a single request.

        Raises `KafkaAway` where the broker does not answer within `seconds`.
        """
        described = self.client.describe_topics(
            TopicCollection(list(topics)), request_timeout=seconds
        )
        found: dict[str, str | TopicRefusal] = {}
        for name, future in described.items():
            outcome = self.outcome(future, seconds)
            is_refused = isinstance(outcome, KafkaError)
            found[name] = TopicRefusal(outcome) if is_refused else str(outcome.topic_id)
        return found

    def group_operations(self, group: str, seconds: float) -> frozenset[Operation]:
        """What this user may do with a consumer group, whether or not it exists.

        Raises `KafkaAway` where the broker does not answer within `seconds`.
        """
        described = self.client.describe_consumer_groups(
            [group], include_authorized_operations=True, request_timeout=seconds
        )
        description = self.outcome(described[group], seconds)
        if isinstance(description, KafkaError):
            forbidden = description.code() == KafkaError.GROUP_AUTHORIZATION_FAILED
            return frozenset() if forbidden else frozenset(Operation)
        return _allowed(description.authorized_operations)

    def outcome(self, future: "Future[Any]", seconds: float) -> Any:
        """Result of an admin request, or the broker's refusal as a `KafkaError`.

        Raises `KafkaAway` where no broker answered.
        """
        try:
            return future.result(seconds + 1)
        except FutureTimeoutError as error:
            raise self.away(error, seconds) from error
        except KafkaException as error:
            refusal: KafkaError = error.args[0]
            # Negative codes are the client's own: it never got to hear the broker's opinion.
            if refusal.code() < 0:
                raise self.away(error, seconds) from error
            return refusal

    def _remember(self, error: KafkaError) -> None:
        # "All brokers down" follows each real reason and says less.
        if error.code() != KafkaError._ALL_BROKERS_DOWN:  # noqa: SLF001
            self._login_refused = error.code() == KafkaError._AUTHENTICATION  # noqa: SLF001
            self._reason = _HOW_LONG.sub("", error.str())


def refusal_text(refusal: KafkaError) -> str:
    """The broker's own words, without its prefix."""
    return refusal.str().removeprefix("Broker: ").rstrip(".")


def _facts_of(description: TopicDescription, configs: Mapping[str, Any]) -> TopicFacts:
    partitions = description.partitions
    # The client's types say that there is always a leader; for a lost one it hands out None.
    leaders: list[Node | None] = [partition.leader for partition in partitions]
    return TopicFacts(
        topic=description.name,
        topic_id=str(description.topic_id),
        partitions=len(partitions),
        replication_factor=min((len(p.replicas) for p in partitions), default=0),
        leaderless=sum(leader is None or leader.id < 0 for leader in leaders),
        operations=_allowed(description.authorized_operations),
        configs={name: entry.value or "" for name, entry in configs.items()},
    )


def _allowed(listed: Iterable[Enum] | None) -> frozenset[Operation]:
    """The operations of a broker's list; all where it does not tell, and will when it is asked."""
    names = {operation.name.replace("_", "") for operation in listed or ()}
    return frozenset(one for one in Operation if not names or one.value.upper() in names)


def _batches(names: Sequence[str]) -> Iterator[list[str]]:
    for start in range(0, len(names), TOPICS_PER_REQUEST_MAX):
        yield list(names[start : start + TOPICS_PER_REQUEST_MAX])


def error_text(error: BaseException) -> str:
    """What a Kafka client says of a failure, without the wrapping."""
    first = error.args[0] if error.args else error
    return first.str() if isinstance(first, KafkaError) else str(first)
