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
if [[ -n $dfpo ]]; then .venv/bin/bioie run jobs/recipes/dfpo_demo.yaml --set store="$store"; fi
.venv/bin/bioie report "$store" --out "$store/report.html"
.venv/bin/python - "$store" <<'PYTHON'
import csv, sys
from pathlib import Path

store = Path(sys.argv[1])
rows = [row for row in csv.DictReader((store / "report.csv").open()) if "selections/demo-" in row["sources"]]
print(f"\n{'gold coverage of ten examples':44}{'all':>7}{'vs random':>12}{'per 1,000 tokens':>19}")
for row in rows:
    versus = f"{float(row['difference']):+.3f}" if row["difference"] and row["method"] != row["baseline"] else ""
    print(f"{row['task']:18}{row['method']:26}{float(row['coverage']):7.3f}{versus:>12}{float(row['per_1000_tokens'] or 0):19.3f}")
scores = [row for row in csv.DictReader((store / "report.scores.csv").open()) if row["repeat"] == "all"]
runs, stages = {}, {}
for row in scores:
    if row["sources"].startswith("scores/dfpo-"):
        stages.setdefault(row["model"], {})[row["variant"]] = row
        continue
    runs.setdefault((row["task"], row["method"], int(row["num_examples"])), {})[row["variant"]] = row
print(f"\n{'F1 of ' + scores[0]['model']:28}{'examples':>10}{'raw':>8}{'cleaned':>9}{'corrected':>11}{'malformed':>11}{'undecided':>11}")
for (task, method, num), run in sorted(runs.items(), key=lambda item: (item[0][0], item[0][2], item[0][1])):
    f1 = [float(run[variant]["f1"]) for variant in ("raw", "cleaned", "corrected")]
    print(f"{task:16}{method:12}{num:10}{f1[0]:8.3f}{f1[1]:9.3f}{f1[2]:11.3f}{run['cleaned']['malformed']:>11}{run['corrected']['undecided']:>11}")
if stages:
    print(f"\n{'F1 on biorelex, stage by stage':28}{'':10}{'raw':>8}{'cleaned':>9}{'':11}{'malformed':>11}")
    for model, run in sorted(stages.items(), key=lambda item: ["preft", "dpop", "postft"].index(item[0]) if item[0] in {"preft", "dpop", "postft"} else -1):
        print(f"{model:38}{float(run['raw']['f1']):8.3f}{float(run['cleaned']['f1']):9.3f}{'':11}{run['cleaned']['malformed']:>11}")
example = next(iter(sorted((store / "selections").glob("*rag-icl*"))))
review = next(iter(sorted((store / "dmcr").glob("*similarity-3*"))))
print(f"\nthe ten best examples of every query:  {example / 'best_examples.json'}")
print(f"decide what two evaluators could not:  .venv/bin/bioie review {review}")
print(f"the page to look at:                   {(store / 'report.html').resolve()}")
PYTHON
