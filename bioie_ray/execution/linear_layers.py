"""Linear layers in float32 on a CPU by oneDNN instead of MKL.

torch hands these products to MKL, which (by its ``MKL_VERBOSE``) does not see the AVX-512 of processors that are not Intel's: 112 GFLOP/s a
core of an EPYC, where oneDNN does 250 (512 tokens; 220 to 260 backwards), and 87 against 216 with the 16 tokens of a step of generation, once weights are laid out for
it. These are the operators that torch's own compiler puts in the place of linear layers; where a version of torch has none, layers stay as they
are. Sums are made in another order, so results differ in their last bits.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.autograd.function import once_differentiable

_PACK = "_reorder_linear_weight"
_APPLY = "_linear_pointwise"


class OneDnnLinear(nn.Linear):
    """``nn.Linear`` with its weights as they are, for training too. What is not float32 on a CPU goes where it always went."""

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        """[..., in] to [..., out]."""
        if not _is_plain(inputs) or not _is_plain(self.weight) or torch.is_autocast_enabled("cpu"):
            return super().forward(inputs)
        outputs: torch.Tensor = _Product.apply(inputs, self.weight, self.bias)  # type: ignore[no-untyped-call]
        return outputs


class PackedLinear(nn.Module):
    """``nn.Linear`` over weights that are laid out for oneDNN, without gradients: faster yet where tokens are few."""

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        self.weight = getattr(torch.ops.mkldnn, _PACK)(linear.weight.detach(), None)
        self.bias = None if linear.bias is None else linear.bias.detach()

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        """[..., in] to [..., out]."""
        return _multiply(inputs, self.weight, self.bias)


def by_onednn(model: nn.Module) -> int:
    """Let the linear layers of a model go by oneDNN, those of its adapters too; how many. Weights, names and gradients stay what they were."""
    if not can_use_onednn():
        return 0
    layers = [module for module in model.modules() if type(module) is nn.Linear and _is_plain(module.weight)]
    for layer in layers:
        layer.__class__ = OneDnnLinear
    return len(layers)


def pack_linears(model: Any) -> int:
    """Put packed layers in the place of the linear ones of a model that is only asked from now on; how many.

    Each takes the place of its weights in memory too, more or less (140 MiB more for a model of 540). One whose weights are also the embedding's (the head of small models) would need
    them twice, and goes by oneDNN as it is.
    """
    if not can_use_onednn():
        return 0
    embedding = model.get_input_embeddings().weight
    found = [
        (parent, name, child)
        for parent in list(model.modules())
        for name, child in parent.named_children()
        if type(child) is nn.Linear and child.weight is not embedding and _is_plain(child.weight)
    ]
    num_packed = len(found)
    while found:  # and not a loop over it: each layer's own weights go before the next one's are packed
        parent, name, child = found.pop()
        setattr(parent, name, PackedLinear(child))
    by_onednn(model)
    return num_packed


def can_use_onednn() -> bool:
    """Whether this torch has what it takes."""
    return bool(torch.backends.mkldnn.is_available()) and all(hasattr(torch.ops.mkldnn, name) for name in (_PACK, _APPLY))  # type: ignore[no-untyped-call]


class _Product(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, inputs: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
        ctx.save_for_backward(inputs if ctx.needs_input_grad[1] else None, weight)  # frozen weights need no inputs again
        return _multiply(inputs, weight, bias)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor | None, torch.Tensor | None, torch.Tensor | None]:
        inputs, weight = ctx.saved_tensors
        rows = gradient.reshape(-1, gradient.shape[-1])
        of_inputs = _multiply(gradient, weight.t()) if ctx.needs_input_grad[0] else None
        of_weight = _outer(rows, inputs.reshape(-1, inputs.shape[-1])) if ctx.needs_input_grad[1] else None
        return of_inputs, of_weight, rows.sum(dim=0) if ctx.needs_input_grad[2] else None


def _outer(left: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
    """[tokens, a] and [tokens, b] to [a, b]; the smaller side as rows, which is three times as fast for the 16 of an adapter."""
    if left.shape[1] > right.shape[1]:
        return _multiply(right.t(), left.t()).t()
    return _multiply(left.t(), right.t())


def _multiply(inputs: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None = None) -> torch.Tensor:
    outputs: torch.Tensor = getattr(torch.ops.mkldnn, _APPLY)(inputs, weight, bias, "none", [], "")
    return outputs


def _is_plain(tensor: torch.Tensor) -> bool:
    return tensor.dtype == torch.float32 and tensor.device.type == "cpu"
