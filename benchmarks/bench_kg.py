"""Measure the knowledge graph package: compile, open, ground, retrieve. JSON results go to benchmarks/results/kg.json.

    python benchmarks/bench_kg.py [--triples 10000000] [--keep DIR]

Each step runs in a process of its own, so that peak memory is that step's. Besides wall time, the time of a fixed loop
(`sum(range(1000))`) is recorded around the latency measurements: on a busy machine both grow alike.
"""

import argparse
import gc
import json
import multiprocessing as mp
import platform
import resource
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))

from kg_synthetic import BASE, Synthetic

from groundwire.export.machine import hardware

RESULTS = Path(__file__).parent / "results" / "kg.json"
TEXTS = 400
REPEATS = 300
BLOCK = 50  # texts that one engine answers before the next one does


def in_child(work: Callable[..., dict[str, Any]], *arguments: Any) -> dict[str, Any]:
    """Run `work` in a fresh process and add its peak memory."""
    receive, send = mp.Pipe(duplex=False)
    child = mp.get_context("spawn").Process(target=_report, args=(send, work, arguments))
    child.start()
    send.close()
    result = receive.recv()
    child.join()
    return result


def _report(send: Any, work: Callable[..., dict[str, Any]], arguments: tuple[Any, ...]) -> None:
    result = work(*arguments)
    result["peak_memory_mib"] = round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)
    send.send(result)


def compile_step(source: str, out: str) -> dict[str, Any]:
    from groundwire.kg import compile_graph

    steps: dict[str, float] = {}
    last = ["", time.perf_counter()]

    def progress(step: str, _: int) -> None:
        if step != last[0]:
            now = time.perf_counter()
            if last[0]:
                steps[last[0]] = round(now - last[1], 1)
            last[:] = [step, now]

    start, cpu = time.perf_counter(), time.process_time()
    compile_graph(source, out, progress=progress)
    steps[last[0]] = round(time.perf_counter() - last[1], 1)
    size = sum(path.stat().st_size for path in Path(out).iterdir())
    return {
        "seconds": round(time.perf_counter() - start, 1),
        "cpu_seconds": round(time.process_time() - cpu, 1),
        "steps_seconds": steps,
        "folder_mib": round(size / 2**20),
    }


def private_mib() -> float:
    """Memory that this process shares with no other, MiB (Linux)."""
    lines = Path("/proc/self/smaps_rollup").read_text().splitlines()
    return sum(int(line.split()[1]) for line in lines if line.startswith("Private_")) / 1024


def reference_us() -> float:
    """Microseconds of `sum(range(1000))`: the speed of the machine at this moment."""
    best = 1e9
    for _ in range(5):
        start = time.perf_counter()
        sum(range(1000))
        best = min(best, time.perf_counter() - start)
    return best * 1e6


