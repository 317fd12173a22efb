"""Traces of real, quantized models."""

from __future__ import annotations

import json

import pytest

import boli


@pytest.mark.model
def test_gemma_finishes_the_countrys_name() -> None:
    with boli.load("gemma3-270m") as llm:
        trace = llm.trace("我爱中华人民共和", max_tokens=3)
    first = trace.steps[0]
    assert first.text.startswith("国")
    assert (trace.proof["largest_logit_difference"], trace.proof["largest_logprob_difference"]) == (0.0, 0.0)
    assert trace.proof["lens_difference"] == 0.0
    # It wins late: no layer of the first half has it first.
    assert first.data["lens"]["first_leads"] > len(trace.layers) // 2
    assert trace.document()["text"]["prompt"] == "我爱中华人民共和"


@pytest.mark.model
@pytest.mark.parametrize("kv_cache_type", ["bf16", "int8"])
def test_a_sampled_chat_of_smollm2_replays_to_the_last_bit(kv_cache_type: str) -> None:
    messages = [{"role": "user", "content": "Name three primes."}]
    with boli.load("smollm2", kv_cache_type=kv_cache_type) as llm:  # type: ignore[arg-type]
        llm.chat(messages, max_tokens=1)  # so that the prompt comes from the cache
        answer = llm.chat(
            messages, max_tokens=24, temperature=0.8, top_p=0.95, repetition_penalty=1.1, seed=7
        )
        trace = llm.replay(answer.record)
    proof = trace.proof
    assert answer.reused_tokens > 0
    assert (proof["compared"], proof["largest_logit_difference"]) == (len(answer.token_ids), 0.0)
    assert proof["sampler_reproduced"] == proof["compared"]
    assert "".join(step.text for step in trace.steps).startswith(answer.text[:20])
    assert len(json.dumps(trace.document())) < 2_000_000
