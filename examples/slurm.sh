#!/bin/bash
# A pipeline on a Slurm cluster whose jobs are preempted, or end before it does:
#
#     sbatch examples/slurm.sh --preset=fast --data_dir=DATA --model_dir=/shared/runs/NAME
#
# SIGTERM comes with a preemption, and here five minutes before the end of --time. The run is saved at its next step and
# ends with 143, and the job is queued again; wherever it begins next, it goes on to the same result. A node that is lost
# saves nothing more: the next one goes on from the last checkpoint, once the lost one's lease has ended (two minutes).

#SBATCH --job-name=nhn
#SBATCH --gres=gpu:1
#SBATCH --cpus-per-task=8
#SBATCH --time=12:00:00
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --signal=TERM@300

srun python -m nhn_tf pipeline "$@"
code=$?
if [ $code -eq 143 ]; then
  scontrol requeue "$SLURM_JOB_ID"
fi
exit $code
