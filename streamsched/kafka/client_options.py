"""The user's client options, as far as they decide how to connect: what cannot be meant, and TLS.

librdkafka itself drops a user's name where the protocol has no login, and a certificate where it
has no TLS. Here each such option is refused.
"""

import ssl
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from streamsched.settings import SettingsError

PLAINTEXT: Final = "plaintext"
PROTOCOL_VARIABLE: Final = "STREAMSCHED_KAFKA__SECURITY_PROTOCOL"

_FALSE: Final = frozenset({"false", "f", "0"})
"""As librdkafka spells it, in any case."""
_PASSWORD_MECHANISMS: Final = ("PLAIN", "SCRAM-")


def protocol_of(options: Mapping[str, Any]) -> str:
    """The `security.protocol` of a client, in small letters."""
    return str(options.get("security.protocol", PLAINTEXT)).lower()


def speaks_tls(options: Mapping[str, Any]) -> bool:
    """Whether a client with these options does."""
    return protocol_of(options).endswith("ssl")


def logs_in(options: Mapping[str, Any]) -> bool:
    """Whether a client with these options does."""
    return protocol_of(options).startswith("sasl")


def check_options(options: Mapping[str, Any]) -> None:
    """Raise `SettingsError` where options for connecting contradict each other."""
    protocol = protocol_of(options)
    for name in options:
        of_login = name.startswith("sasl.") and not logs_in(options)
        of_tls = name.startswith(("ssl.", "enable.ssl.")) and not speaks_tls(options)
        if of_login or of_tls:
            fitting = "sasl_ssl" if of_login else "ssl or sasl_ssl"
            raise SettingsError(
                f"Kafka option {name} has no meaning where security.protocol is {protocol}: "
                f"set {PROTOCOL_VARIABLE} to {fitting}, or leave {name} out"
            )
    if not logs_in(options):
        return
    mechanism = options.get("sasl.mechanism") or options.get("sasl.mechanisms")
    if mechanism is None:
        raise SettingsError(
            f"Kafka option sasl.mechanism is missing, and security.protocol is {protocol}: set "
            "STREAMSCHED_KAFKA__SASL_MECHANISM, to SCRAM-SHA-512 for one"
        )
    if str(mechanism).upper().startswith(_PASSWORD_MECHANISMS):
        for name in ("sasl.username", "sasl.password"):
            if not options.get(name):
                variable = f"STREAMSCHED_KAFKA__{name.upper().replace('.', '_')}"
                raise SettingsError(
                    f"Kafka option {name} is missing or empty, and security.protocol is "
                    f"{protocol}: set {variable} or {variable}_FILE"
                )


def tls_context(options: Mapping[str, Any]) -> ssl.SSLContext:
    """Python's own TLS as librdkafka does it with these options; raises `SettingsError`."""
    place = options.get("ssl.ca.location")
    # `probe` is librdkafka's word for looking where authorities usually are, as Python does.
    authority = None if place in (None, "probe") else Path(str(place))
    try:
        context = ssl.create_default_context(
            cafile=authority if authority and not authority.is_dir() else None,
            capath=authority if authority and authority.is_dir() else None,
            cadata=options.get("ssl.ca.pem"),
        )
    except OSError as error:
        raise SettingsError(
            f"Kafka option ssl.ca.location: {place} cannot be read as certificates ({error})"
        ) from error
    # Newer Pythons refuse authorities for formal reasons that librdkafka accepts.
    context.verify_flags &= ~ssl.VERIFY_X509_STRICT
    certificate, key = options.get("ssl.certificate.location"), options.get("ssl.key.location")
    if certificate or key:
        if not (certificate and key):
            raise SettingsError(
                "Kafka options ssl.certificate.location and ssl.key.location belong together: "
                "set both or none"
            )
        password = str(options.get("ssl.key.password", ""))
        try:
            # By a function: without one, OpenSSL would ask whoever sits at the terminal.
            context.load_cert_chain(certificate, key, lambda: password)
        except OSError as error:
            raise SettingsError(
                f"Kafka options ssl.certificate.location and ssl.key.location: {certificate} and "
                f"{key} cannot be used ({error}); see whether they belong together, and "
                "ssl.key.password"
            ) from error
    if str(options.get("ssl.endpoint.identification.algorithm", "")).lower() == "none":
        context.check_hostname = False
    if str(options.get("enable.ssl.certificate.verification", "")).lower() in _FALSE:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    return context
