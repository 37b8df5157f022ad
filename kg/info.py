"""The version of a graph: what it was made from, and how."""

import hashlib
import json
from collections.abc import Mapping

from groundwire.kg.settings import GraphSettings


def graph_version(hashes: Mapping[str, str], settings: GraphSettings) -> str:
    """SHA-256 over the sources' hashes and the settings, hexadecimal. The same for every retriever."""
    return hashlib.sha256(json.dumps([sorted(hashes.items()), settings.digest]).encode()).hexdigest()
