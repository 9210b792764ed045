#!/usr/bin/env bash
# From nothing to a page of selections: set-up, embedded corpora, vectors, a trained reranker, the ten best examples of
# every query by several methods, and a report. Offline but for the package registry; two cores and no GPU will do.
#   scripts/demo.sh [STORE]        default: build/demo
set -euo pipefail
cd "$(dirname "$0")/.."
store=${1:-build/demo}
scripts/setup.sh select
export HF_HUB_OFFLINE=1
.venv/bin/bioie run jobs/recipes/select_demo.yaml --set store="$store"
.venv/bin/bioie report "$store" --out "$store/report.html"
.venv/bin/python - "$store" <<'PYTHON'
import csv, sys
from pathlib import Path

store = Path(sys.argv[1])
rows = list(csv.DictReader((store / "report.csv").open()))
wanted = ["task", "method", "coverage", "difference", "per_1000_tokens"]
columns = [c for c in wanted if rows and c in rows[0]] or list(rows[0])[:6]
widths = [max(len(c), *(len(r[c][:22]) for r in rows)) for c in columns]
for line in [dict(zip(columns, columns)), *rows]:
    print("  ".join(line[c][:22].ljust(w) for c, w in zip(columns, widths)).rstrip())
example = next(iter(sorted((store / "selections").glob("*rag-icl*"))))
print(f"\nthe ten best examples of every query: {example / 'best_examples.json'}")
print(f"the page to look at:                  {(store / 'report.html').resolve()}")
PYTHON
