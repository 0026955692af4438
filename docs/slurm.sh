#!/usr/bin/env bash
# Trains on several machines under Slurm, and goes on by itself after a time limit or a preemption.
#
#     sbatch docs/slurm.sh --config presets/flickr30k-clip.toml --RUN_NAME big
#
# Submit it from the folder of train.py, which all machines see at the same path, as they see
# DATA_DIR and OUTPUT_DIR. Three minutes before the end Slurm tells this script, which tells
# torchrun; training saves and ends, and the job queues again.
#SBATCH --job-name=captions
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node=8
#SBATCH --cpus-per-task=64
#SBATCH --time=24:00:00
#SBATCH --signal=B:TERM@180
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --output=slurm-%j.txt
set -uo pipefail
cd "${SLURM_SUBMIT_DIR:?submit this script with sbatch}"

# Where preparing the data fetches it is the main process's matter; fill the caches beforehand if
# the machines have no network: python prepare_dataset.py ... && python features.py ...
export TORCH_ELASTIC_SHUTDOWN_TIMEOUT=150 # seconds for the last save
export OMP_NUM_THREADS=8
head_node=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)

is_told=
srun --kill-on-bad-exit=1 \
  .venv/bin/torchrun \
  --nnodes "$SLURM_NNODES" \
  --nproc-per-node "${SLURM_GPUS_ON_NODE:-8}" \
  --max-restarts 3 \
  --rdzv-backend c10d \
  --rdzv-id "$SLURM_JOB_ID-${SLURM_RESTART_COUNT:-0}" \
  --rdzv-endpoint "$head_node:$((20000 + SLURM_JOB_ID % 20000))" \
  train.py "$@" --RESUME_CHECKPOINT_PATH auto &
step=$!
# `scancel` reaches torchrun on every machine; a signal to srun would not reach them all as TERM.
trap 'is_told=1; scancel --signal=TERM "$SLURM_JOB_ID.0"' TERM

wait "$step"
code=$?
while kill -0 "$step" 2>/dev/null; do # the trap ended the first wait early
  wait "$step"
  code=$?
done
if [ -n "$is_told" ]; then
  scontrol requeue "$SLURM_JOB_ID"
fi
exit "$code"
