import os
import time
from pathlib import Path

import numpy as np

from experiments.saving.usage import measure, read_usage


def test_seconds_are_summed_over_processes_and_the_highest_memory_is_kept(tmp_path: Path) -> None:
    assert read_usage(tmp_path) == {}
    write, begun = measure(), (time.monotonic(), sum(os.times()[:2]))
    while min(time.monotonic() - begun[0], sum(os.times()[:2]) - begun[1]) < 0.11:
        pass
    held = np.ones(2**27, dtype=np.uint8)  # 128 MiB
    write(tmp_path)
    first = read_usage(tmp_path)
    assert 0.1 <= first["cpu_seconds"] <= sum(os.times()[:2]) - begun[1] + 0.02
    assert first["seconds"] >= 0.1
    assert first["mebibytes"] > held.nbytes / 2**20
    with (tmp_path / "usage.csv").open("a") as file:
        file.write("5,3,1,7\n")
    both = read_usage(tmp_path)
    assert both["cpu_seconds"] == first["cpu_seconds"] + 3
    assert (both["mebibytes"], both["gpu_mebibytes"]) == (first["mebibytes"], 7)
