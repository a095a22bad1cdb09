"""Which classes the simulated processes are made of; a broken protocol swaps one of them."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from streamsched.engine.producer import PartitionProducer
from streamsched.engine.runner import Runner


@dataclass(frozen=True)
class Protocol:
    """The real protocol, unless something is replaced."""

    runners: Callable[..., Any]
    stores: Callable[..., Any]
    runner: type[Runner] = Runner
    producer: type[PartitionProducer] = PartitionProducer
    patches: tuple[tuple[Any, str, Any], ...] = ()
    """Object, attribute and replacement, for what has no place to be handed in."""
