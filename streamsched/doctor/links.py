"""From this machine to a broker's socket: options, names, ports, TLS, and what it can do."""

import socket
import ssl
import threading
import time
from collections.abc import Callable
from contextlib import ExitStack
from typing import Final, TypeVar
from urllib.parse import urlsplit

from streamsched.doctor.checkup import Address, Subject, Verdict, failed, ok, worst
from streamsched.engine.kafka_options import aiokafka_options
from streamsched.kafka.connection import Connection
from streamsched.kafka.handshake import (
    EXPIRED,
    INIT_PRODUCER_ID,
    INIT_PRODUCER_ID_SINCE_2_5,
    OTHER_NAME,
    newest_versions,
    trusting,
)
from streamsched.settings import Settings, SettingsError

T = TypeVar("T")

LINK_SECONDS_MAX: Final = 5.0
"""For each of: resolving a name, connecting, one exchange."""

CERTIFICATE_DAYS_MIN: Final = 14
"""A certificate that ends sooner is told of beforehand."""

DEFAULT_PORT: Final = 9092

_METADATA: Final = 3
_SINCE_2_8: Final = 10
"""Version of Metadata that tells the ids of topics."""

_SECONDS_PER_DAY: Final = 86_400


def check_settings(subject: Subject) -> Verdict:
    """Whether both clients, librdkafka and aiokafka, take the options."""
    servers = subject.settings.bootstrap_servers
    try:
        addresses(subject.settings)
    except ValueError:
        return failed(
            f"{servers!r} is no list of HOST:PORT,…: correct STREAMSCHED_BOOTSTRAP_SERVERS"
        )
    try:
        options = aiokafka_options(subject.settings)
    except SettingsError as error:
        return failed(str(error))
    subject.tls = options.get("ssl_context")
    subject.connection = Connection(subject.settings)
    return ok(f"app_id {subject.settings.app_id}, Kafka at {servers}")


def check_names(subject: Subject) -> Verdict:
    """Whether the hosts of the bootstrap servers are known here."""
    faults, known = [], []
    for host in dict.fromkeys(a.host for a in addresses(subject.settings)):
        try:
            known.append(f"{host} is {', '.join(_resolve(host))}")
        except OSError as error:
            faults.append(
                f"host {host} is not known here ({_reason(error)}): correct "
                "STREAMSCHED_BOOTSTRAP_SERVERS, or this machine's name service"
            )
    return _some(faults, known)


def check_ports(subject: Subject) -> Verdict:
    """Whether the bootstrap servers take connections."""
    faults, subject.reachable = [], []
    for address in addresses(subject.settings):
        try:
            with _connect(address):
                subject.reachable.append(address)
        except OSError as error:
            faults.append(
                f"{address} takes no connection ({_reason(error)}): start Kafka there, correct "
                "STREAMSCHED_BOOTSTRAP_SERVERS, or let the firewall through"
            )
    return _some(faults, [f"{address} takes connections" for address in subject.reachable])


def check_tls(subject: Subject) -> Verdict:
    """Whether the certificates are good, where TLS is asked for."""
    if subject.tls is None:
        return ok("not used: security.protocol asks for none")
    faults, cautions, well = [], [], []
    for address in subject.reachable:
        try:
            days = _certificate_days(address, subject.tls)
        except OSError as error:
            faults.append(tls_fault(address, error))
            continue
        if days is None:
            cautions.append(
                f"the certificate of {address} is not verified: remove "
                "enable.ssl.certificate.verification=false"
            )
        elif days < CERTIFICATE_DAYS_MIN:
            cautions.append(f"the certificate of {address} ends in {days} days: renew it")
        else:
            well.append(f"the certificate of {address} is good for {days} days")
    return worst(faults, cautions, "; ".join(well))


def check_version(subject: Subject) -> Verdict:
    """Whether the brokers are new enough."""
    faults, cautions = [], []
    for address in subject.reachable:
        try:
            newest = ask_versions(address, subject.tls)
        except OSError as error:
            faults.append(_no_answer(address, error, subject.tls))
            continue
        subject.requests[address] = newest
        if newest.get(INIT_PRODUCER_ID, -1) < INIT_PRODUCER_ID_SINCE_2_5:
            faults.append(f"the broker at {address} is older than Kafka 2.5: upgrade it")
        elif newest.get(_METADATA, -1) < _SINCE_2_8:
            cautions.append(
                f"the broker at {address} is older than Kafka 2.8 and knows no ids of topics, so "
                "a topic that is deleted and made anew is not noticed: upgrade it"
            )
    return worst(faults, cautions, "Kafka 2.8 or newer")


def addresses(settings: Settings) -> list[Address]:
    """The bootstrap servers; a port that is left out is Kafka's own. Raises `ValueError`."""
    found = []
    for server in settings.bootstrap_servers.split(","):
        text = server.strip()
        parts = urlsplit(text if "://" in text else f"//{text}")
        found.append(Address(parts.hostname or text, parts.port or DEFAULT_PORT))
    return found


