"""`make test-containers`: engine, images and tests, from nothing and leaving nothing running.

Images that can be pulled are. Where no registry of images can be reached, the base is made of
Debian's packages and Kafka's image of the embedded broker's jars.
"""

import os
import shutil
import subprocess
import sys
import tempfile
from contextlib import ExitStack
from pathlib import Path

from streamsched.kafka.jars import KAFKA_VERSION
from tests.container import kafka_image
from tests.container.engine import NoEngineError, compose_plugin, some_engine

ROOT = Path(__file__).parents[2]
WHEELS = ROOT / "docker" / "wheels"
PYTHON = "python:3.11-slim-bookworm"
KAFKA = f"apache/kafka:{KAFKA_VERSION}"
OWN_BASE = "streamsched-base:test"
OWN_KAFKA = "streamsched-kafka:test"
OWN_SCHEDULER = "streamsched:test"
RUNS = (
    ("tests/container",),
    # Those that have a Kafka of their own are skipped by tests/conftest.py. What measures is left
    # out: another Kafka makes it neither truer nor less true, and it wants the machine to itself.
    # So are two whose length is repetition; the image is killed often enough by tests/container.
    (
        *("-n", "2", "--dist", "worksteal", "-m", "not serial", "--rebalances", "3"),
        *("tests/broker", "--ignore", "tests/broker/test_kill.py"),
    ),
)
"""Arguments of each run of pytest: the engine's own tests one by one, and the broker's."""


def main() -> int:
    """Do it all; the exit status of the tests, or 1 without an engine."""
    with ExitStack() as stack:
        folder = Path(tempfile.mkdtemp(prefix="streamsched-engine-"))
        stack.callback(shutil.rmtree, folder, ignore_errors=True)
        try:
            stack.enter_context(some_engine(folder))
        except NoEngineError as error:
            print(f"streamsched: {error}", file=sys.stderr)
            return 1
        stack.enter_context(compose_plugin())
        os.environ["SCHEDULER_IMAGE"] = OWN_SCHEDULER
        if pulled(PYTHON) and pulled(KAFKA):
            run("make", "image")
        else:
            build_without_registry(stack)
        pytest = [sys.executable, "-m", "pytest", "--kafka", "container"]
        done = [subprocess.run([*pytest, *run], cwd=ROOT, check=False) for run in RUNS]
        return max(run.returncode for run in done)


def pulled(image: str) -> bool:
    """Whether the image is here, or was pulled."""
    return any(
        subprocess.run(["docker", *words, image], check=False, capture_output=True).returncode == 0
        for words in (["image", "inspect"], ["pull"])
    )


def build_without_registry(stack: ExitStack) -> None:
    """Make the base and Kafka's image, and build ours of wheels that are fetched out here."""
    run("docker/closed/base.sh", OWN_BASE)
    kafka_image.build(OWN_KAFKA, OWN_BASE)
    os.environ["KAFKA_IMAGE"] = OWN_KAFKA
    if not any(WHEELS.glob("*.whl")):
        stack.callback(remove_wheels)
        run(sys.executable, "-m", "pip", "wheel", "--wheel-dir", str(WHEELS), ".", "hatchling")
    run("make", "image", f"PYTHON_IMAGE={OWN_BASE}", "PIP_NO_INDEX=1")


def remove_wheels() -> None:
    """Leave the folder as it was found."""
    for wheel in WHEELS.glob("*.whl"):
        wheel.unlink()


def run(*command: str) -> None:
    """Run a command to its end in the repository; its failure ends this program."""
    print(f"streamsched: {' '.join(command)}", file=sys.stderr, flush=True)
    subprocess.run(command, cwd=ROOT, check=True)


if __name__ == "__main__":
    sys.exit(main())
