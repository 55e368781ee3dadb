"""The parts of `bench/checkpoint.py`, one measurement a file; none runs by itself."""
