"""`fedwon-server compare`: is a federation worth it for these lines, and by which method?"""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from fedwon.common.errors import MissingExtra
from fedwon.common.logs import hushed
from fedwon.server.commands.options import AsJson

if TYPE_CHECKING:
    from fedwon.server.comparison.groundwork import Request
    from fedwon.server.comparison.texts import Texts

_INTERRUPTED = 130


def register(app: typer.Typer) -> None:
    """Add the command to the operator's."""
    app.command()(compare)


def compare(
    data: Annotated[str, typer.Option(help="A folder of lines, a sub-folder each; or `digits` for the built-in set.")],
    out: Annotated[
        Path, typer.Option(help="The comparison's own folder: reports, and what a second call goes on with.")
    ] = Path("comparison"),
    budget: Annotated[str, typer.Option(help="Time for all of it, such as 20m, 90s or 2h.")] = "20m",
    lang: Annotated[Literal["en", "ja"], typer.Option(help="Language of the terminal; both pages are written.")] = "en",
    methods: Annotated[
        str | None,
        typer.Option(help="Methods with commas between; each line alone, fedavg, fedbn and fedwon without it."),
    ] = None,
    config: Annotated[
        Path | None, typer.Option(help="A run's configuration, whose network, images and training are used.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Compare each line alone with federating them, by several methods, and write a report.

    Ends within the budget with what there is by then; the same command again goes on. docs/compare.md says how.
    """
    started = time.monotonic()  # before torch and Optuna are loaded, which takes seconds of the budget
    _check_extra()
    from fedwon.common.memory import keep_freed_memory
    from fedwon.server.comparison.comparing import compare as work
    from fedwon.server.comparison.groundwork import Request, asked_methods
    from fedwon.server.comparison.languages import LANGUAGES
    from fedwon.server.comparison.meter import metering
    from fedwon.server.comparison.planning import seconds_of
    from fedwon.server.comparison.reporting import report
    from fedwon.server.engines.interruption import Interruption

    keep_freed_memory()
    texts = LANGUAGES[lang]
    request = Request(data, out, seconds_of(budget), asked_methods(methods), config, started)
    with hushed("fedwon.server.rounds.strategy"), metering(texts, quiet=as_json) as meter, Interruption() as stop:
        found = work(request, meter, texts, stop)
    content = report(request, found)
    path = _write(request, content, texts)
    if as_json:
        typer.echo(json.dumps(content, ensure_ascii=False))
    else:
        _tell(content, path, texts)
    if found.interrupted:
        raise typer.Exit(_INTERRUPTED)


def _check_extra() -> None:
    try:
        import optuna  # noqa: F401 - whether it is there
        import scipy.stats  # noqa: F401
    except ImportError:
        raise MissingExtra("Optuna or SciPy is not installed.", hint="pip install 'fedwon[compare]'") from None


def _write(request: Request, content: dict[str, Any], texts: Texts) -> Path:
    """Write report.json, and the page in both languages: whoever asked reads one, headquarters perhaps the other."""
    from fedwon.common.files import write_atomic
    from fedwon.server.comparison.languages import LANGUAGES
    from fedwon.server.comparison.page import page

    text = json.dumps(content, ensure_ascii=False, indent=1)
    write_atomic(request.folder / "report.json", [text.encode()])
    for lang, words in LANGUAGES.items():
        write_atomic(request.folder / f"report.{lang}.html", [page(content, words).encode()])
    return request.folder / f"report.{texts.lang}.html"


def _tell(content: dict[str, Any], path: Path, texts: Texts) -> None:
    from fedwon.server.comparison.wording import headline, reason

    typer.echo(headline(content, texts))
    typer.echo(reason(content, texts))
    if content["interrupted"]:
        typer.echo(f"{texts.interrupted}; {texts.go_on}", err=True)
    typer.echo(texts.report_at.format(path=path))
