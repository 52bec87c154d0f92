"""The runner's metrics, all of them: a runner counts them, and its node passes them on."""

from __future__ import annotations

from reelnet.metrics import CLASS, OUTCOME, PIPELINE, Label, counter, seconds

STAGES = ("condition", "denoise", "upscale", "interpolate", "decode", "encode", "run")
STAGE = Label(
    "stage",
    "`condition` (reading the input), `denoise`, `upscale`, `interpolate`, `decode`, `encode`, `run` (the whole job, "
    "waits for the encoder included); `other`",
)
JOBS = counter("reelnet_runner_jobs_total", "Jobs that ended in a runner.", PIPELINE, OUTCOME, CLASS)
STAGE_SECONDS = seconds("reelnet_runner_stage_seconds", "Time in each stage of a job in a runner.", PIPELINE, STAGE)
FAMILIES = (JOBS, STAGE_SECONDS)
