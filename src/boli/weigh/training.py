"""What training a model takes: states, activations, loss; LoRA and QLoRA; operations."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from math import prod
from typing import get_args

from boli.blueprint.weights import Weight
from boli.errors import UsageError
from boli.weigh.activations import Activations, Attention, Norms, Pass, Recompute, activations
from boli.weigh.adapters import Adapters, adapters
from boli.weigh.amount import Amount, amount, total
from boli.weigh.flops import Flops, flops
from boli.weigh.model import Model
from boli.weigh.states import RECIPES, Recipe, States, states
from boli.weigh.weights import WeightsAccount

LARGEST = 10**9  # devices, sequences and positions: more than anybody has


@dataclass(frozen=True, slots=True, kw_only=True)
class Training:
    """What training takes on one device.

    Attributes:
        recipe: The number formats.
        zero: The ZeRO stage.
        devices: That share the states from stage 1 on.
        run: The forward pass; None, as all that depends on it, where only tensors are known.
        states: What stays from step to step.
        by_recipe: States with every recipe, on one device.
        by_stage: States with every ZeRO stage, on these devices.
        activations: What the forward pass keeps.
        by_recompute: The same for every kind of recomputation.
        loss: Logarithms of probabilities, and two gradients of the logits.
        total: States, activations and loss, gradients kept between micro-batches.
        peak: The most there is at a time if gradients are freed after each step.
        adapters: LoRA and QLoRA.
        lora_activations: What the forward pass keeps for the adapters.
        lora: Their total.
        qlora: Their total with frozen weights in NF4.
        flops: Operations of one token.
        tokens: To train on.
        training_flops: By the convention 6·N·D.
        not_modelled: What is missing.
    """

    recipe: Recipe
    zero: int
    devices: int
    run: Pass | None
    states: States
    by_recipe: Mapping[str, Amount]
    by_stage: Mapping[int, Amount]
    activations: Activations | None
    by_recompute: Mapping[str, Amount]
    loss: Amount | None
    total: Amount
    peak: Amount | None
    adapters: Adapters
    lora_activations: Activations | None
    lora: Amount
    qlora: Amount
    flops: Flops | None
    tokens: Amount
    training_flops: Amount
    not_modelled: tuple[str, ...]


def training(
    model: Model,
    weights: WeightsAccount,
    *,
    sequence_length: int,
    micro_batch: int = 1,
    recipe: str = "mixed",
    zero: int = 0,
    devices: int = 1,
    recompute: Recompute = "none",
    attention: Attention = "flash",
    norms: Norms = "fused",
    dropout: bool | None = None,
    rank: int = 16,
    targets: str = "all-linear",
    tokens: int | None = None,
) -> Training:
    """The account of training.

    Args:
        model: The model.
        weights: Its weights.
        sequence_length: Tokens of a sequence.
        micro_batch: Sequences that a device works on at once.
        recipe: A key of `RECIPES`.
        zero: ZeRO stage: 1 shares Adam's states, 2 gradients too, 3 weights too.
        devices: That share them.
        recompute: What the backward pass computes again.
        attention: Whether scores are kept.
        norms: Whether norms are one kernel each, or in pieces as in transformers.
        dropout: Whether masks of dropout are kept; None for: in blocks of GPT's and BERT's time,
            which have learned positions.
        rank: Of LoRA.
        targets: Of LoRA: a key of `boli.weigh.adapters.TARGETS`.
        tokens: To train on; None for 20 a parameter.

    Raises:
        UsageError: A value is out of range.
    """
    _check(recipe, zero, sequence_length, micro_batch, devices, tokens)
    _check_words(recompute=(recompute, Recompute), attention=(attention, Attention), norms=(norms, Norms))
    chosen, facts = RECIPES[recipe], model.facts
    sizes = [row.parameters for row in weights.model_rows if not row.tied_to]
    held = states(sizes, chosen, zero=zero, devices=devices)
    lora = adapters(weights, rank, targets)
    run = kept = kept_for_lora = loss = peak = None
    by_recompute: dict[str, Amount] = {}
    parts, of_lora = {"states": held.bytes}, {"adapters": lora.states}
    if facts is not None:
        if dropout is None:
            dropout = model.blueprint.find("position_embedding") is not None
        run = Pass(
            micro_batch=micro_batch, sequence_length=sequence_length, bytes=chosen.compute,
            attention=attention, norms=norms, dropout=dropout, recompute=recompute,
        )  # fmt: skip
        kept = activations(model, facts, run)
        for way in get_args(Recompute):
            by_recompute[way] = activations(model, facts, replace(run, recompute=way)).bytes
        head = model.blueprint.find("head")
        loss = _loss(facts.vocab_size if head else 0, run)
        parts |= _at_once(kept, loss)
        peak = _peak(held, kept, loss, head if head and head.tied_to else None, chosen)
        adapted = replace(run, trained=lora.roles, adapter_numbers=lora.middles)
        kept_for_lora = activations(model, facts, adapted)
        of_lora |= _at_once(kept_for_lora, loss)
    total_tokens = _tokens(weights, tokens)
    return Training(
        recipe=chosen,
        zero=zero,
        devices=devices,
        run=run,
        states=held,
        by_recipe={name: states(sizes, each).bytes for name, each in RECIPES.items()},
        by_stage={stage: states(sizes, chosen, zero=stage, devices=devices).bytes for stage in range(4)},
        activations=kept,
        by_recompute=by_recompute,
        loss=loss,
        total=total(parts),
        peak=peak,
        adapters=lora,
        lora_activations=kept_for_lora,
        lora=total({"frozen_weights": lora.frozen, **of_lora}),
        qlora=total({"frozen_weights": lora.frozen_nf4, "dequantized": lora.dequantized, **of_lora}),
        flops=None if facts is None else flops(weights, facts, sequence_length),
        tokens=total_tokens,
        training_flops=amount(
            "FLOP",
            "6 · active_parameters · tokens",
            active_parameters=weights.active_parameters_with_embedding.value,
            tokens=total_tokens.value,
            certainty=total_tokens.certainty,
        ),
        not_modelled=tuple(_not_modelled(model, kept, zero)),
    )


def _check(
    recipe: str, zero: int, sequence_length: int, micro_batch: int, devices: int, tokens: int | None
) -> None:
    if recipe not in RECIPES:
        raise UsageError(
            f"there is no recipe of training '{recipe}'", remedy="choose one of: " + "  ".join(RECIPES)
        )
    if zero not in range(4):
        raise UsageError(f"ZeRO has no stage {zero}", remedy="choose 0, 1, 2 or 3")
    counts = {"sequence length": sequence_length, "micro-batch": micro_batch, "number of devices": devices}
    for name, count in counts.items():
        if not 1 <= count <= LARGEST:
            raise UsageError(f"the {name} is {count:,}", remedy=f"give a number from 1 to {LARGEST:,}")
    if tokens is not None and not 1 <= tokens <= LARGEST**2:
        raise UsageError(f"the number of tokens is {tokens:,}", remedy="give a number from 1 to 10^18")


def _check_words(**words: tuple[str, object]) -> None:
    """Refuses a word that is none of those that its type allows."""
    for name, (word, allowed) in words.items():
        if word not in get_args(allowed):
            raise UsageError(
                f"{name} cannot be '{word}'", remedy="choose one of: " + "  ".join(get_args(allowed))
            )


def _loss(vocab_size: int, run: Pass) -> Amount:
    """Cross-entropy in fp32, as PyTorch has it at its fullest moment."""
    return amount(
        "bytes",
        "3 · micro_batch · sequence_length · vocab_size · 4",
        certainty="calibrated",
        micro_batch=run.micro_batch,
        sequence_length=run.sequence_length,
        vocab_size=vocab_size,
        note="logarithms of probabilities, their gradient, and that of the logits; "
        "fused losses, which cut the sequence into pieces, need less",
    )


def _at_once(kept: Activations, loss: Amount) -> dict[str, Amount]:
    """Activations and what comes on top of them: the loss, later one layer that is computed again."""
    if kept.recomputed is None:
        return {"activations": kept.bytes, "loss": loss}
    most = amount(
        "bytes",
        "max(loss, one_layer)",
        certainty="calibrated",
        loss=loss.value,
        one_layer=kept.recomputed.value,
    )
    return {"activations": kept.bytes, "loss_or_one_layer": most}


def _peak(held: States, kept: Activations, loss: Amount, tied: Weight | None, recipe: Recipe) -> Amount:
    """The fullest moment when no gradients are there before the backward pass."""
    again = 0 if tied is None else prod(tied.shape) * recipe.gradients
    return amount(
        "bytes",
        "weights + master + moments + max(activations + loss, gradients + embedding_gradient)",
        certainty="calibrated",
        weights=held.weights.value,
        master=held.master.value,
        moments=held.moments.value,
        activations=kept.bytes.value,
        loss=max(loss.value, kept.recomputed.value if kept.recomputed else 0),
        gradients=held.gradients.value,
        embedding_gradient=again,
        note="when the loss is known, or when all gradients are; a tied embedding gets its second there",
    )


def _tokens(weights: WeightsAccount, tokens: int | None) -> Amount:
    if tokens is not None:
        return amount("tokens", "tokens", tokens=tokens)
    return amount(
        "tokens",
        "20 · parameters",
        parameters=weights.parameters.value,
        certainty="assumed",
        note="compute-optimal: Hoffmann et al. 2022, https://arxiv.org/abs/2203.15556",
    )


def _not_modelled(model: Model, kept: Activations | None, zero: int) -> Iterator[str]:
    yield "what the allocator keeps in pieces, the CUDA context, and copies that a fused optimizer makes"
    if zero:
        yield "buckets of communication" + (", and the weights of the layer at hand" if zero == 3 else "")
    if model.blueprint.prediction:
        yield "training of the modules that predict further tokens"
    if kept is None:
        yield "activations, loss and operations: only the tensors of this model are known"
    else:
        yield from kept.not_modelled