def spread(times: list[float]) -> dict[str, float]:
    """p50 and p99 in microseconds."""
    times = sorted(times)
    return {"p50_us": round(times[len(times) // 2] * 1e6), "p99_us": round(times[int(len(times) * 0.99)] * 1e6)}


def open_step(folder: str) -> dict[str, Any]:
    from groundwire.kg import CompiledRetriever

    before = private_mib()
    start = time.perf_counter()
    CompiledRetriever(folder)
    return {"seconds": round(time.perf_counter() - start, 3), "imports_private_mib": round(before)}


def ground_step(folder: str, triples: int) -> dict[str, Any]:
    from groundwire.kg import CompiledRetriever

    made = Synthetic(triples).texts(TEXTS)
    before = private_mib()
    retriever = CompiledRetriever(folder)
    other = CompiledRetriever(folder)  # a second map of the same files, so that file pages don't count as private
    for text, _ in made:
        other.ground(text, 16)
    cold, warm, cpu, reference, found, evidence = [], [], [], [], 0, 0
    for text, entities in made:
        start = time.perf_counter()
        grounding = retriever.ground(text, 16)
        cold.append(time.perf_counter() - start)
        evidence += len(grounding.evidence)
        named = {one.entity for mention in grounding.mentions for one in mention.candidates}
        found += sum(f"{BASE}e/{entity}" in named for entity in entities)
    for _ in range(5):
        reference.append(reference_us())
        for text, _ in made:
            start, used = time.perf_counter(), time.thread_time()
            retriever.ground(text, 16)
            warm.append(time.perf_counter() - start)
            cpu.append(time.thread_time() - used)
    return {
        "texts": len(made),
        "mentions_found": round(found / 3 / len(made), 4),
        "evidence_mean": round(evidence / len(made), 1),
        "first_pass": spread(cold),
        "wall": spread(warm),
        "cpu": spread(cpu),
        "reference_loop_us": round(statistics.median(reference), 1),
        "own_memory_mib": round(private_mib() - before),
    }


def retrieve_step(folder: str, source: str, triples: int) -> dict[str, Any]:
    """All triples of three entities: compiled, `Graph.triples` on Oxigraph, SPARQL on Oxigraph.

    The first two rank them and give the same answer. SPARQL only fetches: once by Oxigraph's own engine, through
    oxrdflib, and once by rdflib's engine on the same store. Each text is asked once; the engines take turns by blocks
    of texts, so that none starts with a processor's caches full of another's data each time. What that changes, other
    texts show, for which they take turns one by one. Garbage is not looked for meanwhile in what was there before.
    """
    from groundwire.kg import CompiledRetriever, GraphSettings, RdflibRetriever, load_dataset

    made = Synthetic(triples).texts(2 * REPEATS)
    compiled = CompiledRetriever(folder)
    dataset = load_dataset([source])
    live = RdflibRetriever(dataset, GraphSettings())
    query = "SELECT ?s ?p ?o WHERE { { VALUES ?s { %s } ?s ?p ?o } UNION { VALUES ?o { %s } ?s ?p ?o } }"
    asked = [
        (text, [f"{BASE}e/{entity}" for entity in entities], " ".join(f"<{BASE}e/{entity}>" for entity in entities))
        for text, entities in made
    ]
    engines: dict[str, Callable[[str, list[str], str], Any]] = {
        "compiled": lambda text, iris, _: compiled.retrieve(text, iris, 1000),
        "rdflib_triples": lambda text, iris, _: live.retrieve(text, iris, 1000),
        "sparql_oxigraph": lambda _, __, values: list(dataset.query(query % (values, values))),
        "sparql_rdflib": lambda _, __, values: list(dataset.query(query % (values, values), use_store_provided=False)),
    }
    gc.collect()
    gc.freeze()  # the live retriever's half a million triples are not walked through at others' expense

    def by_turns(texts: list[Any], block: int) -> dict[str, Any]:
        times: dict[str, list[float]] = {name: [] for name in engines}
        for start in range(0, len(texts), block):
            answers: dict[str, list[Any]] = {name: [] for name in engines}
            for name, ask in engines.items():
                for one in texts[start : start + block]:
                    began = time.perf_counter()
                    answer = ask(*one)
                    times[name].append(time.perf_counter() - began)
                    answers[name].append(answer)
            assert answers["compiled"] == answers["rdflib_triples"]
        result: dict[str, Any] = {name: spread(some) for name, some in times.items()}
        for name in list(engines)[1:]:
            result[f"{name}_slower"] = round(result[name]["p50_us"] / result["compiled"]["p50_us"], 1)
        return result

    blocks, singles = by_turns(asked[:REPEATS], BLOCK), by_turns(asked[REPEATS:], 1)
    return {"triples": triples, "texts_by_turns": BLOCK, **blocks, "by_single_texts": singles}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--triples", type=int, default=10_000_000)
    parser.add_argument("--retrieve-triples", type=int, default=500_000, help="size of the comparison with rdflib")
    parser.add_argument("--keep", type=Path, help="folder for the graphs; kept, and used again when it has them")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = arguments.keep or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        results: dict[str, Any] = {
            "command": f"python benchmarks/bench_kg.py --triples {arguments.triples} "
            f"--retrieve-triples {arguments.retrieve_triples}",
            "hardware": hardware(),
            "python": platform.python_version(),
        }
        for size in {arguments.triples, arguments.retrieve_triples}:
            source = folder / f"{size}.nt"
            if not source.exists():
                print(f"writing {size:,} triples", file=sys.stderr)
                Synthetic(size).write(source)
        source, out = folder / f"{arguments.triples}.nt", folder / f"{arguments.triples}.graph"
        done = folder / f"{arguments.triples}.json"
        if done.exists():
            results["compile"] = json.loads(done.read_text())
        else:
            results["compile"] = in_child(compile_step, str(source), str(out))
            done.write_text(json.dumps(results["compile"]))
        results["compile"]["triples"] = arguments.triples
        results["open"] = in_child(open_step, str(out))
        results["ground"] = in_child(ground_step, str(out), arguments.triples)
        small, small_out = folder / f"{arguments.retrieve_triples}.nt", folder / f"{arguments.retrieve_triples}.graph"
        in_child(compile_step, str(small), str(small_out))
        results["retrieve"] = in_child(retrieve_step, str(small_out), str(small), arguments.retrieve_triples)
    RESULTS.parent.mkdir(exist_ok=True)
    RESULTS.write_text(json.dumps(results, indent=1) + "\n")
    print(json.dumps(results, indent=1))


if __name__ == "__main__":
    main()
