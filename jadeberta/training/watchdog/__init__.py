"""Finds a rank that hangs: heartbeat and client in the trainer, the monitor in a process beside it, and the diagnosis."""
