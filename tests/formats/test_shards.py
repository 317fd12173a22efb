"""Which files of a folder make a model, and the index of a model in shards."""

from __future__ import annotations

import json
import pickle
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy

from boli.errors import CorruptFile, FormatError, ModelNotFound, UnsafeFile
from boli.formats.safetensors import SafetensorsFile
from boli.formats.shards import INDEX, open_safetensors

FIRST, SECOND = "model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"


def write(folder: Path, file: str, **tensors: float) -> None:
    """Each tensor is one number."""
    safetensors.numpy.save_file(
        {name: np.array([value], np.float32) for name, value in tensors.items()}, folder / file
    )


def write_index(folder: Path, weight_map: object) -> None:
    (folder / INDEX).write_text(json.dumps({"metadata": {"total_size": 8}, "weight_map": weight_map}))


def numbers(folder: Path) -> dict[str, float]:
    """Opens a folder, reads every tensor, and closes all."""
    found: dict[str, float] = {}
    for file in open_safetensors(folder):
        with file:
            found |= {name: float(file.data(name).view("<f4")[0]) for name in file.tensors}
    return found


@pytest.fixture
def sharded(tmp_path: Path) -> Path:
    write(tmp_path, FIRST, a=1, b=2)
    write(tmp_path, SECOND, c=3)
    write_index(tmp_path, {"a": FIRST, "b": FIRST, "c": SECOND})
    return tmp_path


def test_a_single_file(tmp_path: Path) -> None:
    write(tmp_path, "weights.safetensors", a=1)
    assert numbers(tmp_path) == {"a": 1}


def test_shards(sharded: Path) -> None:
    assert numbers(sharded) == {"a": 1, "b": 2, "c": 3}
    assert [file.path.name for file in open_safetensors(sharded)] == [FIRST, SECOND]


def test_model_safetensors_comes_first(sharded: Path) -> None:
    """As transformers does it: a single file wins over an index, and other files beside it do not count."""
    write(sharded, "model.safetensors", a=10)
    assert numbers(sharded) == {"a": 10}


def test_files_beside_the_index_do_not_count(sharded: Path) -> None:
    write(sharded, "consolidated.safetensors", a=10)
    assert numbers(sharded) == {"a": 1, "b": 2, "c": 3}


def test_links_to_files_elsewhere(sharded: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    """A hub's cache keeps files elsewhere and links to them."""
    blobs = tmp_path_factory.mktemp("blobs")
    (sharded / FIRST).rename(blobs / "0a1b")
    (sharded / FIRST).symlink_to(blobs / "0a1b")
    assert numbers(sharded) == {"a": 1, "b": 2, "c": 3}


@pytest.mark.parametrize(
    "name",
    [
        "../outside.safetensors", "../../etc/passwd", "/etc/passwd", "/outside.safetensors", "..", ".", "",
        "sub/inside.safetensors", "sub\\inside.safetensors", "C:outside.safetensors", ".hidden.safetensors",
        "a\0.safetensors", "a\n.safetensors", "pytorch_model.bin", "x" * 300 + ".safetensors",
    ],
)  # fmt: skip
def test_an_index_must_not_lead_out_of_the_folder(name: str, sharded: Path) -> None:
    """Only plain names of safetensors files are followed, whether or not such a file exists."""
    write(sharded.parent, "outside.safetensors", c=13)
    (sharded / "sub").mkdir()
    write(sharded / "sub", "inside.safetensors", c=13)
    write_index(sharded, {"a": FIRST, "c": name})
    with pytest.raises(CorruptFile, match="not the plain name of a safetensors file"):
        open_safetensors(sharded)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "not valid JSON"),
        (b"[]", "no weight_map"),
        (b"{}", "no weight_map"),
        (b'{"weight_map": {}}', "no weight_map"),
        (b'{"weight_map": ["a"]}', "no weight_map"),
        (b'{"weight_map": {"a": 1}}', "plain name"),
        (b'{"weight_map": {"a": ["model-00001-of-00002.safetensors"]}}', "plain name"),
        (b'{"weight_map": {"a": "a.safetensors", "a": "b.safetensors"}}', "'a' is there twice"),
        (b'{"weight_map": {"a": "\xff.safetensors"}}', "not valid JSON"),
        (b'{"weight_map": ' + b"[" * 100_000, "nested too deeply"),
        (b"{" + b" " * (65 << 20), "larger than"),
    ],
    ids=lambda value: value[:40] if isinstance(value, str) else "content",
)
def test_a_damaged_index(content: bytes, said: str, sharded: Path) -> None:
    (sharded / INDEX).write_bytes(content)
    with pytest.raises(CorruptFile, match=said) as caught:
        open_safetensors(sharded)
    assert INDEX in caught.value.message


