"""What holds for every test."""

import os

from hypothesis import HealthCheck, settings

if "PYTEST_XDIST_WORKER" in os.environ:
    # Several workers share the cores; threads of one that wait for a core hold up its others.
    os.environ.setdefault("OMP_NUM_THREADS", "1")

# The same examples in every run, and no limit on the time of one: a busy machine is no fault of the code. To look for new examples:
# pytest --hypothesis-profile=search
settings.register_profile("steady", derandomize=True, deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.register_profile("search", deadline=None, suppress_health_check=[HealthCheck.too_slow], max_examples=1000)
settings.load_profile("steady")
