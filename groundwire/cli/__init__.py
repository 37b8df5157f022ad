"""The command line: `groundwire kg|build|serve|predict|evaluate|attack|demo`.

Commands are imported when they are used, so that serving never pays for, nor needs, the toolchain.
"""

import sys
from importlib import import_module
from typing import Any

import click

from groundwire import __version__
from groundwire.errors import GroundwireError

# Name: (module, attribute, line for the overview, which thus imports nothing).
_COMMANDS = {
    "kg": ("groundwire.cli.kg", "kg", "Compile a knowledge graph, and link and ground texts in it."),
    "build": ("groundwire.cli.build", "build", "Train, harden, compress, certify: a recipe to a bundle."),
    "serve": ("groundwire.cli.serve", "serve", "Serve bundles and a graph over gRPC."),
    "predict": ("groundwire.cli.predict", "predict", "Ask a running server."),
    "evaluate": ("groundwire.cli.evaluate", "evaluate", "Measure a bundle, or a running server, on labelled data."),
    "attack": ("groundwire.cli.attack", "attack", "Look for changes that flip a model's labels: a robustness report."),
    "demo": ("groundwire.cli.demo", "demo", "Build, serve and question a small model of countries and cities."),
}


class _Lazy(click.Group):
    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(_COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in _COMMANDS:
            return None
        module, attribute, _ = _COMMANDS[cmd_name]
        command: click.Command = getattr(import_module(module), attribute)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, line) for name, (_, _, line) in _COMMANDS.items()])


@click.group(cls=_Lazy, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="groundwire")
def cli() -> None:
    """Model decisions grounded in a knowledge graph, hardened against attack, and calibrated."""


def main(arguments: list[str] | None = None) -> Any:
    """Run the command line. Exit code 1 for an error that Groundwire explains, 2 for wrong usage."""
    try:
        return cli.main(arguments, prog_name="groundwire", standalone_mode=True)
    except GroundwireError as error:
        click.echo(f"Error: {error}", err=True)
        sys.exit(1)
    except ModuleNotFoundError as error:
        extra = {"torch", "transformers", "accelerate", "onnx", "safetensors", "sklearn", "matplotlib", "scipy"}
        if error.name is None or error.name.split(".")[0] not in extra | {"onnxruntime"}:
            raise
        which = "cpu" if error.name == "onnxruntime" else "export"
        click.echo(f"Error: {error.name} is not installed: pip install 'groundwire[{which}]'", err=True)
        sys.exit(1)
