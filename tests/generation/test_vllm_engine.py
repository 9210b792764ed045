"""What vLLM would be told. vLLM is not installed here: a stand-in takes the calls, with the signatures that vLLM documents."""

import json
import sys
import types
from dataclasses import dataclass, field

import pytest
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from bioie_ray.config.generation import ModelSettings
from bioie_ray.generation.base import Completion, EngineError, Request, Sampling
from bioie_ray.generation.structure import schema
from bioie_ray.generation.vllm_engine import VllmEngine, engine_arguments, sampling_arguments

SAMPLING = Sampling(temperature=0.5, top_p=0.9, max_new_tokens=64, stop_at="ner")


def request(number=0, text="<s> extract", seed=3):
    return Request(f"d{number}/1", text, (), seed)


def test_engine_arguments():
    settings = ModelSettings(engine="vllm", dtype="bfloat16", batch_size=4)
    assert engine_arguments(settings, "/models/m") == {
        "model": "/models/m",
        "dtype": "bfloat16",
        "seed": 0,
        "enable_prefix_caching": True,
    }


@pytest.mark.parametrize(("rank", "room"), [(1, 8), (8, 8), (9, 16), (32, 32), (300, 320), (512, 512)])
def test_room_for_an_adapter(rank, room):
    arguments = engine_arguments(ModelSettings(engine="vllm", adapter="a"), "m", rank)
    assert (arguments["enable_lora"], arguments["max_loras"], arguments["max_lora_rank"]) == (True, 1, room)


def test_an_adapter_that_vllm_has_no_room_for():
    with pytest.raises(EngineError, match="rank 513, and vLLM takes 512 at most"):
        engine_arguments(ModelSettings(engine="vllm", adapter="a"), "m", 513)


def test_sampling_arguments_have_the_requests_own_seed_and_no_stop_strings():
    assert sampling_arguments(request(seed=7), SAMPLING) == {"temperature": 0.5, "top_p": 0.9, "max_tokens": 64, "seed": 7}


def test_sampling_arguments_of_structured_decoding():
    arguments = sampling_arguments(request(), Sampling(0.0, 1.0, 8, structured="re"))
    assert arguments["structured_outputs"] == {"json": schema("re")}


def test_without_vllm_it_says_how_to_get_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "vllm", None)
    with pytest.raises(EngineError, match=r"pip install vllm, or set engine=transformers"):
        VllmEngine(ModelSettings(engine="vllm"), SAMPLING)


@dataclass
class Params:
    temperature: float
    top_p: float
    max_tokens: int
    seed: int
    structured_outputs: object = None


@dataclass
class Structured:
    json: dict


@dataclass
class Lora:
    lora_name: str
    lora_int_id: int
    lora_path: str


@dataclass
class Vllm:
    """The stand-in: what it was made with and asked for, and what it says."""

    made: dict = field(default_factory=dict)
    asked: list = field(default_factory=list)
    says: tuple = ('["a"] and on', "length")
    fails: Exception | None = None


@pytest.fixture
def vllm(monkeypatch):
    seen = Vllm()
    vocabulary = {"<unk>": 0, "<s>": 1, "extract": 2, "list": 3}
    built = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    built.pre_tokenizer = pre_tokenizers.WhitespaceSplit()

    class LLM:
        def __init__(self, **arguments):
            if seen.fails is not None and "load" in str(seen.fails):
                raise seen.fails
            seen.made = arguments

        def get_tokenizer(self):
            return PreTrainedTokenizerFast(tokenizer_object=built, bos_token="<s>", unk_token="<unk>")

        def generate(self, prompts, sampling_params, *, use_tqdm, lora_request):
            if seen.fails is not None:
                raise seen.fails
            seen.asked.append((prompts, sampling_params, lora_request))
            text, finish = seen.says
            answer = types.SimpleNamespace(text=text, finish_reason=finish, token_ids=(5, 6, 7))
            return [types.SimpleNamespace(prompt_token_ids=each["prompt_token_ids"], outputs=[answer]) for each in prompts]

    contents = {
        "vllm": {"LLM": LLM, "SamplingParams": Params},
        "vllm.sampling_params": {"StructuredOutputsParams": Structured},
        "vllm.lora": {},
        "vllm.lora.request": {"LoRARequest": Lora},
    }
    for name, content in contents.items():
        module = types.ModuleType(name)
        vars(module).update(content)
        monkeypatch.setitem(sys.modules, name, module)
    return seen


