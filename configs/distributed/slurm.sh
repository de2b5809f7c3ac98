#!/bin/bash
# Two nodes of 8 GPUs under SLURM.
#   steer-lightning configs copy distributed/slurm.sh && sbatch slurm.sh
# Lightning reads nodes, tasks and addresses from SLURM. Two minutes before the time limit the run gets SIGUSR1: it saves,
# goes back into the queue, and the same command goes on with it.
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=8
#SBATCH --gres=gpu:8
#SBATCH --signal=SIGUSR1@120
#SBATCH --requeue
#SBATCH --open-mode=append
srun --kill-on-bad-exit=1 steer-lightning fit \
  --config gsm8k/qwen2.5-1.5b \
  --config distributed/torchrun-two-nodes
