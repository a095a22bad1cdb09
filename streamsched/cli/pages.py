"""The read-only pages of running schedulers, asked over HTTP."""

import threading
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, Final

import orjson
import typer

if TYPE_CHECKING:
    from streamsched.settings import Settings

ANSWER_SECONDS_MAX: Final = 5.0
ANSWER_BYTES_MAX: Final = 256 * 1024 * 1024

HEALTH_SECONDS_MAX: Final = 3.0
"""For both probes together; a container's engine gives the whole command a few seconds."""

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
    data: bytes = b""
    fault: str = ""

    @property
    def body(self) -> dict[str, Any]:
        """The JSON object that it answered; empty where it was none."""
        try:
            body = orjson.loads(self.data)
        except orjson.JSONDecodeError:
            return {}
        return body if isinstance(body, dict) else {}


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


def health_faults(urls: list[str]) -> dict[str, str]:
    """Why each of the schedulers does not work, in one line; empty for one that does.

    Known within `HEALTH_SECONDS_MAX`, whatever hangs: the name's resolution, too, which nothing
    can interrupt.
    """
    hangs = f"no answer within {HEALTH_SECONDS_MAX} s: it hangs, or cannot be reached from here"
    faults = dict.fromkeys(urls, hangs)

    def ask_one(url: str) -> None:
        faults[url] = _health_fault(url.rstrip("/"))

    threads = [threading.Thread(target=ask_one, args=(url,), daemon=True) for url in urls]
    for thread in threads:
        thread.start()
    deadline = time.monotonic() + HEALTH_SECONDS_MAX
    for thread in threads:
        thread.join(max(0.0, deadline - time.monotonic()))
    return dict(faults)


def _health_fault(url: str) -> str:
    deadline = time.monotonic() + HEALTH_SECONDS_MAX
    alive = _ask(url, "/livez", HEALTH_SECONDS_MAX)
    if alive.status == 0:
        return f"no scheduler answers ({alive.fault}): start it, or see in its log why it ended"
    if alive.status != 200:
        return f"something else than a scheduler answers there, with status {alive.status}"
    ready = _ask(url, "/readyz", max(0.1, deadline - time.monotonic()))
    if ready.status == 200:
        return ""
    # The first line says no more than the status does; each other one is a fault.
    said = ready.data.decode(errors="replace").splitlines()[1:]
    return f"not ready: {'; '.join(said) or ready.fault or f'status {ready.status}'}"


def urls_or_default(urls: list[str] | None, settings: "Settings") -> list[str]:
    """The schedulers that were named, else the one that the settings tell of.

    Raises `typer.BadParameter` for what is no address of a page.
    """
    for url in urls or ():
        if not url.startswith(("http://", "https://")):
            raise typer.BadParameter(f"{url!r} does not begin with http://", param_hint="--url")
    return urls or [page_url(settings)]


def _ask(url: str, path: str, seconds: float = ANSWER_SECONDS_MAX) -> Answer:
    from http.client import HTTPException  # noqa: PLC0415 - urllib costs a third of the start
    from urllib.error import HTTPError, URLError  # noqa: PLC0415
    from urllib.request import ProxyHandler, build_opener  # noqa: PLC0415

    # A scheduler is close by; a proxy for the world outside would not find it.
    opener = build_opener(ProxyHandler({}))
    try:
        with opener.open(url + path, timeout=seconds) as response:
            return Answer(url, response.status, response.read(ANSWER_BYTES_MAX))
    except HTTPError as error:
        with error:
            return Answer(url, error.code, error.read(ANSWER_BYTES_MAX))
    except URLError as error:
        reason = error.reason
        text = reason.strerror if isinstance(reason, OSError) else None
        return Answer(url, 0, fault=str(text or reason))
    except (OSError, HTTPException, ValueError) as error:
        return Answer(url, 0, fault=str(error) or type(error).__name__)
