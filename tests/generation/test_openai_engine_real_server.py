"""The same engine against a server that is not ours: `transformers serve`, with a tiny model of random weights."""

import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from dataclasses import replace
from pathlib import Path

import pytest
from transformers import AutoModelForCausalLM, AutoTokenizer

from bioie_ray.config.generation import EndpointSettings, ModelSettings
from bioie_ray.generation.base import EngineError, Request, Sampling
from bioie_ray.generation.openai_engine import OpenAIEngine
from bioie_ray.prompting.prompt import Message

pytest.importorskip("openai", reason="transformers serve needs the openai package")
pytestmark = pytest.mark.slow
NUM_NEW = 12


@pytest.fixture
def server(tmp_path):
    """The base URL and the process of a server that is up."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    environment = os.environ | {"HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path), "OMP_NUM_THREADS": "1"}
    command = [str(Path(sys.executable).with_name("transformers")), "serve", "--host", "127.0.0.1", "--port", str(port), "--device", "cpu"]
    with (tmp_path / "log").open("wb") as log, subprocess.Popen(command, env=environment, stdout=log, stderr=log) as process:
        try:
            deadline = time.monotonic() + 120
            while not _is_up(port):
                assert process.poll() is None, (tmp_path / "log").read_text()
                assert time.monotonic() < deadline
                time.sleep(0.2)
            yield f"http://127.0.0.1:{port}/v1", process
        finally:
            process.kill()


def _is_up(port):
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=5) as reply:
            return reply.status == 200
    except (urllib.error.URLError, OSError):
        return False


def test_answers_of_a_real_server_are_those_of_its_model(server, tiny_llm):
    url, process = server
    endpoint = EndpointSettings(url=url, concurrency=2, max_retries=1, max_wait_s=0.1, timeout_s=60.0)
    settings = ModelSettings(engine="openai", model=tiny_llm, endpoint=endpoint)
    greedy = Sampling(temperature=0.0, top_p=1.0, max_new_tokens=NUM_NEW)
    requests = [
        Request(f"d{i}/1", None, (Message("user", "a?"), Message("assistant", "[]"), Message("user", f"question {i}")), seed=2**31 - 1 - i)
        for i in range(6)
    ]

    def run(sampling):
        engine, done = OpenAIEngine(settings, sampling), {}
        engine.generate(list(enumerate(engine.plan(requests))), lambda number, found: done.update({each.id: each for each in found}))
        return done

    done = run(greedy)
    tokenizer, local = AutoTokenizer.from_pretrained(tiny_llm), AutoModelForCausalLM.from_pretrained(tiny_llm)
    for request in requests:
        turns = [{"role": message.role, "content": message.content} for message in request.messages]
        prompt = tokenizer.apply_chat_template(turns, add_generation_prompt=True, return_tensors="pt", return_dict=True)
        num_prompt = prompt["input_ids"].shape[1]
        tokens = local.generate(**prompt, do_sample=False, max_new_tokens=NUM_NEW)[0, num_prompt:]
        completion = done[request.id]
        assert completion.text == tokenizer.decode(tokens, skip_special_tokens=True)
        assert (completion.num_prompt_tokens, completion.num_answer_tokens) == (num_prompt, len(tokens))
        assert completion.finish == ("length" if len(tokens) == NUM_NEW else "stop")

    sampled = run(replace(greedy, temperature=0.5, top_p=0.9, structured="ner"))  # this server ignores the schema, as many do
    assert set(sampled) == set(done)
    assert all(completion.num_answer_tokens <= NUM_NEW for completion in sampled.values())

    process.send_signal(signal.SIGKILL)
    process.wait()
    with pytest.raises(EngineError, match=r"gave no answer to d\d/1 in 2 tries .* no connection"):
        run(greedy)
