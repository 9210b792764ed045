#!/usr/bin/env bash
# Push what build_image.sh built to a registry, print its reference there, and write that to build/image.txt.
#   scripts/push_image.sh REGISTRY [TAG]        REGISTRY may hold a path (registry.example.org/team); TAG: else the one built last
# A registry on this machine gets the release's name too, from the first build of a version made from committed files.
# Says how many megabytes the registry did not have yet. A release tag that names another content there is left as it is.
# Credentials: docker login (podman and buildah too). BIOIE_INSECURE_REGISTRIES: registries without TLS that are not on this machine.
set -euo pipefail
cd "$(dirname "$0")/.."
source scripts/image_tools.sh

[[ $# -ge 1 && $# -le 2 && $1 != -* ]] || code=2 die "usage: scripts/push_image.sh REGISTRY [TAG]"
registry=${1%/}
tag=${2:-}
if [[ -z $tag ]]; then
  [[ -s build/image.txt ]] || die "nothing was built yet: scripts/build_image.sh"
  tag=$(<build/image.txt)
  tag=${tag##*:}
fi
find_engine
target=$registry/bioie-ray:$tag
if ! engine_has "$target"; then
  source=bioie-ray:$tag
  engine_has "$source" || die "no image bioie-ray:$tag here; build it: scripts/build_image.sh"
  engine_tag "$source" "$target"
fi

ask() { python3 -m bioie_ray.cluster.registry "$@"; }

# A tag never changes meaning: what is there under this name must have been made from the same files.
there=$(ask label "$target" bioie.content 2>/dev/null) || there=
here=$(engine_label "$target" bioie.content)
if [[ -n $there && $there != "$here" ]]; then
  die "$target exists in the registry and was made from other files ($there, here $here); raise the version in pyproject.toml, or delete it there"
fi

before=$(mktemp)
trap 'rm -f "$before"' EXIT
known=1
ask blobs "$target" >"$before" 2>/dev/null || known=0
SECONDS=0
engine_push "$target" >&2
took=$SECONDS
if ((known)) && after=$(ask layers "$target" 2>/dev/null); then
  say "$(awk 'there { have[$1] = 1; next } { all += $2 } !($1 in have) { new += $2 }
    END { printf "pushed %.1f MB of %.1f MB", new / 1e6, all / 1e6 }' there=1 "$before" there=0 - <<<"$after") in $took s"
fi

# The checked-in manifests name the release. A registry of this machine is for trials: there the first build of a version that was made
# from committed files gets that name too, so that they run as they are. Elsewhere a release is asked for (build_image.sh --release).
release=$(sed -nE 's/^(.+)-[0-9a-f]{12}$/\1/p' <<<"$tag")
if [[ -n $release ]] && is_local "$registry"; then
  alias=$registry/bioie-ray:$release
  there=$(ask label "$alias" bioie.content 2>/dev/null) || there=
  if [[ -z $there && $(engine_label "$target" org.opencontainers.image.revision) != *-dirty ]]; then
    engine_tag "$target" "$alias"
    engine_push "$alias" >&2
    say "pushed as $alias too: k8s/ names that one"
  elif [[ $there != "$here" ]]; then
    say "k8s/ names $alias, which $([[ -n $there ]] && echo "was made from other files" || echo "is not there"); to run this build: bioie render --image, or images: in k8s/kustomization.yaml"
  fi
fi
mkdir -p build
echo "$target" >build/image.txt
echo "$target"
