# ruff: noqa: INP001  # a script beside the pages that it writes
"""Write docs/configuration.md from the settings classes: `make docs`, or this with `> docs/configuration.md`.

A test runs the same and compares, so the page cannot fall behind the code.
"""

from __future__ import annotations

import json
import sys
import textwrap
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Literal, TypeGuard, Union, get_args, get_origin

from annotated_types import Ge, Gt, Le, Lt, MinLen
from pydantic import BeforeValidator
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from fedwon.client.config import ClientConfig, DataConfig
from fedwon.common.config import Settings
from fedwon.common.methods import METHODS
from fedwon.common.recipes import RECIPES
from fedwon.common.run_config import RunConfig
from fedwon.server.config import ServerConfig
from fedwon.server.engines.simulating import SimulationConfig

INTRODUCTION = """\
# Configuration

Written by `make docs` (docs/generate.py) from the settings classes. Do not edit it by hand.

Two files: `server.yaml` on the server, written by `fedwon-server init`, and `client.yaml` on each site, written by
`fedwon-client join`. Both are YAML. Every key but those marked *required* can be left out. A key that does not exist,
or a value out of range, ends the command with one sentence that names it ([errors/config.md](errors/config.md)).

What is trained stands under `run:` in `server.yaml`, and the server hands it to the sites with each task: it is set in
one place, for all. A run that is resumed keeps the settings that it was started with. A file for
`fedwon-server start --run` holds what stands under `run:` here, without the `run.` before each key; one for
`fedwon-server simulate` as well, and [some keys more](#simulation).

*empty* means that the key is left out, or written without a value.
"""

PATTERNS = {
    r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,62}$": "name of at most 63 letters, digits, `_`, `.`, `-`",
    r"^([01]\d|2[0-3]):[0-5]\d$": 'time from `"00:00"` to `"23:59"`',
    r"^[^\s:/]+:\d{1,5}$|^\[[0-9a-fA-F:]+\]:\d{1,5}$": "`host:port`, or `[address]:port` for IPv6",
    r"^https?://[^\s@/]+(/[^\s@]*)?$|^sqlite:///[^\s?]+$": "`http(s)://` address without a password, or `sqlite:///FILE`",
    r"^https?://[^\s@/]+(/[^\s@]*)?$": "`http(s)://` address without a password",
}
"""What a pattern means to a reader. A new pattern needs its words here."""

HEAD = "| key | type, range | default | meaning |\n|---|---|---|---|"
NORMALIZATIONS = {"none": "none; weight-standardized convolutions"}
KEPT = {
    "nothing": "nothing",
    "statistics": "running statistics of batch norm",
    "normalization": "batch norm layers",
    "everything": "everything",
}
WORDS = {int: "integer", float: "number", str: "text", Path: "path", bool: "`true` or `false`"}


def reference() -> str:
    """Return the whole page."""
    parts = [INTRODUCTION, _tables("server.yaml", ServerConfig), _tables("client.yaml", ClientConfig)]
    parts += [_simulation(), _methods(), _recipes()]
    server = ServerConfig(names=("fed.plant.example", "10.1.2.3"))
    client = ClientConfig(server="fed.plant.example:8470", data=DataConfig(path="/data/line-3"))
    parts.append("## Full examples\n\nEvery key with its default; the names, the address and the path are made up.\n")
    parts += [f"`{name}`:\n\n{_example(config)}" for name, config in (("server.yaml", server), ("client.yaml", client))]
    return "\n".join(parts)


def _tables(title: str, kind: type[Settings]) -> str:
    lines = [f"## {title}\n"]
    for prefix, group in _groups(kind):
        name = f"`{prefix}`" if prefix else f"Keys of {title}"
        lines.append(f"### {name}\n\n{_paragraph(group)}\n\n{HEAD}")
        lines += [_row(prefix, key, field) for key, field in group.model_fields.items()]
        lines.append("")
    return "\n".join(lines)


def _simulation() -> str:
    lines = ["## Simulation\n", "What a file for `fedwon-server simulate` may hold besides the keys of a run.\n", HEAD]
    for key, field in SimulationConfig.model_fields.items():
        group = get_args(field.annotation)[-1] if get_origin(field.annotation) is dict else None
        if _is_group(group):
            lines += [_row(f"{key}.NAME", inner, rule) for inner, rule in group.model_fields.items()]
        elif key not in RunConfig.model_fields:
            lines.append(_row("", key, field))
    return "\n".join([*lines, ""])


def _groups(kind: type[Settings], prefix: str = "") -> Iterator[tuple[str, type[Settings]]]:
    yield prefix, kind
    for key, field in kind.model_fields.items():
        group, name = _given(field.annotation), f"{prefix}.{key}".lstrip(".")
        if _is_group(group):
            yield from _groups(group, name)
        elif get_origin(group) is tuple and _is_group(get_args(group)[0]):
            yield from _groups(get_args(group)[0], f"{name}[]")


def _given(annotation: Any) -> Any:
    """Return what an annotation is when a value is given: `Settings | None` without the None."""
    arguments = [argument for argument in get_args(annotation) if argument is not types.NoneType]
    optional = get_origin(annotation) in {Union, types.UnionType} and len(arguments) == 1
    return arguments[0] if optional and _is_group(arguments[0]) else annotation


def _is_group(annotation: object) -> TypeGuard[type[Settings]]:
    return isinstance(annotation, type) and issubclass(annotation, Settings)


