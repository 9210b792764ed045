#!/usr/bin/env bash
# From nothing to a page of scores: set-up, embedded corpora, vectors, a trained reranker, the ten best examples of every query by
# several methods; then prompts, a real (and small) language model's answers, their review by two evaluators, scores, and a report. Offline but
# for the package registry; two cores and no GPU will do.
#   scripts/demo.sh [--dfpo] [STORE]        default: build/demo; --dfpo tunes a model as well, in three stages, and scores each (minutes more)
set -euo pipefail
cd "$(dirname "$0")/.."
dfpo=
if [[ ${1:-} == --dfpo ]]; then dfpo=1; shift; fi
store=${1:-build/demo}
scripts/setup.sh jobs
export HF_HUB_OFFLINE=1
.venv/bin/bioie run jobs/recipes/select_demo.yaml --set store="$store"
.venv/bin/bioie run jobs/recipes/icl_grid_demo.yaml --set store="$store"
if [[ -n $dfpo ]]; then .venv/bin/bioie run jobs/recipes/dfpo_demo.yaml --set store="$store" --set prepare.documents_per_shard=8; fi  # shares a corpus with the first
.venv/bin/bioie report "$store" --out "$store/report.html"
.venv/bin/python scripts/demo_summary.py "$store"
