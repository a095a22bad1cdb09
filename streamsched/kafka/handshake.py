"""What is said before a login: the faults of certificates, and what a broker knows (ApiVersions).

request   length i32, key i16 = 18, version i16 = 0, number i32, no client id (i16 = -1)
response  length i32, number i32, error i16, count i32, then count times
          key i16, oldest version i16, newest version i16
"""

import socket
import ssl
import struct
from typing import Final

EXPIRED: Final = 10
NOT_YET_VALID: Final = 9
UNTRUSTED: Final = frozenset({2, 18, 19, 20, 21})
OTHER_NAME: Final = frozenset({62, 64})
"""What OpenSSL calls the faults of a certificate (X509_V_ERR_…)."""

INIT_PRODUCER_ID: Final = 22
INIT_PRODUCER_ID_SINCE_2_5: Final = 3
"""With which a producer can go on after a transaction that timed out."""

_NUMBER: Final = 1
_REQUEST: Final = struct.pack(">ihhih", 10, 18, 0, _NUMBER, -1)
_HEAD: Final = struct.Struct(">ihi")
_ROW: Final = struct.Struct(">hhh")
_ANSWER_BYTES_MAX: Final = 64 * 1024


class StrangeAnswerError(OSError):
    """An answer that no broker gives."""


def trusting() -> ssl.SSLContext:
    """TLS with anybody: only to see whether somebody speaks it."""
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context


def newest_versions(connection: socket.socket) -> dict[int, int]:
    """The newest version that the broker knows of each request, by the request's key.

    Raises `OSError` where nobody answers as Kafka does.
    """
    connection.sendall(_REQUEST)
    (size,) = struct.unpack(">i", _read(connection, 4))
    if not 0 <= size <= _ANSWER_BYTES_MAX:
        raise ConnectionError("it does not answer as Kafka does")
    answer = _read(connection, size)
    if size < _HEAD.size:
        raise StrangeAnswerError("a strange answer")
    number, error, count = _HEAD.unpack_from(answer)
    if error:
        raise ConnectionError(f"it refuses to tell what it knows, with error {error}")
    if number != _NUMBER or not 0 <= count <= (size - _HEAD.size) // _ROW.size:
        raise StrangeAnswerError("a strange answer")
    rows = _ROW.iter_unpack(answer[_HEAD.size : _HEAD.size + count * _ROW.size])
    return {key: newest for key, _, newest in rows}


def _read(connection: socket.socket, size: int) -> bytes:
    found = b""
    while len(found) < size:
        part = connection.recv(size - len(found))
        if not part:
            raise ConnectionError("it closed the connection")
        found += part
    return found
