"""What every test runs under: one thread, and property tests that draw the same examples every time."""

import torch
from hypothesis import HealthCheck, settings

torch.set_num_threads(1)  # the number of threads moves the last bits of every sum
settings.register_profile(
    "repeatable", derandomize=True, deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("repeatable")
