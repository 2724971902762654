"""Privacy as a run asks for it: what goes together and what does not, and how it travels."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedwon.common.config import parse
from fedwon.common.errors import ConfigError
from fedwon.common.methods import METHODS
from fedwon.common.run_config import RunConfig
from fedwon.common.task_config import TaskConfig

BATCH_NORM = [name for name, method in METHODS.items() if method.normalization == "batch"]
STATISTICS_SHARED = ["fedavg", "fedprox", "fixbn"]


def run_of(**settings) -> RunConfig:
    return parse(RunConfig, {"training": {"batch_size": 8}, **settings}, "test")


def task_of(**settings) -> TaskConfig:
    return TaskConfig.of(run_of(**settings), run="r", server_round=1, classes=("a", "b"))


@pytest.mark.parametrize("method", METHODS)
def test_images_are_private_without_batch_norm_only(method):
    settings = {"method": method, "privacy": {"examples": {"noise": 1.0}}}
    if method in BATCH_NORM:
        with pytest.raises(ConfigError, match=r"batch norm computes each image's output from all.*fedavg_gn"):
            run_of(**settings)
    else:
        assert task_of(**settings).privacy.noise == 1.0


@pytest.mark.parametrize("method", METHODS)
def test_sites_are_private_where_no_statistics_are_shared(method):
    settings = {"method": method, "privacy": {"sites": {"noise": 1.0}}}
    if method in STATISTICS_SHARED:
        with pytest.raises(ConfigError, match="variances become negative"):
            run_of(**settings)
    elif method == "standalone":
        with pytest.raises(ConfigError, match="shares nothing"):
            run_of(**settings)
    else:
        assert run_of(**settings).privacy.sites.noise == 1.0


def test_what_is_left_out_becomes_what_private_sites_need():
    config = run_of(privacy={"sites": {"noise": 1.0}})
    assert config.aggregation.weights == "uniform"
    assert config.admission.norm is config.admission.own_norm is config.admission.cosine is None
    assert config.admission.finite
    assert run_of(**config.model_dump(mode="json")) == config  # as a run that is resumed
    assert run_of().aggregation.weights == "examples"


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"aggregation": {"weights": "examples"}}, r"`aggregation\.weights` must be `uniform`.*weighs the same"),
        ({"aggregation": {"rule": "median"}, "participation": {"minimum": 3}}, r"`aggregation\.rule` must be `mean`"),
        ({"admission": {"cosine": 0.0}}, r"`admission\.cosine` must be empty.*noise does not cover"),
        ({"participation": {"late_rounds": 1}}, "in one average twice"),
    ],
)
def test_what_breaks_the_promise_is_refused(settings, said):
    with pytest.raises(ConfigError, match=said):
        run_of(privacy={"sites": {"noise": 1.0}}, **settings)
    run_of(**settings)


def test_a_run_that_would_go_beyond_its_limit_is_refused_with_the_noise_that_would_do():
    asked = {"noise": 1.0, "epsilon_limit": 8.0}
    with pytest.raises(
        ConfigError, match=r"50 rounds with noise 1 come to epsilon .* needs noise ([\d.]+) or more"
    ) as no:
        run_of(rounds=50, privacy={"sites": asked})
    needed = float(str(no.value).split("needs noise ")[1].split(" ")[0])
    config = run_of(rounds=50, privacy={"sites": {**asked, "noise": needed + 0.001}})
    assert config.privacy.sites.epsilon(50) == pytest.approx(8.0, rel=0.01)
    assert run_of().privacy.sites.epsilon(50) is None


def test_a_task_without_privacy_says_nothing_that_an_earlier_site_does_not_know():
    assert not [key for key in task_of().flat() if key.startswith("privacy")]
    assert not [key for key in task_of(privacy={"sites": {"noise": 1.0}}).flat() if key.startswith("privacy")]
    flat = task_of(privacy={"examples": {"noise": 1.5, "clip": 0.5}}).flat()
    # an earlier site refuses a key that it does not know, and so does not train without the noise
    assert {key: flat[key] for key in flat if key.startswith("privacy")} == {"privacy.noise": 1.5, "privacy.clip": 0.5}


@given(
    st.fixed_dictionaries(
        {},
        optional={
            "noise": st.floats(0.1, 100),
            "clip": st.floats(1e-3, 1e3),
            "delta": st.floats(1e-9, 0.5),
            "epsilon_limit": st.floats(0.1, 100),
        },
    )
)
def test_it_travels(examples):
    task = task_of(privacy={"examples": examples})
    assert TaskConfig.from_flat(task.flat()) == task


@pytest.mark.parametrize("examples", [{"noise": 0}, {"noise": -1}, {"clip": 0}, {"delta": 1}, {"epsilon_limit": 0}])
def test_values_out_of_range_are_refused(examples):
    with pytest.raises(ConfigError, match=r"privacy\.examples"):
        run_of(privacy={"examples": examples})
