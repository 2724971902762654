"""`fedwon-server`: what an operator types."""

from __future__ import annotations

import json
from contextlib import nullcontext
from pathlib import Path
from typing import Annotated, Literal

import typer

from fedwon.server.link.handshakes import own_standard_error  # ahead of fedwon.common, which tells gRPC to be quiet

# isort: split

from fedwon.common import logs
from fedwon.common.config import load, parse
from fedwon.common.console import run_command, show_health, show_table
from fedwon.common.memory import keep_freed_memory
from fedwon.common.pki import fingerprint
from fedwon.common.version import VERSION
from fedwon.server import report
from fedwon.server.commands import backups as backup_commands
from fedwon.server.commands import compare as cli_compare
from fedwon.server.commands import interrupted
from fedwon.server.commands import page as cli_page
from fedwon.server.commands import quarantine as cli_quarantine
from fedwon.server.commands import relay as cli_relay
from fedwon.server.commands import releases as cli_releases
from fedwon.server.commands.identity import register, sites_app
from fedwon.server.commands.options import HOME, AsJson, Folder
from fedwon.server.config import ServerConfig
from fedwon.server.runs.privacy_spent import in_words
from fedwon.server.serving import CONFIG_NAME, Home

app = typer.Typer(
    name="fedwon-server",
    help="The server of a federation: images stay at the sites, weights come here.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
)
register(app)


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(VERSION)
        raise typer.Exit


@app.callback()
def main(
    log_format: Annotated[Literal["auto", "text", "json"], typer.Option(help="How log lines look.")] = "auto",
    log_level: Annotated[Literal["debug", "info", "warning", "error"], typer.Option(help="Least level.")] = "info",
    version: Annotated[bool, typer.Option("--version", callback=_version, is_eager=True)] = False,
) -> None:
    """Set up logging for every command."""
    del version
    logs.setup(log_format, log_level)


@app.command()
def init(
    folder: Annotated[Path, typer.Argument(help="The folder to make.")] = HOME,
    name: Annotated[
        list[str] | None,
        typer.Option(help="Host name or address by which sites reach this server; repeat it for several, best first."),
    ] = None,
    federation: Annotated[str, typer.Option(help="Name of the federation.")] = "federation",
    listen: Annotated[str, typer.Option(help="Address for sites.")] = "0.0.0.0:8470",
    enrolment: Annotated[str, typer.Option(help="Address for sites that join.")] = "0.0.0.0:8471",
    heartbeat: Annotated[float, typer.Option(help="Seconds between the heartbeats of a site.")] = 15.0,
    if_missing: Annotated[bool, typer.Option("--if-missing", help="Leave a folder that is there as it is.")] = False,
) -> None:
    """Make a server's folder: server.yaml, a certificate authority, and a certificate for the names given."""
    if if_missing and (folder / CONFIG_NAME).exists():
        typer.echo(f"{folder} is a server's folder already and stays as it is")
        return
    settings: dict[str, object] = {"federation": federation, "listen": listen, "enrolment": enrolment}
    settings |= {"heartbeat_seconds": heartbeat} | ({"names": name} if name else {})
    home = Home.create(folder, parse(ServerConfig, settings, "the options of init"))
    if not name:
        typer.echo("only this machine can reach it; for others begin again in a new folder, with `--name HOST`")
    typer.echo(f"made {folder}; look at {folder / 'server.yaml'}, then:")
    typer.echo(f"  fedwon-server start --dir {folder}")
    typer.echo(f"  fedwon-server enroll SITE --dir {folder}     (once a site, while the server runs)")
    typer.echo(f"fingerprint of the federation's authority: {fingerprint(home.authority.pem)}")


