"""What every test run shares: fixed seeds, one thread a process, no network."""

import gc
import os
import random
import sys

# Before torch or numpy are imported, and for the processes that tests start. Tests run on all cores as processes, and
# sums are split alike wherever they run.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")  # tests use random weights; nothing is to be downloaded

import hypothesis
import numpy as np
import pytest

# The same examples on every run; no deadline, for the first run of a test may import torch.
hypothesis.settings.register_profile("tdagger", derandomize=True, deadline=None)
hypothesis.settings.load_profile("tdagger")


def pytest_collection_finish() -> None:
    """Leave out of every garbage collection what is there for all tests: thousands of tests, torch's op database."""
    gc.collect()
    gc.freeze()
    gc.collect()  # once more: how many objects were left decides how soon the next full collection comes
    # A full collection goes through all that torch keeps of the tests before: half a second, once in five seconds.
    gc.set_threshold(5000, 10, 15)


@pytest.fixture(autouse=True)
def _seeds() -> None:
    random.seed(0)
    np.random.seed(0)
    if "torch" in sys.modules:  # never import it for tests that don't
        sys.modules["torch"].manual_seed(0)
