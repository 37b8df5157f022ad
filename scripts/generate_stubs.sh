#!/usr/bin/env bash
# Writes groundwire/v1/*_pb2*.py{,i} from proto/. With --check, fails when the committed stubs differ.
set -euo pipefail
cd "$(dirname "$0")/.."
python=${PYTHON:-python}
out=$(mktemp -d)
trap 'rm -rf "$out"' EXIT
bin=$(dirname "$(command -v "$python")")
PATH="$bin:$PATH" "$python" -m grpc_tools.protoc -I proto --python_out="$out" --grpc_python_out="$out" \
  --mypy_out=quiet:"$out" --mypy_grpc_out=quiet,only_async:"$out" proto/groundwire/v1/*.proto
touch "$out/groundwire/v1/__init__.py"
if [ "${1:-}" = --check ]; then
  diff -ru --exclude=__pycache__ "$out/groundwire/v1" groundwire/v1
else
  rm -rf groundwire/v1
  mkdir -p groundwire/v1
  cp "$out"/groundwire/v1/* groundwire/v1/
fi