@app.command()
def start(
    folder: Folder = HOME,
    resume: Annotated[bool, typer.Option(help="Go on with the newest unfinished run.")] = False,
    auto_resume: Annotated[
        bool,
        typer.Option("--auto-resume", help="Go on with the newest run if it has not finished, else begin a new one."),
    ] = False,
    once: Annotated[
        bool, typer.Option("--once", help="Only serve if the newest run was this one and finished.")
    ] = False,
    run: Annotated[Path | None, typer.Option(help="A run's configuration in place of `run:` in server.yaml.")] = None,
    out: Annotated[Path | None, typer.Option("--outcome", help="Copy model and scores to this folder too.")] = None,
) -> None:
    """Listen for sites, run the federation, and end with the global model."""
    from fedwon.common.errors import Stopped
    from fedwon.common.run_config import RunConfig
    from fedwon.server.display import show_outcome, watching
    from fedwon.server.handing_out import check_folder, hand_out
    from fedwon.server.operating import run_federation, serve_sites
    from fedwon.server.relays.joining import check_no_relay

    if resume and (run or auto_resume or once):
        raise typer.BadParameter("it goes with none of --run, --auto-resume and --once", param_hint="--resume")
    home = Home.open(folder)
    check_no_relay(folder)
    config = load(RunConfig, run) if run else home.config.run
    check_folder(out)
    if once and (done := interrupted.finished(home, config)):
        typer.echo(f"{done} has finished, and --once begins no other: serving sites until stopped", err=True)
        serve_sites(home)
        return
    resume = resume or interrupted.announce(home, auto_resume)
    try:
        with watching() as listener:
            outcome = run_federation(home, config, listeners=[listener], resume=resume)
    except (Stopped, KeyboardInterrupt) as stop:
        typer.echo(interrupted.where_stopped(home), err=True)
        # A service manager that stops its service has not met an error; a Ctrl-C is 130 as everywhere.
        raise typer.Exit(130 if isinstance(stop, KeyboardInterrupt) else 0) from None
    show_outcome(outcome, typer.echo)
    if out:
        typer.echo(f"model and scores are in {hand_out(outcome, out)} too")


@app.command()
def health(
    folder: Folder = HOME,
    timeout: Annotated[float, typer.Option(help="Seconds to wait for an answer.", min=0.1)] = 10.0,
    as_json: AsJson = False,
) -> None:
    """Ask the server that runs on this machine whether it is well; needs no site's certificate."""
    from fedwon.server.link.health import check_health

    show_health(lambda: check_health(folder, timeout), as_json)


@app.command()
def status(folder: Folder = HOME, as_json: AsJson = False) -> None:
    """Show the runs and how far each has come."""
    home = Home.open(folder)
    runs, expiring = report.runs(home.store, served=home.served), report.expiring(home)
    if as_json:
        typer.echo(json.dumps({"version": VERSION, "runs": runs, "expiring": expiring}))
        return
    for row in expiring:
        typer.echo(report.expiry_line(row, folder))
    if not runs:
        typer.echo("no runs yet: fedwon-server start")
        return
    show_table(
        ("run", "state", "rounds", "mean accuracy", "worst site", "model"),
        [report.run_row(run, folder) for run in runs],
        title="Runs, newest first",
    )
    for run in runs:
        if run["reason"] and run["state"] != "finished":
            typer.echo(f"{run['run']} ({run['state']}): {run['reason']}")
        for line in in_words(run["run"], run["privacy"]):
            typer.echo(line)
        for site, words in run["drift"].items():
            typer.echo(f"{run['run']}: drift alarm, {site}: {words}")


@app.command()
def evaluate(
    folder: Folder = HOME,
    run: Annotated[str | None, typer.Option(help="A run; the newest without it.")] = None,
    number: Annotated[int | None, typer.Option("--round", help="A round; the last without it.", min=0)] = None,
    model: Annotated[Path | None, typer.Option(help="A model file in place of a run's.")] = None,
    minimum: Annotated[int | None, typer.Option("--sites", help="Wait for so many sites.", min=1)] = None,
    timeout: Annotated[float, typer.Option(help="Seconds to wait for their answers.", min=1)] = 600.0,
    as_json: AsJson = False,
) -> None:
    """Let every site measure a model on its own images; `start` must not be running."""
    from fedwon.server.display import show_evaluation
    from fedwon.server.operating import evaluate_at_sites, pick_model

    home = Home.open(folder)
    task, record = pick_model(home, run, number, model)
    evaluation = evaluate_at_sites(home, task, record, minimum=minimum, timeout=timeout)
    if as_json:
        content = {"model": str(record.blob.path), "run": task.run, "round": task.round}
        typer.echo(json.dumps({**content, **evaluation.as_dict()}))
        return
    show_evaluation(evaluation, typer.echo)


