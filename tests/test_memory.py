"""A search of thousands of cycles takes no more memory at its end than when it has warmed up."""

import gc
import os
import sys

import numpy as np
import pytest

from nhn_tf import stages
from nhn_tf.runs.monitor import Monitor
from tests.conftest import before, smoke_settings

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc/self/statm"),
]
PAGE_MIB = os.sysconf("SC_PAGE_SIZE") / 2**20
MOST_GROWTH_MIB = 8


def resident_mib():
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * PAGE_MIB


@pytest.mark.parametrize(("stage", "length"), [("lds_location", {"cycles": 2000}), ("enas", {"epochs": 200})])
def test_memory_does_not_grow_after_the_first_tenth(smoke_run, tmp_path, monkeypatch, stage, length):
    run = before(smoke_run, stage, tmp_path / "run")
    sizes, checkpoints = [], set()
    epoch = Monitor.epoch

    def measured(self, metrics):
        epoch(self, metrics)
        gc.collect()
        sizes.append(resident_mib())
        checkpoints.add(len(list((self.directory / "checkpoint").glob("*"))))

    monkeypatch.setattr(Monitor, "epoch", measured)
    stages.run(stage, run, smoke_settings(stage, compute={"on_nan": "rollback"}, **length))
    (total,) = length.values()
    assert len(sizes) == total
    early, late = np.median(sizes[total // 10 : total // 5]), np.median(sizes[-total // 10 :])
    print(f"{stage}: {total} {next(iter(length))}, resident {sizes[0]:.1f} MiB after the first, {early:.1f} MiB in the "
          f"second tenth, {late:.1f} MiB in the last: {late - early:+.1f} MiB")  # fmt: skip
    assert late - early <= MOST_GROWTH_MIB
    assert max(checkpoints) == 2
