#!/usr/bin/env bash
# Build the image of this checkout with docker, podman or buildah, whichever works; print its reference and write it to
# build/image.txt. Nothing changed since: a second.
#   scripts/build_image.sh [--variant cpu|gpu] [--base IMAGE] [--python X.Y] [--without-models] [--release] [--registry REGISTRY]
#     --without-models   leave out the layer of offline models (0.9 GB), for clusters that reach a model hub
#     --release          tag <version>-<variant>; without: <version>-<variant>-<content hash>
# BIOIE_BASE_IMAGE       the base where --base is not given
# BIOIE_BUILD_CA         a CA bundle (file) that pip and apt trust during the build; nothing of it stays in the image
# BIOIE_PIP_CONF         a pip.conf for the build (index, credentials); nothing of it stays either
# BIOIE_TORCH_INDEX_URL  take torch from this index instead (the CPU build is a tenth of the size); BIOIE_TORCH_SHA256: its file's hash
# BIOIE_ENGINE, BIOIE_RUNTIME   docker|podman|buildah, and the OCI runtime of the latter two
set -euo pipefail
cd "$(dirname "$0")/.."
source scripts/image_tools.sh

variant=cpu base=${BIOIE_BASE_IMAGE:-} python=3.11 models=1 release=0 registry=
while (($#)); do
  case $1 in
  --variant | --base | --python | --registry)
    [[ $# -ge 2 ]] || code=2 die "$1 needs a value"
    printf -v "${1#--}" %s "$2"
    shift 2
    ;;
  --with-models) models=1; shift ;;
  --without-models) models=0; shift ;;
  --release) release=1; shift ;;
  -h | --help) sed -n '2,/^set /{/^set /d;s/^# \{0,1\}//;p}' "$0"; exit 0 ;;
  *) code=2 die "does not know $1; see --help" ;;
  esac
done
python3 -c 'import sys; sys.exit(sys.version_info < (3, 9))' 2>/dev/null || die "needs python3 (3.9 or newer) for the tag"
find_engine

if [[ -z $base && -x ../shared/kube/testbed ]] && wget -qO /dev/null --timeout=3 --tries=1 http://localhost:5000/v2/python/tags/list; then
  base=localhost:5000/python:3.11-bookworm # the test bed's: no other can be pulled there
fi

# What goes in is copied first, and the tag is that of the copy: an edit meanwhile cannot end up under the wrong name.
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
options=(--variant "$variant" --python "$python" --torch-index-url "${BIOIE_TORCH_INDEX_URL:-}" --torch-sha256 "${BIOIE_TORCH_SHA256:-}")
[[ -z $base ]] || options+=(--base "$base")
((models == 0)) || options+=(--with-models)
((release == 0)) || options+=(--release)
mkdir "$work/context"
staged=$(python3 -m bioie_ray.cluster.image_build stage "$work/context" "${options[@]}")
read -r tag version content ray base <<<"$staged"
name=${registry:+$registry/}bioie-ray:$tag

revision=$(git rev-parse HEAD 2>/dev/null || echo unknown)
changed=$(git status --porcelain -- bioie_ray jobs images pyproject.toml LICENSE 2>/dev/null || true)
if [[ -n $changed ]]; then
  ((release == 0)) || die "a release is built from what is committed, and these are not: ${changed//$'\n'/,}"
  revision+=-dirty
fi

finish() {
  mkdir -p build
  echo "$name" >build/image.txt
  echo "$name"
}

if engine_has "$name"; then
  have=$(engine_label "$name" bioie.content)
  if [[ $have == "$content" ]]; then
    say "$name is there already, and made from just this"
    [[ -s build/sbom-$tag.json ]] && { finish; exit 0; }
  elif ((release)); then
    die "$name exists with the content $have, this checkout has $content: a release never changes; raise the version in pyproject.toml"
  fi
fi

secrets=()
ca=${BIOIE_BUILD_CA:-}
# A machine whose administrator added a CA (a proxy that opens TLS) needs it inside the build as well.
if [[ -z $ca ]] && compgen -G '/usr/local/share/ca-certificates/*.crt' >/dev/null && [[ -s /etc/ssl/certs/ca-certificates.crt ]]; then
  ca=/etc/ssl/certs/ca-certificates.crt
fi
if [[ -n $ca ]]; then
  [[ -s $ca ]] || die "BIOIE_BUILD_CA: no file $ca"
  secrets+=(--secret "id=build_ca,src=$ca")
fi
if [[ -n ${BIOIE_PIP_CONF:-} ]]; then
  [[ -s $BIOIE_PIP_CONF ]] || die "BIOIE_PIP_CONF: no file $BIOIE_PIP_CONF"
  cp "$BIOIE_PIP_CONF" "$work/pip.conf"
else
  echo '[global]' >"$work/pip.conf"
fi
if [[ -n $ca ]] && ! grep -q '^ *cert *=' "$work/pip.conf"; then
  sed -i '0,/^\[global\]/s||[global]\ncert = /run/secrets/build_ca|' "$work/pip.conf"
fi
secrets+=(--secret "id=pip_conf,src=$work/pip.conf")

common=(
  -f "$work/context/images/Dockerfile" "${secrets[@]}"
  --build-arg "BASE_IMAGE=$base" --build-arg "VARIANT=$variant" --build-arg "PYTHON_VERSION=$python" --build-arg "WITH_MODELS=$models"
  --build-arg "TORCH_INDEX_URL=${BIOIE_TORCH_INDEX_URL:-}" --build-arg "TORCH_SHA256=${BIOIE_TORCH_SHA256:-}" --build-arg "RAY_VERSION=$ray"
)
tls=$(tls_of "$base")
[[ -z $tls ]] || common+=("$tls")
say "building $name with $engine from $base (the first time takes minutes)"
engine_build "$work/context" "${common[@]}" --target image -t "$name" \
  --build-arg "VERSION=$version" --build-arg "TAG=$tag" --build-arg "REVISION=$revision" --build-arg "CONTENT=$content" \
  --build-arg "CREATED=$(date -u +%Y-%m-%dT%H:%M:%SZ)" 2>&1 | cut -c1-200 >&2

engine_build "$work/context" "${common[@]}" --target sbom --output "type=local,dest=$work/sbom" 2>&1 | cut -c1-200 >&2
mkdir -p build
mv "$work/sbom/sbom.json" "build/sbom-$tag.json"
finish
