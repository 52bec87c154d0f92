"""A component whose machine has a wrong clock: `python -m tests.fakes.skewed SECONDS MODULE WORD…`."""

from __future__ import annotations

import runpy
import sys
import time

if __name__ == "__main__":
    skew_s, module, *words = sys.argv[1:]
    time_s, time_ns = time.time, time.time_ns
    time.time = lambda: time_s() + float(skew_s)
    time.time_ns = lambda: time_ns() + int(float(skew_s) * 1e9)
    sys.argv = [module, *words]
    runpy.run_module(module, run_name="__main__")
