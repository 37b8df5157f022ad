"""The query store: the source graph, every quad of it, in an Oxigraph database that SPARQL queries are answered from.

A folder with `store.json` (format version, version, hashes of the sources, number of quads) and the database in
`oxigraph/`. Blank nodes have the names that they have in a compiled graph of the same sources. It is written once and
only read from then on, so any number of processes open it at once; RocksDB, below Oxigraph, checks its blocks itself.
"""

import hashlib
import json
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import pyoxigraph as ox

from groundwire.kg.errors import StoreError
from groundwire.kg.format import put_in_place
from groundwire.kg.prepare import Prepared, Progress, prepared
from groundwire.kg.read import Source, to_oxigraph
from groundwire.kg.settings import GraphSettings
from groundwire.kg.staging import staging_folder
from groundwire.kg.terms import Quad

FORMAT_VERSION = 1
META = "store.json"
DATABASE = "oxigraph"
_REPORT_EVERY = 100_000


@dataclass(frozen=True, slots=True)
class StoreInfo:
    """A query store in short. `version` is the SHA-256 over the sources' hashes, hexadecimal."""

    version: str
    source_hashes: dict[str, str]
    quads: int


def compile_store(
    sources: Sequence[Source], out: str | os.PathLike[str], progress: Progress | None = None
) -> StoreInfo:
    """Write RDF files, rdflib graphs or stores, or endpoints to the query store `out`.

    It is replaced as a whole when it exists. `progress` is called with the name of the step and how many quads it has
    done. Raises `SourceError` for input that can't be read and `StoreError` when `out` can't be written, or another
    process is building it.
    """
    out = Path(out)
    if out.exists() and not (out / META).is_file() and (not out.is_dir() or any(out.iterdir())):
        raise StoreError(f"{out} exists and is no query store; choose another folder")
    report = progress or (lambda step, count: None)
    with staging_folder(out, StoreError) as folder, prepared(sources, GraphSettings(), report) as ready:
        return _write(ready, folder, out, report)


def _write(ready: Prepared, folder: Path, out: Path, report: Progress) -> StoreInfo:
    hashes = ready.hashes
    version = hashlib.sha256(json.dumps(sorted(hashes.items())).encode()).hexdigest()
    try:
        store = ox.Store(folder / DATABASE)
        store.bulk_extend(_quads(ready.quads(), report))
        report("optimize", 0)
        store.optimize()
        store.flush()
        quads = len(store)
        del store  # closes the database
        document = {"format_version": FORMAT_VERSION, "version": version, "source_hashes": hashes, "quads": quads}
        (folder / META).write_text(json.dumps(document, indent=1, sort_keys=True) + "\n", encoding="utf-8")
        put_in_place(folder, out)
    except OSError as error:
        raise StoreError(f"can't write {out}: {error}; choose another folder, or make room") from error
    return StoreInfo(version, hashes, quads)


def store_info(path: Path) -> StoreInfo:
    """What `store.json` says.

    Raises:
        StoreError: the folder is no query store, or of another format version.
    """
    try:
        meta = json.loads((path / META).read_text(encoding="utf-8"))
        version = meta["format_version"]
        info = StoreInfo(str(meta["version"]), dict(meta["source_hashes"]), int(meta["quads"]))
    except FileNotFoundError as error:
        raise StoreError(f"{path} is no query store: it has no {META}; make one with `groundwire kg store`") from error
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise StoreError(f"{path / META} is damaged ({error!r}); make the store again") from error
    if version != FORMAT_VERSION:
        raise StoreError(
            f"{path} is of format version {version}, and this Groundwire reads version {FORMAT_VERSION}: make it again "
            "with `groundwire kg store`"
        )
    return info


def _quads(quads: Iterable[Quad], report: Progress) -> Iterator[ox.Quad]:
    count = 0
    for count, quad in enumerate(quads, 1):
        yield to_oxigraph(quad)
        if count % _REPORT_EVERY == 0:
            report("store", count)
    report("store", count)
