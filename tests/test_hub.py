"""The Hub, played by a server on this machine that speaks its protocol."""

import base64
import hashlib
import http.server
import json
import re
import threading

import pytest
import torch

import anydiff
from anydiff.cli.runs import open_model
from anydiff.hub import card_of, pull, push
from anydiff.ready import MODELS, model_path


class Hub:
    """Repositories in memory: create, upload in a commit, and read by revision."""

    def __init__(self):
        self.repos, self.asked = {}, []
        hub = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def answer(self):
                body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
                hub.asked.append((self.command, self.path, self.headers.get("Authorization")))
                hub.reply(self, body)

            do_GET = do_HEAD = do_POST = answer

            def log_message(self, *_):
                pass

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def reply(self, to, body):
        if to.path == "/api/repos/create":
            asked = json.loads(body)
            name = f"{asked['organization']}/{asked['name']}"
            if name == "other/one":
                return self.fail(to, 403, "Forbidden")
            known = name in self.repos
            self.repos.setdefault(name, {})
            return self.send(to, {"url": f"{self.url}/{name}"}, 409 if known else 200)
        if to.path == "/api/validate-yaml":
            return self.send(to, {"errors": [], "warnings": []})
        if match := re.fullmatch(r"/api/models/(.+?/.+?)/preupload/main", to.path):
            files = json.loads(body)["files"]
            modes = [
                {"path": f["path"], "uploadMode": "regular", "shouldIgnore": False} for f in files
            ]
            return self.send(to, {"files": modes})
        if match := re.fullmatch(r"/api/models/(.+?/.+?)/commit/main", to.path):
            lines = [json.loads(line)["value"] for line in body.decode().splitlines()]
            files = {v["path"]: base64.b64decode(v["content"]) for v in lines if "path" in v}
            oid = hashlib.sha1(body).hexdigest()
            files = self.repos[match[1]].get("main", {}) | files
            self.repos[match[1]] |= {oid: files, "main": files, "message": lines[0]["summary"]}
            done = {"commitOid": oid, "commitUrl": f"{self.url}/{match[1]}/commit/{oid}"}
            return self.send(to, {"success": True, **done})
        if match := re.fullmatch(r"/(.+?/.+?)/resolve/(.+?)/(.+)", to.path):
            name, revision, file = match.groups()
            if name not in self.repos:
                return self.fail(to, 404, "RepoNotFound")
            files = self.repos[name].get(revision)
            if files is None:
                return self.fail(to, 404, "RevisionNotFound")
            if file not in files:
                return self.fail(to, 404, "EntryNotFound")
            oid = next(k for k, v in self.repos[name].items() if v is files and len(k) == 40)
            kept = {"X-Repo-Commit": oid, "ETag": f'"{hashlib.sha1(files[file]).hexdigest()}"'}
            return self.send(to, files[file], headers=kept)
        return self.fail(to, 404, "EntryNotFound")

    def send(self, to, content, status=200, headers=()):
        data = content if isinstance(content, bytes) else json.dumps(content).encode()
        to.send_response(status)
        for name, value in {"Content-Length": len(data), **dict(headers)}.items():
            to.send_header(name, str(value))
        to.end_headers()
        if to.command != "HEAD":
            to.wfile.write(data)

    def fail(self, to, status, code):
        self.send(to, {"error": code}, status, {"X-Error-Code": code})


@pytest.fixture
def hub(tmp_path, monkeypatch):
    pytest.importorskip("huggingface_hub")
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    known = Hub()
    yield known
    known.server.shutdown()
    known.server.server_close()


def test_what_is_pushed_is_pulled(hub):
    path = model_path("qm9")
    first = push(path, "me/qm9", token="secret", endpoint=hub.url, message="first")
    assert hub.repos["me/qm9"]["message"] == "first"
    assert {by for _, _, by in hub.asked} == {"Bearer secret"}
    found = pull("me/qm9", token=False, endpoint=hub.url)
    assert found.read_bytes() == path.read_bytes()
    one, other = anydiff.load(found)[0], anydiff.load(path)[0]
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), other.parameters(), strict=True))
    card = pull("me/qm9", "README.md", first, token=False, endpoint=hub.url).read_text()
    assert card.startswith("---\nlibrary_name: anydiff\n")


def test_a_second_commit_leaves_the_first_where_it_was(hub):
    path = model_path("qm9")
    commits = [push(path, "me/m", card=c, token="x", endpoint=hub.url) for c in ("one", "two")]
    texts = [pull("me/m", "README.md", r, endpoint=hub.url).read_text() for r in (*commits, None)]
    assert texts == ["one", "two", "two"]


