# shellcheck shell=bash
# Sourced by install.sh and lock.sh: what uv has to be told, as it does not read pip's configuration.

# Prints the find-links that hold the CPU build of torch, which the main index does not carry:
# those of pip's configuration, and PyTorch's own page of wheels where they name no such file.
torch_links() {
  local python=$1 links link found=
  links=${PIP_FIND_LINKS:-$("$python" -m pip config get global.find-links 2>/dev/null || true)}
  for link in $links; do
    printf -- '--find-links\n%s\n' "$link"
    if compgen -G "$link/torch-*+cpu-cp311-*" >/dev/null; then found=yes; fi
  done
  if [[ -z $found ]]; then
    printf -- '--find-links\n%s\n' https://download.pytorch.org/whl/cpu/torch/
  fi
}

# A mirror that pip is configured with serves uv as well.
export_pip_index() {
  local python=$1 index
  index=${PIP_INDEX_URL:-$("$python" -m pip config get global.index-url 2>/dev/null || true)}
  if [[ -n $index && -z ${UV_DEFAULT_INDEX:-} ]]; then
    export UV_DEFAULT_INDEX=$index
  fi
}
