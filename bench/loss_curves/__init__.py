"""The parts of `bench/curves.py`."""
