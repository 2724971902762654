"""Reading configuration: files, sentences for what is wrong, and the flat form."""

import contextlib
import errno
import tracemalloc
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedwon.client.config import ClientConfig
from fedwon.common.config import Settings, dump, flatten, load, parse, read_yaml, unflatten
from fedwon.common.errors import ConfigError, ConfigMissing
from fedwon.common.run_config import RunConfig
from fedwon.server.config import ServerConfig


def file(folder, text):
    path = folder / "server.yaml"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def test_a_file_becomes_typed_values(tmp_path):
    path = file(tmp_path, "rounds: 3\nmodel:\n  width: 0.5\nclasses: [ok, dent]\n")
    config = load(RunConfig, path)
    assert (config.rounds, config.model.width, config.classes) == (3, 0.5, ("ok", "dent"))


def test_an_empty_file_is_all_defaults(tmp_path):
    assert load(RunConfig, file(tmp_path, "# nothing yet\n")) == RunConfig()


def test_a_missing_file_and_a_folder(tmp_path):
    with pytest.raises(ConfigMissing, match=r"no configuration file .*absent\.yaml"):
        read_yaml(tmp_path / "absent.yaml")
    with pytest.raises(ConfigMissing, match="is a folder"):
        read_yaml(tmp_path)


def test_a_file_that_cannot_be_read(tmp_path, monkeypatch):
    def refuse(*arguments, **options):
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(Path, "read_text", refuse)
    with pytest.raises(ConfigError, match="Permission denied while reading /x"):
        read_yaml(Path("/x"))


@pytest.mark.parametrize(
    ("text", "where"),
    [
        ("rounds: 3\n name: x\n", "line 2, column 6"),
        ("rounds: 3\n\tname: x\n", "line 2, column 1"),
        ("rounds: [1, 2\n", "line 2, column 1"),
        ("name: 'open\n", "line 2, column 1"),
        ("a: b: c\n", "line 1, column 5"),
        ("? [1]\n: x\n", "line 1, column 3"),
        ("a: !!python/object:os.system x\n", "line 1, column 4"),
    ],
)
def test_bad_yaml_names_line_and_column(tmp_path, text, where):
    with pytest.raises(ConfigError) as caught:
        read_yaml(file(tmp_path, text))
    assert f"server.yaml, {where}: not valid YAML: " in caught.value.message
    assert "\n" not in caught.value.message


LAUGHS = "a: &a [x, x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"{this}: &{this} [{', '.join([f'*{before}'] * 10)}]\n" for before, this in zip("abcdefgh", "bcdefghi", strict=True)
)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (LAUGHS, "with its aliases written out it has more than 100000 values"),
        ("a: &a [*a]\n", "an alias stands inside of what it names"),
        ("a: &a {b: *a}\n", "an alias stands inside of what it names"),
        (f"name: {'x' * 2**20}\n", "1048576 are the most"),
    ],
)
def test_aliases_are_counted_before_anything_is_made_of_them(tmp_path, text, words):
    tracemalloc.start()
    with pytest.raises(ConfigError) as caught:
        read_yaml(file(tmp_path, text))
    assert tracemalloc.get_traced_memory()[1] < 2**24
    tracemalloc.stop()
    assert words in caught.value.message


def test_an_honest_alias_is_taken(tmp_path):
    found = read_yaml(file(tmp_path, "a: &a {b: 1}\nc: *a\nd: {<<: *a, e: 2}\n"))
    assert found == {"a": {"b": 1}, "c": {"b": 1}, "d": {"b": 1, "e": 2}}


