# Each target sets up what it needs. PYTHON is the interpreter that makes the virtual environment.
PYTHON ?= python3
VENV ?= .venv
# Where the data sets of the benchmarks lie.
GROUNDWIRE_DATA ?= ../shared/data
BIN := $(VENV)/bin

.PHONY: demo test check proto bench bench-infotabs bench-kg bench-robustness bench-serve bench-cuda clean
.DELETE_ON_ERROR:

$(VENV)/.installed: pyproject.toml constraints.txt $(wildcard kg/_native*.pyx kg/_native*.pxi)
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Groundwire needs Python 3.11 or newer: make PYTHON=python3.12")'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
# torch first and alone: with its version pinned, pip takes the CPU build where one is offered, and nothing that follows replaces it.
	$(BIN)/python -m pip install --quiet --constraint constraints.txt torch
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev]'
	touch $@

demo: $(VENV)/.installed
	$(BIN)/groundwire demo

test: $(VENV)/.installed
	$(BIN)/python -m pytest

check: $(VENV)/.installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/buf lint proto
	PYTHON=$(BIN)/python bash scripts/generate_stubs.sh --check

proto: $(VENV)/.installed
	PYTHON=$(BIN)/python bash scripts/generate_stubs.sh

bench: bench-infotabs bench-kg bench-robustness bench-serve

bench-infotabs: $(VENV)/.installed
	$(BIN)/python benchmarks/bench_infotabs.py --attacked 150 --epsilon 0.002

bench-kg: $(VENV)/.installed
	$(BIN)/python benchmarks/bench_kg.py
	$(BIN)/python benchmarks/bench_kg_links.py
	$(BIN)/python benchmarks/audit_evidence.py

bench-robustness: $(VENV)/.installed
	$(BIN)/python benchmarks/bench_attacks.py --seeds 2
	$(BIN)/python benchmarks/bench_robustness.py

# The demo's bundle and claims: a real model of 22 million parameters, and texts that its graph knows. Where the data
# are, also InfoTabS: longer rows, and a graph with more to find.
bench-serve: $(VENV)/.installed
	$(BIN)/groundwire demo --out out/demo < /dev/null
	$(BIN)/python benchmarks/bench_serve.py --bundle out/demo/bundle --graph out/demo/graph --texts out/demo/test.jsonl --plot out/serve.png
	test ! -d "$(GROUNDWIRE_DATA)" || $(BIN)/python benchmarks/bench_serve.py --bundle out/demo/bundle --graph "$(GROUNDWIRE_DATA)/infotabs/graph.nq.gz" --texts "$(GROUNDWIRE_DATA)/infotabs/dev.jsonl" --tokens 20 60 --out benchmarks/results/serve_infotabs.json
	test ! -d "$(GROUNDWIRE_DATA)" || $(BIN)/python benchmarks/bench_serve.py --bundle out/demo/bundle --graph "$(GROUNDWIRE_DATA)/infotabs/graph.nq.gz" --texts "$(GROUNDWIRE_DATA)/infotabs/dev.jsonl" --tokens 20 60 --transport native --out benchmarks/results/serve_infotabs_native.json
	$(BIN)/python benchmarks/bench_reload.py

# On a machine with a GPU, after `pip install onnxruntime-gpu` in place of onnxruntime. PROVIDER=cpu tries the way there.
PROVIDER ?= cuda
bench-cuda: $(VENV)/.installed
	$(BIN)/groundwire build benchmarks/cuda.toml --out out/cuda
	$(BIN)/python benchmarks/bench_cuda.py --bundle out/cuda --graph "$(GROUNDWIRE_DATA)/infotabs/graph.nq.gz" --texts "$(GROUNDWIRE_DATA)/infotabs/dev.jsonl" --provider $(PROVIDER)

clean:
	rm -rf $(VENV) build dist out .mypy_cache .ruff_cache .pytest_cache .hypothesis
