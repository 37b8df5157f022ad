"""The knowledge graph: RDF in, compiled graph out, link, retrieve, verbalise."""
