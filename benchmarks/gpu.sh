#!/usr/bin/env bash
# Measure sampling, PPO and memory on one GPU with the sizes of the paper's two students (random weights, no download).
# Run it in a clone after `make demo`:   bash benchmarks/gpu.sh
# It leaves runs/speed-gpu-base.ipynb and runs/speed-gpu-large.ipynb and prints their results.
set -euo pipefail
cd "$(dirname "$0")/.."
BIN=${BIN:-.venv/bin}
"$BIN/python" -c "import torch, sys; sys.exit(None if torch.cuda.is_available() else
    'benchmarks/gpu.sh: PyTorch sees no CUDA GPU here; install a CUDA build of PyTorch, or run make bench.')"
mkdir -p runs
measure() {
    "$BIN/papermill" nbs/experiments/speed.ipynb "runs/speed-gpu-$1.ipynb" --cwd nbs/experiments \
        -p device cuda -y "size: {d_model: $2, d_ff: $3, num_layers: $4, num_decoder_layers: $4, num_heads: $5}"
    echo "== $1"
    "$BIN/jupyter" nbconvert --to markdown --stdout --no-input --log-level ERROR "runs/speed-gpu-$1.ipynb" |
        grep -E "GFLOP|samples a second|rows a second|generation|reference|value|PPO" || true
}
measure base 768 2048 12 12
measure large 1024 2816 24 16
