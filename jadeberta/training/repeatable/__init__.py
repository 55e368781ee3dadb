"""Bits that repeat: set, proven, and noted."""
