#!/usr/bin/env bash
# Every test on a real Kubernetes, those that scripts/test.sh leaves out too (they cut a node's power, stop the operator and S3,
# and wait for a queue and for cron), and a table of what came of each.
#   scripts/cluster_suite.sh [PYTEST ARGUMENT ...]
# KUBECONFIG: a cluster of your own, for tests only. Without it the test bed beside the checkout is started, where there is one.
# For the power cut: BIOIE_TEST_SECOND_NODE, and the commands BIOIE_TEST_NODE_UP and BIOIE_TEST_NODE_DOWN; a cluster without is not cut.
set -euo pipefail
cd "$(dirname "$0")/.."
testbed=$PWD/../shared/kube/testbed
if [[ -z ${KUBECONFIG:-} ]]; then
  [[ -x $testbed ]] || { echo "cluster_suite.sh: set KUBECONFIG to a cluster for tests" >&2; exit 2; }
  eval "$("$testbed" env)"
  kubectl get --raw /readyz >/dev/null 2>&1 || "$testbed" up
fi
if [[ -x $testbed ]] && "$testbed" env | grep -qF "KUBECONFIG=$KUBECONFIG "; then
  kubectl get crd clusterqueues.kueue.x-k8s.io >/dev/null 2>&1 || "$testbed" kueue
  # Its API server has no front-proxy CA, so Kueue's visibility API answers 403, and one API that does not answer keeps every
  # namespace from being deleted.
  kubectl get apiservices -o name | { grep visibility.kueue || true; } | xargs -r kubectl delete >/dev/null
  # Its webhook reads elastic RayJobs through the types of KubeRay 1.5 and spoils them (k8s/README.md): let it see only what waits in a queue.
  for i in $(kubectl get mutatingwebhookconfiguration kueue-mutating-webhook-configuration -o json |
    python3 -c 'import json, sys; print(*(i for i, w in enumerate(json.load(sys.stdin)["webhooks"]) if w["name"] in ("mrayjob.kb.io", "mraycluster.kb.io")))'); do
    kubectl patch mutatingwebhookconfiguration kueue-mutating-webhook-configuration --type=json -p '[{"op": "add", "path": "/webhooks/'"$i"'/objectSelector",
      "value": {"matchExpressions": [{"key": "kueue.x-k8s.io/queue-name", "operator": "Exists"}]}}]' >/dev/null
  done
  export BIOIE_TEST_SECOND_NODE=node-2 BIOIE_TEST_NODE_UP="$testbed node-up 2" BIOIE_TEST_NODE_DOWN="$testbed node-down 2"
fi
scripts/setup.sh all
source scripts/cluster_env.sh
export BIOIE_CLUSTER_SUITE=1 BIOIE_REQUIRE_CLUSTER=1 HF_HUB_OFFLINE=1 RAY_USAGE_STATS_ENABLED=0 TOKENIZERS_PARALLELISM=false
mkdir -p build
status=0
.venv/bin/python -m pytest tests/kube -m cluster --junitxml=build/cluster_suite.xml "$@" || status=$?
.venv/bin/python - build/cluster_suite.xml <<'PYTHON'
import sys
import xml.etree.ElementTree as ElementTree

print(f"\n{'seconds':>7}  {'':8}  test")
total = 0.0
for case in ElementTree.parse(sys.argv[1]).getroot().iter("testcase"):
    said = next((child for child in case if child.tag in {"failure", "error", "skipped"}), None)
    outcome = {"failure": "FAILED", "error": "ERROR", "skipped": "skipped"}[said.tag] if said is not None else "passed"
    reason = f"  ({said.get('message', '').splitlines()[0][:120]})" if said is not None and said.get("message") else ""
    total += float(case.get("time", 0))
    print(f"{float(case.get('time', 0)):7.0f}  {outcome:8}  {case.get('classname', '').rpartition('.')[2]}: {case.get('name', '').removeprefix('test_').replace('_', ' ')}{reason}")
print(f"{total:7.0f}  in all")
PYTHON
exit "$status"
