"""The doctor's look at the host's memory, or the control group's."""

from __future__ import annotations

from collections.abc import Iterable

from orchestrator.host import Host
from orchestrator.settings import SyntheticOptions
from reelnet.operating.console import GIB
from reelnet.operating.doctor import Finding, bad, good, poor

LEAST_MEMORY_BYTES = 2 * GIB


def memory(host: Host) -> Iterable[Finding]:
    """The host's memory, or the control group's."""
    size = host.memory_bytes()
    if size is None:
        yield poor("the host does not say how much memory it has", "see that /proc is mounted")
    elif size < LEAST_MEMORY_BYTES:
        real = [m for m in host.settings.models if not isinstance(m.backend, SyntheticOptions)]
        text = f"{size / GIB:.1f} GiB of memory"
        yield (
            bad(text, "a model needs more: give the host or the container more memory")
            if real
            else poor(text, "enough for synthetic models alone")
        )
    else:
        yield good(f"{size / GIB:.1f} GiB of memory")
