"""Model folders against transformers, and what becomes of damaged ones."""

from __future__ import annotations

import itertools
import json
import threading
from pathlib import Path
from typing import Any

import pytest
from tokenizers import Tokenizer as Backend
from tokenizers import decoders, models

from boli.errors import CorruptFile, ModelNotFound, UnsupportedModel
from boli.text import load_tokenizer
from text.folders import CHATML, begins_with, byte_level_folder, sentencepiece_folder, write
from text.samples import TEXTS, mixed_texts

STYLES = ["byte level", "legacy", "metaspace", "gemma"]
MESSAGES = [{"role": "user", "content": "Hi"}]


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("folders")
    made = {style: sentencepiece_folder(root / style, style=style) for style in STYLES[1:]}
    return {"byte level": byte_level_folder(root / "bytes"), **made}


def transformers_tokenizer(folder: Path) -> Any:
    import transformers

    return transformers.AutoTokenizer.from_pretrained(folder)


@pytest.mark.parametrize("style", STYLES)
def test_ids_and_text_equal_transformers(folders: dict[str, Path], style: str) -> None:
    tokenizer, reference = load_tokenizer(folders[style]), transformers_tokenizer(folders[style])
    assert tokenizer.kind == ("bpe" if style == "byte level" else "spm")
    assert tokenizer.vocab_size == len(reference)
    assert tokenizer.bos_token_id == reference.bos_token_id
    assert tokenizer.add_bos
    for text in [*TEXTS, *mixed_texts(300, seed=8)]:
        ids = reference(text, truncation=False, padding=False)["input_ids"]
        assert tokenizer.encode(text) == ids
        assert tokenizer.encode(text, add_special_tokens=False) == ids[1:]
        for skip in (True, False):
            expected = reference.decode(ids, skip_special_tokens=skip, clean_up_tokenization_spaces=False)
            assert tokenizer.decode(ids, skip_special_tokens=skip) == expected


@pytest.mark.parametrize("style", STYLES)
def test_spans_cover_the_text(folders: dict[str, Path], style: str) -> None:
    tokenizer = load_tokenizer(folders[style])
    for text in [*TEXTS, *mixed_texts(100, seed=9)]:
        pieces = tokenizer.pieces(text)
        assert [piece.id for piece in pieces] == tokenizer.encode(text)
        assert all(a.start <= b.start <= a.end <= b.end for a, b in itertools.pairwise(pieces))
        assert (pieces[0].start, pieces[0].end, pieces[-1].end) == (0, 0, len(text))


def test_control_tokens_in_text_are_tokens_only_if_asked(folders: dict[str, Path]) -> None:
    for style, text, token in (("byte level", "<|im_end|>", 2), ("legacy", "</s>", 2)):
        tokenizer = load_tokenizer(folders[style])
        plain = tokenizer.encode(f"a{text}b", parse_special=False, add_special_tokens=False)
        assert not any(tokenizer.is_special(found) for found in plain)
        assert tokenizer.decode(plain) == f"a{text}b"
        assert token in tokenizer.encode(f"a{text}b")
        assert [piece.id for piece in tokenizer.typed_special_tokens(f"a{text}b")] == [token]
    tool = load_tokenizer(folders["byte level"]).encode(
        "<tool>", parse_special=False, add_special_tokens=False
    )
    assert len(tool) == 1  # an added token that is no control token is ordinary text