def _paragraph(kind: type[Settings]) -> str:
    text = " ".join((kind.__doc__ or "").split("\n\n")[0].split())
    if kind is RunConfig:
        text += " The methods are in the [table below](#methods)."
    return text


def _row(prefix: str, key: str, field: FieldInfo) -> str:
    name = f"{prefix}.{key}".lstrip(".")
    kind = f"group, see [below](#{name.replace('.', '')})" if _is_group(_given(field.annotation)) else _kind(field)
    default = "[recipe's](#recipes)" if name.removeprefix("run.") in _recipe_keys() else _default(field)
    cells = [f"`{name}`", kind, default, " ".join((field.description or "").split())]
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def _default(field: FieldInfo) -> str:
    if field.is_required():
        return "*required*"
    if field.default is None or field.default is PydanticUndefined:  # undefined: made by a factory
        return "*empty*"
    return "" if isinstance(field.default, Settings) else f"`{_yaml(field.default)}`"


def _yaml(value: object) -> str:
    if isinstance(value, tuple):
        return "[" + ", ".join(map(_yaml, value)) + "]"
    return str(value) if isinstance(value, str | Path) else json.dumps(value)


def _kind(field: FieldInfo) -> str:
    return _with_range(_type(field.annotation), field.metadata)


def _type(annotation: Any) -> str:
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        metadata = [
            rule for item in arguments[1:] for rule in (item.metadata if isinstance(item, FieldInfo) else [item])
        ]
        return _with_range(_type(arguments[0]), metadata)
    if origin in {Union, types.UnionType}:
        return " or ".join(_type(argument) for argument in arguments if argument is not types.NoneType)
    if origin is Literal:
        return ", ".join(f"`{_yaml(argument)}`" for argument in arguments)
    if origin is tuple:
        if _is_group(arguments[0]):
            return "list of groups, see below"
        word, *rest = _type(arguments[0]).split(",")
        return ",".join([f"list of {word}" if word.startswith("`") else f"list of {word}s", *rest])
    return WORDS[annotation]


def _with_range(kind: str, metadata: list[Any]) -> str:
    bounds = []
    for rule in metadata:
        match rule:
            case Ge(ge=low):
                bounds.append(f"at least {low}")
            case Gt(gt=low):
                bounds.append(f"above {low}")
            case Le(le=high):
                bounds.append(f"at most {high}")
            case Lt(lt=high):
                bounds.append(f"below {high}")
            case MinLen(min_length=length):
                bounds.append(f"at least {length} of them")
            case BeforeValidator():
                pass  # it only says better what is wrong
            case _:
                kind = PATTERNS[rule.pattern]
    return ", ".join([kind, *bounds])


def _methods() -> str:
    lines = [
        "## Methods\n",
        "`run.method` chooses a row. The proximal term can be set by `run.training.proximal_mu` for any of them.\n",
        "| method | normalization | stays at the site | proximal term | statistics frozen | smallest batch |",
        "|---|---|---|---|---|---|",
    ]
    for name, method in METHODS.items():
        kind = NORMALIZATIONS.get(method.normalization, f"{method.normalization} norm")
        proximal = f"{method.proximal_mu:g}" if method.proximal_mu else "none"
        frozen = "never" if method.freezes_after == 1 else f"after {method.freezes_after:.0%} of the rounds"
        cells = [f"`{name}`", kind, KEPT[method.keeps], proximal, frozen, str(method.minimum_batch)]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join([*lines, ""])


def _recipe_keys() -> list[str]:
    return sorted({f"{group}.{key}" for recipe in RECIPES.values() for group in recipe for key in recipe[group]})


def _recipes() -> str:
    keys = _recipe_keys()
    lines = [
        "## Recipes\n",
        "`run.recipe` chooses a row, for method `fedwon`. It holds where a key is left out; a key that is there wins.",
        "Converted networks (`torchvision:...`, `timm:...`) and other methods have no recipe.\n",
        f"| recipe | {' | '.join(f'`run.{key}`' for key in keys)} |",
        f"|---|{'---|' * len(keys)}",
    ]
    for name, recipe in RECIPES.items():
        found = [recipe.get(group, {}).get(key, _plain(group, key)) for group, key in (key.split(".") for key in keys)]
        lines.append(f"| `{name}` | {' | '.join(map(_value, found))} |")
    return "\n".join([*lines, ""])


def _plain(group: str, key: str) -> object:
    return getattr(RunConfig.model_fields[group].default, key)


def _value(value: object) -> str:
    return "*empty*" if value is None else f"`{json.dumps(value)}`"


def _example(config: Settings) -> str:
    return "\n".join(["```yaml", *_commented(config, ""), "```", ""])


def _commented(config: Settings, indent: str) -> Iterator[str]:
    for key, field in type(config).model_fields.items():
        text = " ".join((field.description or "").split())
        yield from textwrap.wrap(text, 100, initial_indent=f"{indent}# ", subsequent_indent=f"{indent}# ")
        value = getattr(config, key)
        if isinstance(value, Settings):
            yield f"{indent}{key}:"
            yield from _commented(value, f"{indent}  ")
        else:
            yield f"{indent}{key}:" if value is None else f"{indent}{key}: {_scalar(value)}"


def _scalar(value: object) -> str:
    # JSON is YAML, and quotes what needs it.
    value = list(value) if isinstance(value, tuple) else value
    return json.dumps(value, ensure_ascii=False, default=str)


if __name__ == "__main__":
    sys.stdout.write(reference())
