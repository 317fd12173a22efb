"""GGUF files, by their header: families that boli runs by their blueprint, others by their own tensors."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

from boli.blueprint.config import Config, Experts, LayerType, Mla
from boli.blueprint.described.sizes import alike
from boli.blueprint.families import from_gguf
from boli.blueprint.fields import Fields
from boli.blueprint.weights import Blueprint, Weight
from boli.errors import FormatError, UnsupportedModel
from boli.formats.gguf import GGUFFile
from boli.weigh.listed import from_tensors, unknown_config, weights_of
from boli.weigh.model import Model, facts_of

_CONSTANT: Final = "rope_freqs.weight"  # computed from the configuration, and no parameter
_WINDOW: Final = "attention.sliding_window"
_PATTERN: Final = "attention.sliding_window_pattern"
_TWO_STACKS: Final = ("t5", "t5encoder")
# All layers but every n-th slide, where llama.cpp knows it and the file need not say so.
_EVERY: Final = {"gemma2": 2, "gemma3": 6, "gpt-oss": 2, "cohere2": 4}


def from_metadata(path: Path, name: str) -> Model:
    """The model of a GGUF file.

    Raises:
        ModelNotFound: There is no such file.
        CorruptFile: It is damaged, or was cut off.
        UnsupportedModel: It is no model, or in a version or type that boli does not know.
    """
    with GGUFFile(path) as file:
        kind = file.metadata.get("general.type", "model")
        if kind != "model" or not file.tensors:
            raise UnsupportedModel(
                f"{path} is not a model",
                cause=f"its general.type is {str(kind)[:40]!r}, and it holds {len(file.tensors)} tensors",
            )
        embedding = file.tensors.get("token_embd.weight")
        vocabulary = embedding.shape[0] if embedding else None
        try:
            blueprint = from_gguf(file.metadata, file.tensors, vocab_size=vocabulary)
        except UnsupportedModel as error:
            return _described(file, name, error.message)
        return _run(file, name, blueprint)


def _run(file: GGUFFile, name: str, blueprint: Blueprint) -> Model:
    stored, used = {}, {_CONSTANT}
    for weight in blueprint:
        info = next((file.tensors[each] for each in weight.gguf.names if each in file.tensors), None)
        if info is None:
            raise FormatError(f"{file.path}: the tensor {weight.gguf.names[0]} is missing")
        used.add(info.name)
        if not weight.tied_to:
            stored[weight.name] = info.format.name
    extra = [info for info in file.tensors.values() if info.name not in used]
    notes: tuple[str, ...] = ()
    if extra:
        notes = (
            f"the file holds {len(extra)} more tensors, {sum(info.nbytes for info in extra):,} bytes, "
            f"which are not counted, such as {extra[0].name[:64]}",
        )
    return Model(
        name=name,
        source="gguf",
        blueprint=blueprint,
        facts=facts_of(blueprint.config),
        dtype="F32",
        stored=stored,
        notes=notes,
    )


def _described(file: GGUFFile, name: str, refusal: str) -> Model:
    """A family that boli does not run: the weights are the file's tensors, the facts its metadata."""
    tensors = [info for info in file.tensors.values() if info.name != _CONSTANT]
    weights = weights_of(tensors)
    listed = from_tensors(tensors, name, "gguf")
    try:
        config = config_of(file.metadata, weights)
    except (FormatError, UnsupportedModel) as error:
        notes: tuple[str, ...] = (
            "its metadata cannot be read as a decoder's, so that KV cache and speed are unknown: "
            f"{error.message}",
        )
        blueprint, facts = listed.blueprint, None
    else:
        named = "weights are named as the file names them; roles are read from these names"
        notes = (named, *_windows(config, file.metadata))
        weights = _with_tied_head(weights)
        blueprint, facts = Blueprint(config, weights), facts_of(config)
    return Model(
        name=name,
        source="gguf",
        blueprint=blueprint,
        facts=facts,
        dtype="F32",
        stored=listed.stored,
        not_runnable=refusal,
        notes=notes,
    )


def _with_tied_head(weights: tuple[Weight, ...]) -> tuple[Weight, ...]:
    """llama.cpp multiplies with the embedding where a file has no output matrix."""
    if any(weight.role == "head" for weight in weights):
        return weights
    for weight in weights:
        if weight.role == "embedding":
            head = Weight(
                name="output.weight", role="head", layer=None, shape=weight.shape,
                safetensors=weight.safetensors, gguf=weight.gguf, tied_to=weight.name,
            )  # fmt: skip
            return (*weights, head)
    return weights


