"""A folder as Hugging Face lays it out: one safetensors file, or several and an index."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt

from boli.errors import CorruptFile, FormatError, UnsafeFile
from boli.formats.safetensors import SafetensorsFile
from boli.formats.tensor_file import TensorInfo

MAX_JSON_BYTES: Final = 64 * 2**20  # the index of a model with 100,000 tensors has 10 MB
MAX_SHARDS: Final = 2048
PICKLES: Final = (".bin", ".pt", ".pth", ".ckpt", ".pkl")


class SafetensorsFolder:
    """All safetensors files of a folder that belong to its model, as one.

    As transformers does, it takes `model.safetensors`; without it the files named by the index
    `*.safetensors.index.json`; without that the only safetensors file there is.

    Args:
        folder: The folder.

    Raises:
        UnsafeFile: The weights are only there as pickles.
        CorruptFile: A file is missing or damaged, or there is no telling which belong together.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.tensors: Mapping[str, TensorInfo]
        self._files: dict[str, SafetensorsFile] = {}
        self._places: dict[str, str] = {}
        try:
            self._open()
        except BaseException:
            self.close()
            raise

    def data(self, name: str) -> npt.NDArray[np.uint8]:
        """The bytes of a tensor: uint8 `[nbytes]`, a read-only view of its mapped file."""
        return self._files[self._places[name]].data(name)

    def close(self) -> None:
        """Closes all files. May be called twice."""
        for file in self._files.values():
            file.close()

    def _open(self) -> None:
        names = sorted(entry.name for entry in self.folder.iterdir())
        single = [name for name in names if name.endswith(".safetensors")]
        index = next((name for name in names if name.endswith(".safetensors.index.json")), None)
        if "model.safetensors" in single:
            self._open_single("model.safetensors")
        elif index:
            self._open_shards(read_json(self.folder / index).get("weight_map"))
        elif len(single) == 1:
            self._open_single(single[0])
        elif single:
            raise CorruptFile(
                f"{self.folder} holds {len(single)} safetensors files and no index",
                cause="model.safetensors.index.json says which of them belong together",
                remedy="download the index too",
            )
        elif any(name.endswith(PICKLES) for name in names):
            raise pickles_only(self.folder)
        else:
            raise CorruptFile(f"{self.folder} holds no weights", cause="no *.safetensors file is there")

    def _open_single(self, name: str) -> None:
        file = self._files[name] = SafetensorsFile(self.folder / name)
        self.tensors = file.tensors
        self._places = dict.fromkeys(file.tensors, name)

    def _open_shards(self, places: object) -> None:
        if not isinstance(places, Mapping) or not all(isinstance(place, str) for place in places.values()):
            raise CorruptFile(f"{self.folder}: the index of the safetensors files has no usable weight_map")
        shards = sorted(set(places.values()))
        if len(shards) > MAX_SHARDS:
            raise CorruptFile(f"{self.folder}: the index names {len(shards)} files, more than {MAX_SHARDS}")
        for shard in shards:
            # A name that comes from a file must not lead out of the folder.
            if Path(shard).name != shard or "\0" in shard or not (self.folder / shard).is_file():
                raise CorruptFile(
                    f"{self.folder}: the file {shard[:200]!r}, which the index names, is not there",
                    remedy="download the model again; it continues where it stopped",
                )
            self._files[shard] = SafetensorsFile(self.folder / shard)
        for name, shard in places.items():
            if name not in self._files[shard].tensors:
                raise CorruptFile(
                    f"{self.folder}: {shard} lacks the tensor {name[:200]!r}, which the index promises",
                    remedy="the files are of different versions; download the model again",
                )
        self._places = dict(places)
        self.tensors = {name: self._files[shard].tensors[name] for name, shard in places.items()}


def read_json(path: Path) -> dict[str, object]:
    """A JSON object from a file, such as `config.json`.

    Raises:
        FormatError: It cannot be read.
        CorruptFile: It is no JSON object, or too large to be what it should be.
    """
    try:
        if path.stat().st_size > MAX_JSON_BYTES:
            raise CorruptFile(f"{path} is larger than {MAX_JSON_BYTES // 2**20} MiB")
        parsed = json.loads(path.read_bytes())
    except OSError as error:
        raise FormatError(f"cannot read {path}", cause=str(error)) from None
    except (ValueError, RecursionError) as error:
        raise CorruptFile(f"{path} is not JSON", cause=str(error)[:200]) from None
    if not isinstance(parsed, dict):
        raise CorruptFile(f"{path} is not a JSON object")
    return parsed


def pickles_only(path: Path) -> UnsafeFile:
    """The error for weights that only come as pickles."""
    return UnsafeFile(
        f"{path} has its weights as pickles",
        cause="a pickle runs code when it is loaded, so boli never opens one",
        remedy="choose a version of the model in safetensors or GGUF, or convert it",
    )
