"""How fast a model can be on a machine: the roofline of one decode step and of one prompt.

A step cannot be faster than its bytes through the memory, nor than its operations through the
processor (Williams et al. 2009, https://doi.org/10.1145/1498765.1498785). What a step reads and
computes is in `boli.weigh.work`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from boli.errors import UsageError
from boli.weigh.amount import CERTAINTIES, Amount, amount, total, weakest
from boli.weigh.devices import Device
from boli.weigh.efficiency import BOLI, EFFICIENCY, Efficiency
from boli.weigh.kv import weigh_kv
from boli.weigh.model import Model
from boli.weigh.work import decode_flop, prefill_flop, streamed

Limit = Literal["memory", "compute", "memory (compute is unknown)", "unknown"]


@dataclass(frozen=True, slots=True, kw_only=True)
class PhaseSpeed:
    """One phase on the roofline.

    Attributes:
        bytes: Read from memory in one step.
        flop: Operations of one step.
        binds: Which limit it meets first, both taken whole.
        seconds: A step at the limits.
        ceiling: Tokens a second that no engine can pass.
        low: With the low shares of both limits; None where the limit that counts is not known.
        best: With the likely ones.
        high: With the high ones.
    """

    bytes: Amount
    flop: Amount
    binds: Limit
    seconds: Amount | None
    ceiling: Amount | None
    low: Amount | None
    best: Amount | None
    high: Amount | None


@dataclass(frozen=True, slots=True, kw_only=True)
class SpeedAccount:
    """Speed of a model on a device.

    Attributes:
        device: Which.
        compute: The type of numbers that it multiplies in, such as "bf16"; "" if no peak is known.
        peak: Operations a second in that type, or None.
        bandwidth: Bytes a second, or None.
        ridge: Operations a byte at which both limits meet, or None.
        context: Positions that decoding looks back on.
        requests: Answered at once.
        prompt: Tokens of each prompt.
        decode: One token for each request; None for an encoder.
        prefill: All prompts.
        flop_per_token: Operations of one decoded token.
        efficiency: The shares that low, best and high assume.
        not_modelled: What is left out.
    """

    device: str
    compute: str
    peak: Amount | None
    bandwidth: Amount | None
    ridge: Amount | None
    context: int
    requests: int
    prompt: int
    decode: PhaseSpeed | None
    prefill: PhaseSpeed
    flop_per_token: Amount
    efficiency: Efficiency
    not_modelled: tuple[str, ...] = (
        "time that does not grow with the model: starting kernels, sampling, text",
        "activations written to memory and read back; kernels that unpack a number format more slowly",
    )


def weigh_speed(
    model: Model,
    device: Device,
    *,
    bytes_of: Mapping[str, int],
    context: int,
    requests: int = 1,
    prompt: int = 512,
    kv_dtype: str | None = None,
    weight_type: str = "",
    efficiency: Efficiency | None = None,
) -> SpeedAccount:
    """The roofline of a model on a device.

    Args:
        model: The model; its facts must be known.
        device: The machine.
        bytes_of: Bytes of each weight by its blueprint's name, such as `FormatBytes.bytes_of`.
        context: Positions that a decoded token looks back on.
        requests: Answered at once.
        prompt: Tokens of each prompt.
        kv_dtype: What the KV cache holds; the model's 16-bit type if left out.
        weight_type: The weights' format, such as "Q4_K_M": it tells what to multiply in.
        efficiency: Shares of the limits; if left out `BOLI` for a processor that was measured, as boli
            will run on it, and those of `EFFICIENCY` for all others.

    Raises:
        UsageError: A size is out of range, or there is no such cache.
        UnsupportedModel: The layers are not known.
    """
    kv = weigh_kv(model, context=context, requests=requests, dtype=kv_dtype)
    if not 1 <= prompt <= 10**9:
        raise UsageError(f"the prompt must have 1 to 1,000,000,000 tokens, not {prompt!r}")
    facts = model.facts
    assert facts is not None, "weigh_kv refuses a model without them"
    own = device.kind == "cpu" and device.certainty == "measured"
    bands = efficiency or (BOLI if own else EFFICIENCY[device.kind])
    compute = multiplies_in(device, weight_type)
    limits = _Limits(
        bandwidth=_rate(device, "bytes/s", device.bandwidth, "bandwidth"),
        peak=_rate(device, "FLOP/s", device.flops.get(compute), compute),
        bands=bands,
    )
    flop = decode_flop(model, facts, context)
    decode = None
    if facts.layout != "encoder":
        weights = streamed(model, bytes_of, requests, "decode")
        read = total({"weights": weights, "kv_cache": kv.bytes})
        every = amount("FLOP", "requests · flop_per_token", requests=requests, flop_per_token=flop.value)
        decode = _phase(read, every, requests, limits, guess=True, layers=len(facts.layers))
    tokens = requests * prompt
    return SpeedAccount(
        device=device.name,
        compute=compute if limits.peak else "",
        peak=limits.peak,
        bandwidth=limits.bandwidth,
        ridge=limits.ridge,
        context=context,
        requests=requests,
        prompt=prompt,
        decode=decode,
        prefill=_phase(
            streamed(model, bytes_of, tokens, "prefill"),
            prefill_flop(model, facts, requests, prompt),
            tokens,
            limits,
            guess=limits.peak is not None,  # else nobody knows when the processor becomes the limit
        ),
        flop_per_token=flop,
        efficiency=bands,
    )


def multiplies_in(device: Device, weight_type: str) -> str:
    """The type that an engine multiplies in: what the weights allow and the device has.

    On GPUs, weights of few bits are unpacked to 16 bits first; on CPUs, blocks of integers are
    multiplied as such.
    """
    sixteen = ("bf16", "fp16", "fp32")
    if weight_type.startswith(("FP8", "F8")):
        wanted: tuple[str, ...] = ("fp8", *sixteen)
    elif weight_type == "INT8":
        wanted = ("int8", *sixteen)
    elif weight_type in ("FP32", "F32"):
        wanted = ("fp32",)
    elif device.kind == "cpu":
        wanted = ("bf16", "fp32") if weight_type in ("BF16", "FP16", "F16", "") else ("int8", "fp32")
    else:
        wanted = sixteen
    return next((each for each in wanted if each in device.flops), "")


@dataclass(frozen=True, slots=True, kw_only=True)
class _Limits:
    bandwidth: Amount | None
    peak: Amount | None
    bands: Efficiency

    @property
    def ridge(self) -> Amount | None:
        if self.bandwidth is None or self.peak is None:
            return None
        return amount(
            "FLOP/byte", "peak / bandwidth", certainty=weakest(self.bandwidth, self.peak),
            peak=self.peak.value, bandwidth=self.bandwidth.value,
        )  # fmt: skip


def _rate(device: Device, unit: str, value: int | None, name: str) -> Amount | None:
    if value is None:
        return None
    inputs: dict[str, Any] = {name: value}
    return amount(unit, name, certainty=device.certainty, note=f"{device.name}: {device.source}", **inputs)


def _phase(
    read: Amount, flop: Amount, tokens: int, limits: _Limits, *, guess: bool, layers: int = 0
) -> PhaseSpeed:
    """One phase; `layers` are those of a decode step, which has one row for each token."""
    slow, fast = limits.bandwidth, limits.peak
    binds: Limit = "unknown"
    if slow is not None and fast is not None:
        binds = "memory" if read.value / slow.value >= flop.value / fast.value else "compute"
    elif slow is not None:
        binds = "memory (compute is unknown)"
    seconds = _seconds(read, flop, limits, None)
    low, best, high = (
        _speed(tokens, _seconds(read, flop, limits, band, rows=tokens, layers=layers)) for band in range(3)
    )
    return PhaseSpeed(
        bytes=read, flop=flop, binds=binds, seconds=seconds, ceiling=_speed(tokens, seconds),
        low=low if guess else None, best=best if guess else None, high=high if guess else None,
    )  # fmt: skip


def _seconds(
    read: Amount, flop: Amount, limits: _Limits, band: int | None, *, rows: int = 0, layers: int = 0
) -> Amount | None:
    """A step with a share of the limits, or with all of them."""
    bands, decoding = limits.bands, layers > 0
    compute = bands.compute
    if decoding and bands.one_row is not None:
        grown = 3 * rows / (rows + 2)
        compute = (bands.one_row[0] * grown, bands.one_row[1] * grown, bands.one_row[2] * grown)
    inputs: dict[str, Any] = {}
    times, known = [], [read, flop]
    for over, work, under, rate, shares in (
        ("bytes", read, "bandwidth", limits.bandwidth, bands.bandwidth),
        ("flop", flop, "peak", limits.peak, compute),
    ):
        if rate is None:
            continue
        known.append(rate)
        inputs |= {over: work.value, under: rate.value}
        if band is None:
            times.append(f"{over} / {under}")
        else:
            inputs[f"share_of_{under}"] = shares[band]
            times.append(f"{over} / ({under} · share_of_{under})")
    if not times:
        return None
    certainty = weakest(*known)
    if band is not None:
        certainty = max(certainty, bands.certainty, key=CERTAINTIES.index)
    formula = times[0] if len(times) == 1 else f"max({', '.join(times)})"
    if band is not None and decoding and bands.layer_seconds[band] + bands.step_seconds[band] > 0:
        formula += " + layers · layer_seconds + step_seconds"
        inputs |= {
            "layers": layers,
            "layer_seconds": bands.layer_seconds[band],
            "step_seconds": bands.step_seconds[band],
        }
    return amount("s", formula, certainty=certainty, **inputs)


def _speed(tokens: int, seconds: Amount | None) -> Amount | None:
    if seconds is None or not seconds.value:
        return None
    return amount(
        "tokens/s", "tokens / seconds", certainty=seconds.certainty, note=f"seconds: {seconds.explain()}",
        tokens=tokens, seconds=seconds.value,
    )  # fmt: skip
