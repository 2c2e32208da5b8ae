#!/bin/bash
# 4 nodes of 8 GPUs under Slurm:   sbatch examples/launch/slurm.sh fsdp2_4_nodes examples/configs/slap_base.yaml
# The run goes on from its last whole checkpoint whenever it is started again: after a crash, and after the time limit,
# when Slurm puts the job back into the queue. Not run on GPUs by us.
#SBATCH --job-name=slap
#SBATCH --nodes=4
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node=8
#SBATCH --cpus-per-task=64
#SBATCH --time=24:00:00
#SBATCH --requeue
#SBATCH --signal=B:USR1@120
set -euo pipefail
launch=$1 config=$2
shift 2
trap 'scontrol requeue "$SLURM_JOB_ID"' USR1
export OMP_NUM_THREADS=1 first=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)
srun bash -c 'exec accelerate launch --config_file "$0" --machine_rank "$SLURM_NODEID" --main_process_ip "$first" "$@"' \
    "examples/launch/$launch.yaml" examples/pretrain.py --config "$config" --resume "$@" &
wait $!