def test_threads_do_not_disturb_each_other(folders: dict[str, Path]) -> None:
    tokenizer = load_tokenizer(folders["byte level"])
    text = "a<|im_end|>b" * 20
    expected = {parse: tokenizer.encode(text, parse_special=parse) for parse in (True, False)}
    wrong: list[bool] = []

    def work(parse: bool) -> None:
        wrong.extend(
            parse for _ in range(200) if tokenizer.encode(text, parse_special=parse) != expected[parse]
        )

    threads = [threading.Thread(target=work, args=(n % 2 == 0,)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


def test_ids_past_the_vocabulary_stand_for_nothing(folders: dict[str, Path]) -> None:
    tokenizer = load_tokenizer(folders["byte level"])
    assert tokenizer.token_bytes(tokenizer.vocab_size + 5) == b""
    assert tokenizer.decode([tokenizer.vocab_size + 5]) == ""


def test_all_tokens_that_end_a_generation(tmp_path: Path) -> None:
    folder = byte_level_folder(tmp_path / "model", eos_token="<tool>")
    write(folder, "generation_config.json", {"eos_token_id": [7, 8, 10**9, True, "x"]})
    write(folder, "config.json", {"eos_token_id": 9})
    tokenizer = load_tokenizer(folder)
    # By name: <|endoftext|> and <|im_end|>; from the files: <tool>, 7, 8, 9.
    tool = tokenizer.encode("<tool>", add_special_tokens=False)
    assert tokenizer.eos_token_ids == {0, 2, 7, 8, 9, *tool}
    assert tokenizer.is_special(tool[0])  # the configuration makes it a control token


def test_special_tokens_from_their_own_file(tmp_path: Path) -> None:
    folder = byte_level_folder(tmp_path / "model")
    write(folder, "tokenizer_config.json", {})
    write(
        folder, "special_tokens_map.json", {"bos_token": {"content": "<|im_start|>"}, "eos_token": "missing"}
    )
    tokenizer = load_tokenizer(folder)
    assert tokenizer.bos_token_id == 1
    assert tokenizer.eos_token_ids == {0, 2}
    assert tokenizer.chat_template is None


@pytest.mark.parametrize(
    ("files", "plain", "with_tools"),
    [
        ({}, "config", "config"),
        ({"chat_template.jinja": "jinja"}, "jinja", "jinja"),
        ({"chat_template.json": '{"chat_template": "json"}'}, "json", "json"),
        (
            {"chat_template.json": '{"chat_template": "json"}', "chat_template.jinja": "jinja"},
            "jinja",
            "jinja",
        ),
        ({"additional_chat_templates/tool_use.jinja": "tools"}, "config", "tools"),
    ],
)
def test_where_templates_are(tmp_path: Path, files: dict[str, str], plain: str, with_tools: str) -> None:
    folder = byte_level_folder(tmp_path / "model", chat_template="config")
    for name, content in files.items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(content)
    template = load_tokenizer(folder).require_chat_template()
    assert template.render(MESSAGES) == plain
    assert template.render(MESSAGES, tools=[{"type": "function"}]) == with_tools


def test_templates_in_a_list(tmp_path: Path) -> None:
    several = [
        {"name": "tool_use", "template": "T"},
        {"name": "default", "template": "D"},
        {"name": 3},
        "junk",
    ]
    template = load_tokenizer(
        byte_level_folder(tmp_path / "a", chat_template=several)
    ).require_chat_template()
    assert (template.render(MESSAGES), template.render(MESSAGES, tools=[{}])) == ("D", "T")
    assert template.source == "D"
    lonely = [{"name": "rag", "template": "R"}]
    assert load_tokenizer(byte_level_folder(tmp_path / "b", chat_template=lonely)).chat_template is None


def test_a_rendered_chat_has_the_ids_of_transformers(folders: dict[str, Path]) -> None:
    tokenizer, reference = (
        load_tokenizer(folders["byte level"]),
        transformers_tokenizer(folders["byte level"]),
    )
    rendered = tokenizer.require_chat_template().render(MESSAGES)
    assert tokenizer.require_chat_template().source == CHATML
    expected = reference.apply_chat_template(MESSAGES, add_generation_prompt=True, return_dict=False)
    assert tokenizer.encode_chat(rendered) == expected


@pytest.mark.parametrize(
    "name", ["tokenizer.json", "tokenizer_config.json", "config.json", "chat_template.json"]
)
@pytest.mark.parametrize(
    "content", [b"", b"{", b"[1]", b"\xff\xfe", b'{"model": 5}' + b"[" * 100_000, b"null"]
)
def test_damaged_files_are_named(tmp_path: Path, name: str, content: bytes) -> None:
    folder = byte_level_folder(tmp_path / "model")
    (folder / name).write_bytes(content)
    with pytest.raises(CorruptFile, match=name):
        load_tokenizer(folder)


def test_a_folder_without_tokenizer(tmp_path: Path) -> None:
    (tmp_path / "tokenizer.model").write_bytes(b"x")
    with pytest.raises(ModelNotFound, match=r"no tokenizer\.json"):
        load_tokenizer(tmp_path)


def test_an_endless_template_file_is_refused(tmp_path: Path) -> None:
    folder = byte_level_folder(tmp_path / "model")
    with (folder / "chat_template.jinja").open("wb") as file:
        file.truncate(64 << 20)
    with pytest.raises(CorruptFile, match=r"chat_template\.jinja"):
        load_tokenizer(folder)


@pytest.mark.parametrize("decoder", [None, decoders.WordPiece(), decoders.CTC()])
def test_unknown_decoders_are_refused(tmp_path: Path, decoder: Any) -> None:
    backend = Backend(models.WordLevel({"a": 0, "[UNK]": 1}, unk_token="[UNK]"))
    if decoder is not None:
        backend.decoder = decoder
    backend.save(str(tmp_path / "tokenizer.json"))
    with pytest.raises(UnsupportedModel, match="decode"):
        load_tokenizer(tmp_path)


def test_a_vocabulary_of_few_letters_still_tells_front_from_back(tmp_path: Path) -> None:
    for letter in ("0", "z"):
        backend = Backend(models.BPE(vocab={"<s>": 0, letter: 1}, merges=[]))
        backend.decoder = decoders.ByteLevel()
        backend.add_special_tokens(["<s>"])
        begins_with(backend, "<s>")
        backend.save(str(tmp_path / "tokenizer.json"))
        write(tmp_path, "tokenizer_config.json", {"bos_token": "<s>"})
        assert load_tokenizer(tmp_path).encode(letter) == [0, 1]


def test_a_damaged_model_inside_is_refused(tmp_path: Path) -> None:
    folder = byte_level_folder(tmp_path / "model")
    content = json.loads((folder / "tokenizer.json").read_text())
    content["model"]["merges"].append(["no", "such"])
    write(folder, "tokenizer.json", content)
    with pytest.raises(CorruptFile):
        load_tokenizer(folder)
