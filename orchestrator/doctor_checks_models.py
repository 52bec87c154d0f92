"""The doctor's look at the models, and the list of all that it looks at."""

from __future__ import annotations

from collections.abc import Iterable

from orchestrator.doctor_checks_engine import docker, driver, image, toolkit
from orchestrator.doctor_checks_host import memory
from orchestrator.doctor_checks_jobs import ANSWER_S, JOB_S, job, known_answer
from orchestrator.host import Host
from orchestrator.models_on_disk import folder_of, judge
from orchestrator.settings import ModelSettings
from reelnet.operating.doctor import Check, Finding, bad, good, poor
from reelnet.operating.machine_checks import clock, key, ports, python, state

GIB = 2**30


def weights(host: Host) -> Iterable[Finding]:
    """Each configured model: its folder, its format, its size."""
    if not host.settings.models:
        yield poor("no models are configured: the node would serve nothing", "name one under `models`")
    for model in host.settings.models:
        yield _weights(model, host)


CHECKS = (
    Check("python", python, 5),
    Check("state", state, 10),
    Check("key", key, 5),
    Check("memory", memory, 5),
    Check("ports", ports, 10),
    Check("clock", clock, 10),
    Check("driver", driver, 30),
    Check("docker", docker, 30),
    Check("image", image, 30),
    Check("toolkit", toolkit, 5),
    Check("models", weights, 60),
    Check("tiny job", job, JOB_S + 20),
    Check("known answer", known_answer, ANSWER_S + 20),
)
"""Everything that the doctor looks at, in the order in which a fault explains the next ones."""


def _weights(model: ModelSettings, host: Host) -> Finding:
    folder = folder_of(model, host.settings)
    if folder is None:
        return good(f"{model.model_id}: synthetic, needs no weights")
    judged = judge(folder)
    if judged.fault or judged.found is None:
        return bad(f"{model.model_id}: {judged.fault}", judged.mend)
    found = judged.found
    return good(f"{model.model_id}: {found.class_name}, {found.weight_bytes / GIB:.2f} GiB of safetensors")
