"""RDF terms as strings that sort, and quads of them.

One string form, close to N-Triples but without escapes, is what the compiler stores, what ties are broken by, and what
both retrievers share: `http://…` for an IRI, `_:id` for a blank node, `"text"@en` and `"text"^^http://…` for a literal
(`"text"` when it is an xsd:string).
"""

import re
from urllib.parse import unquote

from groundwire.kg.types import XSD_STRING, Term

# Subject, predicate, object, graph; the graph is empty for the default graph.
Quad = tuple[str, str, str, str]

_CAMEL = re.compile(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])")


def literal_key(value: str, datatype: str, language: str) -> str:
    """The string form of a literal."""
    if language:
        return f'"{value}"@{language.lower()}'
    if not datatype or datatype == XSD_STRING:
        return f'"{value}"'
    return f'"{value}"^^{datatype}'


def is_literal(key: str) -> bool:
    """Whether the string form is that of a literal."""
    return key.startswith('"')


def is_blank(key: str) -> bool:
    """Whether the string form is that of a blank node."""
    return key.startswith("_:")


def is_iri(key: str) -> bool:
    """Whether the string form is that of an IRI."""
    return not key.startswith(('"', "_:"))


def literal_parts(key: str) -> tuple[str, str, str]:
    """Lexical form, datatype IRI (empty for xsd:string and language-tagged) and language of a literal's string form."""
    end = key.rindex('"')
    value, suffix = key[1:end], key[end + 1 :]
    if suffix.startswith("^^"):
        return value, suffix[2:], ""
    return value, "", suffix[1:]


def make_term(key: str, label: str) -> Term:
    """The term of a string form; `label` is used for IRIs and blank nodes, an empty one means the fallback."""
    if key.startswith('"'):
        value, datatype, language = literal_parts(key)
        if language:
            datatype = "http://www.w3.org/1999/02/22-rdf-syntax-ns#langString"
        return Term("literal", value, value or '""', datatype or XSD_STRING, language)
    if key.startswith("_:"):
        return Term("blank", key[2:], label or key)
    return Term("iri", key, label or local_name(key))


def local_name(iri: str) -> str:
    """Words for an IRI without label: its last part, split at underscores and inner capitals. Never empty."""
    name = iri.rstrip("/#")
    name = unquote(re.split(r"[/#]", name)[-1]) or name
    if ":" in name and "/" not in iri:
        name = name.rsplit(":", 1)[-1] or name
    words = " ".join(_CAMEL.sub(" ", name.replace("_", " ")).split())
    return words or iri


def fallback_label(key: str) -> str:
    """The label of a term that the graph gives none."""
    if key.startswith('"'):
        return literal_parts(key)[0] or '""'
    return key if key.startswith("_:") else local_name(key)
