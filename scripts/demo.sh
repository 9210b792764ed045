#!/usr/bin/env bash
# From nothing to a page of selections: set-up, embedded corpora, vectors, a trained reranker, the ten best examples of
# every query by several methods, and a report. Offline but for the package registry; two cores and no GPU will do.
#   scripts/demo.sh [STORE]        default: build/demo
set -euo pipefail
cd "$(dirname "$0")/.."
store=${1:-build/demo}
scripts/setup.sh jobs
export HF_HUB_OFFLINE=1
.venv/bin/bioie run jobs/recipes/select_demo.yaml --set store="$store"
.venv/bin/bioie report "$store" --out "$store/report.html"
.venv/bin/python - "$store" <<'PYTHON'
import csv, sys
from pathlib import Path

store = Path(sys.argv[1])
rows = list(csv.DictReader((store / "report.csv").open()))
print(f"\n{'gold coverage of ten examples':44}{'all':>7}{'vs random':>12}{'per 1,000 tokens':>19}")
for row in rows:
    versus = f"{float(row['difference']):+.3f}" if row["difference"] and row["method"] != row["baseline"] else ""
    print(f"{row['task']:18}{row['method']:26}{float(row['coverage']):7.3f}{versus:>12}{float(row['per_1000_tokens'] or 0):19.3f}")
example = next(iter(sorted((store / "selections").glob("*rag-icl*"))))
print(f"\nthe ten best examples of every query: {example / 'best_examples.json'}")
print(f"the page to look at:                  {(store / 'report.html').resolve()}")
PYTHON
