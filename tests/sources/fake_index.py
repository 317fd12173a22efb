"""A package index on the loopback interface, and wheels to put on it."""

from __future__ import annotations

import hashlib
import io
import json
import zipfile
from dataclasses import dataclass, field

from sources.loopback_site import Reply, Request


def make_wheel(dist: str, members: dict[str, bytes], version: str = "1.0") -> tuple[str, bytes]:
    """The name and the bytes of a wheel that pip accepts."""
    name = dist.replace("-", "_")
    info = f"{name}-{version}.dist-info"
    files = dict(members)
    files[f"{info}/METADATA"] = f"Metadata-Version: 2.1\nName: {dist}\nVersion: {version}\n".encode()
    files[f"{info}/WHEEL"] = (
        b"Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
    )
    files[f"{info}/RECORD"] = "".join(f"{path},,\n" for path in [*files, f"{info}/RECORD"]).encode()
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for path, body in files.items():
            archive.writestr(zipfile.ZipInfo(path, (2026, 1, 1, 0, 0, 0)), body, zipfile.ZIP_DEFLATED)
    return f"{name}-{version}-py3-none-any.whl", buffer.getvalue()


@dataclass
class Index:
    """Serves wheels by name. `replies` are used up one by one for the file, then all is well."""

    wheels: dict[str, bytes]
    json_pages: bool = False
    with_hash: bool = True
    wrong_hash: bool = False
    replies: dict[str, list[Reply]] = field(default_factory=dict)
    files_at: str = ""  # address of another host that the files are on
    credentials: str = ""
    every_reply: Reply | None = None

    def answer(self, request: Request) -> Reply:
        known = request.headers.get("authorization") == self.credentials
        if self.credentials and not known and not request.path.startswith("/elsewhere/"):
            return Reply(status=401, headers={"WWW-Authenticate": "Basic"})
        if self.every_reply is not None:
            return self.every_reply
        if request.path.startswith("/simple/"):
            return self._page(request.path.removeprefix("/simple/").strip("/"))
        name = request.path.rpartition("/")[2]
        if name not in self.wheels or request.path.rpartition("/")[0] not in ("/files", "/elsewhere"):
            return Reply(status=404)
        if request.method == "GET" and self.replies.get(name):
            return self.replies[name].pop(0)
        return Reply(self.wheels[name])

    def _page(self, dist: str) -> Reply:
        mine = [name for name in self.wheels if name.split("-")[0].replace("_", "-") == dist]
        if not mine:
            return Reply(status=404)
        base = self.files_at or "../../files"
        digests = {name: "0" * 64 if self.wrong_hash else _sha256(self.wheels[name]) for name in mine}
        if self.json_pages:
            files = [
                {
                    "filename": name,
                    "url": f"{base}/{name}",
                    "hashes": {"sha256": digests[name]},
                    "size": len(self.wheels[name]),
                }
                for name in mine
            ]
            page = {"meta": {"api-version": "1.1"}, "name": dist, "files": files}
            return Reply(
                json.dumps(page).encode(), headers={"Content-Type": "application/vnd.pypi.simple.v1+json"}
            )
        links = "".join(
            f'<a href="{base}/{name}{"#sha256=" + digests[name] if self.with_hash else ""}">{name}</a><br/>'
            for name in mine
        )
        page_text = f"<!DOCTYPE html><html><body>{links}</body></html>"
        return Reply(page_text.encode(), headers={"Content-Type": "text/html"})


def _sha256(body: bytes) -> str:
    return hashlib.sha256(body).hexdigest()
