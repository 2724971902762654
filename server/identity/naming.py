"""Names of sites: what they may be, since they become file names and parts of certificates, and many in one line."""

from __future__ import annotations

from collections.abc import Sequence

from pydantic import TypeAdapter, ValidationError

from fedwon.common.errors import ConfigError
from fedwon.common.run_config import Name

_NAME = TypeAdapter(Name)
MOST_LISTED = 20


def check_site_name(name: str) -> str:
    """Return a site's name if it can be one.

    Raises:
        ConfigError: it cannot.
    """
    try:
        return str(_NAME.validate_python(name))
    except ValidationError:
        raise ConfigError(
            f"{name!r} cannot be a site's name.",
            hint="Letters, digits, `-`, `_` and `.`, beginning with a letter or digit, 63 at most: press-3.",
        ) from None


def listed(names: Sequence[str], *, between: str = ", ") -> str:
    """Return names in one line for people: the first twenty, and how many more there are."""
    more = len(names) - MOST_LISTED
    return between.join([*names[:MOST_LISTED], *([f"and {more} more"] if more > 0 else [])])
