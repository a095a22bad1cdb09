"""What commands print: tables for people, JSON for programs; data on standard output only."""

import sys
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from enum import StrEnum
from typing import Annotated, Any, Final

import orjson
import typer

_PIPE_COLUMNS: Final = 1_000_000
"""Width of a table that goes into a pipe: nobody there wants cut or folded lines."""


class Format(StrEnum):
    """How data is printed."""

    TABLE = "table"
    JSON = "json"


Output = Annotated[
    Format, typer.Option("-o", "--output", help="How data is printed.", show_default=True)
]
"""The option that every command with data has."""

Row = Mapping[str, Any]


def show_rows(rows: Sequence[Row], columns: Sequence[str], output: Format) -> None:
    """Print `rows` as a table of `columns`, or whole as a JSON array."""
    if output is Format.JSON:
        show_json(list(rows))
    else:
        _print_table(columns, [[cell(row.get(name)) for name in columns] for row in rows])


def show_fields(fields: Row, output: Format) -> None:
    """Print one thing: a line for each field, or a JSON object."""
    if output is Format.JSON:
        show_json(fields)
    else:
        _print_table((), [[_title(k), field_text(k, v)] for k, v in fields.items()])


def show_json(value: Any) -> None:
    """Print `value` as indented JSON with a line end."""
    _write(orjson.dumps(value, option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE))


def show_json_line(value: Any) -> None:
    """Print `value` as one line of JSON, at once."""
    _write(orjson.dumps(value, option=orjson.OPT_APPEND_NEWLINE))


def show_line(text: str) -> None:
    """Print one line of text, at once."""
    print(text, flush=True)


def field_text(name: str, value: Any) -> str:
    """A field's value for people: points in time are readable, with their milliseconds."""
    if name.endswith("_at") and isinstance(value, int):
        return time_text(value)
    return cell(value)


def time_text(at_ms: int) -> str:
    """Epoch milliseconds as RFC 3339 in UTC."""
    at = datetime.fromtimestamp(at_ms / 1_000, UTC)
    return at.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def cell(value: Any) -> str:
    """A value as the text of a table's cell."""
    if value is None:
        return ""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, str | int | float):
        return printable(str(value))
    return printable(orjson.dumps(value).decode())


def printable(text: str) -> str:
    """`text` with everything escaped that could move a terminal's cursor or hide itself."""
    if text.isprintable():
        return text
    return "".join(
        c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in text
    )


def _print_table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    from rich.console import Console  # noqa: PLC0415 - not needed for JSON
    from rich.table import Table  # noqa: PLC0415
    from rich.text import Text  # noqa: PLC0415

    table = Table(box=None, show_header=bool(columns), header_style="bold", pad_edge=False)
    for column in columns or ("name", "value"):
        table.add_column(_title(column).upper(), overflow="fold")
    for row in rows:
        table.add_row(*map(Text, row))
    # NO_COLOR and TERM=dumb are rich's to respect.
    on_terminal = sys.stdout.isatty()
    console = Console(file=sys.stdout, width=None if on_terminal else _PIPE_COLUMNS)
    if on_terminal:
        console.print(table)
        return
    with console.capture() as capture:
        console.print(table)
    # Rich fills the last column up to the widest line.
    for line in capture.get().splitlines():
        print(line.rstrip())


def _title(name: str) -> str:
    return name.replace("_", " ")


def _write(data: bytes) -> None:
    print(data.decode(), end="", flush=True)
