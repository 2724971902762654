"""Sites that answer all stages of secure aggregation as the client does; in place of training they move the model."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from flwr.app import ArrayRecord, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp

from fedwon.client.config import DataConfig, SiteConfig
from fedwon.client.secure import answer_queries, masking_of
from fedwon.client.site import Site
from fedwon.common.errors import FedwonError
from fedwon.common.flower import incoming, make_context
from fedwon.common.run_config import RunConfig
from fedwon.server.rounds.site_grid import node_id_of
from tests.server.server_kit import FakeGrid, good_metrics, small_run

STAGES = ("query.secagg_setup", "query.secagg_share_keys", "train", "query.secagg_unmask")


def secure_run(*, secure: Mapping[str, object] | None = None, **participation) -> RunConfig:
    rules = {"minimum": 3, "quorum": 2, "pause_seconds": None, "retries": 1, **participation}
    content = small_run(**rules).model_dump(mode="json")
    content["aggregation"]["secure"] = {"enabled": True, "clip_norm": 100.0, **(secure or {})}
    del content["admission"]
    return RunConfig.model_validate(content)


def moved(model: ArrayRecord, site: str) -> ArrayRecord:
    """What training makes of a model at a site: noise that follows from its name."""
    from tests.server.server_kit import record

    rng = np.random.default_rng(list(site.encode()))
    arrays = {name: array.numpy() for name, array in model.items()}
    return record(
        **{
            name: (values + rng.normal(size=values.shape, scale=0.1)).astype(values.dtype)
            for name, values in arrays.items()
        }
    )


class Sites(FakeGrid):
    """Such sites by name and images.

    Attributes:
        lost: for each stage the sites that are silent from it on, in each attempt; of a stage `stage!` only once.
        kept: what was answered, by task: a site's journal hands it in again.
    """

    def __init__(self, images: Mapping[str, int], circle: Mapping[str, str] | None = None) -> None:
        super().__init__(dict.fromkeys(images, self._answer))
        self.images, self.lost = dict(images), {}
        self.surveys = {name: {"a": {"train": count, "validation": 1}} for name, count in images.items()}
        self.messages: list[Message] = []
        self.kept: dict[str, RecordDict] = {}
        self._app, circle = self._made(), circle or {}
        self._contexts = {
            name: make_context(
                node_id_of(name),
                SiteConfig(data=DataConfig(path="."), circle=circle.get(name)).for_node(name, "."),  # type: ignore[arg-type]
            )
            for name in images
        }

    def _made(self) -> ClientApp:
        app = ClientApp()
        answer_queries(app)

        @app.train()
        def train(message, context):
            told, site = message.content["config"], Site.of(context).name
            masking = masking_of(message, context, Site.of(context), told["run"], told["round"])
            assert masking is not None
            model = message.content["arrays"]
            masked, _ = masking.mask(moved(model, site), model, self.images[site])
            metrics = MetricRecord(good_metrics(self.images[site]))
            return Message(RecordDict({"arrays": masked, "metrics": metrics}), reply_to=message)

        return app

    def _answer(self, message: Message, name: str):
        stage = STAGES.index(message.metadata.message_type)
        if any(name in self.lost.get(earlier, ()) for earlier in STAGES[: stage + 1]):
            return None
        if name in (once := self.lost.get(f"{STAGES[stage]}!", set())):
            once.remove(name)
            return None
        metadata = message.metadata
        if metadata.message_id in self.kept:
            return self.kept[metadata.message_id]
        arrived = incoming(
            message.content,
            metadata.message_type,
            node_id=metadata.dst_node_id,
            message_id=metadata.message_id,
            group_id=metadata.group_id,
        )
        self.messages.append(message)
        try:
            content = self._app(arrived, self._contexts[name]).content
        except FedwonError as error:
            return error.message
        self.kept[metadata.message_id] = content
        return content
