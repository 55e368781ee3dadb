"""Scaling tests: the same recipe at several world sizes, what each step was made of, and what was predicted."""
