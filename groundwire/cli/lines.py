"""Texts from the command line, or from standard input."""

import sys
from collections.abc import Iterator, Sequence

from groundwire.errors import GroundwireError


def texts_or_lines(texts: Sequence[str]) -> Iterator[str]:
    """The texts given; if there are none, the lines of standard input that are not blank.

    Raises:
        GroundwireError: a line is not UTF-8.
    """
    if texts:
        yield from texts
        return
    for number, line in enumerate(sys.stdin.buffer, start=1):
        try:
            text = line.decode("utf-8").rstrip("\r\n")
        except UnicodeDecodeError as error:
            raise GroundwireError(f"line {number} of standard input is not UTF-8: {error}") from error
        if text.strip():
            yield text
