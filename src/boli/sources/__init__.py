"""Where a model comes from: a folder or file, `hf:`, `ms:`, `pypi:`, or a short name.

    resolve("smollm2")      what the user typed  →  files on the disk, fetched if need be
    installed(), remove()   what is in the caches

Read `names.py` for what can be typed, `lookup.py` for what is done about it, then one file for
each kind of place.
"""

from boli.sources.aliases import ALIASES, DEFAULT_MODEL, Alias
from boli.sources.inventory import InstalledModel, installed, remove
from boli.sources.local import LocalModel
from boli.sources.lookup import resolve
from boli.sources.progress import Progress

__all__ = [
    "ALIASES",
    "DEFAULT_MODEL",
    "Alias",
    "InstalledModel",
    "LocalModel",
    "Progress",
    "installed",
    "remove",
    "resolve",
]
