#!/usr/bin/env bash
# Writes generated code: deepcopy functions and CRDs. With "check": fails when
# what is committed is stale.
set -euo pipefail
cd "$(dirname "$0")/.."

out=.
if [[ "${1:-}" == check ]]; then
  out=$(mktemp -d)
  trap 'rm -rf "$out"' EXIT
fi
mkdir -p "$out/api/v1alpha1" "$out/deploy/crds"
go tool controller-gen object paths=./api/... output:object:dir="$out/api/v1alpha1"
go tool controller-gen crd:maxDescLen=200 paths=./api/... output:crd:dir="$out/deploy/crds"
# The generator's pattern of quantities allows exponents that nobody can read, such
# as 1e1.5: what is stored so would keep its whole kind from everybody who watches it.
sed -i 's/(\[eE\](\\+|-)?((\[0-9\]+(\\\.\[0-9\]\*)?)|(\\\.\[0-9\]+)))/([eE](\\+|-)?[0-9]{1,2})/' "$out"/deploy/crds/*.yaml
if [[ "${1:-}" == check ]]; then
  for f in api/v1alpha1/zz_generated.deepcopy.go deploy/crds; do
    diff -r "$f" "$out/$f" >/dev/null || { echo "$f is stale: run make generate" >&2; exit 1; }
  done
fi
