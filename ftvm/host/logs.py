"""What nodes and edges tell whoever runs them: events with fields, by way of the standard library's `logging`.

So a program that embeds a machine decides what becomes of them (unasked it sees warnings only, on standard error),
and the command line shows all of them.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import MutableMapping
from typing import Any

import structlog

ROOT = "ftvm"


def get_logger(name: str) -> Any:
    """A logger for events (`log.info("session lost", node=...)`) that is `ftvm.NAME` to `logging`."""
    return structlog.wrap_logger(
        logging.getLogger(f"{ROOT}.{name}"),
        processors=[structlog.stdlib.filter_by_level, _render],
        wrapper_class=structlog.stdlib.BoundLogger,
        cache_logger_on_first_use=True,
    )


def _render(_logger: Any, _method: str, event: MutableMapping[str, Any]) -> str:
    words = [str(event.pop("event"))]
    words += [
        f"{key}={value!r}" if isinstance(value, str) and " " in value else f"{key}={value}"
        for key, value in event.items()
    ]
    return " ".join(words)


def show_on_stderr() -> None:
    """For commands: every event is a line on standard error, with the time."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter("%(asctime)s.%(msecs)03d %(message)s", "%Y-%m-%d %H:%M:%S"))
    for name in (ROOT, "transport"):
        logger = logging.getLogger(name)
        logger.addHandler(handler)
        logger.setLevel(logging.INFO)
        logger.propagate = False
