"""An account as one JSON document: every number by its name, and in `formulas` where it comes from."""

from __future__ import annotations

from collections.abc import Iterator

from boli.weigh.account import Account
from boli.weigh.amount import Amount
from boli.weigh.fits import FitsAccount
from boli.weigh.speed import SpeedAccount
from boli.weigh.training import Training
from boli.weigh.weights import WeightRow


def document(account: Account) -> dict[str, object]:
    """The document. Bytes, parameters, operations and seconds are plain numbers; null is unknown."""
    amounts = dict(amounts_of(account))

    def part(prefix: str) -> dict[str, object]:
        return {
            name.removeprefix(prefix): each.value for name, each in amounts.items() if name.startswith(prefix)
        }

    kv, training, speed, fits = account.kv, account.training, account.speed, account.fits
    return {
        "model": account.model.name,
        "engine": account.engine,
        "parameters": account.weights.parameters.value,
        "active_parameters": account.weights.active_parameters.value,
        "weights": [_weight(row) for row in account.weights.model_rows],
        "prediction_weights": [_weight(row) for row in account.weights.rows if row.prediction],
        "formats": part("formats."),
        "kv_cache": kv and {
            "engine": kv.engine, "type": kv.dtype, "context": kv.context, "requests": kv.requests,
            **part("kv_cache."),
        },
        "run": fits and part("run."),
        "speed": speed and {
            "device": speed.device, "decode_bound_by": speed.decode and speed.decode.binds,
            "prompt_bound_by": speed.prefill.binds, **part("speed."),
        },
        "training": {
            "recipe": training.recipe.name, "zero": training.zero, "devices": training.devices,
            **part("training."),
        },
        "fits": fits and fits.fits,
        "what_fits": fits and {
            "device": fits.device.name, "format": fits.format, "best_format": fits.best_format,
            **part("fits."),
            "board": [
                {"context": c.context, "requests": c.requests, "bytes": c.bytes, "fits": c.fits}
                for row in fits.board for c in row
            ],
        },
        "formulas": {name: each.to_json() for name, each in amounts.items()},
        "not_modelled": list(account.not_modelled),
        "notes": list(account.model.notes),
    }  # fmt: skip


def _weight(row: WeightRow) -> dict[str, object]:
    return {
        "name": row.name, "role": row.role, "layer": row.layer, "shape": list(row.shape),
        "parameters": row.parameters, "type": row.type, "bytes": row.bytes, "tied_to": row.tied_to,
    }  # fmt: skip


def amounts_of(account: Account) -> Iterator[tuple[str, Amount]]:
    """Every amount of an account by its path, such as `kv_cache.bytes`."""
    weights, kv = account.weights, account.kv
    yield "parameters", weights.parameters
    yield "parameters_without_embeddings", weights.parameters_without_embeddings
    yield "active_parameters", weights.active_parameters
    yield "active_parameters_with_embedding", weights.active_parameters_with_embedding
    yield "stored_parameters", weights.stored_parameters
    yield "weight_bytes", weights.bytes
    for name, each in account.formats.items():
        yield f"formats.{name}", each.bytes
    if kv is not None:
        yield "kv_cache.bytes_per_token", kv.bytes_per_token
        yield "kv_cache.bytes_per_further_token", kv.bytes_per_further_token
        yield "kv_cache.bytes", kv.bytes
        yield "kv_cache.fixed_bytes", kv.fixed_bytes
    if account.fits is not None:
        categories = account.run.categories if account.run else account.fits.parts
        for name, part in categories.items():
            yield f"run.{name}", part
        yield "run.total", account.run.total if account.run else account.fits.total
        yield from _fits(account.fits)
    if account.speed is not None:
        yield from _speed(account.speed)
    yield from _training(account.training)


def _fits(fits: FitsAccount) -> Iterator[tuple[str, Amount]]:
    yield "fits.capacity", fits.capacity
    yield "fits.total", fits.total
    yield "fits.free", fits.free
    if fits.largest_context is not None:
        yield "fits.largest_context", fits.largest_context
    if fits.largest_requests is not None:
        yield "fits.largest_requests", fits.largest_requests
    for name, each in fits.formats.items():
        yield f"fits.total_{name}", each


def _speed(speed: SpeedAccount) -> Iterator[tuple[str, Amount]]:
    rates = {"bandwidth": speed.bandwidth, "peak": speed.peak, "ridge": speed.ridge}
    for name, rate in rates.items():
        if rate is not None:
            yield f"speed.{name}", rate
    for which, phase in (("decode", speed.decode), ("prompt", speed.prefill)):
        if phase is not None:
            yield f"speed.{which}_bytes", phase.bytes
            yield f"speed.{which}_flop", phase.flop
            several = {"low": phase.low, "best": phase.best, "high": phase.high, "ceiling": phase.ceiling}
            for name, rate in several.items():
                if rate is not None:
                    yield f"speed.{which}_{name}", rate


def _training(training: Training) -> Iterator[tuple[str, Amount]]:
    held, adapters = training.states, training.adapters
    yield "training.weights", held.weights
    yield "training.gradients", held.gradients
    yield "training.master_weights", held.master
    yield "training.adam", held.moments
    yield "training.states", held.bytes
    if training.activations is not None and training.loss is not None:
        yield "training.activations", training.activations.bytes
        yield "training.loss", training.loss
    if training.peak is not None:
        yield "training.peak_with_gradients_freed", training.peak
    yield "training.total", training.total
    for recipe, each in training.by_recipe.items():
        yield f"training.states_{recipe}", each
    for stage, each in training.by_stage.items():
        yield f"training.states_zero_{stage}", each
    for way, each in training.by_recompute.items():
        yield f"training.activations_recomputed_{way}", each
    yield "training.lora_parameters", adapters.parameters
    yield "training.lora", training.lora
    yield "training.qlora", training.qlora
    if training.flops is not None:
        yield "training.forward_flop_per_token", training.flops.forward
        yield "training.flop_per_token", training.flops.training
        for name, each in training.flops.conventions.items():
            yield f"training.flop_per_token_{name}", each
    yield "training.tokens", training.tokens
    yield "training.flop_6nd", training.training_flops
