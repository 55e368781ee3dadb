"""Checkpoints: the commit protocol, what is in them, and restoring at any world size, ZeRO stage or micro-batch."""
