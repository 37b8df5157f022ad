"""The options that name a graph and say how a live one is asked."""

from pathlib import Path
from typing import Any

import click

from groundwire.cli.numbers import FiniteRange
from groundwire.kg import LiveOptions
from groundwire.kg.endpoint import is_endpoint

_DEFAULT = LiveOptions()


class GraphType(click.ParamType):  # type: ignore[type-arg,unused-ignore]  # generic in new releases only
    """A path, or the URL of a SPARQL endpoint, which stays a string."""

    name = "path or URL"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Path | str:
        """The value as `open_graph` takes it."""
        return value if isinstance(value, Path) or is_endpoint(value) else Path(value)


GRAPH = GraphType()
GRAPH_HELP = "A compiled graph's folder, an RDF file, or the URL of a SPARQL endpoint."

graph_seconds = click.option(
    "--graph-seconds",
    default=_DEFAULT.request_seconds,
    show_default=True,
    type=FiniteRange(0, min_open=True),
    help="How long one text may take of a SPARQL endpoint.",
)
graph_refresh = click.option(
    "--graph-refresh",
    default=_DEFAULT.refresh_seconds,
    show_default=True,
    type=FiniteRange(0),
    help="Read the labels of a SPARQL endpoint again after so many seconds; 0: never.",
)
