#!/usr/bin/env bash
# Makes the locks again from pyproject.toml: cpu.txt and gpu.txt (what runs), dev.txt (what tests and checks).
#
#   requirements/lock.sh [--upgrade]
#
# Versions that still fit stay; --upgrade takes the newest that fit. Nothing is installed.
set -euo pipefail

cd "$(dirname "${BASH_SOURCE[0]}")/.."
source requirements/torch-links.sh
case ${1:-} in
  --upgrade) upgrade=(--upgrade) ;;
  "") upgrade=() ;;
  *)
    echo "lock: unknown argument '$1'; expected --upgrade or nothing" >&2
    exit 2
    ;;
esac
venv=${VENV:-.venv}
if [[ ! -x $venv/bin/uv ]]; then
  echo "lock: $venv holds no uv; run 'make install' first" >&2
  exit 1
fi

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
mapfile -t links < <(torch_links "$venv/bin/python")
export_pip_index "$venv/bin/python"
cpu=(--extra cpu --override requirements/overrides-cpu.txt "${links[@]}")
gpu=(--extra gpu)
seed() { cat "$@" 2>/dev/null || true; }
compile() {
  "$venv/bin/uv" pip compile pyproject.toml --quiet --no-header --no-annotate \
    --python-version 3.11 --python-platform x86_64-manylinux_2_28 "$@"
}

# Resolved together first: the tools' bounds (moto wants python-dateutil<3) have to hold in what runs.
seed requirements/cpu.txt requirements/dev.txt >"$work/cpu.txt"
compile "${cpu[@]}" --group dev "${upgrade[@]}" -o "$work/cpu.txt"
compile "${cpu[@]}" -c "$work/cpu.txt" -o "$work/cpu-runs.txt"
comm -23 <(sort "$work/cpu.txt") <(sort "$work/cpu-runs.txt") >"$work/dev.txt"

# What the two platforms can share, they share: the GPU lock starts from the CPU lock's versions.
seed requirements/gpu.txt "$work/dev.txt" >"$work/gpu.txt"
if ((${#upgrade[@]})) || [[ ! -e requirements/gpu.txt ]]; then
  grep -v '^torch==' "$work/cpu.txt" >"$work/gpu.txt"
fi
compile "${gpu[@]}" --group dev -c "$work/dev.txt" -o "$work/gpu.txt"
compile "${gpu[@]}" -c "$work/gpu.txt" -o "$work/gpu-runs.txt"
comm -23 <(sort "$work/gpu.txt") <(sort "$work/gpu-runs.txt") >>"$work/dev.txt"

cp "$work/cpu-runs.txt" requirements/cpu.txt
cp "$work/gpu-runs.txt" requirements/gpu.txt
sort -u "$work/dev.txt" >requirements/dev.txt
wc -l requirements/{cpu,gpu,dev}.txt
