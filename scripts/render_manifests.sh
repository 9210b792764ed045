#!/usr/bin/env bash
# Renders what is checked in under k8s/ anew: after a change of a recipe, of pods or of the renderer.
#   scripts/render_manifests.sh [FOLDER]          FOLDER instead of k8s/, to look or to compare
# BIOIE_REGISTRY (default: localhost:5000) is where the release image is pulled from; k8s/README.md says how to name another without rendering.
set -euo pipefail
cd "$(dirname "$0")/.."
into=${1:-k8s}
bioie=.venv/bin/bioie
[[ -x $bioie ]] || bioie=bioie
image=${BIOIE_REGISTRY:-localhost:5000}/bioie-ray:$("$bioie" --version)-cpu
mkdir -p "$into/rayjobs"

render() { # render FILE RECIPE OPTION...
  local file=$into/$1 recipe=jobs/recipes/$2.yaml
  shift 2
  "$bioie" render "$recipe" "$@" --image "$image" >"$file.new"
  mv "$file.new" "$file"
}

small=(--set @k8s/pods/small.yaml)
render rayjobs/prepare-corpora.yaml select_demo "${small[@]}" --set job=prepare_corpora --set name=prepare-corpora
render rayjobs/embed.yaml select_demo "${small[@]}" --set job=embed --set name=embed
render rayjobs/train-reranker.yaml select_demo "${small[@]}" --set job=train_reranker --set name=train-reranker
render rayjobs/select-examples.yaml select_demo "${small[@]}"
render rayjobs/prepare-instructions.yaml instructions_demo "${small[@]}" --set name=prepare-instructions
# The stages of DFPO on two pods, a rank each.
ranks=("${small[@]}" --set cluster.kube.workers.cpu.max_replicas=2 --set cluster.ranks=2)
render rayjobs/train-preft.yaml dfpo_demo "${ranks[@]}" --set job=train_preft --set name=train-preft --set matrix={}
render rayjobs/make-preferences.yaml dfpo_demo "${ranks[@]}" --set job=make_preferences --set name=make-preferences --set matrix={}
render rayjobs/train-dpop.yaml dfpo_demo "${ranks[@]}" --set job=train_dpop --set name=train-dpop --set matrix={}
render rayjobs/train-postft.yaml dfpo_demo "${ranks[@]}" --set job=train_postft --set name=train-postft --set matrix={}
render rayjobs/dfpo.yaml dfpo_demo "${ranks[@]}"
render rayjobs/generate.yaml icl_grid_demo "${small[@]}" --set job=generate
render rayjobs/dmcr.yaml icl_grid_demo "${small[@]}" --set job=dmcr
render rayjobs/evaluate.yaml icl_grid_demo "${small[@]}"
render raycluster.yaml select_demo --kind raycluster --set @k8s/pods/standing.yaml
render raycronjob.yaml refresh_nightly --kind raycronjob "${small[@]}" --schedule "30 2 * * *"
