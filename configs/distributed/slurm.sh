#!/bin/bash
# Two nodes of 8 GPUs under SLURM: sbatch configs/distributed/slurm.sh
# Lightning reads nodes, tasks and addresses from SLURM; at its pre-emption signal the run saves, exits and is requeued,
# and the same command goes on with it.
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=8
#SBATCH --gres=gpu:8
#SBATCH --signal=SIGUSR1@120
#SBATCH --requeue
srun steer-lightning fit \
  --config configs/gsm8k/qwen2.5-1.5b.yaml \
  --config configs/distributed/torchrun-two-nodes.yaml