@pytest.mark.parametrize("text", ["2001-01-01: x\n", f"rounds: 0x{'f' * 4000}\n"])
def test_what_no_configuration_holds(tmp_path, text):
    with pytest.raises(ConfigError, match="not a configuration"):
        load(RunConfig, file(tmp_path, text))


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (b"name: \xff", "not UTF-8 text (byte 6)"),
        ("- a\n- b\n", "expected `key: value` lines, found a list"),
        ("hello", "found a str"),
        ("name: \x07", "not valid YAML"),
    ],
)
def test_other_files(tmp_path, text, words):
    with pytest.raises(ConfigError) as caught:
        read_yaml(file(tmp_path, text))
    assert words in caught.value.message
    assert "\n" not in caught.value.message


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ({"rouns": 1}, "unknown key `rouns`, did you mean `rounds`?"),
        ({"training": {"batchsize": 1}}, "unknown key `training.batchsize`, did you mean `batch_size`?"),
        ({"participation": {"qorum": 1}}, "unknown key `participation.qorum`, did you mean `quorum`?"),
        (
            {"model": {"zzz": 1}},
            "unknown key `model.zzz` (known: name, width, relu_constant, linear, dropout, skip_gain, ablation)",
        ),
    ],
)
def test_unknown_keys_come_with_the_nearest(content, words):
    with pytest.raises(ConfigError) as caught:
        parse(RunConfig, content, "run.yaml")
    assert caught.value.message == f"run.yaml: {words}."


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ({"rounds": 0}, "`rounds`: input should be greater than or equal to 1 (got 0)"),
        ({"rounds": "many"}, "`rounds`: input should be a valid integer"),
        ({"rounds": 1.5}, "`rounds`: input should be a valid integer"),
        ({"name": "a b"}, "`name`: "),
        ({"method": "fedsgd"}, "`method`: input should be 'fedwon', "),
        ({"seed": -1}, "`seed`: "),
        ({"model": 3}, "`model`: "),
        ({"model": {"width": 5}}, "`model.width`: input should be less than or equal to 4 (got 5)"),
        ({"images": {"mean": [0.1, 0.2]}}, "`images`: `mean` needs one value or 3 (one a channel), got 2"),
        ({"images": {"std": [0]}}, "`images.std.0`: input should be greater than 0 (got 0)"),
        ({"training": {"lr": float("nan")}}, "`training.lr`: input should be a finite number (got nan)"),
        ({"training": {"lr": float("inf")}}, "`training.lr`: input should be a finite number (got inf)"),
        ({"classes": ["a"]}, "`classes`: at least two classes are needed"),
        ({"classes": ["a", "a"]}, "`classes`: a class is named twice"),
        ({"method": "fedavg", "training": {"batch_size": 1}}, "method `fedavg` uses batch norm"),
        ({"participation": {"quorum": 3}}, "`participation.quorum` is larger than `participation.minimum`"),
    ],
)
def test_a_bad_value_is_one_sentence(content, words):
    with pytest.raises(ConfigError) as caught:
        parse(RunConfig, content, "run.yaml")
    message = caught.value.message
    assert message.startswith(f"run.yaml: {words}")
    assert message.endswith(".")
    assert "\n" not in message
    assert "pydantic" not in message


def test_all_that_is_wrong_is_said_at_once():
    with pytest.raises(ConfigError) as caught:
        parse(RunConfig, {"rounds": 0, "seeds": 1, "model": {"width": -1}}, "run.yaml")
    assert caught.value.message.count(";") == 2


def test_a_missing_key():
    with pytest.raises(ConfigError, match=r"^client\.yaml: `server` is missing\.$"):
        parse(ClientConfig, {"data": {"path": "x"}}, "client.yaml")


@pytest.mark.parametrize("address", ["h:1", "10.0.0.1:8470", "[::1]:8470"])
def test_addresses(address):
    assert parse(ServerConfig, {"listen": address}, "x").listen == address


@pytest.mark.parametrize("address", ["h", ":1", "h:", "h:port", "http://h:1", "::1:8470", "h:1 ", "h:123456"])
def test_what_is_no_address(address):
    with pytest.raises(ConfigError, match="`listen`"):
        parse(ServerConfig, {"listen": address}, "x")


keys = st.text("abcdefghij_", min_size=1, max_size=6)
scalars = st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text())
garbage = st.recursive(
    scalars, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(keys, inner, max_size=3), max_leaves=8
)
known = st.sampled_from([*RunConfig.model_fields, "batch_size", "mean", "quorum", "listen", "run"])


@given(st.dictionaries(known | keys, garbage | st.dictionaries(known, garbage, max_size=3), max_size=4))
def test_garbage_is_a_config_error_or_nothing(content):
    for kind in (RunConfig, ServerConfig, ClientConfig):
        with contextlib.suppress(ConfigError):
            assert isinstance(parse(kind, content, "x"), kind)


def test_settings_do_not_change():
    with pytest.raises(ValueError, match="frozen"):
        RunConfig().rounds = 3


@given(st.dictionaries(keys, st.integers() | st.dictionaries(keys, st.text(), min_size=1, max_size=3)))
def test_unflatten_undoes_the_dots(nested):
    flat = {}
    for key, value in nested.items():
        flat |= {f"{key}.{inner}": item for inner, item in value.items()} if isinstance(value, dict) else {key: value}
    assert unflatten(flat) == nested


@pytest.mark.parametrize("flat", [{"a": 1, "a.b": 2}, {"a.b": 2, "a": 1}, {"a.b.c": 1, "a.b": 2}])
def test_a_key_is_a_value_or_a_group(flat):
    with pytest.raises(ConfigError, match="`a"):
        unflatten(flat)


class Inner(Settings):
    """For the test below."""

    a: int = 1
    """A number."""
    b: tuple[str, ...] = ("x",)
    """Texts."""
    c: float | None = None
    """Nothing."""


class Outer(Settings):
    """For the test below."""

    inner: Inner = Inner()
    """A group."""
    d: bool = False
    """A choice."""


def test_flatten_leaves_out_what_is_empty():
    assert flatten(Outer()) == {"inner.a": 1, "inner.b": ["x"], "d": False}
    assert flatten(Outer(inner=Inner(c=2.0)))["inner.c"] == 2.0


def test_dump_can_be_read_again(tmp_path):
    config = RunConfig(classes=("ok", "Kratzer ß"), rounds=4)
    assert load(RunConfig, file(tmp_path, dump(config))) == config
    assert dump(config).index("name") < dump(config).index("rounds")