def test_too_many_shards(sharded: Path) -> None:
    write_index(sharded, {f"t{n}": f"model-{n}.safetensors" for n in range(3000)})
    with pytest.raises(CorruptFile, match="names 3,000 files"):
        open_safetensors(sharded)


def test_a_missing_shard(sharded: Path) -> None:
    """As after a download that was broken off: says how many and which."""
    (sharded / SECOND).unlink()
    with pytest.raises(CorruptFile, match=f"lacks 1 of the model's 2 files, such as {SECOND}"):
        open_safetensors(sharded)


def test_a_link_to_nothing(sharded: Path) -> None:
    """As a hub's cache looks after its blobs were deleted."""
    (sharded / SECOND).unlink()
    (sharded / SECOND).symlink_to("nowhere")
    with pytest.raises(CorruptFile, match=f"such as {SECOND}"):
        open_safetensors(sharded)


def test_a_damaged_shard(sharded: Path) -> None:
    content = (sharded / SECOND).read_bytes()
    (sharded / SECOND).write_bytes(content[:-1])
    with pytest.raises(CorruptFile, match=f"{SECOND} is damaged"):
        open_safetensors(sharded)


def test_a_tensor_that_the_index_promises_in_vain(sharded: Path) -> None:
    write_index(sharded, {"a": FIRST, "b": SECOND, "c": SECOND})
    with pytest.raises(CorruptFile, match=f"{SECOND} lacks the tensor 'b'"):
        open_safetensors(sharded)


def test_a_tensor_in_two_shards(sharded: Path) -> None:
    """Which of the two is meant, nobody can tell; the index is not believed over the files."""
    write(sharded, SECOND, a=13, c=3)
    with pytest.raises(CorruptFile, match=f"'a' is both in {FIRST} and in {SECOND}"):
        open_safetensors(sharded)


def test_shards_without_their_index(sharded: Path) -> None:
    (sharded / INDEX).unlink()
    with pytest.raises(CorruptFile, match="2 safetensors files and no index"):
        open_safetensors(sharded)


def test_errors_leave_no_file_open(sharded: Path) -> None:
    write_index(sharded, {"a": FIRST, "b": SECOND})
    before = len(list(Path("/proc/self/fd").iterdir()))
    for _ in range(10):
        with pytest.raises(CorruptFile):
            open_safetensors(sharded)
    assert len(list(Path("/proc/self/fd").iterdir())) == before


class Bomb:
    """Unpickled, it writes a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, ...]:
        return (Path.write_text, (self.path, "boom"))


@pytest.mark.parametrize("name", ["pytorch_model.bin", "consolidated.00.pth", "model.pt", "last.ckpt"])
def test_a_folder_with_only_pickles(name: str, tmp_path: Path) -> None:
    """Refused, with the reason and the way out, and never loaded."""
    canary = tmp_path / "canary"
    bomb = pickle.dumps(Bomb(canary))
    (tmp_path / name).write_bytes(bomb)
    with pytest.raises(UnsafeFile, match=name) as caught:
        open_safetensors(tmp_path)
    assert "code" in caught.value.cause
    assert "save_pretrained" in caught.value.remedy
    assert not canary.exists()
    pickle.loads(bomb)
    assert canary.exists()  # it would have been


def test_pickles_beside_safetensors_do_not_matter(sharded: Path) -> None:
    (sharded / "pytorch_model.bin").write_bytes(b"anything")
    assert numbers(sharded) == {"a": 1, "b": 2, "c": 3}


def test_no_weights_and_no_folder(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(ModelNotFound, match="no safetensors file"):
        open_safetensors(tmp_path)
    with pytest.raises(ModelNotFound, match="no such folder"):
        open_safetensors(tmp_path / "absent")
    with pytest.raises(ModelNotFound, match="no such folder"):
        open_safetensors(tmp_path / "config.json")


def test_an_index_that_cannot_be_read(tmp_path: Path) -> None:
    (tmp_path / INDEX).mkdir()
    with pytest.raises(FormatError, match="cannot read"):
        open_safetensors(tmp_path)


def test_a_folder_of_the_name_of_a_file(tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").mkdir()
    with pytest.raises(FormatError, match="is not a file"):
        SafetensorsFile(tmp_path / "model.safetensors")
