"""The document's facts: texts and their sources, weights, stages, bytes; and its description."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

import boli
from boli.engine.llm import LLM
from boli.trace.arrays import unpacked
from boli.trace.schema import SHAPE, Optional, check_document
from boli.trace.stages import LAYER_STAGES, STAGES
from tiny_models import Zoo, prompt
from traced import FAMILIES, tiny_llm

KEYS = (
    "tokenize", "template", "embedding", "positions", "attention_norm", "qkv", "rope", "scores", "mask",
    "softmax", "weighted_sum", "output_projection", "attention_residual", "mlp_norm", "gate_up", "activation",
    "down", "mlp_residual", "final_norm", "head", "penalties", "temperature", "filters", "draw",
)  # fmt: skip


@pytest.fixture(scope="module", params=FAMILIES)
def document(request: pytest.FixtureRequest, zoo: Zoo) -> dict[str, Any]:
    with tiny_llm(zoo, request.param, kv_cache_type="bf16") as llm:
        return llm.trace(prompt(40), max_tokens=3, ignore_eos=True).document()


def test_it_is_json_and_matches_its_schema(document: dict[str, Any]) -> None:
    assert json.loads(json.dumps(document, allow_nan=False)) == document
    check_document(document, "it")


def test_stages_name_code_that_is_there(document: dict[str, Any]) -> None:
    stages = document["stages"]
    assert tuple(stage["key"] for stage in stages) == KEYS
    for stage in stages:
        file, line, name = re.fullmatch(r"([\w/]+\.py):(\d+) (\w+)", stage["source"]).groups()  # type: ignore[union-attr]
        source = (Path(boli.__file__).parent / file).read_text().splitlines()
        assert f"def {name}(" in source[int(line) - 1]
        assert stage["equation"]
        assert stage["title"]["en"]
        assert stage["title"]["zh"]
    assert set(KEYS[4:18]) == LAYER_STAGES


def test_every_weight_belongs_to_a_stage_and_the_bytes_add_up(document: dict[str, Any]) -> None:
    roles = {role for stage in STAGES for role in stage.roles}
    assert {weight["role"] for weight in document["weights"]} <= roles
    assert document["model"]["bytes"] == sum(weight["bytes"] for weight in document["weights"])
    assert document["model"]["parameters"] == sum(weight["parameters"] for weight in document["weights"])
    for layer in document["layers"]:
        stages = layer["stages"]
        assert set(stages) == LAYER_STAGES
        assert layer["bytes"] == sum(stage["bytes"] for stage in stages.values())
        matrices = [w for w in document["weights"] if w["layer"] == layer["index"] and len(w["shape"]) == 2]
        flops = 2 * sum(w["shape"][0] * w["shape"][1] for w in matrices)
        assert flops == sum(stage["flops"] for stage in stages.values())


def test_bytes_of_the_weights_are_those_of_the_ledger(zoo: Zoo) -> None:
    with tiny_llm(zoo, "qwen2") as llm:
        made = llm.trace([5, 6], max_tokens=1).document()
        totals = llm.ledger.totals()
        pool = llm._engine.runner.num_pages
    matrices = sum(w["bytes"] for w in made["weights"] if len(w["shape"]) == 2)
    entered = {
        name: size for name, size in totals.items() if name.startswith("weights/") and "vectors" not in name
    }
    assert matrices == sum(entered.values())
    kv = made["decisions"][0]["kv"]
    assert kv["bytes_allocated"] == kv["bytes_predicted"] == totals["kv_cache"] // pool


def test_the_cache_grows_page_by_page(document: dict[str, Any]) -> None:
    model = document["model"]
    for decision in document["decisions"]:
        kv = decision["kv"]
        assert kv["positions"] == decision["at"] + 1
        assert len(kv["pages"]) == len(set(kv["pages"])) == -(-kv["positions"] // 32)
        assert kv["bytes_used"] <= kv["bytes_allocated"] == kv["bytes_predicted"]
        window = min((each for each in model["windows"] if each), default=None)
        assert kv["skipped"] == (0 if window is None else (kv["positions"] - window) // 32)


def test_equations_are_those_of_the_family(zoo: Zoo) -> None:
    def equations(name: str) -> dict[str, str]:
        with tiny_llm(zoo, name) as llm:
            return {s["key"]: s["equation"] for s in llm.trace([5], max_tokens=1).document()["stages"]}

    llama, gemma, gpt2, biased = (equations(name) for name in ("llama", "gemma3", "gpt2", "llama-bias"))
    assert llama["attention_norm"].startswith("x̂ = x / √(mean(x²) + ")
    assert gpt2["attention_norm"].startswith("x̂ = (x − mean(x))")
    assert (llama["activation"], gemma["activation"]) == ("m = silu(g) · u", "m = gelu(g) · u")
    assert gpt2["activation"] == "m = gelu(u)"
    assert "norm(q)" in gemma["rope"]
    assert "i − 8" in gemma["mask"]
    assert gemma["attention_residual"] == "x = x + norm(o)"
    assert gpt2["positions"] == "x = x + P[p]"
    assert (llama["output_projection"], biased["output_projection"]) == ("o = W_o h", "o = W_o h + b")
    assert (llama["head"], gemma["head"]) == ("logits = W_head x̂", "logits = E x̂")


def test_tokens_know_their_characters(llm: LLM) -> None:
    text = "the thing 你好 🙂<|im_end|> the"
    made = llm.trace(text, max_tokens=6, ignore_eos=True, temperature=2.0, seed=1).document()
    whole = made["text"]["prompt"] + made["text"]["answer"]
    assert made["text"]["prompt"] == text
    tokens = made["tokens"]
    assert [token["position"] for token in tokens] == list(range(len(tokens)))
    assert [token["generated"] for token in tokens].count(True) == 6
    asked = [token for token in tokens if not token["generated"]]
    assert "".join(token["text"] for token in asked) == text
    assert [token["piece"] for token in asked if token["special"]] == ["<|im_end|>"]
    for token in tokens:
        if token["span"] is not None and token["text"]:
            assert whole[slice(*token["span"])] == token["text"]
    smile = [token for token in asked if token["span"] == [13, 14]]
    assert [token["text"] for token in smile] == ["🙂", "", "", ""]


def test_messages_own_their_tokens(llm: LLM) -> None:
    messages = [{"role": "system", "content": "be"}, {"role": "user", "content": "the thing"}]
    made = llm.trace(messages, max_tokens=2, ignore_eos=True).document()
    assert made["text"]["kind"] == "chat"
    assert made["text"]["messages"] == messages
    assert "im_start" in made["text"]["template"]
    for index, message in enumerate(messages):
        owned = [token["text"] for token in made["tokens"] if token["message"] == index]
        assert "".join(owned) == message["content"]


def test_ids_that_are_no_text_have_no_source(llm: LLM) -> None:
    made = llm.trace([104, 299, 256, 7], max_tokens=2, ignore_eos=True).document()
    assert [token["span"] for token in made["tokens"][:4]] == [None] * 4
    assert made["tokens"][1]["text"] == made["tokens"][1]["piece"] == ""
    assert made["tokens"][2]["special"] is True
    assert made["text"]["prompt"] == "".join(token["text"] for token in made["tokens"][:4])


def test_the_prompts_lens_has_a_row_for_each_token(llm: LLM) -> None:
    made = llm.trace(prompt(20), max_tokens=2, ignore_eos=True)
    lens = made.document()["prompt_lens"]
    assert len(lens["text"]) == 20
    assert {len(row) for row in lens["text"]} == {3}
    shares = unpacked(lens["probability"], "lens")
    assert shares.shape == (20, 3)
    # At the last token the prompt's lens and the first decision's are the same.
    first = made.steps[0].data["lens"]["top"]
    assert lens["text"][-1] == [layer[0]["text"] for layer in first]
    assert shares[-1].tolist() == pytest.approx([layer[0]["probability"] for layer in first], rel=2e-3)


def test_every_part_of_the_schema_is_described() -> None:
    page = (Path(__file__).parents[2] / "docs" / "trace-schema.md").read_text(encoding="utf-8")

    def names(shape: Any) -> set[str]:
        if isinstance(shape, Optional):
            return names(shape.part)
        if isinstance(shape, list):
            return names(shape[0])
        if isinstance(shape, dict):
            return set(shape) | {name for part in shape.values() for name in names(part)}
        return set()

    missing = {name for name in names(SHAPE) if not re.search(rf"\b{name}\b", page)}
    assert missing == set()
