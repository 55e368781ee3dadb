"""Helpers that know nothing of training: files, JSON Lines, locks, processes. Standard library with orjson and rich, nothing heavier."""
