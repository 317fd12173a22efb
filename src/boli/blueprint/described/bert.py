"""BERT: an encoder that sees the whole text at once. Devlin et al. 2018, https://arxiv.org/abs/1810.04805."""

from __future__ import annotations

from boli.blueprint.config import Config
from boli.blueprint.described.lines import Lines, linear, norm, plain_mlp, symbols_of, tied_to, weights
from boli.blueprint.described.sizes import activation, alike, sizes
from boli.blueprint.fields import Fields
from boli.blueprint.weights import Blueprint, Weight

_EMBEDDINGS: Lines = (
    ("embedding", "word_embeddings.weight", "token_embd", "V d"),
    ("position_embedding", "position_embeddings.weight", "position_embd", "P d"),
    ("token_type_embedding", "token_type_embeddings.weight", "token_types", "types d"),
    *norm("embedding_norm", "LayerNorm", "token_embd_norm", bias=True),
)
_LAYER: Lines = (
    *linear("q", "attention.self.query", "attn_q", "q d", bias=True),
    *linear("k", "attention.self.key", "attn_k", "k d", bias=True),
    *linear("v", "attention.self.value", "attn_v", "k d", bias=True),
    *linear("o", "attention.output.dense", "attn_output", "d q", bias=True),
    *norm("post_attention_norm", "attention.output.LayerNorm", "attn_output_norm", bias=True),
    *plain_mlp("intermediate.dense", "output.dense"),
    *norm("post_mlp_norm", "output.LayerNorm", "layer_output_norm", bias=True),
)
# What guesses masked words: a dense layer, a norm, and the embedding once more with a bias.
_GUESS: Lines = (
    *linear("head_projection", "cls.predictions.transform.dense", "", "d d", bias=True),
    *norm("head_norm", "cls.predictions.transform.LayerNorm", "", bias=True),
    ("head_bias", "cls.predictions.bias", "", "V"),
)


def model(fields: Fields) -> Blueprint:
    """From architecture `BertModel`, `RobertaModel` or `XLMRobertaModel`: the encoder and its pooler."""
    config = _config(fields)
    symbols = symbols_of(config) | {"types": fields.integer("type_vocab_size", "layer_count", 2)}
    pooler = linear("pooler", "pooler.dense", "", "d d", bias=True)
    return Blueprint(config, (*_encoder(config, symbols, ""), *weights(pooler, symbols)))


def for_masked_lm(fields: Fields) -> Blueprint:
    """From architecture `BertForMaskedLM`: the encoder without its pooler, and the head."""
    config = _config(fields)
    symbols = symbols_of(config) | {"types": fields.integer("type_vocab_size", "layer_count", 2)}
    encoder = _encoder(config, symbols, "bert.")
    (head,) = weights((("head", "cls.predictions.decoder.weight", "", "V d"),), symbols)
    return Blueprint(config, (*encoder, *weights(_GUESS, symbols), tied_to(head, encoder[0])))


def _config(fields: Fields) -> Config:
    layers = fields.integer("num_hidden_layers", "num_hidden_layers")
    return Config(
        family=fields.word("model_type", "bert"),
        **sizes(fields),
        norm="layer",
        activation=activation(fields, "gelu", "hidden_act"),
        gated_mlp=False,
        layer_types=alike("bidirectional", layers),
        layout="encoder",
        num_encoder_layers=layers,
        tie_word_embeddings=True,
        runnable=False,
    )


def _encoder(config: Config, symbols: dict[str, int], prefix: str) -> list[Weight]:
    listed = list(weights(_EMBEDDINGS, symbols, f"{prefix}embeddings."))
    for i in range(config.num_hidden_layers):
        listed += weights(_LAYER, symbols, f"{prefix}encoder.layer.{i}.", i)
    return listed
