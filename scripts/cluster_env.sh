#!/usr/bin/env bash
# Sourced by scripts that run tests/kube/: the image of this checkout where the nodes can pull it, and an S3 server that pods reach.
# Needs KUBECONFIG. What is set already stays: BIOIE_TEST_IMAGE, BIOIE_TEST_REGISTRY, BIOIE_TEST_KUBE_S3 and so on (tests/kube/conftest.py).
set -euo pipefail

# The test bed's S3 has one well-known key, good for nothing else.
if [[ -x ../shared/kube/testbed && ${KUBECONFIG:-} == "$(../shared/kube/testbed env | sed 's/.*KUBECONFIG=\([^ ]*\).*/\1/')" ]]; then
  export BIOIE_TEST_KUBE_S3_KEY=${BIOIE_TEST_KUBE_S3_KEY:-testbed} BIOIE_TEST_KUBE_S3_SECRET=${BIOIE_TEST_KUBE_S3_SECRET:-testbed-secret}
  export BIOIE_TEST_FAKE_GPUS=${BIOIE_TEST_FAKE_GPUS:-1}
  command -v kubectl >/dev/null || eval "$(../shared/kube/testbed env)"
fi

if [[ -n ${KUBECONFIG:-} && -z ${BIOIE_TEST_IMAGE:-} ]]; then
  registry=${BIOIE_TEST_REGISTRY:-localhost:5000}
  if [[ -n ${BIOIE_TEST_REGISTRY:-} ]] || python3 -c "import urllib.request; urllib.request.urlopen('http://$registry/v2/', timeout=5)" 2>/dev/null; then
    name=$(scripts/build_image.sh --variant cpu)
    if ! python3 -m bioie_ray.cluster.registry label "$registry/${name##*/}" bioie.content >/dev/null 2>&1; then
      scripts/push_image.sh "$registry" "${name##*:}" >/dev/null
    fi
    export BIOIE_TEST_IMAGE=$registry/${name##*/}
  else
    echo "cluster_env.sh: no registry answers at $registry; set BIOIE_TEST_REGISTRY, or BIOIE_TEST_IMAGE to an image that the nodes can pull" >&2
  fi
fi
