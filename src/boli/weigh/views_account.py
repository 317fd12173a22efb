"""An account as sections, in the order in which one asks."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from boli.weigh.account import Account
from boli.weigh.formats import ALL_FORMATS, weigh_formats
from boli.weigh.views import Section
from boli.weigh.views_model import view_formats, view_kv, view_tensors, view_weights
from boli.weigh.views_run import view_fits, view_run, view_speed
from boli.weigh.views_training import brief_training, view_training

#: The number formats that are shown if not all are asked for.
USUAL: Final = (
    "FP16", "FP8", "INT8", "INT4-g128", "NF4", "Q8_0", "Q6_K", "Q5_K_M", "Q4_K_M", "Q4_0", "Q3_K_M", "Q2_K",
)  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class Shown:
    """What is shown in full.

    Attributes:
        formats: Every number format.
        tensors: Every tensor in the format that was asked for.
        training: All of training.
    """

    formats: bool = False
    tensors: bool = False
    training: bool = False


def view(account: Account, shown: Shown) -> list[Section]:
    """The sections of an account."""
    sections = [_about(account), view_weights(account.model, account.weights)]
    chosen = account.format.name if account.format else ""
    if shown.formats:
        formats = account.formats
    else:
        formats = weigh_formats(account.model, [n for n in ALL_FORMATS if n in USUAL or n == chosen])
    sections.append(view_formats(formats, chosen))
    if shown.tensors and account.format is not None:
        sections.append(view_tensors(account.format))
    if account.kv is not None:
        sections.append(view_kv(account.kv, account.kv_elsewhere))
    if account.fits is not None:
        sections += [view_run(account.fits, account.run), view_fits(account.fits)]
    if account.speed is not None:
        sections.append(view_speed(account.speed))
    sections.append((view_training if shown.training else brief_training)(account.training))
    return sections


def _about(account: Account) -> Section:
    """What was weighed, and what was assumed."""
    model = account.model
    config = model.blueprint.config
    facts = [("model", f"{model.name} ({model.source})")]
    if model.facts is not None:
        experts = f", {config.experts.num_experts} experts" if config.experts else ""
        facts.append(("family", f"{config.family}, {model.facts.layout}{experts}"))
        facts.append(
            (
                "shape",
                f"{config.num_hidden_layers} layers of {config.hidden_size:,}, "
                f"{config.num_attention_heads}/{config.num_key_value_heads} heads of {config.head_dim}, "
                f"vocabulary {config.vocab_size:,}",
            )
        )
    facts.append(("boli", f"does not run it: {model.not_runnable}" if model.not_runnable else "runs it"))
    facts += [("note", line) for line in model.notes]
    return Section(title="Model", facts=facts)
