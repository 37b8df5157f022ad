import json
from pathlib import Path

import pyoxigraph as ox
import pytest
from click.testing import CliRunner

from groundwire.cli.kg import kg
from groundwire.kg import SourceError, StoreError, compile_store, load_dataset, store_info
from groundwire.kg.read import read_quads, to_oxigraph

NAMED = '<http://x/a> <http://x/b> "c"@EN <http://x/g> .\n_:b <http://x/b> "d"^^<http://x/datatype> .\n'


def quads(store: Path) -> set[str]:
    return {str(quad) for quad in ox.Store.read_only(str(store / "oxigraph"))}


def test_a_store_holds_every_quad_under_the_names_of_the_compiled_graph(cities_file: Path, tmp_path: Path) -> None:
    named = tmp_path / "named.nq"
    named.write_text(NAMED)
    steps: list[str] = []
    info = compile_store([named], tmp_path / "store", lambda step, count: steps.append(step))
    assert quads(tmp_path / "store") == {str(to_oxigraph(quad)) for quad in read_quads(named)}
    assert info == store_info(tmp_path / "store")
    assert info.quads == 2
    assert steps == ["store", "optimize"]
    both = compile_store([named, cities_file], tmp_path / "both")
    assert both.quads == 2 + len(load_dataset([cities_file]))
    assert both.version != info.version
    assert set(both.source_hashes) == {"named.nq", "cities.ttl"}
    assert compile_store([cities_file, named], tmp_path / "turned").version == both.version


def test_a_store_is_replaced_as_a_whole_and_an_open_one_stays_readable(tmp_path: Path) -> None:
    source, out = tmp_path / "a.nq", tmp_path / "store"
    source.write_text(NAMED)
    compile_store([source], out)
    opened = ox.Store.read_only(str(out / "oxigraph"))
    source.write_text(NAMED.splitlines()[0])
    compile_store([source], out)
    assert len(quads(out)) == 1
    assert len(set(opened)) == 2
    assert {path.name for path in tmp_path.iterdir()} == {"a.nq", "store"}


def test_what_cannot_be_read_or_written_leaves_nothing_behind(tmp_path: Path) -> None:
    source, out = tmp_path / "a.nt", tmp_path / "store"
    source.write_text("<http://x/a> <http://x/b> <http://x/c> .\nbroken")
    with pytest.raises(SourceError, match="line 2"):
        compile_store([source], out)
    assert {path.name for path in tmp_path.iterdir()} == {"a.nt"}
    with pytest.raises(StoreError, match="no query store"):
        compile_store([source], tmp_path)
    with pytest.raises(StoreError, match="can't write"):
        compile_store([source], source / "below")


@pytest.mark.parametrize(
    ("meta", "what"),
    [
        (None, "kg store"),
        ("{", "damaged"),
        ('{"format_version": 1}', "damaged"),
        ({"format_version": 2, "version": "", "source_hashes": {}, "quads": 0}, "version 2"),
    ],
)
def test_what_is_no_store_is_refused(tmp_path: Path, meta: object, what: str) -> None:
    if meta is not None:
        (tmp_path / "store.json").write_text(meta if isinstance(meta, str) else json.dumps(meta))
    with pytest.raises(StoreError, match=what):
        store_info(tmp_path)


def test_the_command_writes_a_store(cities_file: Path, tmp_path: Path) -> None:
    out = tmp_path / "store"
    result = CliRunner().invoke(kg, ["store", str(cities_file), "--out", str(out)])
    assert (result.exit_code, result.stdout) == (0, "")
    assert f"{store_info(out).quads} quads" in result.stderr
