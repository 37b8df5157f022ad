"""What a SPARQL query may hold, judged on its tokens before anything is evaluated.

The lexer follows the terminals of SPARQL 1.1 (https://www.w3.org/TR/sparql11-query/#sparqlGrammar, section 19.8), so
text in IRIs, strings and comments is never taken for a keyword. Words are denied by default: what is no keyword of a
query is refused. Oxigraph's own parser has no lexer: it reads by context, and where that could differ from the longest
match of the standard, so that a keyword might hide from one of the two, the query is refused as ambiguous.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass

from groundwire.server.config import QueryLimits
from groundwire.server.errors import ForbiddenQueryError, InvalidRequestError

FIELD = "query"

_BASE = (
    "A-Za-z\u00c0-\u00d6\u00d8-\u00f6\u00f8-\u02ff\u0370-\u037d\u037f-\u1fff\u200c\u200d\u2070-\u218f\u2c00-\u2fef"
    "\u3001-\ud7ff\uf900-\ufdcf\ufdf0-\ufffd\U00010000-\U000effff"
)
_LETTER = f"{_BASE}_"  # PN_CHARS_U
_NAME = f"{_LETTER}0-9\u00b7\u0300-\u036f\u203f\u2040"  # PN_CHARS without the hyphen
_ESCAPE = r"\\[tbnrf\"'\\]|\\u[0-9A-Fa-f]{4}|\\U[0-9A-Fa-f]{8}"
_LOCAL = r"%[0-9A-Fa-f]{2}|\\[_~.\-!$&'()*+,;=/?\#@%]"  # PLX
# A prefix, or else a word: then it is no keyword if it holds a dot or a hyphen. No part of a text is looked at twice.
_RUN = rf"[{_BASE}](?:[{_NAME}-]|\.+(?=[{_NAME}-]))*+"
_TOKEN = re.compile(
    rf"""
    (?P<space>[ \t\r\n]+)
    | (?P<comment>\#[^\r\n]*(?=\r?\n|\Z))
    | (?P<iri><[^\x00-\x20<>"{{}}|^`\\]*>)
    | (?P<string>\"\"\"(?:(?:""?)?+(?:[^"\\]|{_ESCAPE}))*+\"\"\"
        | '''(?:(?:''?)?+(?:[^'\\]|{_ESCAPE}))*+'''
        | "(?!"")(?:[^"\\\r\n]|{_ESCAPE})*+" | '(?!'')(?:[^'\\\r\n]|{_ESCAPE})*+')
    | (?P<variable>[?$][{_LETTER}0-9][{_LETTER}0-9\u00b7\u0300-\u036f\u203f\u2040]*)
    | (?P<language>@[A-Za-z]+(?:-[A-Za-z0-9]+)*)
    | (?P<blank>_:[{_LETTER}0-9](?:[{_NAME}-]|\.+(?=[{_NAME}-]))*+)
    | (?P<name>(?:{_RUN})?:(?:(?:[{_LETTER}0-9:]|{_LOCAL})(?:[{_NAME}:-]|{_LOCAL}|\.+(?=[{_NAME}:%\\-]))*+)?)
    | (?P<number>(?:[0-9]+\.[0-9]*|\.?[0-9]+)[eE][+-]?[0-9]+|[0-9]*\.[0-9]+|[0-9]+)
    | (?P<word>{_RUN})
    | (?P<sign>\^\^|&&|\|\||!=|<=|>=|[{{}}()\[\].,;=<>!+\-*/|^?])
    """,
    re.VERBOSE,
)
_WORDS = """
    a as asc ask base bind by construct desc describe distinct exists false filter graph group having in limit minus
    not offset optional order prefix reduced select separator true undef union values where

    abs avg bnode bound ceil coalesce concat contains count datatype day encode_for_uri floor group_concat hours if
    iri isblank isiri isliteral isnumeric isuri lang langmatches lcase max md5 min minutes month now rand regex
    replace round sameterm sample seconds sha1 sha256 sha384 sha512 str strafter strbefore strdt strends strlang
    strlen strstarts struuid substr sum timezone tz ucase uri uuid year
