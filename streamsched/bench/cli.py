"""`streamsched bench`: measurements on an embedded Kafka, each beside bare clients."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from streamsched.cli.errors import EXIT_FAILED, SentenceGroup, say
from streamsched.cli.output import Format, Output, show_fields, show_json_line
from streamsched.kafka.signals import interrupted_by_signals

if TYPE_CHECKING:
    from streamsched.bench.result import BenchResult

PARTITIONS: Final = 4
TENANTS: Final = 8
PENDING: Final = 1_000_000
CHURN_PENDING: Final = 10_000
TENANTS_MAX: Final = 2_000

app = typer.Typer(
    cls=SentenceGroup,
    no_args_is_help=True,
    help="Measure the scheduler on a Kafka of its own, beside bare clients that do the same work.",
)

Tenants = Annotated[int, typer.Option(min=1, max=TENANTS_MAX, help="Tenants of the jobs.")]
Partitions = Annotated[int, typer.Option(min=1, max=64, help="Partitions of the ingress topic.")]


@app.command()
def baseline(
    jobs: Annotated[int, typer.Option(min=20_000, help="Jobs to take in and send out.")] = 200_000,
    tenants: Tenants = TENANTS,
    partitions: Partitions = PARTITIONS,
    output: Output = Format.TABLE,
) -> None:
    """Bare clients alone: jobs in, jobs out, and out without the scheduler's headers."""
    from streamsched.bench.baseline import bench_baseline  # noqa: PLC0415 - loads librdkafka

    _show(output, lambda: bench_baseline(jobs, tenants, partitions))


@app.command()
def schedule(
    *,
    jobs: Annotated[int, typer.Option(min=20_000, help="Jobs to accept.")] = 400_000,
    tenants: Tenants = TENANTS,
    partitions: Partitions = PARTITIONS,
    memory: Annotated[
        bool,
        typer.Option("--memory", help="Measure memory at 100,000 and 1,000,000 pending instead."),
    ] = False,
    output: Output = Format.TABLE,
) -> None:
    """How fast waiting jobs are accepted."""
    from streamsched.bench.schedule import bench_memory, bench_schedule  # noqa: PLC0415 - as above

    if memory:
        _show(output, lambda: bench_memory(tenants, partitions))
    else:
        _show(output, lambda: bench_schedule(jobs, tenants, partitions))


@app.command()
def dispatch(
    jobs: Annotated[int, typer.Option(min=20_000, help="Jobs to dispatch.")] = 200_000,
    tenants: Annotated[
        list[int] | None,
        typer.Option(
            min=1,
            max=TENANTS_MAX,
            help="Tenants of the jobs, each with an egress topic; give it twice to measure both.",
            show_default="8, then 200",
        ),
    ] = None,
    partitions: Partitions = PARTITIONS,
    output: Output = Format.TABLE,
) -> None:
    """How fast a backlog that falls due at one moment is dispatched."""
    from streamsched.bench.dispatch import bench_dispatch  # noqa: PLC0415 - as above

    for count in tenants or (8, 200):
        _show(output, partial(bench_dispatch, jobs, count, partitions))


@app.command()
def lateness(
    jobs: Annotated[int, typer.Option(min=100, help="Jobs due within one second.")] = 20_000,
    tenants: Tenants = TENANTS,
    partitions: Partitions = PARTITIONS,
    output: Output = Format.TABLE,
) -> None:
    """How late jobs are at their worker, and how soon a submitted job is acknowledged."""
    from streamsched.bench.lateness import bench_lateness  # noqa: PLC0415 - as above

    _show(output, lambda: bench_lateness(jobs, tenants, partitions))


@app.command()
def recovery(
    *,
    pending: Annotated[
        int | None,
        typer.Option(
            min=1_000, help="Jobs that are pending.", show_default="1000000; 10000 with --churn"
        ),
    ] = None,
    churn: Annotated[
        int,
        typer.Option(min=0, help="Let so many times as many jobs come and go before, instead."),
    ] = 0,
    tenants: Tenants = TENANTS,
    partitions: Partitions = PARTITIONS,
    output: Output = Format.TABLE,
) -> None:
    """How soon a killed scheduler works again: from an empty disk, and from its local state."""
    from streamsched.bench.recovery import bench_churn, bench_recovery  # noqa: PLC0415 - as above

    if churn:
        _show(output, lambda: bench_churn(pending or CHURN_PENDING, churn, tenants, partitions))
    else:
        _show(output, lambda: bench_recovery(pending or PENDING, tenants, partitions))


@app.command()
def failover(
    tenants: Tenants = 20,
    partitions: Partitions = PARTITIONS,
    output: Output = Format.TABLE,
) -> None:
    """How late jobs are while one of two schedulers is killed, stopped, started, or replaced."""
    from streamsched.bench.failover import bench_failover  # noqa: PLC0415 - as above

    _show(output, lambda: bench_failover(tenants, partitions))


@app.command()
def isolation(
    tenants: Tenants = 20,
    partitions: Partitions = PARTITIONS,
    output: Output = Format.TABLE,
) -> None:
    """How late jobs are beside tenants that flood, stand still, or send what is broken."""
    from streamsched.bench.isolation import bench_isolation  # noqa: PLC0415 - as above

    _show(output, lambda: bench_isolation(tenants, partitions))


def _show(output: Format, measure: Callable[[], Sequence["BenchResult"]]) -> None:
    """Measure and print; Ctrl-C and SIGTERM end everything that was started."""
    try:
        with interrupted_by_signals():
            results = measure()
    except KeyboardInterrupt:
        say("stopped; nothing was measured")
        raise typer.Exit(EXIT_FAILED) from None
    for result in results:
        if output is Format.JSON:
            show_json_line(result.as_json())
        else:
            show_fields(_flat(result), output)


def _flat(result: "BenchResult") -> dict[str, Any]:
    about = {f"machine {name}": value for name, value in result.machine.items()}
    return {**result.measured(), **about}
