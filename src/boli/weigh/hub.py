"""The configuration of a model on the Hugging Face hub, without its weights."""

from __future__ import annotations

import tempfile
from pathlib import Path

from boli.errors import MissingExtra, ModelNotFound, install
from boli.formats.folder import MAX_CONFIG, read_config
from boli.sources import hub_cache
from boli.sources.names import HubName
from boli.sources.progress import Quiet

_CONFIG = "config.json"


def configuration(name: HubName) -> tuple[dict[str, object], str]:
    """The parsed `config.json` of a repository, and where it came from.

    What another program has put into the hub's cache is used without asking the network. What is fetched
    here is not put there: a snapshot with nothing but a configuration would hide a whole one.

    Raises:
        ModelNotFound: There is no such repository, or no `config.json` in it.
        NetworkError: No connection, offline mode, or a refusal.
        MissingExtra: The hub's library is not installed.
        CorruptFile: It is no JSON object.
    """
    cached = hub_cache.snapshot_folder(name)
    if cached is not None and (cached / _CONFIG).is_file():
        return read_config(cached / _CONFIG), "from the hub's cache"
    with tempfile.TemporaryDirectory(prefix="boli-") as folder:
        return read_config(_download(name, Path(folder))), "from the hub"


def _download(name: HubName, folder: Path) -> Path:
    try:
        from huggingface_hub import errors, hf_hub_download  # noqa: PLC0415  half a second

        from boli.sources import hf  # noqa: PLC0415
    except ImportError as error:
        raise MissingExtra(
            f"{name} comes from the Hugging Face hub, and huggingface_hub is not installed",
            cause=str(error),
            remedy=f"{install('hub')}, or give its config.json",
        ) from error

    def download() -> str:
        try:
            return str(
                hf_hub_download(
                    name.repo,
                    _CONFIG,
                    revision=name.revision,
                    local_dir=folder,
                    library_name="boli",
                    tqdm_class=hf.bar_for(Quiet(), MAX_CONFIG),
                )
            )
        except errors.RemoteEntryNotFoundError as error:
            raise ModelNotFound(
                f"{name} has no {_CONFIG}",
                cause="the repository holds something else, such as GGUF files alone",
                remedy=f"name one of its files: {name}/FILE.gguf, once it is downloaded",
            ) from error

    hf.watch_names()
    return Path(hf.explained(name, download))
