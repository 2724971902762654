"""`/metrics` for Prometheus: the run, and the sites' figures as the server has them; made when asked, kept nowhere.

A registry of our own: nothing of the process that the client library measures by itself, and no counters in memory that
begin anew with every start. Names and labels are in docs/operation.md; deploy/grafana/ and deploy/prometheus/ use them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

from prometheus_client import CollectorRegistry
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.exposition import generate_latest
from prometheus_client.metrics_core import Metric
from sqlalchemy import func, select

from fedwon.common.round_settings import DriftConfig
from fedwon.common.version import VERSION
from fedwon.server.drift import history as drift_history
from fedwon.server.page.overview import Overview, RunView
from fedwon.server.store import RoundRow, RunRow, Store, TaskRow

RUN_STATES = ("running", "paused", "finished", "stopped", "failed")
SITE_STATES = ("connected", "resting", "away", "never", "revoked")
CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
DAY_SECONDS = 86400.0


class Federation:
    """What Prometheus's library asks for figures.

    Args:
        view: everything, of the moment.
        store: the server's database.
    """

    def __init__(self, view: Callable[[], Overview], store: Store) -> None:
        self._view, self._store = view, store

    def collect(self) -> Iterable[Metric]:
        """Return all figures.

        Raises:
            StorageError: the database cannot be read.
        """
        view = self._view()
        about = {"version": VERSION, "federation": view.federation}
        yield _family("fedwon_info", "The server; always 1.", about, [(tuple(about.values()), 1.0)])
        yield from _of_sites(view)
        if view.run is not None:
            yield from _of_run(view.run)
            yield from self._of_work(view.run)

    def _of_work(self, run: RunView) -> Iterator[Metric]:
        """Return what the newest run's tasks came to: how many, bytes and seconds."""
        with self._store.session() as session:
            sums = func.count(), func.sum(TaskRow.bytes_down), func.sum(TaskRow.bytes_up), func.sum(TaskRow.seconds)
            query = select(TaskRow.site, TaskRow.state, *sums).where(TaskRow.run == run.id)
            rows = session.execute(query.group_by(TaskRow.site, TaskRow.state)).all()
            last = select(RoundRow.seconds).where(RoundRow.run == run.id, RoundRow.number > 0)
            seconds = session.scalars(last.order_by(RoundRow.number.desc()).limit(1)).first()
        counts = [((site, state), float(count)) for site, state, count, *_ in rows]
        yield _family("fedwon_site_tasks", "Tasks of the newest run by what came of them.", ("site", "state"), counts)
        moved: dict[tuple[str, ...], float] = {}
        worked: dict[tuple[str, ...], float] = {}
        for site, _, _, down, up, spent in rows:
            moved[site, "down"] = moved.get((site, "down"), 0.0) + float(down)
            moved[site, "up"] = moved.get((site, "up"), 0.0) + float(up)
            worked[site,] = worked.get((site,), 0.0) + float(spent)
        yield _family("fedwon_site_bytes", "Bytes of the newest run.", ("site", "direction"), moved.items())
        yield _family("fedwon_site_work_seconds", "Work at the site in the newest run.", ("site",), worked.items())
        yield from self._of_drift(run)
        if seconds is not None:
            yield _family("fedwon_round_seconds", "How long the last round took.", (), [((), seconds)])

    def _of_drift(self, run: RunView) -> Iterator[Metric]:
        """Return how near each site is to its drift alarm."""
        with self._store.session() as session:
            row = session.get_one(RunRow, run.id)
            rules = DriftConfig.model_validate(row.config.get("drift", {}))
            found = drift_history.of_run(session, run.id, row.config.get("drift", {}))
        near = [((site,), standing.total / rules.threshold) for site, standing in sorted(found.items())]
        yield _family("fedwon_site_drift_ratio", "Falls of accuracy added up, over the threshold.", ("site",), near)
        alarms = [((site,), float(standing.since is not None)) for site, standing in sorted(found.items())]
        yield _family("fedwon_site_drift_alarm", "1 where the drift alarm stands.", ("site",), alarms)


def _of_sites(view: Overview) -> Iterator[Metric]:
    states = [((site.name, state), float(site.state == state)) for site in view.sites for state in SITE_STATES]
    yield _family("fedwon_site_state", "1 for the state that a site is in.", ("site", "state"), states)
    seen = [((site.name,), site.last_seen.timestamp()) for site in view.sites if site.last_seen is not None]
    yield _family("fedwon_site_last_seen_timestamp_seconds", "When a site was last heard of.", ("site",), seen)
    ends = [((site.name,), DAY_SECONDS * site.certificate_days) for site in view.taking_part]
    yield _family("fedwon_site_certificate_seconds", "Until a site's certificate ends.", ("site",), ends)
    images = [((site.name,), float(site.images)) for site in view.sites if site.data]
    yield _family("fedwon_site_images", "Images that a site says it has.", ("site",), images)
    scores = [((site.name, site.part), site.accuracy) for site in view.sites if site.accuracy is not None]
    text = "Accuracy of the newest model that a site has measured, 0 to 1."
    yield _family("fedwon_site_accuracy_ratio", text, ("site", "images"), scores)


def _of_run(run: RunView) -> Iterator[Metric]:
    states = [((run.id, state), float(run.state == state)) for state in RUN_STATES]
    yield _family("fedwon_run_state", "1 for the state that the newest run is in.", ("run", "state"), states)
    yield _family("fedwon_run_rounds", "Rounds that the newest run has.", ("run",), [((run.id,), float(run.rounds))])
    done = [((run.id,), float(run.committed))]
    yield _family("fedwon_run_rounds_committed", "Rounds of the newest run that are committed.", ("run",), done)
    if run.mean is not None:
        text = "Mean accuracy over the sites, 0 to 1."
        yield _family("fedwon_run_accuracy_ratio", text, ("run",), [((run.id,), run.mean)])


def _family(
    name: str, text: str, labels: Iterable[str], samples: Iterable[tuple[tuple[str, ...], float]]
) -> GaugeMetricFamily:
    family = GaugeMetricFamily(name, text, labels=list(labels))
    for values, value in samples:
        family.add_metric(values, value)
    return family


def exposition(view: Callable[[], Overview], store: Store) -> bytes:
    """Return all figures in Prometheus's text format.

    Raises:
        StorageError: the database cannot be read.
    """
    registry = CollectorRegistry(auto_describe=False)
    registry.register(Federation(view, store))
    return generate_latest(registry)
