"""The Transformer of 2017. Vaswani et al., https://arxiv.org/abs/1706.03762.

No configuration was published with it, so `config.json` here has the paper's own letters: N, d_model,
d_ff, h. Table 3 says "shared weights": one matrix is both embeddings and the output. Positions are sines,
which are computed. As in the authors' code, projections of attention have no biases and the norms come
behind the sums.
"""

from __future__ import annotations

from boli.blueprint.config import Config
from boli.blueprint.described.lines import Lines, linear, norm, plain_mlp, symbols_of, tied_to, weights
from boli.blueprint.described.sizes import alike, renamed, sizes
from boli.blueprint.fields import Fields
from boli.blueprint.weights import Blueprint

_SELF: Lines = (
    ("q", "self_attention.q.weight", "", "q d"),
    ("k", "self_attention.k.weight", "", "k d"),
    ("v", "self_attention.v.weight", "", "k d"),
    ("o", "self_attention.o.weight", "", "d q"),
    *norm("post_attention_norm", "self_attention.norm", "", bias=True),
)
_CROSS: Lines = (
    ("cross_q", "cross_attention.q.weight", "", "q d"),
    ("cross_k", "cross_attention.k.weight", "", "k d"),
    ("cross_v", "cross_attention.v.weight", "", "k d"),
    ("cross_o", "cross_attention.o.weight", "", "d q"),
    *norm("cross_norm", "cross_attention.norm", "", bias=True),
)
_MLP: Lines = (
    *plain_mlp("feed_forward.1", "feed_forward.2"),
    *norm("post_mlp_norm", "feed_forward.norm", "", bias=True),
)


def from_paper(fields: Fields) -> Blueprint:
    """From architecture `Transformer`, a name that only boli's catalogue uses."""
    stack = fields.integer("N", "num_hidden_layers")
    names = {"hidden_size": "d_model", "intermediate_size": "d_ff", "num_attention_heads": "h"}
    fields = renamed(fields, names, {"num_hidden_layers": 2 * stack})
    config = Config(
        family="transformer",
        **sizes(fields),
        norm="layer",
        activation="relu",
        gated_mlp=False,
        layer_types=alike("bidirectional", stack) + alike("full", stack),
        layout="encoder-decoder",
        num_encoder_layers=stack,
        tie_word_embeddings=True,
        runnable=False,
    )
    symbols = symbols_of(config)
    listed = list(weights((("embedding", "embedding.weight", "", "V d"),), symbols))
    for i in range(stack):
        listed += weights((*_SELF, *_MLP), symbols, f"encoder.{i}.", i)
    for i in range(stack):
        listed += weights((*_SELF, *_CROSS, *_MLP), symbols, f"decoder.{i}.", stack + i)
    (head,) = weights(linear("head", "output", "", "V d"), symbols)
    return Blueprint(config, (*listed, tied_to(head, listed[0])))
