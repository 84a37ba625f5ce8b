"""A Ray of two processors on this machine, for all tests that need one; without the package they are skipped."""

import os
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def ray():
    """Return the started package."""
    settings = {
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
        # workers import what the tests hand them by its name
        "PYTHONPATH": os.pathsep.join([str(Path(__file__).parent), *filter(None, [os.environ.get("PYTHONPATH")])]),
        # seconds between looks at how many questions wait; 10 otherwise
        "RAY_SERVE_HANDLE_AUTOSCALING_METRIC_PUSH_INTERVAL_S": "0.5",
        "RAY_SERVE_REPLICA_AUTOSCALING_METRIC_PUSH_INTERVAL_S": "0.5",
        "RAY_worker_niceness": "0",  # it is 15 otherwise, and workers wait for all else that a busy machine does
    }
    ray = pytest.importorskip("ray", exc_type=ImportError)
    data = pytest.importorskip("ray.data", exc_type=ImportError)
    with pytest.MonkeyPatch.context() as patch:
        for name, value in settings.items():
            patch.setenv(name, value)
        _start(ray)
        data.DataContext.get_current().enable_progress_bars = False
        yield ray
        ray.shutdown()


def _start(ray, tries=3):
    """Start it; it waits half a minute for itself and no longer, which is short on a machine that is busy."""
    try:
        ray.init(
            num_cpus=2,
            include_dashboard=False,
            log_to_driver=False,
            logging_level="ERROR",
            object_store_memory=100 * 2**20,
            _node_ip_address="127.0.0.1",
        )
    except Exception as error:
        if tries == 1 or "timed out during startup" not in str(error):
            raise
        ray.shutdown()
        _start(ray, tries - 1)
