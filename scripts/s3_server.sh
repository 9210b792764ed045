#!/usr/bin/env bash
# A real S3 server (versitygw over a folder) for tests and trials, on a loopback port only.
#   scripts/s3_server.sh build           build it once (needs Go; a minute or two), print the program's path
#   scripts/s3_server.sh path            print the path; exit 1 when it is not built yet
#   scripts/s3_server.sh FOLDER [PORT]   serve FOLDER (each folder in it is a bucket) until killed; builds first where needed
# The program lies in $BIOIE_CACHE/bin, else ~/.cache/bioie_ray/bin. Its key and secret are those of AWS_ACCESS_KEY_ID and
# AWS_SECRET_ACCESS_KEY, which clients use as well.
set -euo pipefail
version=v1.8.0
bin=${BIOIE_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/bioie_ray}/bin
program=$bin/versitygw-$version

build() {
  [[ -x $program ]] && return
  command -v go >/dev/null || { echo "s3_server.sh: $program is not built, and there is no go to build it with" >&2; exit 1; }
  mkdir -p "$bin"
  scratch=$(mktemp -d "$bin/.build-XXXXXX")
  trap 'rm -rf "$scratch"' EXIT
  echo "s3_server.sh: building versitygw $version (the first time takes a minute or two)" >&2
  GOBIN=$scratch go install "github.com/versity/versitygw/cmd/versitygw@$version"
  mv "$scratch/versitygw" "$program"
}

case ${1:-} in
  build) build && echo "$program" ;;
  path) [[ -x $program ]] && echo "$program" ;;
  '' | -*) sed -n '2,7s/^# \{0,1\}//p' "$0" >&2; exit 2 ;;
  *)
    build
    : "${AWS_ACCESS_KEY_ID:?give the server a key}" "${AWS_SECRET_ACCESS_KEY:?give the server a secret}"
    mkdir -p "$1"
    export ROOT_ACCESS_KEY=$AWS_ACCESS_KEY_ID ROOT_SECRET_KEY=$AWS_SECRET_ACCESS_KEY
    exec "$program" --quiet --port "127.0.0.1:${2:-9000}" posix "$1"
    ;;
esac
