"""The catalogue of machines, and finding one in it."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from boli.errors import UsageError
from boli.machine import memory_total
from boli.weigh.devices import GIB, Device, devices, find_device, this_device, this_memory


def test_there_are_enough_and_each_has_its_source() -> None:
    found = devices()
    assert len({device.name for device in found}) == len(found)
    kinds = {
        kind: {d.name.rpartition(" ")[0] for d in found if d.kind == kind} for kind in ("gpu", "apple", "cpu")
    }
    assert len(kinds["gpu"]) >= 60
    assert len(kinds["apple"]) >= 15
    assert len(kinds["cpu"]) >= 15
    for device in found:
        assert device.source.strip()
        assert device.certainty == "assumed"


@pytest.mark.parametrize("device", devices(), ids=lambda device: device.name)
def test_figures_are_plausible(device: Device) -> None:
    assert GIB <= device.memory <= 2048 * GIB
    assert device.bandwidth is not None
    assert 10e9 < device.bandwidth < 10e12
    flops = device.flops
    assert set(flops) <= {"fp32", "bf16", "fp16", "fp8", "int8"}
    assert all(0.1e12 < value < 6e15 for value in flops.values())
    # Fewer bits are never slower, and twice as fast at most but for tensor cores.
    for more, fewer in (("bf16", "fp8"), ("bf16", "int8"), ("fp32", "bf16"), ("fp32", "fp16")):
        if more in flops and fewer in flops:
            assert flops[more] <= flops[fewer] * 1.001
    if "bf16" in flops and device.name != "AMD Instinct MI100 32GB":
        assert flops.get("fp16", flops["bf16"]) == flops["bf16"]


def test_figures_that_are_published_as_such() -> None:
    h100, a100 = find_device("H100"), find_device("A100-80")
    assert h100.bandwidth is not None
    assert a100.bandwidth is not None
    assert h100.flops["bf16"] / h100.bandwidth == pytest.approx(295, abs=1)  # operations a byte
    assert a100.flops["bf16"] / a100.bandwidth == pytest.approx(153, abs=1)
    # NVIDIA's whitepapers: Ampere GA102, Ada, RTX Blackwell; dense, added in float32.
    for name, sixteen, int8 in (
        ("RTX 3080", 59.5, 238),
        ("RTX 4090", 165.2, 660.6),
        ("RTX 5090", 209.5, 838),
    ):
        flops = find_device(name).flops
        assert flops["fp16"] / 1e12 == pytest.approx(sixteen, rel=0.003)
        assert flops["int8"] / 1e12 == pytest.approx(int8, rel=0.003)


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("RTX 3060 12GB", "GeForce RTX 3060 12GB"),
        ("rtx3060 12 gb", "GeForce RTX 3060 12GB"),
        ("RTX 3060 8GB", "GeForce RTX 3060 8GB"),
        ("NVIDIA GeForce RTX 3060 Ti", "GeForce RTX 3060 Ti 8GB"),
        ("4090", "GeForce RTX 4090 24GB"),
        ("RTX 4080 SUPER", "GeForce RTX 4080 Super 16GB"),
        ("3080 12GB", "GeForce RTX 3080 12GB"),
        ("h100 94GB", "NVIDIA H100 NVL 94GB"),
        ("A100-80", "NVIDIA A100 SXM 80GB"),
        ("A100 40GB", "NVIDIA A100 40GB"),
        ("m2 max 64gb", "Apple M2 Max 64GB"),
        ("M2 Max 64", "Apple M2 Max 64GB"),
        ("M3 Max 36GB", "Apple M3 Max (30-core GPU) 36GB"),
        ("7900xtx", "Radeon RX 7900 XTX 24GB"),
        ("i9-14900K 64GB", "Core i9-14900K 64GB"),
        ("Ryzen 7950X 48GB", "Ryzen 9 7950X 48GB"),  # people choose such a machine's memory themselves
        ("DDR4-3200 32GB", "PC with DDR4-3200 32GB"),
    ],
)
def test_names_as_people_write_them(text: str, name: str) -> None:
    assert find_device(text).name == name


def test_two_cards_of_one_name_are_two_cards() -> None:
    twelve, eight = find_device("RTX 3060 12GB"), find_device("RTX 3060 8GB")
    assert (twelve.memory, eight.memory) == (12 * GIB, 8 * GIB)
    assert twelve.bandwidth != eight.bandwidth
    assert "GeForce RTX 3060 8GB" in find_device("RTX 3060").note
    assert not twelve.note


@pytest.mark.parametrize("device", devices(), ids=lambda device: device.name)
def test_each_is_found_by_its_own_name(device: Device) -> None:
    assert find_device(device.name).name == device.name


def test_a_device_that_does_not_exist_names_the_nearest() -> None:
    with pytest.raises(UsageError, match="RTX 5090") as caught:
        find_device("RTX 9090")
    assert "'this'" in caught.value.remedy
    with pytest.raises(UsageError, match="RTX 3060 8GB") as caught:
        find_device("RTX 3060 10GB")
    assert "memory" in caught.value.cause
    for text in ("", "   ", "16GB", "\N{SNOWMAN}", "RTX", "Apple", "GPU"):
        with pytest.raises(UsageError, match="no device"):
            find_device(text)


@given(st.text(max_size=300))
def test_any_text_is_a_device_or_a_clear_error(text: str) -> None:
    if text.strip().lower() == "this":
        return
    try:
        found = find_device(text)
    except UsageError as error:
        assert len(str(error)) < 1000
    else:
        assert found.memory > 0


def test_this_machine() -> None:
    memory = this_memory()
    assert (memory.memory, memory.bandwidth, memory.flops) == (memory_total(), None, {})
    device = this_device(threads=1)
    assert device.certainty == "measured"
    assert device.memory == memory_total()
    assert device.bandwidth is not None
    assert device.bandwidth > 10**8
    assert set(device.flops) == {"fp32", "bf16", "int8"}
    assert "1 threads" in device.name
