"""Names that become file names and parts of certificates."""

from __future__ import annotations

from pydantic import TypeAdapter, ValidationError

from fedwon.common.errors import ConfigError
from fedwon.common.run_config import Name

_NAME = TypeAdapter(Name)


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
