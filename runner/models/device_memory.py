"""What is free on a model's device, and what the model has taken of it."""

from __future__ import annotations

import resource

import torch

from reelnet.host_memory import free_memory_bytes

CUDA_CONTEXT_BYTES = 600 * 2**20
"""What CUDA itself holds for a process, which the allocator does not count; some 300-600 MiB with torch's kernels."""


class DeviceMemory:
    """The memory of one device as this process sees it. On a CPU nobody knows which of its bytes are a job's."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._cuda = device.type == "cuda"
        self._most = 0
        self._begun = 0

    def most_bytes(self) -> int:
        """The allocator's peak and the CUDA context; on a CPU the process's largest resident set. On any thread."""
        if not self._cuda:
            return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
        return max(self._most, int(torch.cuda.max_memory_reserved(self._device))) + CUDA_CONTEXT_BYTES

    def free_bytes(self) -> int | None:
        """What a job may take: free on the device, or kept by the allocator without need. None: nobody knows."""
        if not self._cuda:
            return free_memory_bytes()
        kept = torch.cuda.memory_reserved(self._device) - torch.cuda.memory_allocated(self._device)
        return int(torch.cuda.mem_get_info(self._device)[0] + kept)

    def held_bytes(self) -> int | None:
        """What tensors hold now; None on a CPU."""
        return int(torch.cuda.memory_allocated(self._device)) if self._cuda else None

    def begin(self) -> None:
        """From here on `taken_bytes` counts."""
        if self._cuda:
            self._most = max(self._most, int(torch.cuda.max_memory_reserved(self._device)))
            torch.cuda.reset_peak_memory_stats(self._device)
            self._begun = int(torch.cuda.memory_allocated(self._device))

    def taken_bytes(self) -> int | None:
        """The most that tensors have held since `begin` beside what they held then; None on a CPU."""
        return int(torch.cuda.max_memory_allocated(self._device)) - self._begun if self._cuda else None