@pytest.fixture
def model(tmp_path):
    (tmp_path / "config.json").write_text("{}")
    return str(tmp_path)


def test_chunks_are_answered_in_vllms_batches(vllm, model):
    engine = VllmEngine(ModelSettings(engine="vllm", model=model), SAMPLING)
    requests = [request(number, text=f"<s> extract {number % 3}", seed=number) for number in range(600)]
    chunks = engine.plan(requests)
    assert [len(chunk) for chunk in chunks] == [256, 256, 88]
    assert engine.plan(requests[::-1]) == chunks  # a function of the requests, whatever their order
    assert len({each.text for each in chunks[0]}) == 2  # 200 that are alike, and a part of the next
    done = {}
    engine.generate(list(enumerate(chunks)), done.__setitem__)
    assert list(done) == [0, 1, 2]
    assert [each.id for each in done[1]] == [each.id for each in chunks[1]]
    assert done[0][0] == Completion(chunks[0][0].id, '["a"]', "list", 3, 3)
    prompts, parameters, lora = vllm.asked[2]
    assert prompts[0] == {"prompt_token_ids": [1, 2, 0]}  # one beginning, not two
    assert parameters == [Params(0.5, 0.9, 64, each.seed) for each in chunks[2]]
    assert lora is None
    assert vllm.made["model"] == model


@pytest.mark.parametrize(("finish_reason", "finish"), [("length", "length"), ("stop", "stop"), ("abort", "stop")])
def test_answers_without_a_list_end_as_vllm_says(vllm, model, finish_reason, finish):
    vllm.says = ("none", finish_reason)
    done = []
    VllmEngine(ModelSettings(engine="vllm", model=model), SAMPLING).generate([(0, [request()])], lambda number, found: done.extend(found))
    assert done == [Completion("d0/1", "none", finish, 2, 3)]


def test_an_adapter_and_a_schema_go_along(vllm, model, tmp_path):
    adapter = tmp_path / "adapter"
    adapter.mkdir()
    (adapter / "adapter_config.json").write_text(json.dumps({"r": 8, "rank_pattern": {"q_proj": 40}}))
    settings = ModelSettings(engine="vllm", model=model, adapter=str(adapter))
    VllmEngine(settings, Sampling(0.0, 1.0, 8, structured="ner")).generate([(0, [request()])], lambda number, found: None)
    assert vllm.made["max_lora_rank"] == 64
    _, parameters, lora = vllm.asked[0]
    assert lora == Lora("adapter", 1, str(adapter))
    assert parameters[0].structured_outputs == Structured(schema("ner"))


def test_what_vllm_raises_is_one_sentence(vllm, model, tmp_path):
    engine = VllmEngine(ModelSettings(engine="vllm", model=model), SAMPLING)
    vllm.fails = ValueError("The prompt is longer than the maximum model length\nmore")
    with pytest.raises(EngineError, match=r"^vLLM failed at d0/1 and the 1 after it: The prompt is longer than the maximum model length$"):
        engine.generate([(0, [request(), request(1)])], lambda number, found: None)
    with pytest.raises(EngineError, match="d0/1 has no prompt text"):
        engine.generate([(0, [request(text=None)])], lambda number, found: None)
    vllm.fails = ValueError("cannot load: no free memory")
    with pytest.raises(EngineError, match=r"vLLM cannot load .*: cannot load: no free memory"):
        VllmEngine(ModelSettings(engine="vllm", model=model), SAMPLING)
    (tmp_path / "empty").mkdir()
    with pytest.raises(EngineError, match="holds no adapter"):
        VllmEngine(ModelSettings(engine="vllm", model=model, adapter=str(tmp_path / "empty")), SAMPLING)