def reach(address: Address) -> str:
    """Why `address` takes no connection from here; empty where it does."""
    try:
        _resolve(address.host)
        with _connect(address):
            return ""
    except OSError as error:
        return _reason(error)


def ask_versions(address: Address, tls: ssl.SSLContext | None) -> dict[int, int]:
    """The newest version of each kind of request that the broker knows.

    Raises `OSError` where it does not answer as Kafka does.
    """
    with ExitStack() as stack:
        connection = stack.enter_context(_connect(address))
        if tls is not None:
            connection = stack.enter_context(
                tls.wrap_socket(connection, server_hostname=address.host)
            )
        return newest_versions(connection)


def tls_fault(address: Address, error: OSError) -> str:
    """What is wrong with TLS at `address`, and what to do."""
    if isinstance(error, ssl.SSLCertVerificationError):
        if error.verify_code == EXPIRED:
            return f"the certificate of {address} has expired: renew it on the broker"
        if error.verify_code in OTHER_NAME:
            return (
                f"the certificate of {address} is for another name than {address.host}: use a "
                "name that it has in STREAMSCHED_BOOTSTRAP_SERVERS, or have it issued for this one"
            )
        return (
            f"the certificate of {address} is not trusted ({error.verify_message}): set "
            "STREAMSCHED_KAFKA__SSL_CA_LOCATION to the file of the authority that issued it"
        )
    if isinstance(error, ssl.SSLError) and "ALERT" in str(error.reason):
        return _refused(address, str(error.reason).replace("_", " ").lower())
    return (
        f"{address} does not speak TLS ({_reason(error)}): name a listener that does, or correct "
        "STREAMSCHED_KAFKA__SECURITY_PROTOCOL"
    )


def _refused(address: Address, reason: str) -> str:
    return (
        f"{address} breaks off TLS ({reason}): if it wants a certificate of the client, set "
        "STREAMSCHED_KAFKA__SSL_CERTIFICATE_LOCATION and STREAMSCHED_KAFKA__SSL_KEY_LOCATION; "
        "the broker's log has its reason"
    )


def _no_answer(address: Address, error: OSError, tls: ssl.SSLContext | None) -> str:
    if tls is not None and isinstance(error, ssl.SSLError | ConnectionError):
        # With TLS 1.3 a client hears only now that it should have shown a certificate; where the
        # broker closes at once, it hears no more than that.
        return _refused(address, _reason(error))
    if tls is None and _speaks_tls(address):
        return f"{address} speaks TLS: set STREAMSCHED_KAFKA__SECURITY_PROTOCOL to SSL or SASL_SSL"
    return (
        f"{address} does not answer as Kafka does ({_reason(error)}): correct "
        "STREAMSCHED_BOOTSTRAP_SERVERS, or see the broker's log"
    )


def _some(faults: list[str], well: list[str]) -> Verdict:
    """One good address is enough to begin with; the others are told of."""
    return worst([], faults, "; ".join(well)) if well else failed("; ".join(faults))


def _resolve(host: str) -> list[str]:
    found = _within(lambda: socket.getaddrinfo(host, None, type=socket.SOCK_STREAM))
    return list(dict.fromkeys(str(entry[4][0]) for entry in found))


def _connect(address: Address) -> socket.socket:
    # The name was resolved before, so only the connection takes time.
    connection = socket.create_connection((address.host, address.port), LINK_SECONDS_MAX)
    connection.settimeout(LINK_SECONDS_MAX)
    return connection


def _certificate_days(address: Address, tls: ssl.SSLContext) -> int | None:
    """For how many days the certificate is good yet; `None` where it is not verified."""
    with (
        _connect(address) as plain,
        tls.wrap_socket(plain, server_hostname=address.host) as wrapped,
    ):
        certificate = wrapped.getpeercert()
    if not certificate:
        return None
    ends_at_seconds = ssl.cert_time_to_seconds(str(certificate["notAfter"]))
    return int((ends_at_seconds - time.time()) // _SECONDS_PER_DAY)


def _speaks_tls(address: Address) -> bool:
    try:
        with _connect(address) as plain, trusting().wrap_socket(plain):
            return True
    except OSError:
        return False


def _within(call: Callable[[], T]) -> T:
    """The result of `call`, which nothing can interrupt; raises `TimeoutError` when it hangs."""
    results: list[T] = []
    errors: list[OSError] = []

    def run() -> None:
        try:
            results.append(call())
        except OSError as error:
            errors.append(error)
        except UnicodeError:
            errors.append(OSError("no name of a host"))

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join(LINK_SECONDS_MAX)
    if errors:
        raise errors[0]
    if not results:
        raise TimeoutError(f"no answer within {LINK_SECONDS_MAX:.0f} s")
    return results[0]


def _reason(error: OSError) -> str:
    return error.strerror or str(error) or type(error).__name__
