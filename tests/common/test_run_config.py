"""Runs and tasks: any valid configuration travels without a change."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedwon.common.config import parse
from fedwon.common.errors import ConfigError
from fedwon.common.methods import METHODS
from fedwon.common.recipes import RECIPES
from fedwon.common.run_config import RunConfig
from fedwon.common.task_config import TaskConfig
from fedwon.common.task_settings import ModelConfig
from fedwon.common.update_settings import AggregationConfig

positive = st.floats(1e-6, 1e6)
channels = st.sampled_from([1, 3])
class_names = st.lists(st.text(st.characters(exclude_categories=["Cs"])), min_size=2, max_size=5, unique=True)


def optional(values):
    return st.none() | values


@st.composite
def image_settings(draw):
    count = draw(channels)
    a_channel = st.sampled_from([1, count])
    mean = draw(a_channel.flatmap(lambda n: st.tuples(*[st.floats(-10, 10)] * n)))
    std = draw(a_channel.flatmap(lambda n: st.tuples(*[positive] * n)))
    rest = st.fixed_dictionaries(
        {},
        optional={
            "size": st.integers(8, 2048),
            "validation_fraction": st.floats(0.01, 0.99),
            "max_train": optional(st.integers(1, 10**6)),
            "missing_classes": st.sampled_from(["allow", "refuse"]),
            "unknown_classes": st.sampled_from(["skip", "refuse"]),
        },
    )
    return {"channels": count, "mean": mean, "std": std} | draw(rest)


training_settings = st.fixed_dictionaries(
    {},
    optional={
        "epochs": st.integers(1, 100),
        "steps": optional(st.integers(1, 10**6)),
        "batch_size": st.integers(2, 4096),
        "lr": positive,
        "momentum": st.floats(0, 0.999),
        "weight_decay": st.floats(0, 1),
        "clipping": optional(positive),
        "proximal_mu": optional(st.floats(0, 10)),
        "schedule": st.sampled_from(["constant", "cosine"]),
        "warmup_rounds": st.integers(0, 30),
        "augmentation": st.fixed_dictionaries(
            {}, optional={"flip_horizontal": st.booleans(), "turn_degrees": st.floats(0, 180)}
        ),
    },
)
participation_settings = st.fixed_dictionaries(
    {},
    optional={
        "minimum": st.integers(3, 100),
        "fraction": st.floats(0.01, 1),
        "quorum": optional(st.integers(1, 2)),
        "patience_seconds": optional(st.floats(0, 1e5)),
        "deadline_seconds": positive,
        "retries": st.integers(0, 10),
    },
)
runs = st.fixed_dictionaries(
    {},
    optional={
        "name": st.from_regex(r"\A[A-Za-z0-9][A-Za-z0-9_.-]{0,62}\Z"),
        "method": st.sampled_from(sorted(METHODS)),
        "seed": st.integers(0, 2**31 - 1),
        "rounds": st.integers(1, 10**6),
        "classes": optional(class_names),
        "model": st.fixed_dictionaries(
            {},
            optional={
                "name": st.text(),
                "width": st.floats(0.01, 4),
                "relu_constant": st.booleans(),
                "linear": st.sampled_from(["plain", "standardized"]),
                "dropout": st.floats(0, 0.9),
            },
        ),
        "images": image_settings(),
        "training": training_settings,
        "participation": participation_settings,
    },
).map(lambda content: parse(RunConfig, content, "drawn"))


@given(runs)
def test_a_run_as_it_is_stored_and_back(run):
    assert parse(RunConfig, run.model_dump(mode="json"), "stored") == run


@given(runs, st.text(), st.integers(0, 10**6), class_names.map(tuple))
def test_a_task_flat_and_back(run, name, number, classes):
    task = TaskConfig.of(run, run=name, server_round=number, classes=classes)
    flat = task.flat()
    assert TaskConfig.from_flat(dict(flat)) == task
    for value in flat.values():  # what Flower's ConfigRecord takes
        assert isinstance(value, bool | int | float | str | list)
        if isinstance(value, list):
            assert len({type(item) for item in value}) == 1


@given(runs)
def test_a_task_says_all_that_a_site_needs(run):
    task = TaskConfig.of(run, run="r", server_round=3, classes=("a", "b"))
    rules = METHODS[run.method]
    assert (task.round, task.seed, task.classes) == (3, run.seed, ("a", "b"))
    assert (task.normalization, task.minimum_batch) == (rules.normalization, rules.minimum_batch)
    wanted = rules.proximal_mu if run.training.proximal_mu is None else run.training.proximal_mu
    assert task.training.proximal_mu == wanted
    resolved = {"proximal_mu": None, "lr": 1.0, "schedule": "constant", "warmup_rounds": 0}
    assert task.training.model_copy(update=resolved) == run.training.model_copy(update=resolved)
    assert 0 < task.training.lr <= run.training.lr


def rates(rounds: int, **training: object) -> list[float]:
    run = parse(RunConfig, {"rounds": rounds, "training": {"lr": 0.8, **training}}, "x")
    tasks = [TaskConfig.of(run, run="r", server_round=number, classes=("a", "b")) for number in range(rounds + 2)]
    assert all("training.schedule" not in task.flat() for task in tasks)  # the site needs the rate alone
    return [task.training.lr for task in tasks]


def test_the_learning_rate_over_the_rounds():
    assert rates(3) == [0.8] * 5
    assert rates(4, warmup_rounds=3) == pytest.approx([0.2, 0.2, 0.4, 0.6, 0.8, 0.8])
    assert rates(4, schedule="cosine") == pytest.approx([0.8, 0.8, 0.682843, 0.4, 0.117157, 0.117157], abs=1e-6)
    assert rates(5, schedule="cosine", warmup_rounds=1) == pytest.approx(
        [0.4, 0.4, 0.8, 0.682843, 0.4, 0.117157, 0.117157], abs=1e-6
    )
    assert rates(2, schedule="cosine", warmup_rounds=9) == pytest.approx([0.08, 0.08, 0.16, 0.16])


def test_a_task_says_nothing_that_older_sites_do_not_know_unless_it_is_asked_for():
    flat = TaskConfig.of(RunConfig(), run="r", server_round=1, classes=("a", "b")).flat()
    later = {"keeps", "frozen_statistics", "training.weights_sent", "training.schedule", "training.warmup_rounds"}
    assert not [key for key in flat if key in later or "ablation" in key or "augmentation" in key]
    asked = parse(
        RunConfig,
        {"training": {"weights_sent": "standardized"}, "model": {"ablation": {"gain": False}}},
        "x",
    )
    flat = TaskConfig.of(asked, run="r", server_round=1, classes=("a", "b")).flat()
    assert flat["training.weights_sent"] == "standardized"
    assert flat["model.ablation.gain"] is False
    assert TaskConfig.of(RunConfig(method="fedbn"), run="r", server_round=1, classes=("a", "b")).flat()["keeps"] == (
        "normalization"
    )


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"training": {"weights_sent": "standardized"}}, "training.weights_sent: standardized"),
        ({"model": {"ablation": {"standardized": False}}}, "model.ablation.standardized: false"),
        ({"model": {"ablation": {"gain": False}}}, "model.ablation.gain: false"),
    ],
)
def test_an_ablation_of_fedwon_with_another_method(settings, named):
    assert parse(RunConfig, settings, "x").method == "fedwon"
    with pytest.raises(ConfigError, match=f"`{named}` is for weight-standardized .* method `fedavg_gn` has none"):
        parse(RunConfig, {**settings, "method": "fedavg_gn"}, "x")


@pytest.mark.parametrize("method", ["fedavg", "fedprox"])
def test_batch_norm_and_a_batch_of_one(method):
    with pytest.raises(ConfigError, match="batch of 1; use `batch_size: 2` or more, or method `fedwon`"):
        parse(RunConfig, {"method": method, "training": {"batch_size": 1}}, "x")


@pytest.mark.parametrize("method", ["fedwon", "fedavg_gn", "fedavg_ln"])
def test_a_batch_of_one_where_it_can_be(method):
    assert parse(RunConfig, {"method": method, "training": {"batch_size": 1}}, "x").training.batch_size == 1


def test_a_quorum_above_the_minimum_is_possible_with_a_fraction():
    config = parse(RunConfig, {"participation": {"quorum": 3, "fraction": 0.5}}, "x")
    assert config.participation.quorum == 3


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"seed": None}, "`seed`"),
        ({"bogus": 1}, "unknown key `bogus`"),
        ({"model.bogus": 1}, "unknown key `model.bogus`"),
        ({"model": 1}, "`model"),
        ({"classes": ["only"]}, "`classes`"),
        ({"training.lr": float("nan")}, "`training.lr`"),
        ({"normalization": "instance"}, "`normalization`"),
        ({"round": -1}, "`round`"),
    ],
)
def test_a_bad_task_is_refused(change, words):
    flat = TaskConfig.of(RunConfig(), run="r", server_round=1, classes=("a", "b")).flat()
    with pytest.raises(ConfigError, match=words):
        TaskConfig.from_flat({**flat, **change})


def test_a_task_without_a_needed_key():
    flat = TaskConfig.of(RunConfig(), run="r", server_round=1, classes=("a", "b")).flat()
    del flat["seed"]
    with pytest.raises(ConfigError, match="task from the server: `seed` is missing"):
        TaskConfig.from_flat(dict(flat))


@pytest.mark.parametrize("name", ["", ".hidden", "-x", "a/b", "a b", "a\n", "ä", "x" * 64])
def test_names_that_are_not_safe(name):
    with pytest.raises(ConfigError, match="`name`"):
        parse(RunConfig, {"name": name}, "x")


def test_what_is_left_out_is_the_recipes():
    for name, recipe in RECIPES.items():
        run = parse(RunConfig, {"recipe": name}, "x")
        assert RunConfig(recipe=name) == run, "alike from a file and in code"
        for group, settings in recipe.items():
            assert {key: getattr(getattr(run, group), key) for key in settings} == settings
    plain = RunConfig(recipe="paper")
    assert (plain.model.relu_constant, plain.model.linear, plain.training.clipping) == (False, "plain", None)
    assert RunConfig() != plain


def test_what_is_there_wins_over_the_recipe():
    own = {"model": {"relu_constant": False, "width": 0.5}, "training": {"clipping": None}}
    run = parse(RunConfig, own, "x")
    assert (run.model.relu_constant, run.model.width, run.training.clipping) == (False, 0.5, None)
    assert run.model.linear == RECIPES["tuned"]["model"]["linear"]
    assert RunConfig(model=ModelConfig(relu_constant=False)).model.relu_constant is False


@pytest.mark.parametrize("content", [{"method": "fedbn"}, {"model": {"name": "torchvision:resnet18"}}])
def test_other_methods_and_converted_networks_have_no_recipe(content):
    run = parse(RunConfig, content, "x")
    assert (run.model.relu_constant, run.model.linear, run.training.clipping) == (False, "plain", None)


def test_the_settings_that_a_recipe_names_exist():
    for recipe in RECIPES.values():
        for group, settings in recipe.items():
            assert set(settings) <= set(RunConfig.model_fields[group].annotation.model_fields)


SECURE = {"participation": {"minimum": 4, "quorum": 3}, "aggregation": {"secure": {"enabled": True}}}


def test_masked_updates_leave_out_what_needs_single_ones():
    config = parse(RunConfig, SECURE, "test")
    assert (config.traffic.up, config.traffic.down) == ("plain", "int8")
    assert config.admission.norm is config.admission.own_norm is config.admission.cosine is None
    assert parse(RunConfig, config.model_dump(mode="json"), "kept") == config
    assert parse(RunConfig, {}, "test").traffic.up == "int8"


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"method": "fedbn"}, "cannot have `method: fedbn`, whose batch norm"),
        ({"aggregation": {"rule": "median"}}, "cannot have `aggregation.rule: median`"),
        ({"traffic": {"up": "topk"}}, "cannot have `traffic.up: topk`"),
        ({"traffic": {"up": "int8"}}, "cannot have `traffic.up: int8`"),
        ({"admission": {"cosine": -0.2}}, "cannot have `admission.norm`, `own_norm` and `cosine`"),
        ({"participation": {"late_rounds": 1}}, "cannot have `participation.late_rounds`"),
        ({"participation": {"minimum": 2, "quorum": 2}}, "cannot have rounds of 2 sites, three are the fewest"),
        ({"participation": {"minimum": 8, "fraction": 0.25, "quorum": 2}}, "cannot have rounds of 2 sites"),
        ({"participation": {"quorum": 1}}, "cannot have `participation.quorum: 1`"),
        ({"privacy": {"sites": {"noise": 5.0}}}, "cannot have `privacy.sites`"),
    ],
)
def test_what_cannot_be_with_masked_updates(changes, said):
    content = {
        group: {**SECURE.get(group, {}), **values} if isinstance(values, dict) else values
        for group, values in ({**SECURE, **changes}).items()
    }
    with pytest.raises(ConfigError, match=said):
        parse(RunConfig, content, "test")


@pytest.mark.parametrize("rules", [{"server_momentum": 0.9}, {"server_lr": 0.5}])
def test_the_servers_step_needs_something_shared_and_raw(rules):
    assert not AggregationConfig().steps
    config = parse(RunConfig, {"aggregation": rules}, "test")
    assert config.aggregation.steps
    assert parse(RunConfig, config.model_dump(mode="json"), "kept") == config
    with pytest.raises(ConfigError, match="have nothing to move with method `standalone`, which shares nothing"):
        parse(RunConfig, {"aggregation": rules, "method": "standalone"}, "test")
    with pytest.raises(ConfigError, match=r"cannot go with `training.weights_sent: standardized`"):
        parse(RunConfig, {"aggregation": rules, "training": {"weights_sent": "standardized"}}, "test")


@pytest.mark.parametrize("also", [{"method": "fedbn"}, {"method": "silobn"}, {"method": "fixbn"}, SECURE, "private"])
def test_the_servers_step_goes_with(also):
    content = {"privacy": {"sites": {"noise": 5.0}}} if also == "private" else also
    rules = {**content.get("aggregation", {}), "server_momentum": 0.9}
    assert parse(RunConfig, {**content, "aggregation": rules}, "test").aggregation.steps


@pytest.mark.parametrize(
    ("rules", "words"),
    [
        ({"server_momentum": 1.0}, "`aggregation.server_momentum`.*less than 1"),
        ({"server_momentum": -0.1}, "`aggregation.server_momentum`.*greater than or equal to 0"),
        ({"server_lr": 0}, "`aggregation.server_lr`.*greater than 0"),
        ({"server_lr": 11}, "`aggregation.server_lr`.*less than or equal to 10"),
        ({"server_momentum": float("nan")}, "`aggregation.server_momentum`"),
    ],
)
def test_momentum_and_rate_of_the_server_have_bounds(rules, words):
    with pytest.raises(ConfigError, match=words):
        parse(RunConfig, {"aggregation": rules}, "test")