@app.command()
def simulate(
    config: Annotated[Path, typer.Argument(help="A run's configuration.")],
    data: Annotated[str, typer.Option(help="A folder of domains, one site each, or `digits` for the built-in set.")],
    out: Annotated[Path | None, typer.Option(help="Keep models and database in this folder.")] = None,
    seed: Annotated[int | None, typer.Option(help="In place of the configuration's.", min=0)] = None,
    sites: Annotated[int | None, typer.Option(help="Deal the domains out to so many virtual sites.", min=1)] = None,
    fraction: Annotated[
        float | None, typer.Option(help="Share of the sites that train in a round.", min=1e-6, max=1)
    ] = None,
    engine: Annotated[
        Literal["in-process", "ray"], typer.Option(help="One process, or Flower's simulation engine.")
    ] = "in-process",
    workers: Annotated[int | None, typer.Option(help="Ray's processes; one a core without it.", min=1)] = None,
    ray_address: Annotated[str | None, typer.Option(help="host:port of a Ray cluster that runs already.")] = None,
    as_json: AsJson = False,
) -> None:
    """Run a federation without sites: in this one process, or on Ray; for experiments and tests."""
    from fedwon.server.display import show_outcome, watching
    from fedwon.server.engines.interruption import Interruption
    from fedwon.server.engines.ray_engine import RayEngine
    from fedwon.server.engines.simulating import SimulationConfig, simulation_report
    from fedwon.server.engines.simulating import simulate as run_simulation

    if engine != "ray" and (workers or ray_address):
        raise typer.BadParameter("they are for `--engine ray`", param_hint="--workers, --ray-address")
    keep_freed_memory()
    settings = load(SimulationConfig, config).changed(seed, fraction)
    ray = RayEngine(workers, ray_address) if engine == "ray" else None
    # Ray has handlers of its own
    with watching(quiet=as_json) as listener, nullcontext() if ray else Interruption.of_work():
        result = run_simulation(settings, data, out, [listener], virtual=sites, ray=ray)
    if as_json:
        typer.echo(json.dumps(simulation_report(settings, result)))
        return
    show_outcome(result.outcome, typer.echo, kept=out is not None)


@app.command()
def demo(
    data: Annotated[str, typer.Option(help="A folder of domains, one site each; the built-in digits without it.")] = "",
    folder: Annotated[Path, typer.Option("--dir", help="Where server and sites of the demo live.")] = Path(".demo"),
    config: Annotated[Path | None, typer.Option(help="A run's configuration in place of the demo's.")] = None,
) -> None:
    """Start a server and one process a site on this machine, with mutual TLS, and show what comes of it."""
    from fedwon.server.demo import run_demo

    run_demo(data or "digits", folder, config)


@app.command()
def convert(
    architecture: Annotated[str, typer.Option(help="The network, such as torchvision:resnet18 or timm:regnety_004.")],
    weights: Annotated[Path | None, typer.Option(help="Its pretrained weights, a safetensors file.")] = None,
    out: Annotated[Path | None, typer.Option(help="The file to write.")] = None,
    classes: Annotated[
        int | None, typer.Option(help="Outputs, if other than the file's: then the final layer is new.", min=1)
    ] = None,
    only_explain: Annotated[bool, typer.Option("--explain", help="Only say what would become of each layer.")] = False,
) -> None:
    """Make a network without normalization of a pretrained one; it computes the same."""
    from fedwon.models.convert import TOLERANCE
    from fedwon.models.findings import explain, summary
    from fedwon.server.releases.converting import convert_file, explain_architecture

    if only_explain:
        typer.echo(explain(explain_architecture(architecture)))
        return
    if weights is None or out is None:
        raise typer.BadParameter("needed, unless with --explain", param_hint="--weights and --out")
    done = convert_file(architecture, weights, out, classes)
    typer.echo(summary(done.findings))
    if done.new:
        typer.echo(f"Drawn anew, for the file has another number of classes: {', '.join(done.new)}.")
    typer.echo(f"Largest difference on random images: {done.difference:.1e} of the largest output.")
    if done.difference > TOLERANCE:
        typer.echo("In float64 the two agree: it is the network that amplifies rounding.")
    typer.echo(f"wrote {done.blob.path}")


backup_commands.add_to(app)
cli_relay.register(app)
cli_page.register(app)
cli_quarantine.register(app, sites_app)
cli_releases.register(app)
cli_compare.register(app)


def run() -> None:
    """Entry point of the command."""
    own_standard_error()
    run_command(app)


if __name__ == "__main__":
    run()
