"""The documents are true: whatever they name exists, and whatever exists they name."""

import importlib
import importlib.util
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import jsonschema  # type: ignore[import-untyped]
import orjson
import pytest
import typer.main
from prometheus_client import generate_latest

from streamsched.cli.main import app
from streamsched.core import headers, limits
from streamsched.core.commands import Cancel, Schedule
from streamsched.core.destinations import Problem
from streamsched.core.names import TopicNames
from streamsched.core.rejection import Reason
from streamsched.core.tenant_settings import decode_settings
from streamsched.core.tenants import PAUSED, SETTINGS_INVALID
from streamsched.core.wire import decode
from streamsched.doctor.checks import CHECKS
from streamsched.engine.kafka_options import _EQUALS as KAFKA_OPTIONS
from streamsched.engine.metrics import Metrics
from streamsched.schema import SCHEMA_NAMES, load_schema
from streamsched.settings import ENV_PREFIX, Settings
from streamsched.testing import Record
from tests.chaos.faults import all_faults

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "streamsched"
DOCUMENTS = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")])
NAMES = TopicNames()
NOW_MS = 1_800_000_000_000

HEADERS = frozenset(
    value
    for name, value in vars(headers).items()
    if name.isupper() and isinstance(value, str) and value != headers.PREFIX
)
TOPICS = frozenset(
    {
        *(NAMES.jobs, NAMES.tenant_settings, NAMES.rejected, NAMES.dead_letters, NAMES.events),
        NAMES.changelog,
    }
)
BOLD_WORD = re.compile(r"^\| \*\*([^*]+)\*\* \|", re.MULTILINE)
FENCE = re.compile(r"^```([^\n]*)\n(.*?)^```", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")

every_document = pytest.mark.parametrize(
    "path", DOCUMENTS, ids=[str(p.relative_to(ROOT)) for p in DOCUMENTS]
)


def read(name: str) -> str:
    """A document by its path in the repository."""
    return (ROOT / name).read_text(encoding="utf-8")


def section(text: str, title: str) -> str:
    """What stands under a heading of the second level."""
    _, _, rest = text.partition(f"\n## {title}\n")
    assert rest, f"no heading {title!r}"
    return rest.split("\n## ")[0]


def first_cells(text: str) -> list[str]:
    """What stands in backticks at the beginning of each row of the tables in `text`."""
    return re.findall(r"^\| `([^`]+)` \|", text, re.MULTILINE)


def anchors(text: str) -> set[str]:
    """The anchors of the headings, as they are made where Markdown is shown."""
    titles = re.findall(r"^#+ (.*)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


def fences(text: str, first_word: str) -> list[tuple[str, str]]:
    """Fenced blocks of a language: the rest of their info, and what is in them."""
    found = []
    for info, body in FENCE.findall(text):
        language, _, rest = info.partition(" ")
        if language == first_word:
            found.append((rest, body))
    return found


def metric_names() -> set[str]:
    """The names under which a scheduler's metrics are shown, histograms by their family."""
    shown = generate_latest(Metrics().registry).decode()
    kinds = re.findall(r"^# TYPE (\S+) (\S+)$", shown, re.MULTILINE)
    return {name for name, kind in kinds if not name.endswith("_created")}


def commands() -> dict[str, click.Command]:
    """All commands by their words: `topics plan`, `run`."""
    found: dict[str, click.Command] = {}

    def walk(command: Any, words: list[str]) -> None:
        below = getattr(command, "commands", None)
        if below is None:
            found[" ".join(words)] = command
            return
        for name, child in below.items():
            walk(child, [*words, name])

    walk(typer.main.get_command(app), [])
    return found


def command_lines(text: str) -> Iterator[list[str]]:
    """The words after `streamsched` in code, where they are a command line."""
    for line in re.findall(r"(?:^|`|/)streamsched ([a-z][^`\n#]*)", text, re.MULTILINE):
        yield line.split()


# --- links and names in all documents ------------------------------------------------------


@every_document
def test_links_resolve(path: Path) -> None:
    """Each link leads to a file that is there, and to a heading in it."""
    for target in LINK.findall(path.read_text(encoding="utf-8")):
        if target.startswith("https://"):
            continue
        name, _, anchor = target.partition("#")
        found = (path.parent / name).resolve() if name else path
        assert found.exists(), target
        if anchor:
            assert anchor in anchors(found.read_text(encoding="utf-8")), target


@every_document
def test_files_that_are_named_exist(path: Path) -> None:
    """Each Python file and each folder with a slash at its end is there."""
    text = path.read_text(encoding="utf-8")
    for name in re.findall(r"`([\w./]+(?:\.py|/))`", text):
        assert (ROOT / name).exists() or (PACKAGE / name).exists(), name


@every_document
def test_names_with_our_prefix_exist(path: Path) -> None:
    """Each header, topic, metric and module that is named is one of ours."""
    text = path.read_text(encoding="utf-8")
    groups = {NAMES.reader_group_prefix, NAMES.worker_group_prefix, NAMES.observer_group_prefix}
    others = {"streamsched-", "streamsched-error-", *TOPICS, *groups}
    for name in re.findall(r"(?<![\w./-])streamsched-[a-z0-9-]*", text):
        assert name in HEADERS | others, name
    families = metric_names()
    for name in re.findall(r"(?<!\w)streamsched_[a-z_]+", text):
        assert name in families, name
    for name in re.findall(r"(?<![\w/])streamsched\.([a-z][\w.-]*\w)", text):
        full = f"streamsched.{name}"
        prefixes = (NAMES.egress_prefix[:-1], NAMES.tenant_jobs_prefix)
        if full in TOPICS or full.startswith(prefixes) or name == "toml":
            continue
        module, _, attribute = full.rpartition(".")
        is_module = importlib.util.find_spec(full) if not attribute[0].isupper() else None
        assert is_module or hasattr(importlib.import_module(module), attribute), full


@every_document
def test_constants_that_are_named_exist(path: Path) -> None:
    """Each name in capitals stands in the code, or is a setting or a client option."""
    sources = [*PACKAGE.rglob("*.py"), ROOT / "docker/Dockerfile", ROOT / "docker/compose.yaml"]
    code = "\n".join(p.read_text(encoding="utf-8") for p in sources)
    for name in re.findall(r"`([A-Z]+_[A-Z_]+)`", path.read_text(encoding="utf-8")):
        if name.startswith(ENV_PREFIX):
            assert name.partition("__")[0].removeprefix(ENV_PREFIX).lower() in Settings.model_fields
        elif name.lower().replace("_", ".") not in KAFKA_OPTIONS:
            assert re.search(rf"\b{name}\b", code), name


@every_document
def test_command_lines_would_run(path: Path) -> None:
    """Each command line has a command that exists and options that it takes."""
    known = commands()
    groups = {name.split()[0] for name in known}
    for words in command_lines(path.read_text(encoding="utf-8")):
        if words[0] not in groups:
            continue  # a sentence that begins with our name
        name = next((n for n in (" ".join(words[:2]), words[0]) if n in known), None)
        assert name is not None, words
        options = {option for p in known[name].params for option in p.opts + p.secondary_opts}
        for word in words:
            if word.startswith("-"):
                assert word in options, (name, word)


@every_document
def test_make_targets_exist(path: Path) -> None:
    """Each target of make that is named can be made."""
    targets = set(re.findall(r"^([a-z-]+):", read("Makefile"), re.MULTILINE))
    text = path.read_text(encoding="utf-8")
    for name in re.findall(r"(?:`|^    )make ([a-z-]+)", text, re.MULTILINE):
        assert name in targets, name


# --- tables that must be complete ----------------------------------------------------------


def test_reasons_are_all_explained() -> None:
    """reasons.md has each reason code of rejected records, in the code's order, and no other."""
    table = section(read("docs/reasons.md"), "Of rejected records")
    assert first_cells(table) == [reason.value for reason in Reason]


def test_what_blocks_a_tenant_is_all_explained() -> None:
    """reasons.md has each reason why a tenant may not dispatch, and no other."""
    table = section(read("docs/reasons.md"), "Of tenants that may not dispatch")
    expected = [PAUSED, SETTINGS_INVALID, *(problem.value for problem in Problem)]
    assert first_cells(table) == expected


def test_metrics_are_all_explained() -> None:
    """metrics.md has each metric with its kind, and no other."""
    shown = generate_latest(Metrics().registry).decode()
    kinds = dict(re.findall(r"^# TYPE (\S+) (\S+)$", shown, re.MULTILINE))
    rows = re.findall(r"^\| `(streamsched_\w+)` \| (\w+) \|", read("docs/metrics.md"), re.MULTILINE)
    assert len(rows) == len(dict(rows))
    assert dict(rows) == {name: kinds[name] for name in metric_names()}


def test_headers_are_all_explained() -> None:
    """wire.md has a row for each of our headers, and those of ingress stand under ingress."""
    text = read("docs/wire.md")
    cells = {name for name in first_cells(text) if name.startswith(headers.PREFIX)}
    assert cells - TOPICS == HEADERS
    ingress = section(text, "Submitting a job: header mode")
    assert set(first_cells(ingress)) == headers.INGRESS


def test_topics_are_all_explained() -> None:
    """wire.md begins with a table of the topics."""
    table = read("docs/wire.md").split("\n## ")[0]
    assert set(first_cells(table)) == {*TOPICS, NAMES.egress("TENANT")}


@pytest.mark.parametrize(
    ("title", "schema"),
    [
        ("Submitting a job: envelope mode", "job.v1"),
        ("A tenant's settings", "tenant-settings.v1"),
    ],
)
def test_fields_are_all_explained(title: str, schema: str) -> None:
    """wire.md has a row for each field of an envelope and of a settings record."""
    cells = first_cells(section(read("docs/wire.md"), title))
    assert set(cells) == set(load_schema(schema)["properties"])


def test_events_are_all_explained() -> None:
    """wire.md has a row for each event, with the fields that its schema asks for."""
    rows = re.findall(
        r"^\| `(\w+)` \|[^|]*\| ([^|]*)\|$", section(read("docs/wire.md"), "Events"), re.MULTILINE
    )
    expected: dict[str, set[str]] = {}
    for shape in load_schema("event.v1")["$defs"].values():
        kind = shape.get("properties", {}).get("event")
        if kind is None:
            continue
        for name in kind.get("enum") or [kind["const"]]:
            expected[name] = {*shape["required"]} - {"event", "tenant", "id", "at"}
    assert {name: set(re.findall(r"`(\w+)`", cells)) for name, cells in rows} == expected


@pytest.mark.parametrize(("name", "rows_min"), [("docs/wire.md", 10), ("ARCHITECTURE.md", 7)])
def test_limits_are_those_of_the_code(name: str, rows_min: int) -> None:
    """The numbers in the tables of limits are the constants' values."""
    rows = re.findall(r"^\| .* \| ([\d,]+) \| `(\w+)` \|$", read(name), re.MULTILINE)
    assert len(rows) >= rows_min
    for value, constant in rows:
        assert int(value.replace(",", "")) == getattr(limits, constant), constant


def test_process_settings_are_all_explained() -> None:
    """The front page has each setting of a process with its default."""
    rows = re.findall(
        rf"^\| `{ENV_PREFIX}(\w+)` \| (?:`([^`]*)`)? ?\|", read("README.md"), re.MULTILINE
    )
    fields = Settings.model_fields
    defaults = {name.upper(): field.get_default() for name, field in fields.items()}
    expected = {name: "" if value is None else str(value) for name, value in defaults.items()}
    expected["KAFKA"] = ""
    assert dict(rows) == expected


def test_commands_are_all_explained() -> None:
    """The front page names every command."""
    text = read("README.md")
    for name in commands():
        assert f"`streamsched {name}`" in text, name


def test_checks_of_the_doctor_are_all_explained() -> None:
    """doctor.md has a row for each check, in their order, and no other."""
    table = section(read("docs/doctor.md"), "The checks")
    assert first_cells(table) == [check.name for check in CHECKS]


def test_faults_of_chaos_are_all_named() -> None:
    """The table of faults names each fault of chaos, and beside them tests and commands alone."""
    table = section(read("docs/reliability.md"), "Faults")
    tested_by = [row.split("|")[-2] for row in table.splitlines() if row.startswith("| ")]
    named = {name for cell in tested_by for name in re.findall(r"`([^`]+)`", cell)}
    tests = {name for name in named if name.startswith("tests/")}
    assert named - tests - commands().keys() == {fault.name for fault in all_faults(1.0)}


def test_pages_of_the_web_are_all_explained() -> None:
    """The front page names every path that a scheduler answers at."""
    code = (PACKAGE / "web" / "server.py").read_text(encoding="utf-8")
    paths = re.findall(r'web\.get\("([^"]+)"', code)
    assert paths
    for path in paths:
        shown = re.sub(r"{(\w+)}", lambda match: match[1].upper(), path)
        assert f"`{shown}`" in read("README.md"), path


def test_modules_are_all_explained() -> None:
    """ARCHITECTURE.md has each module of the four lower packages, and each once."""
    table = section(read("ARCHITECTURE.md"), "7. Modules")
    cells = [row.split("|")[1] for row in table.splitlines() if row.startswith("| `")]
    named = [name for cell in cells for name in re.findall(r"`([^`]+)`", cell)]
    expected = {
        f"{package}/{path.name}"
        for package in ("core", "store", "kafka", "engine")
        for path in (PACKAGE / package).glob("*.py")
        if path.name != "__init__.py"
    }
    assert len(named) == len(set(named))
    assert set(named) - {"settings.py", "schema.py"} == expected


LAYERS = {
    "core": {"core"},
    "store": {"core", "store"},
    "kafka": {"core", "kafka", "settings"},
    "engine": {"core", "store", "kafka", "engine", "settings"},
}


@pytest.mark.parametrize("layer", LAYERS)
def test_imports_go_the_way_that_is_told(layer: str) -> None:
    """The four lower packages import each other as ARCHITECTURE.md says, the core nothing else."""
    for path in (PACKAGE / layer).glob("*.py"):
        text = path.read_text(encoding="utf-8")
        ours = set(re.findall(r"^\s*(?:from|import) streamsched\.(\w+)", text, re.MULTILINE))
        if path == PACKAGE / "engine" / "runners.py":
            ours.discard("web")
        assert ours <= LAYERS[layer], path.name
        others = set(re.findall(r"^\s*(?:from|import) (\w+)", text, re.MULTILINE))
        forbidden = {"asyncio", "threading", "faust", "aiokafka", "confluent_kafka", "rocksdict"}
        assert layer != "core" or not others & forbidden, path.name


def test_decisions_are_all_listed() -> None:
    """The list of decisions has each page under its title."""
    folder = ROOT / "docs" / "adr"
    listed = re.findall(r"^(\d+)\. \[(.*)\]\((.*)\)$", read("docs/adr/README.md"), re.MULTILINE)
    expected = []
    for path in sorted(folder.glob("0*.md")):
        title = path.read_text(encoding="utf-8").splitlines()[0]
        number, _, words = title.removeprefix("# ").partition(". ")
        assert int(path.name[:4]) == int(number)
        expected.append((number, words, path.name))
    assert listed == expected


def test_glossary_is_in_order_and_has_the_names_of_modules() -> None:
    """Each list of words is sorted, no word stands twice, and modules of the core are words."""
    text = read("docs/glossary.md")
    words = BOLD_WORD.findall(text)
    assert len(words) == len(set(words))
    for part in text.split("\n## ")[1:]:
        own = BOLD_WORD.findall(part)
        assert own == sorted(own)
    for path in (PACKAGE / "core").glob("*.py"):
        if path.name != "__init__.py":
            name = path.stem.replace("_", " ")
            assert any(w.startswith(name) or name.startswith(w) for w in words), name


# --- examples ------------------------------------------------------------------------------

JSON_EXAMPLES = fences(read("docs/wire.md"), "json")


def test_each_schema_has_an_example() -> None:
    """wire.md shows one record at least of each kind."""
    assert {name for name, _ in JSON_EXAMPLES} == set(SCHEMA_NAMES)


@pytest.mark.parametrize(("schema", "body"), JSON_EXAMPLES)
def test_json_examples_are_valid(schema: str, body: str) -> None:
    """Each example satisfies its schema, and what goes in is taken by the code."""
    value = orjson.loads(body)
    jsonschema.Draft202012Validator(load_schema(schema)).validate(value)
    if schema == "tenant-settings.v1":
        decode_settings(body.encode(), NAMES)
    elif schema == "job.v1":
        record = Record(b"acme", body.encode(), (), NOW_MS, 0)
        assert isinstance(decode(record, NOW_MS), Schedule | Cancel)
    elif schema == "job-headers.v1":
        given = [(name, text.encode()) for name, text in value.items()]
        assert isinstance(decode(Record(b"acme", b"", given, NOW_MS, 0), NOW_MS), Schedule)


CONSOLE = re.findall(r"printf '(.*)\\n' \|\n((?:.*\\\n)*.*)\n```", read("README.md"))


@pytest.mark.parametrize(("line", "command"), CONSOLE)
def test_console_examples_are_taken(line: str, command: str) -> None:
    """What the front page pipes into Kafka's console producer is a job, a cancel or a setting."""
    parts = line.split("\\t")
    given: list[tuple[str, bytes | None]] = []
    if "parse.headers=true" in command:
        pairs = [pair.partition(":") for pair in parts.pop(0).split(",")]
        given = [(name, text.encode()) for name, _, text in pairs]
    key, text = parts
    value = None if text == "NULL" else text.encode()
    if NAMES.tenant_settings in command:
        assert value is not None
        decode_settings(value, NAMES)
        return
    assert f"--topic {NAMES.jobs} " in command
    taken = decode(Record(key.encode(), value, given, NOW_MS, 0), NOW_MS)
    assert isinstance(taken, Cancel if value is None else Schedule)


PYTHON_EXAMPLES = [body for _, body in fences(read("README.md"), "python")]


@pytest.mark.parametrize("body", PYTHON_EXAMPLES)
def test_python_examples_hold(body: str) -> None:
    """Each example compiles and finds what it imports; one on the driver runs."""
    code = compile(body, "README.md", "exec")
    if "Driver()" in body:
        exec(code, {})
        return
    for module, name in re.findall(r"^from (streamsched\S*) import (\w+)$", body, re.MULTILINE):
        assert hasattr(importlib.import_module(module), name)


def test_examples_are_found() -> None:
    """The patterns above still find the examples that they are for."""
    assert len(CONSOLE) >= 4
    assert len(PYTHON_EXAMPLES) >= 3
