"""The roofline of decoding and of reading a prompt."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from boli.errors import UnsupportedModel, UsageError
from boli.weigh.devices import Device, find_device
from boli.weigh.efficiency import BOLI, EFFICIENCY, Efficiency
from boli.weigh.formats import weigh_format
from boli.weigh.model import Model, find_model
from boli.weigh.speed import SpeedAccount, multiplies_in, weigh_speed
from boli.weigh.weights import weigh_weights
from boli.weigh.work import decode_flop, products, streamed


def speed(
    name: str, device: str = "H100", form: str = "FP16", context: int = 1, requests: int = 1
) -> SpeedAccount:
    model = find_model(name)
    return weigh_speed(
        model, find_device(device), bytes_of=weigh_format(model, form).bytes_of, context=context,
        requests=requests, weight_type=form,
    )  # fmt: skip


def test_the_input_embedding_is_not_streamed() -> None:
    account = speed("llama-3.1-8b")
    assert account.decode is not None
    assert account.decode.bytes.value - 131_072 == 2 * (8_030_261_248 - 128_256 * 4096)
    assert round(account.decode.bytes.value / 1e9, 2) == 15.01  # of 16.06


@pytest.mark.parametrize(("device", "ceiling", "ridge"), [("H100", 223, 295), ("A100-80", 136, 153)])
def test_ceilings_of_llama_8b(device: str, ceiling: int, ridge: int) -> None:
    account = speed("llama-3.1-8b", device)
    assert account.decode is not None
    assert account.decode.ceiling is not None
    assert round(account.decode.ceiling.value) == ceiling
    assert account.decode.binds == "memory"
    assert account.ridge is not None
    assert round(account.ridge.value) == ridge
    assert account.prefill.binds == "compute"


@pytest.mark.parametrize(("device", "measured"), [("H100", 125.1), ("A100-80", 79.3)])
def test_the_best_guess_is_near_what_was_measured(device: str, measured: float) -> None:
    # vLLM, Llama-3.1-8B in BF16, one request.
    decode = speed("llama-3.1-8b", device, context=1024).decode
    assert decode is not None
    assert decode.low is not None
    assert decode.best is not None
    assert decode.high is not None
    assert decode.low.value < measured < decode.high.value
    assert decode.best.value == pytest.approx(measured, rel=0.1)
    assert decode.best.certainty == "assumed"


@pytest.mark.parametrize("name", ["smollm2-135m", "gemma-3-270m", "gpt2"])
def test_a_tied_table_is_streamed_as_the_head(name: str) -> None:
    model = find_model(name)
    sizes = weigh_format(model, "FP16").bytes_of
    untouched = sum(sizes[weight.name] for weight in model.blueprint if weight.role == "position_embedding")
    assert streamed(model, sizes, 1, "decode").value == sum(sizes.values()) - untouched


@pytest.mark.parametrize(("batch", "distinct"), [(1, 8), (8, 57), (32, 163), (128, 252)])
def test_experts_that_a_batch_reads(batch: int, distinct: int) -> None:
    model = find_model("deepseek-v3")
    sizes = weigh_format(model, "FP16").bytes_of
    experts = sum(sizes[weight.name] for weight in model.blueprint if weight.role.startswith("expert_"))
    rest = streamed(model, sizes, batch, "decode").value - (
        streamed(model, dict.fromkeys(sizes, 0) | {
            weight.name: sizes[weight.name] for weight in model.blueprint if weight.role.startswith("expert_")
        }, batch, "decode").value
    )  # fmt: skip
    found = streamed(model, sizes, batch, "decode")
    assert round((found.value - rest) / experts * 256) == distinct
    assert found.certainty == ("exact" if batch == 1 else "assumed")


@pytest.mark.parametrize(
    "name", ["llama-3.1-8b", "mixtral-8x7b", "gemma-3-1b", "deepseek-v3", "gpt2", "qwen3-30b-a3b"]
)
def test_a_token_is_multiplied_with_the_active_matrices(name: str) -> None:
    model = find_model(name)
    active = weigh_weights(model).active_parameters.value
    vectors = sum(weight.shape[0] for weight in model.blueprint if len(weight.shape) == 1)
    assert sum(products(model, "decode")) == pytest.approx(active - vectors, rel=1e-6)


def test_operations_of_a_token() -> None:
    model = find_model("llama-3.1-8b")
    assert model.facts is not None
    # 4 · layers · heads · head_dim · positions, besides two for each weight.
    matrices = 2 * (8_030_261_248 - 128_256 * 4096 - 65 * 4096)
    assert decode_flop(model, model.facts, 1000).value == matrices + 4 * 32 * 32 * 128 * 1000
    latent = find_model("deepseek-v3")
    assert latent.facts is not None
    further = decode_flop(latent, latent.facts, 2000).value - decode_flop(latent, latent.facts, 1000).value
    assert further == 2 * 61 * 128 * (2 * 512 + 64) * 1000
    windowed = find_model("gemma-3-270m")
    assert windowed.facts is not None
    further = (
        decode_flop(windowed, windowed.facts, 2000).value - decode_flop(windowed, windowed.facts, 1000).value
    )
    assert further == 4 * 3 * 4 * 256 * 1000  # 15 layers see 512


def test_large_batches_are_bound_by_compute() -> None:
    few, many = speed("llama-3.1-8b", requests=8).decode, speed("llama-3.1-8b", requests=2000).decode
    assert few is not None
    assert many is not None
    assert (few.binds, many.binds) == ("memory", "compute")


def test_what_is_multiplied_in() -> None:
    h100, card, pc = find_device("H100"), find_device("RTX 2080 Ti"), find_device("Xeon 8480+ 256GB")
    assert multiplies_in(h100, "Q4_K_M") == "bf16"
    assert multiplies_in(h100, "FP8") == "fp8"
    assert multiplies_in(h100, "INT8") == "int8"
    assert multiplies_in(h100, "FP32") == "fp32"
    assert multiplies_in(card, "BF16") == "fp16"
    assert multiplies_in(pc, "Q4_K_M") == "int8"
    assert multiplies_in(pc, "BF16") == "bf16"
    assert multiplies_in(find_device("M4 Pro"), "BF16") == ""


def test_a_device_of_which_the_peak_is_unknown() -> None:
    account = speed("llama-3.1-8b", "M4 Pro 48GB", "Q4_K_M")
    assert account.peak is None
    assert account.decode is not None
    assert account.decode.binds == "memory (compute is unknown)"
    assert account.decode.best is not None
    assert account.prefill.ceiling is not None
    assert account.prefill.best is None  # nobody knows when the processor becomes the limit


def test_a_device_of_which_nothing_is_known() -> None:
    unknown = replace(find_device("M4 Pro"), bandwidth=None)
    model = find_model("gpt2")
    account = weigh_speed(model, unknown, bytes_of=weigh_format(model, "FP16").bytes_of, context=10)
    assert account.decode is not None
    assert account.decode.ceiling is None
    assert account.decode.binds == "unknown"


def test_encoders_do_not_decode() -> None:
    assert speed("bert-base-uncased", context=512).decode is None
    both = speed("t5-small", context=100)
    assert both.decode is not None
    encoder, decoder = (products(find_model("t5-small"), phase) for phase in ("prefill", "decode"))
    assert encoder[1] == 0  # no head
    assert decoder[1] == 32_128 * 512


def test_measured_shares_take_the_place_of_assumed_ones() -> None:
    model = find_model("smollm2-135m")
    device = Device(
        name="bench", kind="cpu", memory=1 << 34, bandwidth=10**10, flops={"int8": 10**12}, source="a test",
        certainty="measured",
    )  # fmt: skip
    shares = Efficiency(bandwidth=(0.7, 0.8, 0.9), compute=(0.3, 0.5, 0.7), certainty="calibrated")
    sizes = weigh_format(model, "Q4_0").bytes_of
    account = weigh_speed(model, device, bytes_of=sizes, context=1, weight_type="Q4_0", efficiency=shares)
    assert account.decode is not None
    assert account.decode.ceiling is not None
    assert account.decode.best is not None
    assert account.decode.ceiling.certainty == "measured"
    assert account.decode.best.certainty == "calibrated"
    assert account.decode.best.value == pytest.approx(0.8 * account.decode.ceiling.value)


@settings(max_examples=25, deadline=None)
@given(
    name=st.sampled_from(["gpt2", "gemma-3-270m", "mixtral-8x7b"]),
    context=st.integers(1, 30_000),
    more=st.integers(1, 30_000),
    requests=st.integers(1, 500),
)
def test_more_context_is_slower_and_more_requests_are_faster_in_all(
    name: str, context: int, more: int, requests: int
) -> None:
    def ceiling(context: int, requests: int) -> float:
        decode = speed(name, "RTX 4090", "Q8_0", context, requests).decode
        assert decode is not None
        assert decode.low is not None
        assert decode.best is not None
        assert decode.high is not None
        assert decode.ceiling is not None
        assert decode.low.value < decode.best.value < decode.high.value < decode.ceiling.value
        return decode.ceiling.value

    assert ceiling(context + more, requests) <= ceiling(context, requests)
    assert ceiling(context, requests + 1) >= ceiling(context, requests) * 0.999_999
    assert (
        ceiling(context, requests + 1) / (requests + 1) <= ceiling(context, requests) / requests * 1.000_001
    )


def test_bands_are_in_order() -> None:
    for each in EFFICIENCY.values():
        for low, best, high in (each.bandwidth, each.compute):
            assert 0 < low < best < high < 1
        assert each.certainty == "assumed"
        assert each.source


def test_bad_input() -> None:
    model: Model = find_model("gpt2")
    sizes = weigh_format(model, "FP16").bytes_of
    with pytest.raises(UsageError, match="the prompt must have"):
        weigh_speed(model, find_device("H100"), bytes_of=sizes, context=10, prompt=0)
    with pytest.raises(UnsupportedModel):
        weigh_speed(replace(model, facts=None), find_device("H100"), bytes_of=sizes, context=10)


def _measured(bandwidth: int) -> Device:
    """A processor as it would be measured."""
    return Device(
        name="this machine", kind="cpu", memory=16 * 10**9, bandwidth=bandwidth,
        flops={"int8": 800 * 10**9}, source="measured", certainty="measured",
    )  # fmt: skip


def test_boli_on_a_measured_processor_has_a_part_that_memory_does_not_shorten() -> None:
    model = find_model("smollm2-135m")
    sizes = weigh_format(model, "Q4_1").bytes_of
    rates = []
    for device in (_measured(30 * 10**9), _measured(10**15)):
        decode = weigh_speed(model, device, bytes_of=sizes, context=1, weight_type="Q4_1").decode
        assert decode is not None
        assert decode.best is not None
        assert decode.best.certainty == "calibrated"
        rates.append(decode.best.value)
    flop = decode_flop(model, model.facts, 1).value if model.facts else 0
    floor = flop / (800 * 10**9 * BOLI.one_row[1]) if BOLI.one_row else 0
    assert rates[0] < rates[1]
    assert rates[1] == pytest.approx(1 / (floor + 30 * BOLI.layer_seconds[1] + BOLI.step_seconds[1]))
