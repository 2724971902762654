"""How everything is, in one sentence that can be read from across the room, and one or two more below it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from fedwon.server.identity.naming import listed
from fedwon.server.page.overview import Overview, RunView
from fedwon.server.page.texts import Texts


@dataclass(frozen=True)
class Headline:
    """The head of the first page.

    Attributes:
        title: one sentence.
        lines: more about it.
        mood: "good", "busy", "look" or "bad": the colour beside it.
    """

    title: str
    lines: tuple[str, ...] = ()
    mood: str = "good"


def headline(view: Overview, t: Texts, folder: Path, minimum: int) -> Headline:
    """Say how everything is."""
    if not view.sites:
        return Headline(t.no_sites, (t.no_sites_hint,), "look")
    if view.run is None:
        here = sum(site.state == "connected" for site in view.sites)
        return Headline(t.no_run, (t.no_run_hint.format(minimum=minimum, connected=here),), "look")
    run = view.run
    if run.held:
        return Headline(t.run_held, (_progress(view, t),), "look")
    if run.state == "running":
        return _running(view, run, t)
    path = folder / run.model
    return {
        "paused": Headline(t.run_paused, (run.reason,), "look"),
        "finished": Headline(t.run_finished, (t.model_at.format(path=path.parent / "model.safetensors"),)),
        "stopped": Headline(t.run_stopped, (run.reason,), "look"),
    }.get(run.state, Headline(t.run_failed, (run.reason,), "bad"))


def _running(view: Overview, run: RunView, t: Texts) -> Headline:
    if run.committed >= run.rounds:
        return Headline(t.run_measuring.format(rounds=run.rounds), mood="busy")
    if not view.asked:
        return Headline(t.run_starting, mood="busy")
    soon = {"pause": t.will_pause, "stop": t.will_stop}.get(run.wish, "")
    waiting = sorted(site for site, state in view.asked.items() if state == "sent")
    lines = [_progress(view, t), t.waiting_for.format(sites=listed(waiting)) if waiting else "", soon]
    title = t.run_running.format(round=run.committed + 1, rounds=run.rounds)
    return Headline(title, tuple(line for line in lines if line), "busy")


def _progress(view: Overview, t: Texts) -> str:
    answered = sum(state in {"received", "averaged"} for state in view.asked.values())
    return t.round_progress.format(done=answered, asked=len(view.asked)) if view.asked else ""
