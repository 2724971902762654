"""How far honest lines pull against one another: `python -m benchmarks.directions [--rounds 12] [--json]`.

`run.admission.cosine` refuses an update whose direction has a lower cosine to the mean direction of the round's others.
Here nobody is hostile: five domains of Digits-Five and six exposures of magnetic tiles train together, with FedWon and
with batch norm and plain averaging, and the lowest cosine of each round is written down, as the rule computes it. Each
line sees other images of the same kinds; what the rule would refuse at -0.2 it would refuse wrongly. Everything is as
small as a `compare`: `digit_cnn` at an eighth of its width, 100 images a line, batches of 8. Writes
`benchmarks/results/directions.json`; the table is that of docs/admission.md.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from flwr.app import Context, Message
from flwr.clientapp import ClientApp

from benchmarks.paper.protocols import DIGIT_DOMAINS
from benchmarks.paper.sets import ROOT, data_home
from benchmarks.seeded import command
from fedwon.client.app import app as client_app
from fedwon.client.config import SiteConfig
from fedwon.client.images.domains import discover
from fedwon.client.training.sending import ARRAYS
from fedwon.common.config import parse
from fedwon.common.run_config import RunConfig
from fedwon.common.update_settings import AdmissionConfig
from fedwon.server.aggregation.differences import Change, cosines, norm
from fedwon.server.engines.in_process import InProcessGrid
from fedwon.server.runs.federating import federate
from fedwon.server.store import Store

RESULT = ROOT / "benchmarks" / "results" / "directions.json"
SETS: Mapping[str, Mapping[str, Any]] = {"digits_five": {"size": 28, "channels": 3}, "magnetic_tile": {"size": 64}}
DOMAINS: Mapping[str, Sequence[str] | None] = {"digits_five": DIGIT_DOMAINS, "magnetic_tile": None}
RATES = {"fedwon": 0.1, "fedavg": 0.03}
LEAST = -0.2
"""What the rule would be set to."""


class Watched(ClientApp):
    """The site's app, whose updates are kept with the models that they started from, by round."""

    def __init__(self) -> None:
        super().__init__()
        self.changes: dict[str, list[Change]] = defaultdict(list)

    def __call__(self, message: Message, context: Context) -> Message:
        """Do a task as the site would."""
        reply = client_app(message, context)
        if message.metadata.message_type == "train":
            records = reply.content.array_records, message.content.array_records
            self.changes[message.metadata.group_id].append(Change(records[0][ARRAYS], records[1][ARRAYS]))
        return reply


def run(images: str, method: str, seed: int, rounds: int) -> dict[str, Any]:
    """Return the lowest cosine of each round."""
    domains = discover(data_home() / images, only=DOMAINS[images])
    settings = {
        "name": "directions",
        "method": method,
        "seed": seed,
        "rounds": rounds,
        "model": {"width": 0.125},
        "images": {"max_train": 100, **SETS[images]},
        "training": {"epochs": 2, "batch_size": 8, "lr": RATES[method], "clipping": 0.16},
        "participation": {"minimum": len(domains), "retries": 0},
        "admission": AdmissionConfig.unsuspecting().model_dump(),
        "traffic": {"up": "plain", "down": "plain"},
        "retention": {"rounds": None},
    }
    config, watched = parse(RunConfig, settings, images), Watched()
    sites = {name: SiteConfig(data=data, threads=1) for name, data in domains.items()}
    with TemporaryDirectory(prefix="directions-") as folder:
        store = Store(Path(folder) / "fedwon.db")
        federate(InProcessGrid(sites, Path.cwd(), watched), config, store, Path(folder))
        store.close()
        lowest = [min(cosines(changes, list(map(norm, changes)))) for changes in watched.changes.values()]
    return {"images": images, "method": method, "seed": seed, "sites": len(sites), "lowest": lowest}


def table(rows: Sequence[Mapping[str, Any]]) -> str:
    """Lay the rows out as Markdown."""
    lines = [
        f"| images | method | seed | lowest cosine of rounds 1, 2, 3 and so on | rounds with a site below {LEAST} |",
        "|---|---|---|---|---|",
    ]
    for row in sorted(rows, key=lambda row: ([*SETS].index(row["images"]), [*RATES].index(row["method"]), row["seed"])):
        values = [f"{value:+.2f}" for value in row["lowest"]]
        below = sum(value < LEAST for value in row["lowest"])
        words = f"{row['images']} | {row['method']} | {row['seed']} | {' '.join(values)}"
        lines.append(f"| {words} | {below} of {len(values)} |")
    return "\n".join(lines)


def measure(seed: int, rounds: int) -> list[dict[str, Any]]:
    """Return the rows of a seed."""
    return [run(images, method, seed, rounds) for images in SETS for method in RATES]


def main(given: Sequence[str] | None = None) -> None:
    """Run all, and keep what came of it."""
    command(__doc__, given, rounds=12, measure=measure, table=table, result=RESULT)


if __name__ == "__main__":
    main()
