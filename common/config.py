"""How configuration is read: YAML files into frozen, checked values, and one clear error when that fails.

Everything behind this module works with typed values only; nothing else in fedwon validates configuration.
"""

from __future__ import annotations

import difflib
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Self, TypeVar, cast, get_args

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError
from pydantic_core import ErrorDetails

from fedwon.common import strict_yaml
from fedwon.common.errors import ConfigError, ConfigMissing
from fedwon.common.system_errors import storage_error

FlatValue = bool | int | float | str | list[bool] | list[int] | list[float] | list[str]
"""What a flattened setting can be."""


class Settings(BaseModel):
    """Base of every part of a configuration: immutable, and an unknown key is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True, allow_inf_nan=False)

    def located(self, folder: Path) -> Self:  # noqa: ARG002 - those with paths need it
        """Return the same settings with the files that they name found from a folder; here they name none."""
        return self


S = TypeVar("S", bound=Settings)


def read_yaml(path: Path) -> dict[str, Any]:
    """Read a YAML file that holds a mapping.

    Raises:
        ConfigMissing: the file is not there.
        ConfigError: it cannot be read, is not YAML, or holds something else than a mapping.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise ConfigMissing(f"There is no configuration file {path}.") from None
    except IsADirectoryError:
        raise ConfigMissing(f"{path} is a folder, not a configuration file.") from None
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path} is not UTF-8 text (byte {error.start}).") from None
    except OSError as error:
        raise ConfigError(str(storage_error(error, f"reading {path}"))) from None
    try:
        content = strict_yaml.read_text(text)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        place = f", line {mark.line + 1}, column {mark.column + 1}" if mark else ""
        raise ConfigError(f"{path}{place}: not valid YAML: {error.problem or error}.") from None
    except (yaml.YAMLError, ValueError) as error:  # ValueError: a date that there is not, a number without end
        raise ConfigError(f"{path}: not valid YAML: {' '.join(str(error).split())}.") from None
    except RecursionError:
        raise ConfigError(f"{path}: nested too deeply.") from None
    if content is None:
        return {}
    if not isinstance(content, dict):
        raise ConfigError(f"{path}: expected `key: value` lines, found a {type(content).__name__}.")
    return content


def load(kind: type[S], path: Path) -> S:
    """Read a configuration file into `kind`; files that it names are found from its own folder.

    Raises:
        ConfigError: see `read_yaml` and `parse`.
    """
    return parse(kind, read_yaml(path), str(path)).located(path.resolve().parent)


def parse(kind: type[S], content: Mapping[str, Any], where: str) -> S:
    """Check a mapping and turn it into `kind`.

    Args:
        kind: the settings class.
        content: what was read.
        where: the file or place it came from, for the message.

    Raises:
        ConfigError: a key is unknown, is missing, or has a value out of range; the message names each such key.
    """
    try:
        # JSON's rules are strict (true is no number, 1.5 no count), yet its lists may become tuples
        return kind.model_validate_json(_as_json(content, where), strict=True)
    except ValidationError as error:
        problems = "; ".join(_sentence(kind, detail) for detail in error.errors())
        raise ConfigError(f"{where}: {problems}.") from None


def _as_json(content: Mapping[str, Any], where: str) -> str:
    try:
        return json.dumps(content, default=str)
    except (TypeError, ValueError, RecursionError) as error:  # a date as a key, a number of 5000 digits
        raise ConfigError(f"{where}: not a configuration: {error}.") from None


def _sentence(kind: type[Settings], detail: ErrorDetails) -> str:
    path = ".".join(str(part) for part in detail["loc"])
    if detail["type"] == "extra_forbidden":
        known = list(_fields_at(kind, detail["loc"][:-1]))
        close = difflib.get_close_matches(str(detail["loc"][-1]), known, n=1)
        return f"unknown key `{path}`" + (f", did you mean `{close[0]}`?" if close else f" (known: {', '.join(known)})")
    if detail["type"] == "missing":
        return f"`{path}` is missing"
    text = detail["msg"].removeprefix("Value error, ")
    text = text[:1].lower() + text[1:]
    given = "" if isinstance(detail["input"], dict) else f" (got {detail['input']!r})"
    if detail["type"] == "string_type" and isinstance(detail["input"], bool):
        given += "; YAML reads yes, no, on and off as true and false, put them into quotes"
    return f"`{path}`: {text}{given}" if path else f"{text}"


def _fields_at(kind: type[BaseModel], path: tuple[int | str, ...]) -> Iterator[str]:
    current: Any = kind
    for part in path:
        if isinstance(part, int):  # in a list
            current = next(iter(get_args(current)), None)
            continue
        field = current.model_fields.get(part) if hasattr(current, "model_fields") else None
        current = field.annotation if field else None
    if hasattr(current, "model_fields"):
        yield from current.model_fields


def merged(*parts: Mapping[str, Any]) -> dict[str, Any]:
    """Lay nested settings over one another; later ones win."""
    result: dict[str, Any] = {}
    for part in parts:
        for key, value in part.items():
            known = result.get(key)
            result[key] = merged(known, value) if isinstance(known, Mapping) and isinstance(value, Mapping) else value
    return result


def flatten(settings: BaseModel, prefix: str = "") -> dict[str, Any]:
    """Lay nested settings out as `a.b.c: value`; keys whose value is None are left out.

    This is the form in which a configuration travels: flat, typed scalars and lists of scalars.
    """
    flat: dict[str, Any] = {}
    for name in type(settings).model_fields:
        value = getattr(settings, name)
        key = f"{prefix}{name}"
        if isinstance(value, BaseModel):
            flat.update(flatten(value, f"{key}."))
        elif value is not None:
            flat[key] = list(value) if isinstance(value, list | tuple) else value
    return flat


def unflatten(flat: Mapping[str, object]) -> dict[str, Any]:
    """Undo `flatten`; the result is for `parse`.

    Raises:
        ConfigError: a key is used both as a value and as a group.
    """
    nested: dict[str, Any] = {}
    for key, value in flat.items():
        *groups, leaf = key.split(".")
        target = nested
        for group in groups:
            step = target.setdefault(group, {})
            if not isinstance(step, dict):
                raise ConfigError(f"`{key}` stands below a key that has a value already.")
            target = cast("dict[str, Any]", step)
        if leaf in target:
            raise ConfigError(f"`{key}` is given twice.")
        target[leaf] = value
    return nested


def dump(settings: BaseModel) -> str:
    """Write settings as YAML text, in the order of their fields."""
    return yaml.safe_dump(settings.model_dump(mode="json"), sort_keys=False, allow_unicode=True)
