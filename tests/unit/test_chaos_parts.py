"""Parts of the chaos tests that need no Kafka."""

import random
import subprocess
import sys
from collections.abc import Sequence
from itertools import repeat
from pathlib import Path
from typing import Any

import pytest

from tests.chaos import __main__ as command
from tests.chaos.campaign import Outcome, do_rounds
from tests.chaos.faults import Fault, all_faults
from tests.chaos.state_faults import FLIP_EVERY_BYTES, _flip
from tests.chaos.test_chaos import ONE_NODE, THREE_NODES
from tests.chaos.world import java_hash


def test_coordinators_are_found_as_kafka_finds_them() -> None:
    """The hash of Java's strings, without its sign."""
    assert java_hash("hello") == 99_162_322
    assert java_hash("Aa") == java_hash("BB") == 2_112
    assert java_hash("streamsched-0") < 2**31
    assert java_hash("") == 0


def test_every_kind_is_chosen_from_and_has_faults() -> None:
    """The short runs draw from all kinds; each has a fault that their cluster can suffer."""
    faults = all_faults(1.0)
    for kinds, nodes in ((ONE_NODE, 1), (THREE_NODES, 3)):
        assert set(kinds) <= {fault.kind for fault in faults if fault.nodes_min <= nodes}
    assert {*ONE_NODE, *THREE_NODES} == {fault.kind for fault in faults}
    assert len({fault.name for fault in faults}) == len(faults)


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (["--only", "kill", "hnag"], "there is no fault 'hnag'; there are: kill, hang, "),
        (
            ["--only", "kill", "kill coordinator", "--nodes", "1"],
            "'kill coordinator' needs 3 nodes, and --nodes has 1 at most; on 1 nodes there are: ",
        ),
        (
            ["--only", "kill coordinator", "kill egress leader"],
            "none of the faults can be done on 1 nodes: ",
        ),
        (["--nodes", "0"], "none of the faults can be done on 0 nodes: "),
    ],
)
def test_faults_that_cannot_be_done_are_refused_at_once(
    options: Sequence[str],
    sentence: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """A name that is misspelt or needs more nodes ends the run before it starts, with the names."""

    def started(*_: object, **__: object) -> Outcome:
        raise AssertionError("it was started")

    monkeypatch.setattr(command, "run", started)
    monkeypatch.setattr(sys, "argv", ["chaos", *options])
    with pytest.raises(SystemExit) as ended:
        command.main()
    assert ended.value.code == 2
    assert sentence in capsys.readouterr().err


@pytest.mark.parametrize(
    ("only", "nodes"), [([], [1, 3]), (["hang"], [3]), (["kill", "kill coordinator"], [1, 3])]
)
def test_faults_that_can_be_done_are_not_refused(only: Sequence[str], nodes: Sequence[int]) -> None:
    """Each cluster has one of them at least, and each of them a cluster that is large enough."""
    assert command.unfit(only, nodes) == ""


def test_a_run_without_a_fault_keeps_no_promise() -> None:
    """Where none is to be done it ends after its first round, and says that nothing was tried."""
    nobody: Any = None
    outcome = Outcome(seed=1, nodes=1)
    rounds = repeat((), 2)

    def choose() -> Sequence[Fault]:
        return next(rounds)

    do_rounds(nobody, outcome, choose, until=float("inf"), rest_seconds=0.0)
    assert outcome.broken == ["no fault was to be done, so nothing was tried"]
    assert len(list(rounds)) == 1


@pytest.mark.parametrize("nodes", ["3", "1 3"])
def test_make_hands_the_nodes_on(nodes: str) -> None:
    """`make chaos NODES=3` runs on three brokers alone."""
    shown = subprocess.run(
        ["make", "--dry-run", "chaos", f"NODES={nodes}", "MINUTES=5"],
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        check=True,
    )
    assert f"--nodes {nodes}\n" in shown.stdout


def test_flipped_files_differ_in_the_bits_that_are_counted(tmp_path: Path) -> None:
    """Only the files that are named, and nothing of their size."""
    (tmp_path / "0").mkdir()
    whole = bytes(range(256)) * 40
    for name in ("1.sst", "2.log"):
        (tmp_path / "0" / name).write_bytes(whole)
    flipped = _flip(random.Random(1), tmp_path, "*.sst")
    assert list(flipped) == ["0/1.sst"]
    damaged = (tmp_path / "0" / "1.sst").read_bytes()
    assert len(damaged) == len(whole)
    differing = sum(a != b for a, b in zip(whole, damaged, strict=True))
    assert differing == flipped["0/1.sst"] > len(whole) // FLIP_EVERY_BYTES // 2
    assert (tmp_path / "0" / "2.log").read_bytes() == whole
