"""Where traces go, and what their spans are called; `fedwon.common.spans` sends them (extra `otel`).

The names of trace and spans follow from the names of run, round and task (SHA-256). So a site's spans join those of its
server though nothing more travels than the task's name, and a run's trace goes on over restarts of either side.
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Annotated

from pydantic import Field

from fedwon.common.config import Settings
from fedwon.common.errors import MissingExtra

if TYPE_CHECKING:
    from fedwon.common.spans import Traces


class TracesConfig(Settings):
    """Traces of what is done (OpenTelemetry, extra `otel`)."""

    endpoint: Annotated[str, Field(pattern=r"^https?://[^\s@/]+(/[^\s@]*)?$")]
    """Whole address of a collector that takes OTLP over HTTP, such as `http://127.0.0.1:4318/v1/traces`. What it asks
    for comes from the environment: `OTEL_EXPORTER_OTLP_HEADERS`, `OTEL_EXPORTER_OTLP_CERTIFICATE`."""


def trace_id(run: str) -> int:
    """Return the trace of a run: 16 bytes, never 0."""
    return _number("trace", run, 16)


def span_id(name: str) -> int:
    """Return the span of a run, a round (`round_name`) or a task by its name: 8 bytes, never 0."""
    return _number("span", name, 8)


def _number(kind: str, name: str, size: int) -> int:
    digest = hashlib.sha256(f"fedwon {kind} {name}".encode()).digest()
    return int.from_bytes(digest[:size]) or 1


def round_name(run: str, number: int) -> str:
    """Return the name of a round's span."""
    return f"{run}.r{number:04d}"


def open_traces(config: TracesConfig, service: str, instance: str) -> Traces:
    """Open the way to a collector; nothing is sent yet.

    Args:
        config: where it is.
        service: who sends: "fedwon-server" or "fedwon-client".
        instance: which one: the federation's or the site's name.

    Raises:
        MissingExtra: OpenTelemetry is not installed.
    """
    try:
        from fedwon.common.spans import Traces, exporter_to
    except ImportError:
        raise MissingExtra(
            "`traces` in the configuration needs OpenTelemetry, which is not installed.",
            hint="Install it with `pip install 'fedwon[otel]'`, or take `traces` out.",
        ) from None
    return Traces(exporter_to(config.endpoint), service, instance)
