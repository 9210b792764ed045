#!/usr/bin/env bash
# Sourced by build_image.sh and push_image.sh: finds an engine that works, and says everything to it in its own words.
# BIOIE_ENGINE=docker|podman|buildah: use this one. BIOIE_RUNTIME: the OCI runtime of podman and buildah.
set -euo pipefail

say() { echo "${0##*/}: $*" >&2; }
die() { say "$*"; exit "${code:-1}"; }

is_local() { case ${1%%/*} in localhost | localhost:* | 127.*) true ;; *) false ;; esac }

# Registries that speak plain HTTP: those on this machine, and the ones that BIOIE_INSECURE_REGISTRIES names.
is_plain() {
  local registry=${1%%/*} named
  ! is_local "$registry" || return 0
  local list=${BIOIE_INSECURE_REGISTRIES:-}
  for named in ${list//,/ }; do [[ $named != "$registry" ]] || return 0; done
  return 1
}

# A client without a daemon answers --version too, so each is asked for something that only a working one can do.
engine_works() {
  command -v "$1" >/dev/null || return 1
  case $1 in
  docker) timeout 20 docker info --format '{{.ServerVersion}}' 2>/dev/null | grep -q '^[0-9]' ;;
  podman) timeout 60 podman info >/dev/null 2>&1 ;;
  buildah) timeout 60 buildah images -q >/dev/null 2>&1 ;;
  *) return 1 ;;
  esac
}

find_engine() {
  local candidate
  for candidate in ${BIOIE_ENGINE:-docker podman buildah}; do
    if engine_works "$candidate"; then engine=$candidate; break; fi
    ! command -v "$candidate" >/dev/null || say "$candidate is installed but does not work here (no daemon, or no rights); trying the next"
  done
  [[ -n ${engine:-} ]] || die "needs docker, podman or buildah that works; on Debian: apt-get install buildah runc"
  runtime=()
  if [[ $engine != docker ]]; then
    # runc where there is one: crun needs cgroups v2 and fails on older hosts.
    [[ -z ${BIOIE_RUNTIME:=$(command -v runc || true)} ]] || runtime=(--runtime "$BIOIE_RUNTIME")
  fi
}

tls_of() { # TLS options for a registry or a reference, as the engine takes them
  if [[ $engine != docker ]] && is_plain "$1"; then echo --tls-verify=false; fi
}

engine_build() { # engine_build CONTEXT OPTION ...
  local context=$1
  shift
  case $engine in
  docker) DOCKER_BUILDKIT=1 BUILDX_NO_DEFAULT_ATTESTATIONS=1 docker build "$@" "$context" ;;
  podman) podman "${runtime[@]}" build --layers --format oci "$@" "$context" ;;
  buildah) buildah bud "${runtime[@]}" --layers --format oci --pull=false "$@" "$context" ;;
  esac
}

engine_has() {
  case $engine in
  docker) docker image inspect "$1" >/dev/null 2>&1 ;;
  podman) podman image exists "$1" ;;
  buildah) buildah inspect --type image "$1" >/dev/null 2>&1 ;;
  esac
}

engine_label() { # engine_label REFERENCE LABEL
  case $engine in
  docker) docker image inspect --format "{{index .Config.Labels \"$2\"}}" "$1" ;;
  podman) podman image inspect --format "{{index .Labels \"$2\"}}" "$1" ;;
  buildah) buildah inspect --type image --format "{{index .OCIv1.Config.Labels \"$2\"}}" "$1" ;;
  esac
}

engine_tag() { "$engine" tag "$1" "$2"; }

engine_push() { # shellcheck disable=SC2046 # one option or none
  case $engine in
  docker) docker push --quiet "$1" >/dev/null ;;
  podman | buildah) "$engine" push --quiet $(tls_of "$1") "$1" ;;
  esac
}
