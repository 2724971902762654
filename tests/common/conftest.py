"""Typer 0.20 touches names that Click 8.5 deprecates when it is imported; these tests are not to fail on that."""

import warnings

with warnings.catch_warnings():
    warnings.filterwarnings("ignore", r"'click\.utils\.get_\w+_stream' is deprecated", DeprecationWarning)
    import typer  # noqa: F401
