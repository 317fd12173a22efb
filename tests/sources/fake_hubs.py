"""As much of the Hugging Face and ModelScope APIs as their own libraries need to fetch a small model."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, field

from sources.loopback_site import Reply, Request

COMMIT = "c0ffee" + "0" * 34
NEXT_COMMIT = "beef" + "1" * 36


def gguf(size: int = 4096, seed: int = 0) -> bytes:
    """Bytes that begin as a GGUF does. What is inside does not matter to the sources."""
    return b"GGUF" + hashlib.shake_128(bytes([seed])).digest(size - 4)


def small_model() -> dict[str, bytes]:
    """A repository in the Hugging Face layout, with files that boli must leave alone."""
    return {
        "config.json": b'{"model_type": "llama"}',
        "generation_config.json": b'{"eos_token_id": 2}',
        "tokenizer.json": b'{"model": {}}',
        "tokenizer_config.json": b'{"bos_token": null}',
        "chat_template.jinja": b"{{ messages }}",
        "model.safetensors": gguf(60_000, 7),
        "pytorch_model.bin": b"\x80\x04pickle",
        "README.md": b"# tiny",
        "modeling_tiny.py": b"raise SystemExit('code of the repository ran')",
        "onnx/model.onnx": b"onnx",
    }


@dataclass
class Hub:
    """A hub with repositories. Faults are given by file name."""

    repos: dict[str, dict[str, bytes]]
    commits: dict[str, str] = field(default_factory=lambda: {"main": COMMIT, COMMIT: COMMIT, "v1": COMMIT})
    replies: dict[str, list[Reply]] = field(default_factory=dict)  # used up one by one, then all is well
    listed_extra: dict[str, dict[str, object]] = field(default_factory=dict)  # of a repository
    listed_size: dict[str, int] = field(default_factory=dict)
    tags: dict[str, str] = field(default_factory=dict)  # false ETags
    gated: bool = False
    private_token: str = ""
    cdn: str = ""  # address of another host that large files are on

    def answer(self, request: Request) -> Reply:
        path = request.path
        known = request.headers.get("authorization") == f"Bearer {self.private_token}"
        if self.private_token and not known and not path.startswith("/cdn/"):
            return _error(404, "RepoNotFound")
        if path.startswith("/api/models/"):
            return self._hf_info(path.removeprefix("/api/models/"))
        if path.startswith("/api/v1/models/"):
            return self._ms(path.removeprefix("/api/v1/models/"), request)
        if path.startswith("/cdn/"):
            repo, _, file = path.removeprefix("/cdn/").partition("/-/")
            return self._file(repo, file)
        if "/resolve/" in path:
            return self._hf_file(request)
        return Reply(status=404)

    def _hf_info(self, rest: str) -> Reply:
        repo, _, revision = rest.partition("/revision/")
        if repo not in self.repos:
            return _error(404, "RepoNotFound")
        commit = self.commits.get(revision or "main")
        if commit is None:
            return _error(404, "RevisionNotFound")
        siblings: list[dict[str, object]] = []
        for file, body in self.repos[repo].items():
            size = self.listed_size.get(file, len(body))
            entry: dict[str, object] = {"rfilename": file, "size": size, "blobId": _git_sha1(body)}
            if _is_large(file):
                entry["lfs"] = {"sha256": _sha256(body), "size": size, "pointerSize": 134}
            siblings.append(entry)
        info = {"id": repo, "sha": commit, "siblings": siblings + self._extra(repo)}
        return Reply(json.dumps(info).encode(), headers={"Content-Type": "application/json"})

    def _hf_file(self, request: Request) -> Reply:
        repo, _, rest = request.path[1:].partition("/resolve/")
        revision, _, file = rest.partition("/")
        if self.gated:
            return _error(403, "GatedRepo")
        if file not in self.repos.get(repo, {}):
            return _error(404, "EntryNotFound")
        body = self.repos[repo][file]
        tag = _sha256(body) if _is_large(file) else _git_sha1(body)
        tag = self.tags.get(file, tag)
        headers = {"ETag": f'"{tag}"', "X-Repo-Commit": self.commits.get(revision, revision)}
        if self.cdn and _is_large(file):
            headers |= {"Location": f"{self.cdn}/cdn/{repo}/-/{file}", "X-Linked-Etag": f'"{tag}"'}
            return Reply(status=302, headers=headers | {"X-Linked-Size": str(len(body))})
        reply = self._file(repo, file) if request.method == "GET" else Reply(body)
        reply.headers |= headers
        return reply

    def _file(self, repo: str, file: str) -> Reply:
        waiting = self.replies.get(file)
        return waiting.pop(0) if waiting else Reply(self.repos[repo][file])

    def _extra(self, repo: str) -> list[dict[str, object]]:
        return [self.listed_extra[repo]] if repo in self.listed_extra else []

    def _ms(self, rest: str, request: Request) -> Reply:
        repo, _, what = rest.partition("/repo")
        if repo not in self.repos or request.query.get("Revision") not in ("master", "v1"):
            return Reply(json.dumps({"Code": 10010205001, "Message": "not found"}).encode(), status=404)
        if what == "/files":
            entries: list[dict[str, object]] = [
                {
                    "Path": file,
                    "Size": self.listed_size.get(file, len(body)),
                    "Sha256": _sha256(body),
                    "Type": "blob",
                }
                for file, body in self.repos[repo].items()
            ]
            data = {"Code": 200, "Success": True, "Data": {"Files": entries + self._extra(repo)}}
            return Reply(json.dumps(data).encode(), headers={"Content-Type": "application/json"})
        file = request.query.get("FilePath", "")
        if self.cdn and _is_large(file):
            return Reply(status=302, headers={"Location": f"{self.cdn}/cdn/{repo}/-/{file}"})
        return self._file(repo, file) if file in self.repos[repo] else Reply(status=404)


def _is_large(file: str) -> bool:
    return file.endswith((".safetensors", ".gguf", ".bin"))


def _error(status: int, code: str) -> Reply:
    return Reply(
        b"{}", status, {"X-Error-Code": code, "X-Error-Message": code, "Content-Type": "application/json"}
    )


def _sha256(body: bytes) -> str:
    return hashlib.sha256(body).hexdigest()


def _git_sha1(body: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(body) + body).hexdigest()
