"""Floating-point operations: what a trained token costs, and what known hardware could do."""

from __future__ import annotations

import torch

# Dense bf16 operations a second of one device, from the vendors' data sheets (without sparsity).
_PEAK = {
    "H200": 989e12,
    "H100 PCIe": 756e12,
    "H100": 989e12,
    "A100": 312e12,
    "L40S": 362e12,
    "L4": 121e12,
    "A10G": 70e12,
    "V100": 125e12,
    "T4": 65e12,
}


def peak_flops() -> float | None:
    """Of this process's device; ``None`` where it is not known (every CPU)."""
    if not torch.cuda.is_available():
        return None
    name = torch.cuda.get_device_name()
    return next((flops for known, flops in _PEAK.items() if known in name), None)


def flops_per_token(num_parameters: int, num_trained: int) -> float:
    """Of a forward and a backward pass: 2 for each weight forward, 2 back to what is before it, and 2 for each weight that is trained.

    The usual 6 a weight (Kaplan et al. 2020, arXiv 2001.08361) is this with all weights trained. Attention's own products are not counted.
    """
    return 4.0 * num_parameters + 2.0 * num_trained
