#!/usr/bin/env bash
# Writes groundwire/{v1,inference}/*_pb2*.py{,i} from proto/. With --check, fails when the committed stubs differ.
set -euo pipefail
cd "$(dirname "$0")/.."
python=${PYTHON:-python}
out=$(mktemp -d)
trap 'rm -rf "$out"' EXIT
bin=$(dirname "$(command -v "$python")")
PATH="$bin:$PATH" "$python" -m grpc_tools.protoc -I proto --python_out="$out" --grpc_python_out="$out" \
  --mypy_out=quiet:"$out" --mypy_grpc_out=quiet,only_async:"$out" proto/groundwire/*/*.proto
for package in v1 inference; do
  touch "$out/groundwire/$package/__init__.py"
  if [ "${1:-}" = --check ]; then
    diff -ru --exclude=__pycache__ "$out/groundwire/$package" "groundwire/$package"
  else
    rm -rf "groundwire/$package"
    mkdir -p "groundwire/$package"
    cp "$out/groundwire/$package"/* "groundwire/$package/"
  fi
done
