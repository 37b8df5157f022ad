"""Progress of long work, on standard error, so that standard output stays a program's."""

from collections.abc import Iterable, Iterator, Sequence
from typing import TypeVar

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

T = TypeVar("T")
console = Console(stderr=True)


def bar(*, shown: bool = True) -> Progress:
    """A progress bar with count, time passed and time left; silent when standard error is no terminal."""
    return Progress(
        TextColumn("{task.description:<32}"),
        BarColumn(bar_width=28),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(compact=True),
        TextColumn("{task.fields[note]}"),
        console=console,
        transient=True,
        disable=not (shown and console.is_terminal),
    )


def track(items: Sequence[T] | Iterable[T], title: str, total: int | None = None) -> Iterator[T]:
    """Iterate with a bar."""
    if total is None and isinstance(items, Sequence):
        total = len(items)
    with bar() as progress:
        task = progress.add_task(title, total=total, note="")
        for item in items:
            yield item
            progress.advance(task)
