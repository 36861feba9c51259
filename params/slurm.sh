#!/bin/bash
# A run on Slurm: one launcher a machine, one process a GPU. Submitted from the checkout, with the words of `ares run`:
#   sbatch params/slurm.sh params/scienceqa_base.yaml --name mine -p data path/to/scienceqa
#   sbatch --nodes 2 params/slurm.sh params/scienceqa_base.yaml --name mine -p data path/to/scienceqa
# All machines must see the checkout and runs/ under the same path. Keys of a teacher are needed on the first machine only;
# sbatch hands on the environment it is called in. Submitted again, a run goes on where it was.
#SBATCH --job-name=ares
#SBATCH --nodes=1
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node=4
#SBATCH --cpus-per-task=16
#SBATCH --time=24:00:00
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --output=ares-%j.log
set -euo pipefail
[ $# -gt 0 ] || { echo "slurm.sh: give the words of ares run, e.g. params/scienceqa_base.yaml --name mine" >&2; exit 2; }

export TORCHRUN="${TORCHRUN:-.venv/bin/torchrun}"
export MASTER_ADDR="$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)"
export MASTER_PORT=$((29500 + SLURM_JOB_ID % 1000))
export OMP_NUM_THREADS=$((SLURM_CPUS_PER_TASK / SLURM_GPUS_ON_NODE > 0 ? SLURM_CPUS_PER_TASK / SLURM_GPUS_ON_NODE : 1))

srun --kill-on-bad-exit=1 --cpus-per-task="$SLURM_CPUS_PER_TASK" bash -c '
  exec "$TORCHRUN" --nnodes "$SLURM_NNODES" --node-rank "$SLURM_NODEID" --nproc-per-node "$SLURM_GPUS_ON_NODE" \
       --master-addr "$MASTER_ADDR" --master-port "$MASTER_PORT" -m ares run "$@"' launcher "$@"
