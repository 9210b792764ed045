"""Linear layers by oneDNN against torch's own."""

from __future__ import annotations

import copy
import pickle
import weakref

import pytest
import torch
from torch import nn

from bioie_ray.config.generation import ModelSettings
from bioie_ray.execution.linear_layers import OneDnnLinear, PackedLinear, by_onednn, can_use_onednn, pack_linears
from bioie_ray.generation.base import Sampling
from bioie_ray.generation.transformers_engine import TransformersEngine

pytestmark = pytest.mark.skipif(not can_use_onednn(), reason="this torch has no oneDNN")


class Tied(nn.Module):
    """An embedding, a layer, and a head with the embedding's weights."""

    def __init__(self, dtype: torch.dtype = torch.float32) -> None:
        super().__init__()
        self.embedding = nn.Embedding(20, 8, dtype=dtype)
        self.inner = nn.Sequential(nn.Linear(8, 8, dtype=dtype))
        self.head = nn.Linear(8, 20, bias=False, dtype=dtype)
        self.head.weight = self.embedding.weight

    def get_input_embeddings(self) -> nn.Embedding:
        return self.embedding


@pytest.mark.parametrize("shape", [(1, 1), (3, 1), (2, 7), (5,), (), (1, 300)])
@pytest.mark.parametrize("bias", [True, False])
def test_it_is_float32_and_no_less(shape: tuple[int, ...], bias: bool) -> None:
    torch.manual_seed(0)
    linear, inputs = nn.Linear(48, 40, bias=bias), torch.randn(*shape, 48)
    exact = copy.deepcopy(linear).double()(inputs.double())
    with torch.inference_mode():
        packed = PackedLinear(linear)(inputs)
        by_onednn(linear)
        plain = linear(inputs)
    for outputs in (packed, plain):
        assert outputs.shape == exact.shape
        assert outputs.dtype == torch.float32
        assert (outputs - exact).abs().max() < 2e-6


@pytest.mark.parametrize("shape", [(3, 40), (2, 7, 40), (40,)])
@pytest.mark.parametrize(("num_in", "num_out"), [(48, 40), (16, 40), (48, 8)])
@pytest.mark.parametrize("frozen", [True, False])
def test_gradients_are_those_of_a_linear_layer(shape: tuple[int, ...], num_in: int, num_out: int, frozen: bool) -> None:
    torch.manual_seed(0)
    linear = nn.Linear(num_in, num_out).requires_grad_(not frozen)
    exact = copy.deepcopy(linear).double()
    inputs, gradient = torch.randn(*shape[:-1], num_in, requires_grad=True), torch.randn(*shape[:-1], num_out)
    precise = inputs.detach().double().requires_grad_()
    assert by_onednn(linear) == 1
    linear(inputs).backward(gradient)
    exact(precise).backward(gradient.double())
    pairs = [(inputs, precise)] if frozen else [(inputs, precise), *zip(linear.parameters(), exact.parameters(), strict=True)]
    for ours, theirs in pairs:
        assert ours.grad is not None
        assert theirs.grad is not None
        assert ours.grad.dtype == torch.float32
        assert (ours.grad - theirs.grad).abs().max() < 1e-5
    assert not frozen or all(parameter.grad is None for parameter in linear.parameters())


def test_gradients_add_up_over_backward_passes() -> None:
    torch.manual_seed(0)
    linear, inputs = nn.Linear(8, 4), torch.randn(6, 8)
    by_onednn(linear)
    linear(inputs).sum().backward()
    assert linear.weight.grad is not None
    once = linear.weight.grad.clone()
    linear(inputs).sum().backward()
    assert torch.equal(linear.weight.grad, 2 * once)


def test_frozen_weights_keep_no_inputs() -> None:
    linear = nn.Linear(8, 4).requires_grad_(requires_grad=False)
    by_onednn(linear)
    inputs = torch.randn(6, 8, requires_grad=True)
    with torch.autograd.graph.saved_tensors_hooks(lambda tensor: kept.append(tensor.shape) or tensor, lambda tensor: tensor):
        kept: list[torch.Size] = []
        linear(inputs)
    assert kept == [linear.weight.shape]


def test_other_precisions_go_where_they_went() -> None:
    torch.manual_seed(0)
    linear, inputs = nn.Linear(8, 4), torch.randn(6, 8)
    fast = copy.deepcopy(linear)
    by_onednn(fast)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(fast(inputs), linear(inputs))
        assert fast(inputs).dtype == torch.bfloat16
    assert torch.equal(fast.double()(inputs.double()), linear.double()(inputs.double()))
    assert by_onednn(nn.Linear(8, 4, dtype=torch.bfloat16)) == 0


def test_names_weights_and_kinds_stay() -> None:
    linear = nn.Linear(8, 4)
    before = dict(linear.named_parameters())
    by_onednn(linear)
    assert isinstance(linear, nn.Linear)
    assert dict(linear.named_parameters()).keys() == before.keys()
    assert all(now is before[name] for name, now in linear.named_parameters())
    again = pickle.loads(pickle.dumps(linear))
    assert torch.equal(again.weight, linear.weight)


def test_inputs_may_be_views() -> None:
    torch.manual_seed(0)
    linear, whole = nn.Linear(48, 40), torch.randn(2, 9, 96)
    view = whole[:, -1:, ::2]
    with torch.inference_mode():
        assert torch.allclose(PackedLinear(linear)(view), linear(view), atol=1e-6)


def test_what_shares_its_weights_with_the_embedding_is_not_packed() -> None:
    model = Tied()
    assert pack_linears(model) == 1
    assert type(model.head) is OneDnnLinear
    assert model.head.weight is model.embedding.weight
    assert isinstance(model.inner[0], PackedLinear)
    assert [name for name, _ in model.named_parameters()] == ["embedding.weight"]  # nothing is held twice
    assert pack_linears(Tied(torch.bfloat16)) == 0


def test_a_layers_own_weights_go_before_the_next_are_packed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Or a large model would for a moment need twice its memory."""
    model = Tied()
    model.inner = nn.Sequential(*[nn.Linear(8, 8) for _ in range(4)])
    alive = [weakref.ref(layer.weight) for layer in model.inner]
    num_alive: list[int] = []

    class Watched(PackedLinear):
        def __init__(self, linear: nn.Linear) -> None:
            num_alive.append(sum(ref() is not None for ref in alive))
            super().__init__(linear)

    monkeypatch.setattr("bioie_ray.execution.linear_layers.PackedLinear", Watched)
    pack_linears(model)
    assert num_alive == [4, 3, 2, 1]


def test_the_engine_packs_its_model(tiny_llm: str) -> None:
    engine = TransformersEngine(ModelSettings(model=tiny_llm), Sampling(0.0, 1.0, 4))
    if engine._device == "cpu":
        assert sum(isinstance(module, PackedLinear) for module in engine._model.modules()) >= 2 * 7
