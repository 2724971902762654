"""What private training has cost at a site: over tasks, runs and restarts, and what is not allowed any more."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
from flwr.app import RecordDict

from fedwon.client.checks import preflight
from fedwon.client.config import ClientConfig, DataConfig, SiteConfig
from fedwon.client.site import Site
from fedwon.client.training.privacy_ledger import Content, Ledger
from fedwon.common.accounting import Spent, sampled_epsilon
from fedwon.common.config import parse
from fedwon.common.errors import BeyondLimits, BrokenFile, PrivacySpent
from fedwon.common.flower import make_context
from tests.client.site_kit import task_of
from tests.client.test_client_app import TRAIN_KEYS, ask, folder, fresh  # noqa: F401

PLAN = Spent(1.0, 0.1, 10)


def task(noise=1.0, run="run-1", **examples):
    return task_of(privacy={"examples": {"noise": noise, **examples}}).model_copy(update={"run": run})


def ledger_of(base: Path, state=None, **rules) -> Ledger:
    rules = {"ledger": "privacy.json", **rules}
    config = parse(SiteConfig, {"data": {"path": "x"}, "privacy": rules}, "client.yaml")
    return Ledger(Site("a", config, base), RecordDict() if state is None else state)


def test_what_is_spent_adds_up_over_tasks_and_restarts(tmp_path):
    first = ledger_of(tmp_path).charge(task(), PLAN)
    assert first == pytest.approx(sampled_epsilon([PLAN], 1e-5))
    second = ledger_of(tmp_path).charge(task(), PLAN)
    assert second == pytest.approx(sampled_epsilon([Spent(1.0, 0.1, 20)], 1e-5))
    other = ledger_of(tmp_path).charge(task(run="run-2", noise=2.0), Spent(2.0, 0.1, 10))
    assert other == pytest.approx(sampled_epsilon([Spent(2.0, 0.1, 10)], 1e-5))
    kept = json.loads((tmp_path / "privacy.json").read_text())
    assert [(row["run"], row["noise"], row["steps"]) for row in kept["rows"]] == [
        ("run-1", 1.0, 20),
        ("run-2", 2.0, 10),
    ]
    assert ledger_of(tmp_path).read().epsilon(1e-5) == pytest.approx(
        sampled_epsilon([Spent(1.0, 0.1, 20), Spent(2.0, 0.1, 10)], 1e-5)
    )


def test_without_a_file_it_is_in_flowers_state(tmp_path):
    state = RecordDict()
    for _ in range(2):
        spent = ledger_of(tmp_path, state, ledger=None).charge(task(), PLAN)
    assert spent == pytest.approx(sampled_epsilon([Spent(1.0, 0.1, 20)], 1e-5))
    assert list(tmp_path.iterdir()) == []


def test_the_sites_own_budget_ends_over_all_runs(tmp_path):
    most = sampled_epsilon([Spent(1.0, 0.1, 25)], 1e-6)
    rules = {"most_epsilon": most, "delta": 1e-6}
    for run in ("run-1", "run-2"):
        ledger_of(tmp_path, **rules).charge(task(run=run), PLAN)
    before = (tmp_path / "privacy.json").read_bytes()
    with pytest.raises(PrivacySpent, match=r"all runs together.*privacy\.most_epsilon"):
        ledger_of(tmp_path, **rules).charge(task(run="run-3"), PLAN)
    assert (tmp_path / "privacy.json").read_bytes() == before  # refused, so it costs nothing


def test_the_runs_limit_ends_that_run_only(tmp_path):
    limit = sampled_epsilon([Spent(1.0, 0.1, 15)], 1e-5)
    ledger_of(tmp_path).charge(task(epsilon_limit=limit), PLAN)
    with pytest.raises(PrivacySpent, match=r"run run-1 would have cost.*epsilon_limit"):
        ledger_of(tmp_path).charge(task(epsilon_limit=limit), PLAN)
    ledger_of(tmp_path).charge(task(epsilon_limit=limit, run="run-2"), PLAN)


@pytest.mark.parametrize("text", ["", "{", '{"rows": [{"run": "a", "noise": 0, "rate": 1, "steps": 1}]}', "[]", "null"])
def test_a_ledger_that_cannot_be_read_is_no_empty_one(tmp_path, text):
    (tmp_path / "privacy.json").write_text(text)
    with pytest.raises(BrokenFile, match="cannot tell what is left"):
        ledger_of(tmp_path).charge(task(), PLAN)
    assert (tmp_path / "privacy.json").read_text() == text


@pytest.mark.parametrize(
    ("rules", "asked", "said"),
    [
        ({"least_noise": 0.5}, None, "trains privately only"),
        ({"most_epsilon": 8.0}, None, "trains privately only"),
        ({"least_noise": 1.1}, 1.0, "noise multiplier of 1.1 at least.*asked for 1"),
    ],
)
def test_the_site_decides_what_is_private_enough(tmp_path, rules, asked, said):
    asked = task_of() if asked is None else task(asked)
    with pytest.raises(BeyondLimits, match=said):
        ledger_of(tmp_path, **rules).permit(asked)
    ledger_of(tmp_path).permit(asked)
    ledger_of(tmp_path, least_noise=1.1).permit(task(1.1))


def test_a_site_of_a_server_keeps_a_file_without_being_told(tmp_path):
    config = ClientConfig(server="h:1", data=DataConfig(path="x"))
    context = make_context(1, config.for_node("a", tmp_path))
    Ledger(Site.of(context), context.state).charge(task(), PLAN)
    assert (tmp_path / "privacy.json").is_file()
    own = parse(ClientConfig, {"server": "h:1", "data": {"path": "x"}, "privacy": {"ledger": "l"}}, "client.yaml")
    assert own.for_node("a", tmp_path)["privacy.ledger"] == "l"


def test_check_says_what_is_spent(tmp_path):
    plain = {"server": "127.0.0.1:1", "data": {"path": "x"}}

    def said(**privacy):
        found = preflight.preflight(parse(ClientConfig, {**plain, **privacy}, "client.yaml"), tmp_path)
        return [(one.ok, one.text) for one in found if one.name == "privacy"]

    assert said() == []
    assert said(privacy={"most_epsilon": 8.0}) == [(True, "epsilon 0 spent, of 8, at delta 1e-05; private runs: 0")]
    ledger_of(tmp_path).charge(task(), PLAN)
    spent = sampled_epsilon([PLAN], 1e-5)
    assert said() == [(True, f"epsilon {spent:.3g} spent, no limit, at delta 1e-05; private runs: 1")]
    (tmp_path / "privacy.json").write_text("?")
    assert said()[0][0] is False


def test_steps_of_one_kind_are_one_row():
    content = Content().with_steps("r", PLAN).with_steps("r", PLAN).with_steps("r", Spent(1.0, 0.2, 1))
    assert [(row.rate, row.steps) for row in content.rows] == [(0.1, 20), (0.2, 1)]


def site(base: Path, **privacy):
    rules = {"ledger": "privacy.json", **privacy}
    config = parse(SiteConfig, {"data": {"path": "images"}, "privacy": rules}, "client.yaml")
    return make_context(7, config.for_node("line1", base))


def test_a_task_trains_privately_and_tells_no_loss(folder):  # noqa: F811
    asked = task_of(privacy={"examples": {"noise": 2.0}})
    for rounds in (1, 2):
        content = ask("train", site(folder.parent), asked)
        metrics = content["metrics"]
        assert set(metrics) == TRAIN_KEYS - {"train-loss"} | {"privacy-epsilon"}
        assert metrics["privacy-epsilon"] == pytest.approx(sampled_epsilon([Spent(2.0, 8 / 12, 2 * rounds)], 1e-5))
        assert all(math.isfinite(float(number)) for number in metrics.values())
    again = ask("train", site(folder.parent), asked)
    assert any((again["arrays"][name].numpy() != content["arrays"][name].numpy()).any() for name in again["arrays"])


def test_a_task_beyond_the_budget_is_not_begun(folder):  # noqa: F811
    asked = task_of(privacy={"examples": {"noise": 2.0}})
    with pytest.raises(PrivacySpent):
        ask("train", site(folder.parent, most_epsilon=0.01), asked)
    assert not (folder.parent / "privacy.json").exists()
    with pytest.raises(BeyondLimits, match="privately only"):
        ask("train", site(folder.parent, most_epsilon=8), task_of())
    ask("evaluate", site(folder.parent, most_epsilon=8), task_of())
