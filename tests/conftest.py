"""What holds for every test."""

import os

if "PYTEST_XDIST_WORKER" in os.environ:
    # Several workers share the cores; threads of one that wait for a core hold up its others.
    os.environ.setdefault("OMP_NUM_THREADS", "1")
