"""Scoring the models of a run while it goes on."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from benchmarks.paper.scoring import scored_images
from benchmarks.paper.spec import Spec
from fedwon.client.config import DataConfig
from fedwon.client.images.opening import SiteData, open_site
from fedwon.common.model_file import read_model
from fedwon.common.surveys import Part
from fedwon.server.comparison.scoring import LOCAL, counts, served
from fedwon.server.rounds.events import Event, RoundCommitted
from fedwon.server.runs.run import Run


class Watcher:
    """Scores the model now and then.

    A tuning run is scored on validation images, at its end; test images are not even opened.

    Args:
        spec: the run.
        sites: the data of the sites that train.
        unseen: domains that none of them has.
        folder: the run's.
    """

    def __init__(
        self, spec: Spec, sites: Mapping[str, DataConfig], unseen: Mapping[str, DataConfig], folder: Path
    ) -> None:
        self.spec, self.sites, self.folder = spec, sites, folder / "scores"
        self.unseen = {} if spec.rounds else unseen
        self.local = folder / LOCAL
        self.parts: tuple[Part, ...] = ("validation",) if spec.rounds else ("validation", "test")
        self._opened: dict[str, SiteData] = {}

    def hear(self, event: Event) -> None:
        """Take an event in."""
        if isinstance(event, RoundCommitted) and self._due(event.number):
            self._score(event.number, event.path)

    def catch_up(self, run: Run) -> None:
        """Score the newest model of a run that was broken off behind its commit, if it is due and was not scored."""
        number, record = run.last()
        if self._due(number) and not self._kept(number).exists():
            self._score(number, record.blob.path)

    def _due(self, number: int) -> bool:
        every = 0 if self.spec.rounds else self.spec.plan.test_every
        return number == self.spec.config.rounds or bool(number and every and number % every == 0)

    def _kept(self, number: int) -> Path:
        return self.folder / f"{number:04d}.json"

    def _score(self, number: int, path: Path) -> None:
        task, record = read_model(path)
        found = {}
        for site, data in self.sites.items():
            if site not in self._opened:
                self._opened[site] = open_site(data, task, Path.cwd())
            model = served(task, record, self.local, site)
            images = {part: getattr(self._opened[site], part) for part in self.parts}
            found[site] = {part: counts(model.network, part_images) for part, part_images in images.items()}
        for name, data in self.unseen.items():
            found[name] = {"test": counts(served(task, record, self.local, name).network, scored_images(data, task))}
        self.folder.mkdir(exist_ok=True)
        self._kept(number).write_text(json.dumps(found), encoding="utf-8")

    def scores(self) -> dict[str, Any]:
        """Counts by round, site and part."""
        files = sorted(self.folder.glob("*.json"))
        return {str(int(path.stem)): json.loads(path.read_text(encoding="utf-8")) for path in files}
