"""What a trace shows is what the model computes: against transformers, module by module, for each family."""

from __future__ import annotations

import numpy as np
import pytest

from boli.cpu.probing import PROBES
from boli.trace import Trace
from tiny_models import TINY, Zoo, prompt, transformers_logits
from traced import FAMILIES, attention_of, in_transformers, tiny_llm, whole

# float32 on both sides; sums of a few hundred products in another order, through a few layers.
CLOSE = 2e-4


@pytest.fixture(scope="module", params=FAMILIES)
def traced(request: pytest.FixtureRequest, zoo: Zoo) -> tuple[str, Trace]:
    name = str(request.param)
    with tiny_llm(zoo, name) as llm:
        trace = llm.trace(prompt(21), detail="full", max_tokens=9, ignore_eos=True, temperature=0.7, seed=3)
    return name, trace


def test_every_intermediate_is_that_of_transformers(traced: tuple[str, Trace], zoo: Zoo) -> None:
    name, trace = traced
    assert trace._live is not None
    ids = list(trace._live.run.token_ids[:-1])
    expected, attention = in_transformers(zoo.folder(TINY[name]), ids)
    unseen = {"final_norm", "q_rotated", "k_rotated"}  # no module's output there; the next tests have them
    shown = set(trace._live.evidence.decisions[0].values)
    assert shown == set(PROBES) - (set() if TINY[name].kind != "GPT2" else {"gate"})
    assert set(expected) == shown - unseen
    for probe, values in expected.items():
        found = whole(trace, probe)
        assert found.shape == values.shape, probe
        np.testing.assert_allclose(
            found, values, rtol=CLOSE, atol=CLOSE * np.abs(values).max(), err_msg=probe
        )
    for layer, weights in enumerate(attention):
        np.testing.assert_allclose(attention_of(trace, layer), weights, atol=CLOSE, err_msg=f"layer {layer}")


def test_the_logits_are_those_of_transformers(traced: tuple[str, Trace], zoo: Zoo) -> None:
    name, trace = traced
    assert trace._live is not None
    run = trace._live.run
    expected = transformers_logits(zoo.folder(TINY[name]), run.token_ids[:-1])[run.prompt_length - 1 :]
    assert trace.logits is not None
    np.testing.assert_allclose(trace.logits, expected, rtol=CLOSE, atol=CLOSE * np.abs(expected).max())


def test_rows_of_attention_sum_to_1_and_are_causal(traced: tuple[str, Trace]) -> None:
    _, trace = traced
    for layer in trace.layers:
        weights = attention_of(trace, layer.index)
        length = weights.shape[-1]
        np.testing.assert_allclose(weights.sum(axis=-1), 1.0, atol=1e-6)
        distance = np.arange(length)[:, None] - np.arange(length)[None, :]
        unseen = (distance < 0) | (distance >= (layer.window or length))
        assert not weights[:, unseen].any()
        assert (weights[:, ~unseen] > 0.0).any()


def test_the_residual_sums_close(traced: tuple[str, Trace]) -> None:
    _, trace = traced
    stream = whole(trace, "embedding")
    for layer in range(len(trace.layers)):
        after, before = whole(trace, "after_attention")[layer], stream
        np.testing.assert_allclose(after, before + whole(trace, "attention_branch")[layer], atol=1e-4)
        stream = whole(trace, "residual")[layer]
        np.testing.assert_allclose(stream, after + whole(trace, "mlp_branch")[layer], atol=1e-4)


def test_the_lens_of_the_last_layer_is_what_the_model_says(traced: tuple[str, Trace]) -> None:
    _, trace = traced
    assert trace.proof["lens_difference"] == 0.0
    wall = trace.lens()
    for step, text, rank in zip(trace.steps, wall.text, wall.rank, strict=True):
        assert text[-1] == text[-2] == step.data["top"][0]["text"]
        assert rank[-1] == rank[-2] == step.data["rank"]


def test_the_lens_is_norm_and_head_of_each_layer(traced: tuple[str, Trace], zoo: Zoo) -> None:
    name, trace = traced
    import torch
    import transformers

    model = transformers.AutoModelForCausalLM.from_pretrained(zoo.folder(TINY[name]), dtype=torch.float32)
    norm = model.transformer.ln_f if TINY[name].kind == "GPT2" else model.model.norm
    for step in trace.steps[:3]:
        states = step.value("residual")
        assert states is not None
        with torch.no_grad():
            logits = model.get_output_embeddings()(norm(torch.tensor(states))).double()
        shares = torch.softmax(logits, dim=-1).numpy()[:, step.token]
        np.testing.assert_allclose(step.data["lens"]["probability"][:-1], shares, rtol=2e-3, atol=1e-6)


def test_norms_are_lengths_of_vectors(traced: tuple[str, Trace]) -> None:
    _, trace = traced
    assert trace.residual is not None
    for step, stream in zip(trace.steps, trace.residual, strict=True):
        np.testing.assert_allclose(step.data["norms"]["residual"], np.linalg.norm(stream, axis=-1), rtol=1e-4)


@pytest.mark.parametrize(("kv_type", "close"), [("f32", 1e-5), ("int8", 1e-5), ("bf16", 4e-3)])
@pytest.mark.parametrize("name", ["llama", "gemma3", "gpt2"])
def test_attention_weights_times_values_are_the_steps_own_heads(
    zoo: Zoo, name: str, kv_type: str, close: float
) -> None:
    """For a bfloat16 cache the kernel rounds its weights to 8 bits before it mixes values: 2**-8 of them."""
    from boli.engine.loan import borrow
    from boli.trace.observing import observe

    with tiny_llm(zoo, name, kv_cache_type=kv_type) as llm:
        run = llm.generate(prompt(40), max_tokens=3, ignore_eos=True).record
        runner = llm._engine.runner
        with borrow(llm._engine, len(run.token_ids) - 1) as loan:
            evidence = observe(runner, loan, run, "full")  # type: ignore[arg-type]
            cached = [
                runner.keys_values(layer, loan.table.entries, 42)  # type: ignore[attr-defined]
                for layer in range(llm.blueprint.config.num_hidden_layers)
            ]
    config = llm.blueprint.config
    group = config.num_attention_heads // config.num_key_value_heads
    for seen in evidence.decisions:
        assert seen.attention is not None
        for layer, (_, values) in enumerate(cached):
            mixed = np.repeat(values[: seen.at + 1], group, axis=1)
            expected = np.einsum("hj,jhd->hd", seen.attention[layer], mixed).ravel()
            np.testing.assert_allclose(
                seen.values["heads"][layer], expected, atol=close * np.abs(values).max()
            )
