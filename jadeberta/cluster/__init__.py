"""The machines: which rank this process is, what Slurm says, and the process group."""