def test_what_is_there_is_not_fetched_again(hub):
    oid = push(model_path("qm9"), "me/m", token="x", endpoint=hub.url)
    pull("me/m", revision=oid, endpoint=hub.url)
    hub.asked.clear()
    pull("me/m", revision=oid, endpoint=hub.url)
    assert not [path for verb, path, _ in hub.asked if verb == "GET"]


def test_no_other_file_is_sent(hub, tmp_path):
    (tmp_path / "secrets.txt").write_text("secret")
    with pytest.raises(ValueError, match=re.escape("secrets.txt")):
        push(tmp_path / "secrets.txt", "me/m", endpoint=hub.url)
    assert not hub.asked


@pytest.mark.parametrize(
    "how, error",
    [
        (("me/none",), "there is no repository me/none, or it is private"),
        (("me/m", "none.txt"), "me/m/none.txt is not there; the repository has no such file"),
        (("me/m", "README.md", "v2"), "me/m/README.md at v2 is not there"),
        (("not a name",), "the repository is 'not a name'; give its owner and its name"),
    ],
)
def test_what_is_not_there_is_named(how, error, hub):
    push(model_path("qm9"), "me/m", token="x", endpoint=hub.url)
    with pytest.raises(ValueError, match=re.escape(error)):
        pull(*how, endpoint=hub.url)


def test_a_card_that_was_edited_stays(hub):
    push(model_path("qm9"), "me/m", card="mine", token="x", endpoint=hub.url)
    push(model_path("qm9"), "me/m", token="x", endpoint=hub.url)
    assert hub.repos["me/m"]["main"]["README.md"] == b"mine"


def test_a_refusal_is_told(hub):
    with pytest.raises(ValueError, match=r"was not written to other/one: .*403"):
        push(model_path("qm9"), "other/one", token="x", endpoint=hub.url)


@pytest.mark.slow
def test_without_a_server_the_cache_answers(hub):
    oid = push(model_path("qm9"), "me/m", token="x", endpoint=hub.url)
    kept = pull("me/m", revision=oid, endpoint=hub.url)
    hub.server.shutdown()
    hub.server.server_close()
    assert pull("me/m", revision=oid, endpoint=hub.url) == kept
    with pytest.raises(ValueError, match="was not written to me/m: "):
        push(model_path("qm9"), "me/m", token="x", endpoint=hub.url)
    with pytest.raises(ValueError, match=r"me/other/model\.safetensors is not in the cache"):
        pull("me/other", endpoint=hub.url)


def test_a_card_says_what_the_file_says():
    diffusion, extra = anydiff.load(model_path("kanji"))
    card = card_of("me/kanji", diffusion, extra)
    assert "- sketches\n" in card and "| parameters | 1,693,584 |" in card
    assert "| trained on | kanjivg |" in card and "anydiff sample model.safetensors" in card
    assert 'pull("me/kanji")' in card and "# kanji\n" in card
    mine = card_of("me/mine", diffusion, {"data": "/home/me/mine.sdf", "kind": "a\nb", "made": {}})
    assert "| trained on | mine.sdf |" in mine and "- a b\n" in mine
    bare = card_of("me/bare", diffusion, {})
    assert "anydiff sample" not in bare and "None" not in bare


@pytest.mark.parametrize("name", MODELS)
def test_every_model_has_a_card(name, hub):
    push(model_path(name), f"me/{name}", token="x", endpoint=hub.url)
    card = hub.repos[f"me/{name}"]["main"]["README.md"].decode()
    data = open_model(model_path(name)).data
    assert f"| trained on | {data} |" in card and "anydiff sample model.safetensors" in card


@pytest.mark.parametrize(
    "kept", [{"data": torch.zeros(2)}, {"data": 5}, {"data": []}, {"made": "today"}, {"kind": [1]}]
)
def test_a_card_leaves_out_what_is_of_another_kind(kept):
    card = card_of("me/m", torch.nn.Linear(1, 1), {"kind": "toy", **kept})
    assert "trained on" not in card and "anydiff sample" not in card and "parameters | 2" in card


@pytest.mark.parametrize("revision", ["../../mine", "/etc/mine", "a\\b", "a/../b", "", 3])
def test_a_revision_is_no_path(revision, hub):
    with pytest.raises(ValueError, match=r"the revision is .*; give a branch, a tag or a hash"):
        pull("me/m", revision=revision, endpoint=hub.url)
    assert not hub.asked


def test_an_answer_that_is_a_failure_is_told(hub, monkeypatch):
    push(model_path("digits"), "me/m", token="x", endpoint=hub.url)
    answer = hub.reply
    monkeypatch.setattr(
        hub,
        "reply",
        lambda to, body: hub.fail(to, 403, "no") if to.command == "GET" else answer(to, body),
    )
    with pytest.raises(ValueError, match=r"me/m/model\.safetensors was not read: .*403"):
        pull("me/m", endpoint=hub.url)
