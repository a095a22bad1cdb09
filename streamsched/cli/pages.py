"""The read-only pages of running schedulers, asked over HTTP."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, Final

import orjson
import typer

if TYPE_CHECKING:
    from streamsched.settings import Settings

ANSWER_SECONDS_MAX: Final = 5.0
ANSWER_BYTES_MAX: Final = 256 * 1024 * 1024

Urls = Annotated[
    list[str] | None,
    typer.Option(
        "--url",
        metavar="URL",
        help="A scheduler to ask; repeat it for each one. Default: http://WEB_HOST:WEB_PORT.",
    ),
]


@dataclass(frozen=True, slots=True)
class Answer:
    """What one scheduler said; `status` 0 where it did not answer, with the reason in `fault`."""

    url: str
    status: int
    body: dict[str, Any]
    fault: str = ""


def page_url(settings: "Settings") -> str:
    """Where the pages of a scheduler with these settings are to be found from this machine."""
    everywhere = {"0.0.0.0": "127.0.0.1", "::": "[::1]", "": "127.0.0.1"}  # noqa: S104
    host = everywhere.get(settings.web_host, settings.web_host)
    if ":" in host and not host.startswith("["):
        host = f"[{host}]"
    return f"http://{host}:{settings.web_port}"


def ask(urls: list[str], path: str) -> list[Answer]:
    """Ask each scheduler for the JSON at `path`; one answer each."""
    return [_ask(url.rstrip("/"), path) for url in urls]


def is_ready(url: str) -> bool:
    """Whether the scheduler there says that it is ready."""
    return _ask(url, "/readyz").status == 200


def urls_or_default(urls: list[str] | None, settings: "Settings") -> list[str]:
    """The schedulers that were named, else the one that the settings tell of.

    Raises `typer.BadParameter` for what is no address of a page.
    """
    for url in urls or ():
        if not url.startswith(("http://", "https://")):
            raise typer.BadParameter(f"{url!r} does not begin with http://", param_hint="--url")
    return urls or [page_url(settings)]


def _ask(url: str, path: str) -> Answer:
    from http.client import HTTPException  # noqa: PLC0415 - urllib costs a third of the start
    from urllib.error import HTTPError, URLError  # noqa: PLC0415
    from urllib.request import ProxyHandler, build_opener  # noqa: PLC0415

    # A scheduler is close by; a proxy for the world outside would not find it.
    opener = build_opener(ProxyHandler({}))
    try:
        with opener.open(url + path, timeout=ANSWER_SECONDS_MAX) as response:
            return Answer(url, response.status, _body(response.read(ANSWER_BYTES_MAX)))
    except HTTPError as error:
        with error:
            return Answer(url, error.code, _body(error.read(ANSWER_BYTES_MAX)))
    except URLError as error:
        reason = error.reason
        text = reason.strerror if isinstance(reason, OSError) else None
        return Answer(url, 0, {}, str(text or reason))
    except (OSError, HTTPException, ValueError) as error:
        return Answer(url, 0, {}, str(error) or type(error).__name__)


def _body(data: bytes) -> dict[str, Any]:
    try:
        body = orjson.loads(data)
    except orjson.JSONDecodeError:
        return {}
    return body if isinstance(body, dict) else {}
