"""The tables of docs/performance.md about many sessions."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

ROWS: Mapping[str, tuple[str, str]] = {
    "storm, s to the last welcome (median)": ("storm.seconds_to_last", "storm.seconds_p50"),
    "storm, CPU s of the server": ("storm.cpu_seconds", ""),
    "heartbeat to `Heard`, idle, ms: p99 (p50)": ("idle.heard_ms_p99", "idle.heard_ms_p50"),
    "idle, CPU s a minute": ("idle.cpu_seconds_a_minute", ""),
    "idle, open files (threads)": ("idle.files", "idle.threads"),
    "round, s to the last `Committed` (last update in)": ("round.seconds", "round.handed_in_after_s"),
    "round, MB down (up)": ("round.megabytes_down", "round.megabytes_up"),
    "round, CPU s of the server (peak memory, MB)": ("round.cpu_seconds", "round.peak_mb"),
    "round, heartbeat to `Heard`, ms: p99 (p50)": ("round.heard_ms_p99", "round.heard_ms_p50"),
    "after SIGKILL, s from listening to the last welcome (median)": (
        "crash.seconds_to_last_after_listening",
        "crash.seconds_p50_after_listening",
    ),
}


def page(result: Mapping[str, Any]) -> str:
    """Write the tables of docs/performance.md."""
    measured = result["measured"]
    heads = " | ".join(f"{row['sites']} sites" for row in measured)
    lines = [f"| | {heads} |", f"|---|{'---|' * len(measured)}"]
    lines.append(f"| memory a site, kB | {' | '.join(f'{_a_site(row):.0f}' for row in measured)} |")
    for words, (main, beside) in ROWS.items():
        cells = (f"{_at(row, main)}{f' ({_at(row, beside)})' if beside else ''}" for row in measured)
        lines.append(f"| {words} | {' | '.join(cells)} |")
    lines += ["", "| sites connected | resident memory, MB | open files | threads |", "|---|---|---|---|"]
    for step in (step for row in measured for step in row["steps"]):
        lines.append(f"| {step['sites']} | {step['memory_mb']:.0f} | {step['files']} | {step['threads']} |")
    for row in measured:
        lines.append(f"\n{row['sites']} sites, tasks in the end: {row.get('database', {}).get('tasks', 'it broke')}")
        lines.append(f"sites that measured the final model: {row.get('database', {}).get('evaluated')}")
        lines.append(f"commands: {row.get('database', {}).get('commands')}")
        lines.append(f"failures that were tried again: {row.get('failures', row.get('failures_seen'))}")
    return "\n".join(lines)


def _a_site(row: Mapping[str, Any]) -> float:
    first, last = row["steps"][0], row["steps"][-1]
    return 1024 * (last["memory_mb"] - first["memory_mb"]) / last["sites"]


def _at(row: Mapping[str, Any], path: str) -> str:
    group, _, key = path.partition(".")
    value = row.get(group, {}).get(key)
    return "-" if value is None else f"{value:.3g}" if abs(value) < 100 else f"{value:.0f}"
