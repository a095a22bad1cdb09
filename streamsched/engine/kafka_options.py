"""The user's Kafka options, which are spelt as librdkafka spells them, for aiokafka.

All of them reach librdkafka, whose clients do all but one thing; aiokafka reads the ingress
topic. What decides how to connect must reach both, or is refused. What only tunes librdkafka
(`compression.type`, `socket.…`, `queued.…`) is left to it.
"""

from collections.abc import Callable, Mapping
from typing import Any, Final

from streamsched.kafka.client_options import check_options, speaks_tls, tls_context
from streamsched.settings import Settings, SettingsError

_EQUALS: Final[Mapping[str, tuple[str, Callable[[str], Any]]]] = {
    "client.id": ("client_id", str),
    "client.rack": ("client_rack", str),
    "security.protocol": ("security_protocol", str.upper),
    "sasl.mechanism": ("sasl_mechanism", str.upper),
    "sasl.mechanisms": ("sasl_mechanism", str.upper),
    "sasl.username": ("sasl_plain_username", str),
    "sasl.password": ("sasl_plain_password", str),
    "sasl.kerberos.service.name": ("sasl_kerberos_service_name", str),
    "metadata.max.age.ms": ("metadata_max_age_ms", int),
    "connections.max.idle.ms": ("connections_max_idle_ms", int),
}
_TLS: Final = frozenset(
    {
        "ssl.ca.location",
        "ssl.ca.pem",
        "ssl.certificate.location",
        "ssl.key.location",
        "ssl.key.password",
        "ssl.endpoint.identification.algorithm",
        "enable.ssl.certificate.verification",
    }
)
_MECHANISMS: Final = frozenset({"PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512", "GSSAPI"})
_CONNECTION_PREFIXES: Final = (
    *("security.", "sasl.", "ssl.", "enable.sasl.", "enable.ssl.", "https."),
    *("broker.address.family", "client.dns.lookup", "plugin.library.paths"),
)
OUR_OWN: Final = frozenset(
    {
        "acks",
        "allow.auto.create.topics",
        "auto.offset.reset",
        "batch.num.messages",
        "batch.size",
        "enable.auto.commit",
        "enable.idempotence",
        "enable.partition.eof",
        "fetch.min.bytes",
        "fetch.queue.backoff.ms",
        "fetch.wait.max.ms",
        "group.id",
        "group.instance.id",
        "isolation.level",
        "linger.ms",
        "max.partition.fetch.bytes",
        "message.max.bytes",
        "message.timeout.ms",
        "partitioner",
        "queue.buffering.max.kbytes",
        "queue.buffering.max.messages",
        "queued.max.messages.kbytes",
        "request.required.acks",
        "retry.backoff.ms",
        "session.timeout.ms",
        "topic.metadata.refresh.fast.interval.ms",
        "topic.metadata.refresh.interval.ms",
        "transaction.timeout.ms",
        "transactional.id",
    }
)
"""What the scheduler's clients say themselves, or its promises need as it is."""


def aiokafka_options(settings: Settings) -> dict[str, Any]:
    """Arguments for an aiokafka client that connects as librdkafka would.

    Raises `SettingsError` for an option that decides how to connect and has no equal, and for
    one that the scheduler sets itself.
    """
    check_options(settings.kafka)
    options: dict[str, Any] = {
        "bootstrap_servers": [s.strip() for s in settings.bootstrap_servers.split(",")]
    }
    for name, value in settings.kafka.items():
        if name in OUR_OWN:
            raise SettingsError(f"Kafka option {name} is set by the scheduler itself: leave it out")
        if name in _EQUALS:
            argument, parse = _EQUALS[name]
            try:
                options[argument] = parse(value)
            except ValueError as error:
                raise SettingsError(f"Kafka option {name}: {value!r} is no whole number") from error
        elif name not in _TLS and name.startswith(_CONNECTION_PREFIXES):
            raise SettingsError(
                f"Kafka option {name} has no equal in aiokafka, which reads the ingress topic; "
                f"known ones: {', '.join(sorted({*_EQUALS, *_TLS}))}"
            )
    mechanism = options.get("sasl_mechanism")
    if mechanism is not None and mechanism not in _MECHANISMS:
        raise SettingsError(
            f"Kafka option sasl.mechanism: {mechanism} is not supported; "
            f"use one of {', '.join(sorted(_MECHANISMS))}"
        )
    if speaks_tls(settings.kafka):
        options["ssl_context"] = tls_context(settings.kafka)
    return options
