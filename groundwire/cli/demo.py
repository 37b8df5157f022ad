"""`groundwire demo`: a small model of countries and cities, built, served and questioned."""

import os
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import click
from rich.console import Console

from groundwire.cli.render import render_prediction
from groundwire.errors import GroundwireError
from groundwire.v1 import prediction_pb2

if TYPE_CHECKING:
    from groundwire.server.client import Client

_STOPPED = 130  # the exit code of a program that Ctrl-C stopped
_PROBES = 8


@click.command()
@click.option(
    "--out",
    type=click.Path(path_type=Path, file_okay=False),
    help="Folder for graph, claims and model, kept for the next run.  [default: ~/.cache/groundwire/demo]",
)
def demo(out: Path | None) -> None:
    """Build a small model of countries and cities, serve it, and ask it six questions, then yours.

    The first run trains for a few minutes on two CPU cores; later ones answer in seconds.
    """
    console = Console()
    try:
        run_demo(out or default_folder(), console)
    except KeyboardInterrupt:
        console.print("\nStopped. `groundwire demo` goes on from here.")
        sys.exit(_STOPPED)


def default_folder() -> Path:
    """Where the demo keeps what it made, unless told otherwise."""
    cache = os.environ.get("XDG_CACHE_HOME")
    return (Path(cache) if cache else Path.home() / ".cache") / "groundwire" / "demo"


def run_demo(out: Path, console: Console) -> None:
    """Make what is missing, start the server, ask the questions, and offer a prompt when there is a terminal."""
    from groundwire.demo.make import DemoFolder
    from groundwire.demo.questions import QUESTIONS

    started = time.monotonic()
    folder = DemoFolder(out)
    if not folder.is_current():
        console.print(f"[bold]Building[/] a model of countries and cities in {folder.path}: a few minutes, once.")
        folder.make()
        console.print(f"Built in {time.monotonic() - started:.0f} s; certificate: {folder.bundle / 'certificate.html'}")

    from groundwire.server.app import BackgroundServer
    from groundwire.server.client import Client
    from groundwire.server.config import ServerConfig

    with (
        BackgroundServer(ServerConfig((folder.bundle,), folder.graph, "127.0.0.1:0")) as server,
        Client(server.address) as client,
    ):
        graph = client.get_graph()
        console.print(
            f"[bold]Serving[/] on {server.address} with {graph.triples:,} triples about {graph.entities:,} entities."
        )
        for number, question in enumerate(QUESTIONS, start=1):
            console.print(f"\n[bold]{number}.[/] {question.title}")
            _ask(client, console, question.text)
        console.print(f"\n{len(QUESTIONS)} questions answered; {time.monotonic() - started:.0f} s in all.")
        if sys.stdin.isatty():
            _prompt(client, console)


def _prompt(client: "Client", console: Console) -> None:
    """Judge what is typed, until Ctrl-D, Ctrl-C or an empty line."""
    try:
        console.print("\nTry your own: a claim about a country or a city. An empty line, Ctrl-D or Ctrl-C ends.")
        while text := console.input("[bold]>[/] ").strip():
            try:
                _ask(client, console, text)
            except GroundwireError as error:
                console.print(f"Error: {error}", style="red", markup=False)
    except (EOFError, KeyboardInterrupt):
        console.print()


def _ask(client: "Client", console: Console, text: str) -> None:
    options = prediction_pb2.PredictOptions(contributions=True, probes=_PROBES)
    render_prediction(console, text, client.predict([text], options=options).predictions[0])