def config_of(metadata: Mapping[str, object], weights: Sequence[Weight]) -> Config:
    """What the metadata of any decoder or encoder says in the standard keys of GGUF.

    Raises:
        CorruptFile: A key is missing or absurd.
        UnsupportedModel: Layers differ in the number of heads, or there are two stacks.
    """
    general = Fields(metadata, source="GGUF metadata")
    architecture = general.word("general.architecture", "")
    fields = Fields(metadata, source="GGUF metadata", prefix=f"{architecture[:64]}.")
    guessed = unknown_config(weights)
    if architecture in _TWO_STACKS:
        raise fields.unsupported("block_count", "it has an encoder and a decoder")
    ahead = fields.integer("nextn_predict_layers", "layer_count", 0)
    layers = fields.integer("block_count", "num_hidden_layers") - ahead
    fields.require(layers > 0, "block_count", "more than nextn_predict_layers")
    hidden = fields.integer("embedding_length", "hidden_size")
    heads = _alike(fields, "attention.head_count", "num_attention_heads", layers)
    kv_heads = _alike(fields, "attention.head_count_kv", "num_key_value_heads", layers, heads)
    head_dim = fields.integer("attention.key_length", "head_dim", max(hidden // heads, 1))
    mla = _mla(fields)
    kinds, window = _layer_types(fields, architecture, layers)
    causal = fields.flag("attention.causal", default=True)
    if not causal:
        kinds, window = alike("bidirectional", layers), None
    elif mla is not None:
        kinds, window = alike("mla", layers), None
    return Config(
        family=architecture,
        vocab_size=guessed.vocab_size,
        hidden_size=hidden,
        intermediate_size=_alike(fields, "feed_forward_length", "intermediate_size", layers),
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=heads if mla else kv_heads,
        head_dim=head_dim,
        max_position_embeddings=fields.integer("context_length", "max_position_embeddings"),
        gated_mlp=any(weight.role in ("gate", "gate_up", "expert_gate") for weight in weights),
        layer_types=kinds,
        sliding_window=window,
        tie_word_embeddings=not any(weight.role == "head" for weight in weights),
        layout="decoder" if causal else "encoder",
        num_encoder_layers=0 if causal else layers,
        mla=mla,
        experts=_experts(fields, weights),
        runnable=False,
    )


def _layer_types(fields: Fields, architecture: str, layers: int) -> tuple[tuple[LayerType, ...], int | None]:
    """Which layers have a window: as the file says, or as llama.cpp takes it for the architecture.

    Where neither tells, all layers are taken to see everything, which `_windows` says.
    """
    full = alike("full", layers)
    window = fields.maybe_integer(_WINDOW, "sliding_window") if fields.get(_WINDOW) else None
    if window is None:
        return full, None
    pattern = fields.get(_PATTERN)
    if isinstance(pattern, Sequence) and not isinstance(pattern, str):
        flags = fields.items(_PATTERN, layers) or ()
        return tuple("sliding" if flag else "full" for flag in flags), window
    if pattern is None and architecture not in _EVERY:
        return full, None
    every = fields.integer(_PATTERN, "num_hidden_layers", _EVERY.get(architecture))
    return tuple("sliding" if (i + 1) % every else "full" for i in range(layers)), window


def _windows(config: Config, metadata: Mapping[str, object]) -> list[str]:
    window = metadata.get(f"{config.family}.{_WINDOW}")
    if not window or set(config.layer_types) != {"full"}:
        return []
    return [
        f"the file says a window of {window} and not which layers have it: all are taken to see everything"
    ]


def _mla(fields: Fields) -> Mla | None:
    rank = fields.maybe_integer("attention.kv_lora_rank", "lora_rank")
    if rank is None:
        return None
    rotated = fields.integer("rope.dimension_count", "head_dim")
    # Newer files say the latent sizes in key_length, and a head's own in key_length_mla.
    newer = fields.get("attention.key_length_mla") is not None
    key = fields.integer("attention.key_length_mla" if newer else "attention.key_length", "head_dim")
    fields.require(key > rotated, "attention.key_length", f"more than rope.dimension_count, {rotated}")
    return Mla(
        q_lora_rank=fields.maybe_integer("attention.q_lora_rank", "lora_rank"),
        kv_lora_rank=rank,
        qk_nope_head_dim=key - rotated,
        qk_rope_head_dim=rotated,
        v_head_dim=fields.integer(
            "attention.value_length_mla" if newer else "attention.value_length", "head_dim"
        ),
    )


def _experts(fields: Fields, weights: Sequence[Weight]) -> Experts | None:
    if not fields.get("expert_count"):
        return None
    width = fields.integer("feed_forward_length", "intermediate_size")
    width = fields.integer("expert_feed_forward_length", "intermediate_size", width)
    shared = next((weight.shape[0] for weight in weights if weight.role == "shared_up"), 0)
    return Experts(
        num_experts=fields.integer("expert_count", "num_experts"),
        num_experts_per_tok=fields.integer("expert_used_count", "num_experts"),
        moe_intermediate_size=width,
        shared_intermediate_size=shared,
        layers=frozenset(
            weight.layer for weight in weights if weight.role == "router" and weight.layer is not None
        ),
    )


def _alike(fields: Fields, key: str, meaning: str, layers: int, default: int | None = None) -> int:
    value = fields.get(key)
    if value is None or isinstance(value, int):
        return fields.integer(key, meaning, default)
    each = set(fields.items(key, layers) or ())
    if len(each) != 1:
        raise fields.unsupported(key, "it differs between layers")
    return Fields({key: each.pop()}, source=fields.source).integer(key, meaning)
