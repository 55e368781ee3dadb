"""`jadeberta status`: goodput, attempts, downtime and Slurm jobs of a run, from its ledger and metrics alone."""
