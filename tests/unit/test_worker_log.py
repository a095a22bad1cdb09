"""What the Kafka clients say while a broker is away is told once in a while."""

import logging

import pytest

from streamsched.engine import worker
from streamsched.engine.librdkafka_log import LIBRDKAFKA_LOG

pytestmark = pytest.mark.unit


def said(name: str, message: str, *arguments: str) -> logging.LogRecord:
    """A log record as the libraries make them."""
    return logging.LogRecord(name, logging.ERROR, "", 0, message, arguments, None)


def test_same_kind_of_trouble_is_told_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Librdkafka's kinds are told apart by their first word; ours are all told."""
    now = [1_000.0]
    monkeypatch.setattr(worker.time, "monotonic", lambda: now[0])
    is_told = worker._NotAgainYet()
    template = "%s [%s] %s"
    rdkafka = LIBRDKAFKA_LOG.name
    assert is_told(said(rdkafka, template, "FAIL", "rdkafka#producer-1", "refused (after 1 ms)"))
    assert not is_told(
        said(rdkafka, template, "FAIL", "rdkafka#producer-2", "refused (after 2 ms)")
    )
    assert is_told(said(rdkafka, template, "FATAL", "rdkafka#producer-2", "fenced"))
    assert is_told(said("aiokafka.cluster", "no broker %s", "1"))
    assert not is_told(said("aiokafka.cluster", "no broker %s", "2"))
    assert is_told(said("streamsched.engine.runner", "partition begins again"))
    assert is_told(said("streamsched.engine.runner", "partition begins again"))
    now[0] += worker.REPEAT_SECONDS
    assert is_told(said(rdkafka, template, "FAIL", "rdkafka#producer-2", "refused (after 3 ms)"))


def test_call_to_a_loop_that_has_ended_is_no_news() -> None:
    """It is cancelled while the process ends, and the loop that it was for is closed already."""
    record = said("concurrent.futures", "exception calling callback for %r", "future")
    assert worker._worth_telling(record)
    error = RuntimeError("Event loop is closed")
    record.exc_info = (RuntimeError, error, None)
    assert not worker._worth_telling(record)
