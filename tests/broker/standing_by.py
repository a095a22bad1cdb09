"""Two schedulers, each the other's standby, as their own pages and logs tell of it."""

import re
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager

from tests.broker.cluster import await_condition
from tests.broker.scheduler_process import LogLine, SchedulerProcess, events_named


def verbose(process: SchedulerProcess) -> str:
    """What `/readyz?verbose` says; empty while nobody listens."""
    return process.text_if_any("/readyz?verbose")


def followed(process: SchedulerProcess) -> set[int]:
    """The partitions that it follows and has read to the end."""
    found = re.findall(
        r"^standby (\d+): following, 0 records left$", verbose(process), re.MULTILINE
    )
    return {int(number) for number in found}


def owned(process: SchedulerProcess) -> set[int]:
    """The partitions that it dispatches from."""
    return {int(n) for n in re.findall(r"^partition (\d+): ready$", verbose(process), re.MULTILINE)}


def recoveries(process: SchedulerProcess) -> list[LogLine]:
    """Its log lines on recovered partitions."""
    return events_named(process.log_lines(), "partition recovered")


@contextmanager
def sharing(
    processes: tuple[SchedulerProcess, SchedulerProcess], partitions: int
) -> Iterator[None]:
    """Both run and each owns half of the partitions; in the end they are killed."""
    with ExitStack() as stack:
        for process in processes:
            stack.callback(process.kill)
            process.start()
        for process in processes:
            process.wait_ready()
        await_shared(processes, partitions)
        yield


def await_shared(processes: tuple[SchedulerProcess, SchedulerProcess], partitions: int) -> None:
    """Wait until each owns half of the partitions."""
    first, second = processes
    await_condition(
        "both own half",
        lambda: all(p.is_ready() and len(owned(p)) == partitions // 2 for p in processes),
        60,
        lambda: first.log() + second.log(),
    )


def await_followed(processes: tuple[SchedulerProcess, SchedulerProcess]) -> None:
    """Wait until each has read to its end what the other one owns."""
    first, second = processes
    await_condition(
        "each follows the other",
        lambda: followed(first) == owned(second) and followed(second) == owned(first),
        60,
        lambda: verbose(first) + verbose(second),
    )


def take_over(
    end: Callable[[], None],
    ends: SchedulerProcess,
    stays: SchedulerProcess,
    partitions: int,
    tail_records_max: int,
) -> None:
    """`end` one of them; the other takes all over from its standbys, which lack a tail at most."""
    lost, before = owned(ends), len(recoveries(stays))
    end()
    await_condition(
        "the other one has taken over",
        lambda: owned(stays) == set(range(partitions)),
        60,
        stays.log,
    )
    taken = [line for line in recoveries(stays)[before:] if line["partition"] in lost]
    assert {line["partition"] for line in taken} == lost
    print([(line["partition"], line["records"], line["was_standby"]) for line in taken])
    assert all(line["was_standby"] and line["records"] <= tail_records_max for line in taken)
