"""Where the reader asks after a seek, when it has read from a follower before."""

import asyncio
from time import monotonic
from types import SimpleNamespace

import pytest
from aiokafka.consumer.fetcher import Fetcher
from aiokafka.structs import TopicPartition

from streamsched.engine.reader import ReaderThread

TP = TopicPartition("t", 0)
GENERATION, LEADER, FOLLOWER = 3, 1, 2


def test_a_seek_begins_at_the_leader(monkeypatch: pytest.MonkeyPatch) -> None:
    """A follower may lack what another scheduler has read since, and would say so of no offset."""
    fetcher = Fetcher.__new__(Fetcher)
    fetcher._preferred_read_replica = {TP: (FOLLOWER, monotonic() + 60)}
    fetcher._client = SimpleNamespace(
        cluster=SimpleNamespace(
            broker_metadata=lambda node: node, leader_for_partition=lambda _: LEADER
        )
    )
    assert fetcher._select_read_replica(TP) == FOLLOWER
    sought: list[int] = []
    consumer = SimpleNamespace(
        _fetcher=fetcher,
        _coordinator=SimpleNamespace(generation=GENERATION),
        seek=lambda _, offset: sought.append(offset),
        resume=lambda _: None,
    )
    reader = ReaderThread.__new__(ReaderThread)
    reader._marks = {}
    monkeypatch.setattr(ReaderThread, "_ensure_consumer", lambda _: consumer)
    monkeypatch.setattr(ReaderThread, "_tp", lambda _, number: TopicPartition("t", number))
    monkeypatch.setattr(ReaderThread, "_is_assigned", lambda _, tp: tp == TP)
    assert asyncio.run(reader._seek_here(0, 7, GENERATION, 1)) == 7
    assert sought == [7]
    assert fetcher._select_read_replica(TP) == LEADER
