"""Views of what training takes."""

from __future__ import annotations

from boli.weigh.amount import Amount
from boli.weigh.states import RECIPES
from boli.weigh.training import Training
from boli.weigh.views import Column, Facts, Section, Table, Unit


def view_training(training: Training) -> Section:
    """What training takes on one device: the sum, and the ways to need less."""
    facts = Facts()
    recipe, held = training.recipe, training.states
    facts.say("recipe", f"{recipe.name}: {recipe.what} ({recipe.rule} bytes a parameter)")
    if training.devices > 1:
        facts.say("shared by", f"ZeRO stage {training.zero} over {training.devices:,} devices")
    run = training.run
    if run is not None:
        facts.say(
            "a step", f"{run.micro_batch:,} × {run.sequence_length:,} tokens, {run.attention} attention"
            + (", dropout" if run.dropout else "") + f", recomputed: {run.recompute}",
        )  # fmt: skip
    facts.tell("weights", held.weights)
    facts.tell("gradients", held.gradients)
    facts.tell("Adam", held.moments)
    if held.master.value:
        facts.tell("fp32 copy", held.master)
    if training.activations is not None and training.loss is not None:
        facts.tell("activations", training.activations.bytes)
        facts.tell("loss", training.loss)
    facts.tell("total", training.total)
    if training.peak is not None:
        facts.tell("  gradients freed", training.peak)
    adapters = training.adapters
    facts.tell(f"LoRA, rank {adapters.rank}", training.lora, f"{adapters.parameters.value:,} parameters")
    facts.tell("QLoRA", training.qlora)
    if training.flops is not None:
        facts.tell("forward, a token", training.flops.forward)
        facts.tell("training, a token", training.flops.training)
        for name, convention in training.flops.conventions.items():
            facts.tell(f"  {name}", convention)
    facts.tell("6ND", training.training_flops, f"for {training.tokens.value:,} tokens")
    explained = [*facts.explained, ("tokens", training.tokens), *_behind(training)]
    return Section(
        title="Training",
        facts=facts.lines,
        tables=_ways(training),
        explained=explained,
        notes=[f"{name.strip()}: {each.note}" for name, each in facts.explained if each.note],
        not_modelled=training.not_modelled,
    )


def brief_training(training: Training) -> Section:
    """The sums alone."""
    facts = Facts()
    rule = f"{training.recipe.rule} = {training.recipe.bytes} bytes a parameter, without activations"
    facts.tell("weights, gradients, Adam", training.states.bytes, rule)
    run = training.run
    if training.activations is not None and run is not None:
        step = f"{run.micro_batch:,} × {run.sequence_length:,} tokens"
        facts.tell("with activations", training.total, step)
        facts.tell("  full recomputation", training.by_recompute["full"], "of activations")
    facts.tell(f"LoRA, rank {training.adapters.rank}", training.lora)
    facts.tell("QLoRA", training.qlora)
    if training.flops is not None:
        facts.tell("operations of a token", training.flops.training)
    notes = ["--training shows all of it"]
    return Section(title="Training", facts=facts.lines, explained=facts.explained, notes=notes)


def _ways(training: Training) -> list[Table]:
    """States by recipe and stage, activations by what is recomputed."""
    recipes = {
        f"{name}: {RECIPES[name].rule}": (each, f"{RECIPES[name].bytes} B a parameter")
        for name, each in training.by_recipe.items()
    }
    tables = [_table("states by recipe", recipes)]
    if training.devices > 1:
        each_stage = {f"ZeRO stage {stage}": (each, "") for stage, each in training.by_stage.items()}
        tables.append(_table(f"on each of {training.devices:,} devices", each_stage))
    if training.by_recompute:
        ways = {f"recomputed: {way}": (each, "") for way, each in training.by_recompute.items()}
        tables.append(_table("activations", ways))
    return tables


def _table(title: str, amounts: dict[str, tuple[Amount, str]]) -> Table:
    unit = Unit(each.value for each, _ in amounts.values())
    columns = [Column(title), Column(""), *unit.columns, Column("")]
    return Table(
        columns, [[name, each.mark, *unit.cells(each.value), more] for name, (each, more) in amounts.items()]
    )


def _behind(training: Training) -> list[tuple[str, Amount]]:
    """The formulas behind the sums: every tensor that a layer keeps, and the parts of LoRA."""
    adapters = training.adapters
    found = [
        ("LoRA's parameters", adapters.parameters),
        ("LoRA's states", adapters.states),
        ("frozen weights", adapters.frozen),
        ("frozen weights in NF4", adapters.frozen_nf4),
        ("one matrix of NF4 in 16 bits", adapters.dequantized),
    ]
    if training.flops is not None:
        found += [
            ("products with matrices", training.flops.matrices),
            ("attention", training.flops.attention),
        ]
    if training.activations is not None:
        for group in training.activations.groups:
            name = f"layer {group.layers[0]}"
            found += [(f"{name}: {tensor}", each) for tensor, each in group.tensors.items()]
            found.append((f"{name} keeps", group.layer))
        found.append(("all layers keep", training.activations.layers))
        found.append(("outside of layers", training.activations.outside))
    return found
