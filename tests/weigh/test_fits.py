"""What fits on a device."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from boli.errors import UnsupportedModel, UsageError
from boli.weigh.devices import GIB, Device, Kind, find_device
from boli.weigh.fits import LADDER, FitsAccount, weigh_fits
from boli.weigh.formats import weigh_format
from boli.weigh.model import find_model
from boli.weigh.run import weigh_run


def card(gigabytes: float, kind: Kind = "gpu") -> Device:
    return replace(find_device("RTX 3060 12GB"), memory=int(gigabytes * GIB), kind=kind)


def fits(
    name: str, device: Device, form: str = "Q4_K_M", context: int = 4096, requests: int = 1
) -> FitsAccount:
    model = find_model(name)
    return weigh_fits(
        model, device, context=context, requests=requests, weights=weigh_format(model, form), threads=4
    )


def test_13b_in_four_bits_on_12_gb() -> None:
    account = fits("llama-2-13b", find_device("RTX 3060 12GB"))
    assert account.fits
    assert account.total.value == sum(part.value for part in account.parts.values())
    assert account.free.value == account.capacity.value - account.total.value > 0
    assert not fits("llama-2-13b", find_device("RTX 3060 12GB"), "FP16").fits
    assert account.best_format in ("Q4_K_M", "Q5_K_M")
    assert account.total.certainty == "assumed"  # the driver's share is


def test_the_largest_context_and_number_of_requests_are_just_the_largest() -> None:
    device = find_device("RTX 3060 12GB")
    account = fits("llama-3.1-8b", device, context=8192)
    assert account.largest_context is not None
    assert account.largest_requests is not None
    longest, most = int(account.largest_context.value), int(account.largest_requests.value)
    assert 8192 < longest < 131_072
    assert fits("llama-3.1-8b", device, context=longest).fits
    assert not fits("llama-3.1-8b", device, context=longest + 1).fits
    assert fits("llama-3.1-8b", device, context=8192, requests=most).fits
    assert not fits("llama-3.1-8b", device, context=8192, requests=most + 1).fits


def test_a_model_that_does_not_fit_at_all() -> None:
    account = fits("llama-3.1-405b", find_device("RTX 3060 12GB"))
    assert not account.fits
    assert (account.largest_context, account.largest_requests, account.best_format) == (None, None, None)
    assert account.free.value < 0
    assert not any(cell.fits for row in account.board for cell in row)


def test_the_context_ends_where_the_model_does() -> None:
    account = fits("gpt2", find_device("H100"), context=512)
    assert account.largest_context is not None
    assert account.largest_context.value == 1024
    assert account.best_format == "FP16"


def test_the_board_grows_in_both_directions() -> None:
    account = fits("llama-3.1-8b", find_device("RTX 4090"), context=8192)
    assert [cell.context for cell in account.board[0]] == [1024 << step for step in range(8)]
    assert [row[0].requests for row in account.board] == [1, 2, 4, 8, 16, 32, 64]
    for row in account.board:
        assert [cell.bytes for cell in row] == sorted(cell.bytes for cell in row)
        assert all(cell.fits == (cell.bytes <= account.capacity.value) for cell in row)
    for column in zip(*account.board, strict=True):
        assert [cell.bytes for cell in column] == sorted(cell.bytes for cell in column)
    same = next(cell for cell in account.board[0] if cell.context == 8192)
    assert same.bytes == account.total.value


def test_the_ladder_goes_down() -> None:
    account = fits("qwen2.5-7b", card(8))
    assert tuple(account.formats) == LADDER
    sizes = [each.value for each in account.formats.values()]
    assert sizes == sorted(sizes, reverse=True)
    assert account.best_format is not None
    assert account.formats[account.best_format].value <= account.capacity.value


def test_boli_on_a_processor_takes_what_its_run_account_says() -> None:
    model = find_model("smollm2-135m")
    form = weigh_format(model, "Q8_0")
    account = fits("smollm2-135m", find_device("Ryzen 9 7950X 32GB"), "Q8_0", context=2048)
    run = weigh_run(model, context=2048, threads=4, types=form.types)
    assert account.engine == "boli"
    assert account.total.value == run.total.value + run.logits_row.value
    assert account.parts["weights"].value == run.weights.value


def test_a_cache_of_eight_bits_leaves_more_room() -> None:
    model = find_model("llama-3.1-8b")
    weights = weigh_format(model, "Q4_K_M")
    for device in (find_device("RTX 3060 12GB"), find_device("Ryzen 9 7950X 32GB")):
        two, one = (
            weigh_fits(model, device, context=8192, weights=weights, kv_dtype=dtype, threads=4)
            for dtype in ("bf16", "int8")
        )
        assert one.parts["kv_cache"].value < 0.6 * two.parts["kv_cache"].value
        assert one.largest_requests is not None
        assert two.largest_requests is not None
        assert one.largest_requests.value > two.largest_requests.value


def test_what_boli_does_not_run_goes_by_the_models_needs() -> None:
    account = fits("mixtral-8x7b", find_device("Ryzen 9 7950X 64GB"))
    assert account.engine == "model"
    assert account.parts["kv_cache"].value == 4096 * 131_072
    with pytest.raises(UnsupportedModel):
        weigh_fits(
            find_model("mixtral-8x7b"), card(24), context=10, engine="boli",
            weights=weigh_format(find_model("mixtral-8x7b"), "Q4_0"),
        )  # fmt: skip


def test_a_mac_lends_three_quarters_of_its_memory_to_its_graphics() -> None:
    mac = find_device("M2 Max 64GB")
    model = find_model("llama-3.1-8b")
    weights = weigh_format(model, "Q4_K_M")
    metal = weigh_fits(model, mac, context=4096, weights=weights, engine="llama.cpp")
    assert metal.capacity.value == 48 * GIB
    assert metal.capacity.certainty == "assumed"
    assert weigh_fits(model, mac, context=4096, weights=weights, threads=4).capacity.value == 64 * GIB


@settings(max_examples=20, deadline=None)
@given(gigabytes=st.floats(0.3, 20), more=st.floats(0.1, 10), kind=st.sampled_from(["gpu", "cpu"]))
def test_more_memory_never_holds_less(gigabytes: float, more: float, kind: Kind) -> None:
    small, large = (fits("smollm2-360m", card(size, kind)) for size in (gigabytes, gigabytes + more))

    def size(of: FitsAccount) -> tuple[float, float]:
        return (
            of.largest_context.value if of.largest_context else 0,
            of.largest_requests.value if of.largest_requests else 0,
        )

    assert size(small)[0] <= size(large)[0]
    assert size(small)[1] <= size(large)[1]
    assert large.fits or not small.fits


@pytest.mark.parametrize("machine", ["RTX 3060 12GB", "Ryzen 9 7950X"])
def test_it_is_weighed_without_numpy(machine: str) -> None:
    code = f"""
import sys
from boli.weigh.devices import find_device
from boli.weigh.fits import weigh_fits
from boli.weigh.formats import weigh_formats
from boli.weigh.model import find_model
from boli.weigh.speed import weigh_speed
model, device = find_model("llama-3.1-8b"), find_device({machine!r})
small = weigh_formats(model)["Q4_K_M"]
weigh_fits(model, device, context=8192, weights=small)
weigh_speed(model, device, bytes_of=small.bytes_of, context=8192)
sys.exit(bool({{"numpy", "torch", "numba"}} & sys.modules.keys()))
"""
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_bad_input() -> None:
    with pytest.raises(UsageError, match="the context"):
        fits("gpt2", card(12), context=10**12)
    with pytest.raises(UsageError, match="the number of requests"):
        fits("gpt2", card(12), requests=0)
