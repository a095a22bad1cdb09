"""The Java processes of embedded brokers, as the machine sees them."""

from pathlib import Path

import psutil


def brokers_on(folder: Path) -> list[psutil.Process]:
    """Java processes whose configuration lies in `folder`."""
    return [
        process
        for process in psutil.process_iter(["cmdline"])
        if any(str(folder) in word for word in process.info["cmdline"] or [])
        and "java" in process.info["cmdline"][0]
    ]
