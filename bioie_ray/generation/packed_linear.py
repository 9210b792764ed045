"""Linear layers by oneDNN, over weights that are laid out for it once.

torch hands float32 products on a CPU to MKL, which (by its ``MKL_VERBOSE``) does not see the AVX-512 of processors that are not Intel's: 112 GFLOP/s a
core of an EPYC, where oneDNN does 260 (330 tokens), and 87 against 216 with the 16 tokens of a step. These are the operators that torch's own compiler puts in the place of linear
layers; where a version of torch has none, layers stay as they are. Sums are made in another order, so results differ in their last bits.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

_PACK = "_reorder_linear_weight"
_APPLY = "_linear_pointwise"


class PackedLinear(nn.Module):
    """What ``nn.Linear`` does, in float32 on a CPU and without gradients."""

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        self._apply_packed = getattr(torch.ops.mkldnn, _APPLY)
        self.weight = getattr(torch.ops.mkldnn, _PACK)(linear.weight.detach(), None)
        self.bias = None if linear.bias is None else linear.bias.detach()

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        """[..., in] to [..., out]."""
        outputs: torch.Tensor = self._apply_packed(inputs, self.weight, self.bias, "none", [], "")
        return outputs


def pack_linears(model: Any) -> int:
    """Put packed layers in the place of the linear ones of a model that is only asked from now on; how many.

    Each takes the place of its weights in memory too, more or less (140 MiB more for a model of 540). One whose weights are also the embedding's (the head of small models) would need
    them twice, and stays.
    """
    if not can_pack():
        return 0
    embedding = model.get_input_embeddings().weight
    found = [
        (parent, name, child)
        for parent in list(model.modules())
        for name, child in parent.named_children()
        if type(child) is nn.Linear
        and child.weight is not embedding
        and child.weight.dtype == torch.float32
        and child.weight.device.type == "cpu"
    ]
    num_packed = len(found)
    while found:  # and not a loop over it: each layer's own weights go before the next one's are packed
        parent, name, child = found.pop()
        setattr(parent, name, PackedLinear(child))
    return num_packed


def can_pack() -> bool:
    """Whether this torch has what it takes."""
    return bool(torch.backends.mkldnn.is_available()) and all(hasattr(torch.ops.mkldnn, name) for name in (_PACK, _APPLY))  # type: ignore[no-untyped-call]
