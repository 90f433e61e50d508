"""What every test run shares: fixed seeds, two threads, no network."""

import os
import random
import sys

# Before torch or numpy are imported, and for the processes that tests start.
os.environ.setdefault("OMP_NUM_THREADS", "2")
os.environ.setdefault("HF_HUB_OFFLINE", "1")  # tests use random weights; nothing is to be downloaded

import hypothesis
import numpy as np
import pytest

# The same examples on every run; no deadline, for the first run of a test may import torch.
hypothesis.settings.register_profile("tdagger", derandomize=True, deadline=None)
hypothesis.settings.load_profile("tdagger")


@pytest.fixture(autouse=True)
def _seeds() -> None:
    random.seed(0)
    np.random.seed(0)
    if "torch" in sys.modules:  # never import it for tests that don't
        sys.modules["torch"].manual_seed(0)
