"""All accounts of one model, for one question: how long, how many, on what, in which number format."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

from boli.errors import UnsupportedModel, UsageError
from boli.weigh.amount import Amount
from boli.weigh.devices import Device, find_device
from boli.weigh.fits import FitsAccount, default_engine, weigh_fits
from boli.weigh.formats import ALL_FORMATS, FormatBytes, weigh_format, weigh_formats
from boli.weigh.kv import KvAccount, weigh_kv
from boli.weigh.kv_rules import ENGINES, Engine
from boli.weigh.model import Model, find_model
from boli.weigh.run import RunAccount, weigh_run
from boli.weigh.speed import SpeedAccount, weigh_speed
from boli.weigh.training import Training, training
from boli.weigh.weights import WeightsAccount, weigh_weights

#: Positions that are weighed where nobody says how many, as the engine's own default.
DEFAULT_CONTEXT = 8192


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """What is asked; see `boli.weigh.weigh`."""

    model: str
    context: int | None = None
    requests: int = 1
    device: str | None = None
    weights: str | None = None
    kv_dtype: str | None = None
    engine: str | None = None
    threads: int | None = None
    training: Mapping[str, object] = field(default_factory=dict)
    shapes: Mapping[str, object] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Account:
    """Everything that can be said of a model before it is downloaded.

    Attributes:
        question: What was asked.
        model: The model.
        context: Positions of each request.
        engine: Whose rules the cache, the run and what fits go by.
        weights: Every matrix, in the number format that was asked for.
        format: That format, or None for as the weights are stored.
        kv: The KV cache; None where the layers are not known, as is all that depends on it.
        kv_elsewhere: What other engines' rules say.
        run: What boli's own engine takes, if it is the one that is asked about.
        fits: All of it on the device.
        speed: The roofline; None if no device was named.
        training: What training takes.
        device: The machine that was named, or this one, whose speed is not known then.
    """

    question: Question
    model: Model
    context: int
    engine: Engine
    weights: WeightsAccount
    format: FormatBytes | None
    kv: KvAccount | None
    kv_elsewhere: Mapping[str, KvAccount]
    run: RunAccount | None
    fits: FitsAccount | None
    speed: SpeedAccount | None
    training: Training
    device: Device

    @cached_property
    def formats(self) -> Mapping[str, FormatBytes]:
        """Bytes in every number format."""
        return weigh_formats(self.model)

    @cached_property
    def not_modelled(self) -> tuple[str, ...]:
        """What is missing from the numbers, of all parts."""
        parts = (self.weights, self.kv, self.run, self.fits, self.speed, self.training.flops, self.training)
        return tuple(dict.fromkeys(line for part in parts if part is not None for line in part.not_modelled))

    def to_json(self) -> dict[str, object]:
        """The account as a document."""
        from boli.weigh.document import document  # noqa: PLC0415

        return document(self)


def answer(question: Question) -> Account:
    """Weighs a model.

    Raises:
        ModelNotFound: Nothing answers to the name.
        UsageError: A value makes no sense.
        UnsupportedModel: The architecture is unknown.
        CorruptFile: A file or a configuration is damaged, or contradicts itself.
    """
    device = find_device(question.device) if question.device else _this_memory()
    model = find_model(question.model, **question.shapes)
    stored = weigh_weights(model)
    chosen = None if question.weights is None else weigh_format(model, format_named(question.weights))
    weights = stored if chosen is None else _in_format(stored, chosen)
    context = _usual_context(model) if question.context is None else question.context
    engine, run = _engine(model, device, chosen, question, context)
    kv = fits = speed = None
    elsewhere: dict[str, KvAccount] = {}
    if model.facts is not None:
        dtype = question.kv_dtype
        kv = weigh_kv(model, context=context, requests=question.requests, dtype=dtype, engine=engine)
        runs_here = not model.not_runnable and device.kind in ("cpu", "apple")
        others = [other for other in ENGINES if other != engine and (other != "boli" or runs_here)]
        elsewhere = _elsewhere(model, question, context, others)
        fits = weigh_fits(
            model, device, context=context, requests=question.requests, weights=chosen or weights.bytes,
            engine=engine, kv_dtype=dtype, threads=question.threads,
        )  # fmt: skip
        if question.device:
            numbers = chosen.name if chosen else next(iter(weights.by_type), model.dtype)
            in_memory = run.packed if run else {row.name: row.bytes for row in weights.model_rows}
            speed = weigh_speed(
                model, device, bytes_of=in_memory, context=context, requests=question.requests,
                kv_dtype=dtype, weight_type=numbers,
            )  # fmt: skip
    options: dict[str, Any] = {"sequence_length": context, **question.training}
    return Account(
        question=question,
        model=model,
        context=context,
        engine=engine,
        weights=weights,
        format=chosen,
        kv=kv,
        kv_elsewhere=elsewhere,
        run=run,
        fits=fits,
        speed=speed,
        training=training(model, stored, **options),
        device=device,
    )


def _this_memory() -> Device:
    """This machine, of which only the memory is asked: nothing is measured."""
    from boli.machine import memory_total  # noqa: PLC0415

    return Device(
        name="this machine", kind="cpu", memory=memory_total(), bandwidth=None, flops={},
        source="the system", certainty="measured", note="--device this measures its speed, too",
    )  # fmt: skip


def _usual_context(model: Model) -> int:
    most = model.facts.max_position_embeddings if model.facts else 0
    return min(most, DEFAULT_CONTEXT) if most > 0 else DEFAULT_CONTEXT


def format_named(name: str) -> str:
    """A number format by its name, however it is written; INT4 alone means groups of 128.

    Raises:
        UsageError: There is none.
    """
    spelled = {each.upper().replace("-", "_"): each for each in ALL_FORMATS}
    spelled["INT4"] = "INT4-g128"
    found = spelled.get(name.strip().upper().replace("-", "_"))
    if found is None:
        raise UsageError(
            f"there is no number format {name!r}", remedy=f"choose from {', '.join(ALL_FORMATS)}"
        )
    return found


def _in_format(weights: WeightsAccount, chosen: FormatBytes) -> WeightsAccount:
    """The same weights with the types and bytes of a format; modules for prediction stay as they are."""
    types: dict[str, list[str]] = {}
    for tensor in chosen.tensors:
        kinds = types.setdefault(tensor.weight, [])
        if tensor.type not in kinds:
            kinds.append(tensor.type)
    rows = []
    for row in weights.rows:
        kinds = types.get(row.tied_to or row.name, [row.type])
        size = 0 if row.tied_to else chosen.bytes_of.get(row.name, row.bytes)
        rows.append(row if row.prediction else replace(row, type="+".join(kinds), bytes=size))
    return WeightsAccount(tuple(rows), weights.not_modelled)


def _engine(
    model: Model, device: Device, chosen: FormatBytes | None, question: Question, context: int
) -> tuple[Engine, RunAccount | None]:
    """Whose rules to go by, and what boli's own engine takes if it is boli's."""
    asked = question.engine
    if asked is not None and asked not in ENGINES:
        raise UsageError(f"there is no engine {asked!r}", remedy=f"choose from {', '.join(ENGINES)}")
    engine = asked or ("model" if question.kv_dtype else default_engine(model, device, chosen))
    if engine != "boli" or model.facts is None:
        return engine, None
    try:
        types = None if chosen is None else chosen.types
        run = weigh_run(
            model, context=context, requests=question.requests, threads=question.threads, types=types
        )
    except UnsupportedModel:
        if asked is not None:
            raise
        return "model", None  # boli does not compute with this format
    return engine, run


def _elsewhere(
    model: Model, question: Question, context: int, engines: Sequence[Engine]
) -> dict[str, KvAccount]:
    """The cache by the rules of those others who can hold it."""
    found: dict[str, KvAccount] = {}
    for other in engines:
        try:
            found[other] = weigh_kv(
                model, context=context, requests=question.requests, dtype=question.kv_dtype, engine=other
            )
        except UsageError:  # it has no cache of this type
            continue
    return found


def summary(account: Account) -> dict[str, Amount]:
    """The amounts that two accounts are compared by, in the order of the sections."""
    weights, learning, fits = account.weights, account.training, account.fits
    found: dict[str, Amount | None] = {
        "parameters": weights.parameters,
        "active in a token": weights.active_parameters,
        "weights": weights.bytes,
    }
    if account.kv is not None:
        found |= {"KV cache": account.kv.bytes, "  a token": account.kv.bytes_per_token}
    if fits is not None:
        found |= {"all of it": fits.total, "  free": fits.free, "largest context": fits.largest_context}
        found["most requests"] = fits.largest_requests
    if account.speed is not None:
        found["prompt"] = account.speed.prefill.best
        if account.speed.decode is not None:
            found["decode"] = account.speed.decode.best
    found |= {"training": learning.total, "LoRA": learning.lora, "QLoRA": learning.qlora}
    if learning.flops is not None:
        found["forward, a token"] = learning.flops.forward
    return {name: value for name, value in found.items() if value is not None}
