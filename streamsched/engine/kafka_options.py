"""The user's Kafka options, which are spelt as librdkafka spells them, for aiokafka."""

from collections.abc import Callable, Mapping
from ssl import CERT_NONE, SSLContext
from typing import Any, Final

from aiokafka.helpers import create_ssl_context

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
    "retry.backoff.ms": ("retry_backoff_ms", int),
}
_TLS: Final = frozenset(
    {
        "ssl.ca.location",
        "ssl.certificate.location",
        "ssl.key.location",
        "ssl.key.password",
        "ssl.endpoint.identification.algorithm",
        "enable.ssl.certificate.verification",
    }
)
_MECHANISMS: Final = frozenset({"PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512", "GSSAPI"})
_CONNECTION_PREFIXES: Final = ("security.", "sasl.", "ssl.", "enable.ssl.")


def aiokafka_options(settings: Settings) -> dict[str, Any]:
    """Arguments for an aiokafka client that connects as librdkafka would.

    Options that only tune librdkafka (`linger.ms`, `statistics.interval.ms`, …) are left out.
    Raises `SettingsError` for an option that decides how to connect and has no equal.
    """
    user = {
        name: value
        for name, value in settings.client_config().items()
        if name != "bootstrap.servers"
    }
    options: dict[str, Any] = {
        "bootstrap_servers": [s.strip() for s in settings.bootstrap_servers.split(",")]
    }
    for name, value in user.items():
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
    if options.get("security_protocol", "").endswith("SSL"):
        options["ssl_context"] = _tls_context(user)
    return options


def _tls_context(user: Mapping[str, str]) -> SSLContext:
    try:
        context: SSLContext = create_ssl_context(
            cafile=user.get("ssl.ca.location"),
            certfile=user.get("ssl.certificate.location"),
            keyfile=user.get("ssl.key.location"),
            password=user.get("ssl.key.password"),
        )
    except OSError as error:
        raise SettingsError(
            f"Kafka options ssl.*.location: a file cannot be read ({error})"
        ) from error
    if user.get("ssl.endpoint.identification.algorithm") == "none":
        context.check_hostname = False
    if user.get("enable.ssl.certificate.verification") == "false":
        context.check_hostname = False
        context.verify_mode = CERT_NONE
    return context
