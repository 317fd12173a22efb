"""Text to token ids and back: vocabularies, streaming, stop strings, chat templates.

    text ─ load_tokenizer(…).encode ─▶ ids ─ … ─▶ ids ─ Detokenizer ─ StopMatcher ─▶ text
    messages ─ ChatTemplate.render ─▶ text

Vocabularies come from a model folder (`tokenizer.json`) or from a GGUF file. Nothing here knows of models.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from boli.errors import ModelNotFound
from boli.text.detokenizer import Detokenizer
from boli.text.stop import StopMatcher
from boli.text.template import ChatTemplate, Rendered, Span
from boli.text.tokenizer import Piece, Tokenizer

if TYPE_CHECKING:
    from boli.text.gguf_vocabulary import HasMetadata

__all__ = [
    "ChatTemplate",
    "Detokenizer",
    "Piece",
    "Rendered",
    "Span",
    "StopMatcher",
    "Tokenizer",
    "load_tokenizer",
]


def load_tokenizer(source: Path | HasMetadata) -> Tokenizer:
    """Load the tokenizer of a model.

    Args:
        source: A folder in the Hugging Face layout, the path of a GGUF file, or an open `GGUFFile`, which may
            be closed afterwards.

    Raises:
        ModelNotFound: There is no such folder or file, or no `tokenizer.json` in it.
        CorruptFile: A file is not what it should be.
        UnsupportedModel: A kind of vocabulary, or of cutting words, that boli does not know.
    """
    if not isinstance(source, Path):
        from boli.text.gguf_vocabulary import load_gguf  # noqa: PLC0415 (one of the two ways is taken)

        return load_gguf(source)
    if source.is_dir():
        from boli.text.tokenizer_json import load_folder  # noqa: PLC0415

        return load_folder(source)
    if not source.is_file():
        raise ModelNotFound(f"there is no {source}", remedy="check the path")
    from boli.formats.gguf import GGUFFile  # noqa: PLC0415

    with GGUFFile(source) as file:
        return load_tokenizer(file)
