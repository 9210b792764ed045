#!/usr/bin/env bash
# All checks and tests. Sets itself up.
#   scripts/test.sh [--fast] [PYTEST ARGUMENT ...]      --fast leaves out the marks slow and cluster
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
marks=()
if [[ ${1:-} == --fast ]]; then
  marks=(-m "not slow and not cluster")
  shift
elif [[ -n ${KUBECONFIG:-} ]]; then
  source scripts/cluster_env.sh
fi
.venv/bin/ruff check .
.venv/bin/ruff format --check .
.venv/bin/mypy
.venv/bin/lint-imports
if [[ -n ${s3_server:-} ]]; then wait "$s3_server" || true; fi
.venv/bin/python -m pytest "${marks[@]}" --cov --cov-report=term --durations=40 --durations-min=5 "$@"
