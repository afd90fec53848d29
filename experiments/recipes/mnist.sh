#!/usr/bin/env bash
# MNIST, architecture 3, preset recommended: two-phase selection, its controls and the six uniform
# networks, seeds 0-2. Usage: experiments/recipes/mnist.sh [--data-dir FOLDER]
# 27 runs of 30 epochs, 25-50 s each on 2 CPU cores. Expected: every method within 98.3-98.6 % test
# accuracy, except uniform sigmoid (see LOG.md, 2026-11-23).
set -euo pipefail
cd "$(dirname "$0")/../.."
python=${PYTHON:-.venv/bin/python}
run() { "$python" -m experiments.run --task mnist --architecture 3 "$@"; }
for seed in 0 1 2; do
  for choices in learned shuffled random; do run --seed "$seed" --choices "$choices" "$@"; done
  for name in relu sigmoid tanh leaky_relu elu selu; do
    run --seed "$seed" --method "uniform:$name" "$@"
  done
done
"$python" -m experiments.report --table runs/mnist/recommended-arch3-*
