#!/bin/bash
# Two nodes with 8 GPUs each under SLURM.
#   steer-lightning configs copy distributed/slurm.sh && sbatch slurm.sh
# Lightning reads nodes, tasks and addresses from SLURM. Two minutes before the time limit the run gets SIGUSR1. It then
# saves a checkpoint and is put back into the queue, and the same command resumes it.
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=8
#SBATCH --gres=gpu:8
#SBATCH --signal=SIGUSR1@120
#SBATCH --requeue
#SBATCH --open-mode=append
srun --kill-on-bad-exit=1 steer-lightning fit \
  --config gsm8k/qwen2.5-1.5b \
  --config distributed/torchrun-two-nodes
