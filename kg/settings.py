"""What a graph's predicates mean to grounding. Part of the compiled graph's version."""

import hashlib
import json
from dataclasses import asdict, dataclass, fields
from typing import Any

from groundwire.kg.errors import CompiledGraphError

RDF = "http://www.w3.org/1999/02/22-rdf-syntax-ns#"
RDFS = "http://www.w3.org/2000/01/rdf-schema#"
OWL = "http://www.w3.org/2002/07/owl#"
SKOS = "http://www.w3.org/2004/02/skos/core#"
SCHEMA = "http://schema.org/"
SCHEMAS = "https://schema.org/"
FOAF = "http://xmlns.com/foaf/0.1/"
DCTERMS = "http://purl.org/dc/terms/"
DC = "http://purl.org/dc/elements/1.1/"
WIKIBASE = "http://wikiba.se/ontology#"
XSD = "http://www.w3.org/2001/XMLSchema#"
INFERRED_GRAPH = "urn:groundwire:inferred"
RDF_TYPE = RDF + "type"
OWL_SAME_AS = OWL + "sameAs"
# What these say is fixed by their specifications: never fused, and nothing inferred about them is news.
VOCABULARIES = (RDF, RDFS, OWL, SKOS, XSD)

# Terms that say how data is written, not what is so.
_SCHEMA_CLASSES = (
    RDF + "Property",
    RDFS + "Class",
    RDFS + "Datatype",
    OWL + "Class",
    OWL + "ObjectProperty",
    OWL + "DatatypeProperty",
    OWL + "AnnotationProperty",
    OWL + "Ontology",
    SKOS + "ConceptScheme",
    WIKIBASE + "Property",
)
# What Wikibase says of its own properties.
_WIKIBASE_TERMS = (
    "propertyType", "directClaim", "directClaimNormalized", "claim", "statementProperty", "statementValue", "qualifier",
    "qualifierValue", "reference", "referenceValue", "novalue",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class GraphSettings:
    """Which predicates name, describe, or are left out, and how much is looked at.

    The order of `languages`, then that of `label_predicates`, is the order of preference for the label that people read
    (and so for descriptions); languages are BCP 47 tags, `en` stands for `en-GB` too, `pt-BR` for `pt` if there is
    none, and an empty one for literals without a tag. `ignored_predicates` are no evidence. `fusion_predicates` say
    that two terms are one entity (none: no fusion), `fusion_limit` bounds its IRIs (`groundwire.kg.fuse`).
    `functional_predicates` have one value each, as those that the graph declares an `owl:FunctionalProperty`
    (`groundwire.kg.conflicts`). `entailment` is `rdfs`, `owlrl` or empty (`groundwire.kg.reason`). `vectors` is the
    digest of the word vectors that triples are ranked with, empty without; compiler and retrievers set it.
    `outgoing_limit` and `incoming_limit` bound the triples of one entity that are ranked.
    """

    label_predicates: tuple[str, ...] = (
        SKOS + "prefLabel",
        RDFS + "label",
        SCHEMA + "name",
        SCHEMAS + "name",
        FOAF + "name",
        DCTERMS + "title",
        DC + "title",
    )
    alternative_predicates: tuple[str, ...] = (
        SKOS + "altLabel",
        SKOS + "hiddenLabel",
        SCHEMA + "alternateName",
        SCHEMAS + "alternateName",
        FOAF + "nick",
        DCTERMS + "alternative",
        DCTERMS + "identifier",
    )
    description_predicates: tuple[str, ...] = (
        SKOS + "definition",
        RDFS + "comment",
        SCHEMA + "description",
        SCHEMAS + "description",
        DCTERMS + "description",
        DC + "description",
        DCTERMS + "abstract",
    )
    ignored_predicates: tuple[str, ...] = (
        OWL + "sameAs",
        RDFS + "seeAlso",
        RDFS + "isDefinedBy",
        RDFS + "subClassOf",
        RDFS + "subPropertyOf",
        RDFS + "domain",
        RDFS + "range",
        SKOS + "inScheme",
        SKOS + "exactMatch",
        *(WIKIBASE + name for name in _WIKIBASE_TERMS),
    )
    schema_classes: tuple[str, ...] = _SCHEMA_CLASSES
    languages: tuple[str, ...] = ("en", "")
    fusion_predicates: tuple[str, ...] = (OWL_SAME_AS, SKOS + "exactMatch")
    fusion_limit: int = 64
    functional_predicates: tuple[str, ...] = ()
    entailment: str = ""
    vectors: str = ""
    outgoing_limit: int = 1024
    incoming_limit: int = 256

    @property
    def digest(self) -> str:
        """SHA-256 of the settings, hexadecimal."""
        return hashlib.sha256(json.dumps(asdict(self), sort_keys=True).encode()).hexdigest()

    @property
    def naming_predicates(self) -> frozenset[str]:
        """The predicates whose triples name, describe, fuse or are ignored: those that are no evidence."""
        return frozenset(
            self.label_predicates
            + self.alternative_predicates
            + self.description_predicates
            + self.ignored_predicates
            + self.fusion_predicates
        )

    def to_json(self) -> dict[str, Any]:
        """The settings as plain JSON values."""
        return {name: list(value) if isinstance(value, tuple) else value for name, value in asdict(self).items()}

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> "GraphSettings":
        """The settings that `to_json` gave; raises `CompiledGraphError` on other fields."""
        if set(values) != {field.name for field in fields(cls)}:
            raise CompiledGraphError("the compiled graph's settings are of another version; compile it again")
        fields_: dict[str, Any] = {
            name: tuple(value) if isinstance(value, list) else value for name, value in values.items()
        }
        return cls(**fields_)