"""
_KEYWORDS = frozenset(_WORDS.split())
_UPDATE = "add all clear copy create data default delete drop insert into load move to using with"
_FORBIDDEN = {
    **dict.fromkeys(("service", "silent"), "SERVICE asks another server; this one reaches no network"),
    **dict.fromkeys(("from", "named"), "FROM names graphs to fetch; ask the graphs that are here with GRAPH"),
    **dict.fromkeys(_UPDATE.split(), "updates are refused: queries only read"),
}
# Before an IRI in an expression; after anything else there, `<` may as well compare.
_BEFORE_IRI = frozenset(
    ("(", ",", "=", "!=", "<", ">", "<=", ">=", "&&", "||", "!", "+", "-", "*", "/", "^", "^^", "|")
)
_ABSOLUTE = re.compile(r"<[A-Za-z][A-Za-z0-9+.\-]*://")
# Escapes of ASCII characters: a parser that resolves them first, as the standard's text has it, sees other tokens.
_ASCII_ESCAPE = re.compile(r"\\u00[0-7][0-9A-Fa-f]|\\U000000[0-7][0-9A-Fa-f]")
_NO_CHARACTER = re.compile(r"\\u[dD][89A-Fa-f]|\\U(?!000[0-9A-Fa-f]|0010)|\\U0000[dD][89A-Fa-f]")
# A name that Oxigraph's parser could cut in two, the second part being the keyword.
_SPLIT = re.compile(r"(?:\A|[.:])service", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Token:
    """A token that is neither space nor comment: the name of its terminal, its text, and where it begins."""

    kind: str
    text: str
    start: int


def check_query(query: str, limits: QueryLimits) -> None:
    """Refuse a query that is too long or nested too deep, that could write or reach the network, or is ambiguous.

    What passes may still be no SPARQL: the evaluator's parser says so.

    Raises:
        InvalidRequestError: length, nesting, or no token of SPARQL 1.1; names line and column.
        ForbiddenQueryError: SERVICE, FROM, or an update.
    """
    if len(query) > limits.length:
        raise InvalidRequestError(FIELD, f"has {len(query)} code points; at most {limits.length} are taken")
    if not query.strip():
        raise InvalidRequestError(FIELD, "is empty; send a SELECT, ASK, CONSTRUCT or DESCRIBE query")
    for pattern, what in ((_ASCII_ESCAPE, "escapes an ASCII character"), (_NO_CHARACTER, "escapes no character")):
        if found := pattern.search(query):
            raise _invalid(query, found.start(), f"{found.group()}… {what}; write the character itself")
    opened: list[str] = []
    previous = ""
    for token in tokens(query):
        if token.kind == "word":
            _check_word(query, token)
        elif token.kind in {"name", "blank"} and _SPLIT.search(token.text):
            raise _invalid(
                query, token.start, f"{token.text[:64]} could be read as SERVICE; use another prefix or <IRI>"
            )
        elif token.kind == "iri" and opened and opened[-1] == "(" and previous not in _BEFORE_IRI:
            _check_comparison(query, token)
        elif token.text in "([{":
            opened.append(token.text)
            if len(opened) > limits.nesting:
                raise _invalid(query, token.start, f"nested more than {limits.nesting} levels deep")
        elif token.text in ")]}" and opened:
            opened.pop()
        previous = token.text


def tokens(query: str) -> Iterator[Token]:
    """The tokens of a query.

    Raises:
        InvalidRequestError: something is no token; names line and column.
    """
    position = 0
    while position < len(query):
        found = _TOKEN.match(query, position)
        if found is None:
            raise _invalid(query, position, f"{query[position : position + 16]!r} begins no token of SPARQL 1.1")
        if found.lastgroup not in {"space", "comment", None}:
            yield Token(str(found.lastgroup), found.group(), position)
        position = found.end()


def place(query: str, offset: int) -> str:
    """Line and column, from 1, of an offset."""
    before = query[:offset]
    return f"line {before.count(chr(10)) + 1}, column {offset - before.rfind(chr(10))}"


def _check_word(query: str, token: Token) -> None:
    word = token.text.lower()
    if word in _FORBIDDEN:
        raise ForbiddenQueryError(f"{FIELD}: {place(query, token.start)}: {token.text}: {_FORBIDDEN[word]}")
    if word not in _KEYWORDS:
        raise _invalid(query, token.start, f"{token.text[:64]} is no keyword or function of a SPARQL 1.1 query")


def _check_comparison(query: str, token: Token) -> None:
    """In `?a<1)…#>`, the standard's longest match is an IRI, and Oxigraph compares and goes on: what follows is code.

    Both agree again at the `>` unless a bracket, comment or string begins before it.
    """
    if any(sign in token.text for sign in ")#'") and not _ABSOLUTE.match(token.text):
        raise _invalid(query, token.start, "is `<` a comparison or an IRI? Put a space after it, or write a full IRI")


def _invalid(query: str, offset: int, what: str) -> InvalidRequestError:
    return InvalidRequestError(FIELD, f"{place(query, offset)}: {what}")
