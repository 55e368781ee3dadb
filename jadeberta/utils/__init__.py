"""Helpers that know nothing of training: files, JSON Lines, locks, processes. Standard library (and orjson) only."""
