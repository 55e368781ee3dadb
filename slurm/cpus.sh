# Sourced by every script that calls srun. Since Slurm 22.05 srun does not take over the job's --cpus-per-task: where a site
# binds tasks to cores, a trainer, its loaders, its writer and its watchdog would share one core.
# shellcheck shell=bash
[ -z "${SLURM_CPUS_PER_TASK:-}" ] || export SRUN_CPUS_PER_TASK="${SRUN_CPUS_PER_TASK:-$SLURM_CPUS_PER_TASK}"
