"""Packed layers against torch's own."""

from __future__ import annotations

import weakref

import pytest
import torch
from torch import nn

from bioie_ray.config.generation import ModelSettings
from bioie_ray.generation.base import Sampling
from bioie_ray.generation.packed_linear import PackedLinear, can_pack, pack_linears
from bioie_ray.generation.transformers_engine import TransformersEngine

pytestmark = pytest.mark.skipif(not can_pack(), reason="this torch has no oneDNN")


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


@pytest.mark.parametrize("shape", [(1, 1), (3, 1), (2, 7), (5,), (1, 300)])
@pytest.mark.parametrize("bias", [True, False])
def test_it_is_float32_and_no_less(shape: tuple[int, ...], bias: bool) -> None:
    torch.manual_seed(0)
    linear, inputs = nn.Linear(48, 40, bias=bias), torch.randn(*shape, 48)
    exact = nn.functional.linear(inputs.double(), linear.weight.double(), linear.bias.double() if bias else None)
    with torch.inference_mode():
        packed = PackedLinear(linear)(inputs)
    assert packed.shape == exact.shape
    assert packed.dtype == torch.float32
    assert (packed - exact).abs().max() < 2e-6


def test_inputs_may_be_views() -> None:
    torch.manual_seed(0)
    linear, whole = nn.Linear(48, 40), torch.randn(2, 9, 96)
    view = whole[:, -1:, ::2]
    with torch.inference_mode():
        assert torch.allclose(PackedLinear(linear)(view), linear(view), atol=1e-6)


def test_what_shares_its_weights_with_the_embedding_stays() -> None:
    model = Tied()
    assert pack_linears(model) == 1
    assert type(model.head) is nn.Linear
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

    monkeypatch.setattr("bioie_ray.generation.packed_linear.PackedLinear", Watched)
    pack_linears(model)
    assert num_alive == [4, 3, 2, 1]


def test_the_engine_packs_its_model(tiny_llm: str) -> None:
    engine = TransformersEngine(ModelSettings(model=tiny_llm), Sampling(0.0, 1.0, 4))
    if engine._device == "cpu":
        assert sum(isinstance(module, PackedLinear) for module in engine._model.modules()) >= 2 * 7
