#!/usr/bin/env bash
# Fitting functions: two-phase selection, its controls and the eight uniform networks on three
# targets, seeds 0-2. 108 runs of 6,000 steps, about 10 minutes on 2 CPU cores.
# Expected: LOG.md, 2026-11-23.
set -euo pipefail
cd "$(dirname "$0")/../.."
python=${PYTHON:-.venv/bin/python}
for target in product_sine normal_density kinks; do
  run() { "$python" -m experiments.run --task "function:$target" "$@"; }
  for seed in 0 1 2; do
    run --seed "$seed"
    for control in "--choices shuffled" "--choices random" "--no-carry-weights" \
      "--choices shuffled --no-carry-weights"; do
      # shellcheck disable=SC2086
      run --seed "$seed" $control
    done
    for name in relu tanh silu sin square identity gauss gelu; do
      run --seed "$seed" --method "uniform:$name"
    done
  done
  "$python" -m experiments.report --table "runs/$target"/*
done
