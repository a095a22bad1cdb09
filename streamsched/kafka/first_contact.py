"""The first look at a cluster: what is wrong with a connection, as precisely as can be told.

librdkafka tries again for as long as it may, and what it says of TLS is the same for every fault
of a certificate. Here one connection is made by hand, step by step: TCP, TLS, and the request for
the versions that a broker knows, which needs no login.
"""

import socket
import ssl
import time
from collections.abc import Mapping
from contextlib import suppress
from typing import Any, Final
from urllib.parse import urlsplit

from streamsched.kafka.client_options import (
    PROTOCOL_VARIABLE,
    logs_in,
    protocol_of,
    speaks_tls,
    tls_context,
)
from streamsched.kafka.handshake import (
    EXPIRED,
    INIT_PRODUCER_ID,
    INIT_PRODUCER_ID_SINCE_2_5,
    NOT_YET_VALID,
    OTHER_NAME,
    UNTRUSTED,
    StrangeAnswerError,
    newest_versions,
    trusting,
)

STEP_SECONDS_MAX: Final = 2.0
"""How long one address may take to answer one step."""
LOOK_SECONDS_MAX: Final = 3.0
"""After how long no further address is looked at."""

OLDEST_BROKER: Final = "2.5"


def fault_of(bootstrap_servers: str, options: Mapping[str, Any]) -> str:
    """What keeps a client with these options from the cluster, as a sentence; empty for nothing.

    Only what does not pass by waiting: of addresses where nobody answers nothing is said, and
    the first where somebody does decides. Takes up to about 5 s. Raises `SettingsError` for
    certificates that cannot be read.
    """
    context = tls_context(options) if speaks_tls(options) else None
    deadline = time.monotonic() + LOOK_SECONDS_MAX
    for address in bootstrap_servers.split(","):
        with suppress(OSError, ValueError):
            return _fault_at(address.strip(), context, options)
        if time.monotonic() > deadline:
            break
    return ""


def _fault_at(address: str, context: ssl.SSLContext | None, options: Mapping[str, Any]) -> str:
    """Raises `OSError` or `ValueError` where nothing can be said."""
    try:
        versions = _versions(address, context)
    except ssl.SSLCertVerificationError as error:
        return _fault_of_certificate(address, context, error)
    except (StrangeAnswerError, ssl.SSLError, ConnectionError) as error:
        if isinstance(error, ConnectionRefusedError):
            raise
        return _fault_of_protocol(address, context, options, error)
    known = versions.get(INIT_PRODUCER_ID, -1)
    if known >= INIT_PRODUCER_ID_SINCE_2_5:
        return ""
    return (
        f"Kafka at {address} is older than {OLDEST_BROKER}, and streamsched needs its "
        f"transactions (InitProducerId in version {INIT_PRODUCER_ID_SINCE_2_5}; this broker "
        f"has {'none' if known < 0 else known}): upgrade the brokers"
    )


def _fault_of_certificate(
    address: str, context: ssl.SSLContext | None, error: ssl.SSLCertVerificationError
) -> str:
    whose = f"the certificate of Kafka at {address}"
    if error.verify_code == EXPIRED:
        return f"{whose} has expired: have the brokers' certificates renewed"
    if error.verify_code == NOT_YET_VALID:
        return f"{whose} is not valid yet: put this machine's clock right, or that of the brokers"
    if error.verify_code in UNTRUSTED:
        return (
            f"{whose} is signed by an authority that is not trusted here "
            f"({error.verify_message}): name the file with the right one in "
            "STREAMSCHED_KAFKA__SSL_CA_LOCATION"
        )
    if error.verify_code in OTHER_NAME:
        names = _names(address, context)
        return (
            f"{whose} is for other names ({names}): use one of them in "
            "STREAMSCHED_BOOTSTRAP_SERVERS, or have a certificate made for this one"
        )
    return f"{whose} is refused ({error.verify_message}): have the brokers' certificates renewed"


def _names(address: str, context: ssl.SSLContext | None) -> str:
    """The names in the certificate of a broker whose certificate is good but for its names."""
    assert context is not None
    context.check_hostname = False
    with _connected(address, context) as connection:
        assert isinstance(connection, ssl.SSLSocket)
        certificate = connection.getpeercert() or {}
    names: Any = certificate.get("subjectAltName", ())
    return ", ".join(str(name) for _, name in names) or "none"


def _fault_of_protocol(
    address: str, context: ssl.SSLContext | None, options: Mapping[str, Any], error: Exception
) -> str:
    """Why the broker hung up: raises what it can say nothing of."""
    protocol = protocol_of(options)
    login = "sasl_" if logs_in(options) else ""
    if context is None:
        with suppress(OSError), _connected(address, trusting()):
            return (
                f"Kafka at {address} wants TLS, and security.protocol is {protocol}: set "
                f"{PROTOCOL_VARIABLE} to {login or '(sasl_)'}ssl, or use the address of a "
                "listener without TLS"
            )
        raise error
    with suppress(OSError):
        _versions(address, None)
        return (
            f"Kafka at {address} does not speak TLS, and security.protocol is {protocol}: use the "
            f"address of its TLS listener, or set {PROTOCOL_VARIABLE} to "
            f"{login}plaintext"
        )
    with suppress(OSError), _connected(address, trusting()):
        return (
            f"Kafka at {address} does not take this client's certificate "
            f"({getattr(error, 'reason', None) or 'it hung up'}): name one that the brokers trust "
            "in STREAMSCHED_KAFKA__SSL_CERTIFICATE_LOCATION and its key in "
            "STREAMSCHED_KAFKA__SSL_KEY_LOCATION"
        )
    raise error


def _connected(address: str, context: ssl.SSLContext | None) -> socket.socket:
    place = urlsplit(address if "://" in address else f"//{address}")
    host = place.hostname or ""
    connection = socket.create_connection((host, place.port or 9092), STEP_SECONDS_MAX)
    if context is None:
        return connection
    try:
        return context.wrap_socket(connection, server_hostname=host)
    except BaseException:
        connection.close()
        raise


def _versions(address: str, context: ssl.SSLContext | None) -> dict[int, int]:
    """The newest version that the broker knows of each request, by the request's key."""
    with _connected(address, context) as connection:
        versions = newest_versions(connection)
    if not versions:
        raise StrangeAnswerError("it knows no request")
    return versions
