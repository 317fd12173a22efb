"""What Ollama's routes say of the model."""

from __future__ import annotations

from datetime import UTC, datetime
from functools import cache
from pathlib import Path

from boli.errors import TemplateError
from boli.formats.fingerprint import fingerprint
from boli.server.context import Context
from boli.server.retelling import Document
from boli.text.tools import format_of


def listed(context: Context) -> Document:
    """The model in `/api/tags`."""
    return {
        "name": context.model,
        "model": context.model,
        "size": _weight_bytes(context),
        "details": _details(context),
        **_on_disk(context.llm.path),
    }


def running(context: Context) -> Document:
    """The model in `/api/ps`; it stays until the server ends."""
    totals = context.llm.ledger.totals()
    return {
        "name": context.model,
        "model": context.model,
        "size": sum(totals.values()),
        "size_vram": 0,
        "details": _details(context),
        "expires_at": "9999-12-31T23:59:59Z",
        "context_length": context.llm.context,
    }


def described(context: Context) -> Document:
    """The model in `/api/show`."""
    llm, config = context.llm, context.llm.blueprint.config
    template = llm.tokenizer.chat_template
    family = config.family
    info = {
        "general.architecture": family,
        "general.parameter_count": llm.blueprint.parameters,
        f"{family}.context_length": config.max_position_embeddings,
        f"{family}.embedding_length": config.hidden_size,
        f"{family}.block_count": config.num_hidden_layers,
        f"{family}.feed_forward_length": config.intermediate_size,
        f"{family}.attention.head_count": config.num_attention_heads,
        f"{family}.attention.head_count_kv": config.num_key_value_heads,
        "tokenizer.ggml.model": llm.tokenizer.kind,
        "tokenizer.ggml.bos_token_id": llm.tokenizer.bos_token_id,
    }
    return {
        "modelfile": "",
        "parameters": f"num_ctx {llm.context}",
        "template": "" if template is None else template.source,
        "details": _details(context),
        "model_info": info,
        "capabilities": ["completion", "embedding", *(["tools"] if _calls_functions(context) else [])],
        **_on_disk(llm.path),
    }


def _calls_functions(context: Context) -> bool:
    template = context.llm.tokenizer.chat_template
    try:
        return template is not None and format_of(template) is not None
    except TemplateError:
        return False


def _details(context: Context) -> Document:
    llm = context.llm
    family = llm.blueprint.config.family
    return {
        "parent_model": "",
        "format": llm.format,
        "family": family,
        "families": [family],
        "parameter_size": _readable(llm.blueprint.parameters),
        "quantization_level": _form(context),
    }


def _form(context: Context) -> str:
    """The number format in which most of the bytes are."""
    totals = context.llm.ledger.totals()
    weights = {name: count for name, count in totals.items() if name.startswith("weights/")}
    return max(weights, key=weights.__getitem__).removeprefix("weights/") if weights else "unknown"


def _weight_bytes(context: Context) -> int:
    totals = context.llm.ledger.totals()
    return sum(count for name, count in totals.items() if name.startswith("weights/"))


@cache
def _on_disk(path: Path) -> Document:
    """What the files say; nothing if they are gone. The digest is boli's own: see `fingerprint`."""
    try:
        changed = datetime.fromtimestamp(path.stat().st_mtime, UTC).isoformat()
        return {"modified_at": changed, "digest": fingerprint(path)}
    except OSError:
        return {}


def _readable(parameters: int) -> str:
    """A number of parameters as Ollama writes it."""
    if parameters >= 1_000_000_000:
        return f"{parameters / 1e9:.1f}B"
    return f"{parameters / 1e6:.2f}M"
