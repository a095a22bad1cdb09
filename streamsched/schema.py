"""The JSON Schemas of every record, as shipped in the wheel or lying in a checkout."""

from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any, Final, cast

import orjson

SCHEMA_NAMES: Final = (
    "dead-letter-headers.v1",
    "dispatched-headers.v1",
    "event.v1",
    "job-headers.v1",
    "job.v1",
    "rejected-headers.v1",
    "tenant-settings.v1",
)

_CHECKOUT: Final = Path(__file__).resolve().parent.parent / "schemas"


def load_schema(name: str) -> dict[str, Any]:
    """The schema `name` (such as `job.v1`, see `SCHEMA_NAMES`), JSON Schema 2020-12.

    Raises `ValueError` for a name that no schema has.
    """
    if name not in SCHEMA_NAMES:
        raise ValueError(f"there is no schema {name!r}; there are {', '.join(SCHEMA_NAMES)}")
    # Decoded anew each time, so that a caller may change what it gets.
    return cast("dict[str, Any]", orjson.loads(_schema_bytes(name)))


@cache
def _schema_bytes(name: str) -> bytes:
    shipped = resources.files("streamsched") / "schemas" / f"{name}.json"
    if shipped.is_file():
        return shipped.read_bytes()
    return (_CHECKOUT / f"{name}.json").read_bytes()
