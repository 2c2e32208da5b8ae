"""Broken and hostile inputs. A few cases run with all tests; tens of thousands by hand:

pytest tests/fuzz --hypothesis-profile=many --hypothesis-show-statistics
"""

import sys
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

if sys.platform == "linux":
    import resource
else:
    resource = None

# Time is taken of the processor (`soon`): a deadline on the wall clock fails when the machine is busy.
COMMON = {"deadline": None, "suppress_health_check": list(HealthCheck), "print_blob": True}
settings.register_profile("few", max_examples=25, derandomize=True, database=None, **COMMON)
settings.register_profile("many", max_examples=10_000, **COMMON)
settings.register_profile("hundreds", max_examples=500, **COMMON)
settings.load_profile("few")

MOST_MEMORY = 4 << 30  # bytes of address space beyond what is taken already


@pytest.fixture(scope="module", autouse=True)
def bounded_memory():
    """A length that a header makes up becomes a MemoryError instead of the end of the machine."""
    if resource is None:
        yield
        return
    before = resource.getrlimit(resource.RLIMIT_AS)
    taken = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (taken + MOST_MEMORY, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_AS, before)
