"""One real Kafka for a whole test run, however many worker processes pytest-xdist has.

The controlling process owns the broker, because workers end at different times. It listens on
a Unix socket; the first connection starts the broker, and each one is answered with a line of
JSON: `{"options": …}` of a client, `{"error": …}` or, where containers are asked for and cannot be
had, `{"absent": …}`. Runs without a broker test never start one.
"""

import contextlib
import json
import shutil
import socket
import tempfile
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from streamsched.kafka.embedded import EmbeddedKafka, EmbeddedKafkaError

if TYPE_CHECKING:
    from tests.kafka_container import KafkaContainer

SHARED: Final = frozenset({"embedded", "secure", "container"})
"""Kinds of Kafka that a run starts for itself."""

_ANSWER_SECONDS_MAX = 300.0


class BrokerUnavailableError(Exception):
    """The broker of this run could not be started."""


class NoContainerError(BrokerUnavailableError):
    """There is no container engine or no image; the text says which, and what to do."""


class SharedBroker:
    """Lives in the controlling process (or the only one) and starts Kafka when first asked."""

    def __init__(self, kind: str) -> None:
        """`kind` is one of `SHARED`; nothing is started for another."""
        self._folder = Path(tempfile.mkdtemp(prefix="streamsched-tests-"))
        self._kind = kind
        self._kafka: EmbeddedKafka | KafkaContainer | None = None
        self._lock = threading.Lock()
        self._answer: dict[str, Any] = {}
        self._closed = False
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._socket.bind(self.path)
        self._socket.listen(64)
        threading.Thread(target=self._serve, name="shared-broker", daemon=True).start()

    @property
    def path(self) -> str:
        """Where workers connect to."""
        return str(self._folder / "socket")

    def close(self) -> None:
        """Stop what runs and remove its data."""
        self._closed = True
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()
        with self._lock:
            if self._kafka is not None:
                self._kafka.stop()
        shutil.rmtree(self._folder, ignore_errors=True)

    def _serve(self) -> None:
        while True:
            try:
                connection, _ = self._socket.accept()
            except OSError:
                return
            with connection, contextlib.suppress(OSError):
                connection.sendall(json.dumps(self._answered()).encode() + b"\n")

    def _answered(self) -> dict[str, Any]:
        with self._lock:
            if not self._answer and not self._closed:
                try:
                    self._kafka = self._made()
                    self._kafka.start()
                    self._answer = {"options": self._kafka.client_options}
                except NoContainerError as error:
                    self._answer = {"absent": str(error)}
                except (EmbeddedKafkaError, AssertionError) as error:
                    self._answer = {"error": str(error)}
            return self._answer or {"error": "the test run is ending"}

    def _made(self) -> "EmbeddedKafka | KafkaContainer":
        if self._kind != "container":
            return EmbeddedKafka(self._folder / "kafka", secure=self._kind == "secure")
        from tests.kafka_container import KafkaContainer  # noqa: PLC0415 - loads docker's client

        return KafkaContainer()


def options_of_shared_broker(path: str) -> dict[str, str]:
    """Options of a client of the run's broker, started now if this is the first call.

    Raises `BrokerUnavailableError`, of which `NoContainerError` is the kind that is nobody's fault.
    """
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
        connection.settimeout(_ANSWER_SECONDS_MAX)
        connection.connect(path)
        with connection.makefile("r", encoding="utf-8") as answer:
            found = json.loads(answer.readline())
    if "absent" in found:
        raise NoContainerError(found["absent"])
    if "error" in found:
        raise BrokerUnavailableError(found["error"])
    options: dict[str, str] = found["options"]
    return options
