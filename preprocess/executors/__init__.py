"""Ranks or processes that share the tasks of a stage: over MPI, or over files alone."""
