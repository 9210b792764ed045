#!/usr/bin/env bash
# All checks and tests. Sets itself up.
#   scripts/test.sh [--fast]                       --fast leaves out the marks slow and cluster
#   scripts/test.sh [--fast] PYTEST ARGUMENT ...   one pytest with these: a file, -k NAME, --cov
# With KUBECONFIG the tests in tests/kube/ run on that cluster, with an image of this checkout; without, they are skipped and say so.
set -euo pipefail
cd "$(dirname "$0")/.."
# The S3 server of tests/artifacts/test_s3.py is built beside the checks; without it those tests are skipped and say why.
if command -v go >/dev/null; then scripts/s3_server.sh build >/dev/null & s3_server=$!; fi
scripts/setup.sh all
export HF_HUB_OFFLINE=1 RAY_USAGE_STATS_ENABLED=0 TOKENIZERS_PARALLELISM=false
if [[ -z ${BIOIE_TEST_CORPORA:-} && -d ../shared/data ]]; then
  BIOIE_TEST_CORPORA=$(cd ../shared/data && pwd)
  export BIOIE_TEST_CORPORA
fi
marks=
if [[ ${1:-} == --fast ]]; then
  marks="not slow and not cluster"
  shift
elif [[ -n ${KUBECONFIG:-} ]]; then
  source scripts/cluster_env.sh
fi
.venv/bin/ruff check .
.venv/bin/ruff format --check .
.venv/bin/mypy
.venv/bin/lint-imports
if [[ -n ${s3_server:-} ]]; then wait "$s3_server" || true; fi
pytest=(.venv/bin/python -m pytest --durations=40 --durations-min=5)
if (($#)); then
  exec "${pytest[@]}" ${marks:+-m "$marks"} "$@"
fi
# Three groups: what needs one core runs a process on each; what waits for pods runs beside it, its output kept until then; what
# starts Ray has all cores to itself.
alone="ray or cluster"
if [[ -z $marks && -n ${KUBECONFIG:-} ]]; then
  alone="ray and not cluster"
  pods_said=$(mktemp)
  "${pytest[@]}" -m cluster >"$pods_said" 2>&1 &
  pods=$!
  trap '[[ -z $pods ]] || kill "$pods" 2>/dev/null || true; rm -f "$pods_said"' EXIT
fi
failed=0
OMP_NUM_THREADS=1 "${pytest[@]}" -n auto --maxprocesses 8 --dist loadfile -m "not ray and not cluster${marks:+ and $marks}" || failed=$?
if [[ -n ${pods:-} ]]; then
  echo "on the cluster:"
  wait "$pods" || failed=$?
  pods=
  cat "$pods_said"
fi
((failed == 0)) || exit "$failed"
"${pytest[@]}" -m "($alone)${marks:+ and $marks}" || [[ $? == 5 && -n $marks ]] # 5: none of them is fast
