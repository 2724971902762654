"""A run as people see it: a live table at a terminal, plain lines elsewhere, and the table at the end."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.live import Live
from rich.table import Table
from rich.text import Text

from fedwon.common import logs
from fedwon.common.console import show_table
from fedwon.server.identity.naming import listed
from fedwon.server.rounds.evaluation import Evaluation
from fedwon.server.rounds.events import (
    Event,
    Listener,
    RoundCommitted,
    RoundStarted,
    RunEnded,
    RunPaused,
    RunStarted,
    SiteAnswered,
    SiteDrifted,
    SiteFailed,
    SiteNoted,
)
from fedwon.server.runs.federating import Outcome

logger = logging.getLogger(__name__)

MEGABYTE = 1e6
MOST_ROWS = 50
"""Rows of the live table, which is drawn four times a second."""
COURSE = 8
"""Rounds whose accuracy it shows."""


def log_event(event: Event) -> None:
    """Write a line for an event."""
    match event:
        case RunStarted():
            logger.info("run %s: round %d of %d is next", event.run, event.done + 1, event.rounds)
        case RoundStarted():
            logger.info("round %d: %s", event.number, listed(event.sites))
        case SiteAnswered():
            logger.info("round %d: %s", event.number, _sentence(event), extra={"site": event.site})
        case SiteFailed():
            logger.warning("round %d: no update from %s: %s", event.number, event.site, event.reason)
        case SiteNoted() | SiteDrifted():
            log_note(event)
        case RoundCommitted():
            logger.info("round %d committed in %.1f s: %s", event.number, event.seconds, event.path)
        case RunPaused():
            logger.warning("the run pauses: %s", event.reason)
        case RunEnded():
            logger.info("run %s has ended: %s %s", event.run, event.state, event.reason)


def log_note(event: SiteNoted | SiteDrifted) -> None:
    """Write a line for what a site says about its images, or for a drift alarm."""
    if isinstance(event, SiteNoted):
        logger.warning("%s: %s", event.site, event.text)
    elif event.over:
        logger.info("%s: the drift alarm is over", event.site)
    else:
        logger.warning("%s: %s; look at its camera, light and material", event.site, event.text)


def _sentence(event: SiteAnswered) -> str:
    accuracy = _accuracy(event)
    return (
        f"{event.site}: model {event.model_round} has {accuracy} on its validation images "
        f"(loss {event.metrics['validation-loss']:.3f}); trained on {event.metrics['num-examples']:.0f} images in "
        f"{event.seconds:.1f} s, loss {event.metrics.get('train-loss', float('nan')):.3f}; "
        f"{event.bytes_down / MEGABYTE:.2f} MB down, {event.bytes_up / MEGABYTE:.2f} MB up"
    )


def _accuracy(event: SiteAnswered) -> str:
    examples = event.metrics["validation-examples"]
    return f"{100 * event.metrics['validation-correct'] / examples:.1f} %" if examples else "no figure"


class LiveTable:
    """The run so far, a row a site: the newest figures, and the course of accuracy over the rounds."""

    def __init__(self) -> None:
        self._rows: dict[str, dict[str, str]] = {}
        self._course: dict[str, list[str]] = {}
        self._title = "waiting for sites"
        self._rounds = 0

    def hear(self, event: Event) -> None:
        """Take an event in."""
        match event:
            case RunStarted():
                self._rounds, self._title = event.rounds, f"run {event.run}"
            case RoundStarted():
                self._title = f"round {event.number} of {self._rounds}"
                for site in event.sites:
                    self._rows.setdefault(site, {})["state"] = "training"
            case SiteAnswered():
                self._answered(event)
            case SiteFailed():
                self._rows.setdefault(event.site, {})["state"] = event.reason
            case SiteNoted() | SiteDrifted():
                log_note(event)
            case RoundCommitted():
                self._title = f"round {event.number} of {self._rounds} committed in {event.seconds:.1f} s"
            case RunPaused():
                self._title = f"run {event.run} pauses: {event.reason}"
            case RunEnded():
                self._title = f"run {event.run}: {event.state}"

    def _answered(self, event: SiteAnswered) -> None:
        course = self._course.setdefault(event.site, [])
        course.append(_accuracy(event).removesuffix(" %"))
        del course[:-COURSE]
        self._rows.setdefault(event.site, {}).update(
            state="done",
            round=str(event.number),
            accuracy=" ".join(course),
            loss=f"{event.metrics['validation-loss']:.3f}",
            bytes=f"{event.bytes_down / MEGABYTE:.2f} / {event.bytes_up / MEGABYTE:.2f}",
            seconds=f"{event.seconds:.1f}",
        )

    def __rich__(self) -> Table:
        """Render for rich."""
        table = Table(title=self._title, title_justify="left")
        columns = {
            "site": "site",
            "round": "round",
            "accuracy": "validation accuracy, %, round by round",
            "loss": "loss",
            "bytes": "MB down / up",
            "seconds": "seconds",
            "state": "state",
        }
        for heading in columns.values():
            table.add_column(heading)
        for site in sorted(self._shown()):
            row = {"site": site, **self._rows[site]}
            table.add_row(*(Text(row.get(key, "")) for key in columns))
        if len(self._rows) > MOST_ROWS:
            table.caption = f"and {len(self._rows) - MOST_ROWS} sites more"
        return table

    def _shown(self) -> list[str]:
        """Return the sites that have a row: where there are too many, those first that are not done."""
        if len(self._rows) <= MOST_ROWS:
            return list(self._rows)
        return sorted(self._rows, key=lambda site: (self._rows[site].get("state") == "done", site))[:MOST_ROWS]


@contextmanager
def watching(*, quiet: bool = False) -> Iterator[Listener]:
    """Show a run while the block runs; yields what is to be told.

    The table is drawn where the log lines go, so that they pass above it.

    Args:
        quiet: write log lines even at a terminal, since standard output is for a machine.
    """
    console = logs.terminal()
    if quiet or console is None:
        yield log_event
        return
    table = LiveTable()
    with Live(table, console=console, refresh_per_second=4, get_renderable=lambda: table):
        yield table.hear


def show_evaluation(evaluation: Evaluation, echo: Callable[[str], None]) -> None:
    """Print a row a site and the mean."""
    rows = [
        (
            score.site,
            score.part,
            f"{100 * score.accuracy:.1f} %",
            f"{score.correct}/{score.examples}",
            f"{score.loss:.3f}",
        )
        for score in evaluation.scores
    ]
    rows += [(site, "-", "-", "-", reason) for site, reason in sorted(evaluation.failures.items())]
    show_table(("site", "images", "accuracy", "correct", "loss"), rows, title="The global model at every site")
    echo(f"mean over sites: {100 * evaluation.mean_accuracy:.1f} %")


def show_outcome(outcome: Outcome, echo: Callable[[str], None], *, kept: bool = True) -> None:
    """Print the final table and where the model is."""
    show_evaluation(outcome.evaluation, echo)
    echo(f"global model: {outcome.model}" if kept else "the global model was not kept: name a folder with `--out`")
