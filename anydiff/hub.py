"""Models on the Hugging Face Hub: one file, and the card that says what it is.

    path = pull("somebody/molecules")
    diffusion, extra = anydiff.load(path)

    push("runs/molecules/model.safetensors", "me/molecules", card="# Molecules of mine ...")

A pulled file is as safe to open as any other: :func:`anydiff.load` runs no code from it.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from anydiff.checkpoints import load
from anydiff.checks import shown
from anydiff.extras import extra
from anydiff.files import PathLike

__all__ = ["card_of", "pull", "push"]

MODEL = "model.safetensors"


def pull(
    repo: str,
    file: str = MODEL,
    revision: str | None = None,
    *,
    token: str | bool | None = None,
    endpoint: str | None = None,
) -> Path:
    """A file of a repository, in the cache of the Hub; it is fetched if it is not there yet.

    Arguments:
        repo: Whose and which, ``"somebody/molecules"``.
        file: The file in it.
        revision: A branch, a tag or the hash of a commit; the main branch if None. A hash is the only
            one of these that always names the same file.
        token: As huggingface_hub takes it: that of the user's login if None.
        endpoint: Another server than the Hub.

    Returns:
        The path, for :func:`anydiff.load` and for the `anydiff` command.

    Raises:
        ValueError: If there is no such repository, revision or file, or the server refuses it or does not
            answer.
        ImportError: If huggingface_hub is not installed.
    """
    with extra("hub"):
        import huggingface_hub
        from huggingface_hub import errors

    if revision is not None and (
        not isinstance(revision, str)
        or not set(revision.split("/")).isdisjoint(("", ".", ".."))
        or "\\" in revision
    ):  # fmt: skip - the client makes a path in its cache of it
        raise ValueError(f"the revision is {shown(revision)}; give a branch, a tag or a hash.")
    where = f"{repo}/{file}" + ("" if revision is None else f" at {revision}")
    try:
        found = huggingface_hub.hf_hub_download(
            repo, file, revision=revision, token=token, endpoint=endpoint
        )
    except errors.HFValidationError as error:
        raise ValueError(
            f"the repository is {shown(repo)}; give its owner and its name, somebody/molecules."
        ) from error
    except (errors.EntryNotFoundError, errors.RevisionNotFoundError) as error:
        if not isinstance(error, errors.LocalEntryNotFoundError):
            raise ValueError(
                f"{where} is not there; the repository has no such file or revision."
            ) from error
        raise ValueError(f"{where} is not in the cache, and the server gives no answer.") from error
    except errors.GatedRepoError as error:
        raise ValueError(
            f"{repo} is gated: accept its terms on the Hub, and give a token."
        ) from error
    except errors.RepositoryNotFoundError as error:
        raise ValueError(
            f"there is no repository {repo}, or it is private and the token does not open it."
        ) from error
    except _failures() as error:
        raise ValueError(f"{where} was not read: {' '.join(str(error).split())}") from error
    return Path(found)


def push(
    path: PathLike,
    repo: str,
    *,
    card: str | None = None,
    private: bool = False,
    message: str | None = None,
    token: str | bool | None = None,
    endpoint: str | None = None,
) -> str:
    """Write a model and its card to a repository, which is made if there is none; both in one commit.

    The file is sent as it is: it names the data that it was trained on, also by a path.

    Arguments:
        path: The file, which is opened first: what is no model is not sent.
        repo: Whose and which, ``"me/molecules"``.
        card: The README of the repository, in Markdown; by default :func:`card_of` the file, if the
            repository has none.
        private: Whether a new repository is private.
        message: Of the commit.
        token: As huggingface_hub takes it: that of the user's login if None.
        endpoint: Another server than the Hub.

    Returns:
        The hash of the commit, a `revision` for :func:`pull`.

    Raises:
        ValueError: If the file is no model, or the server refuses it or does not answer.
        ImportError: If huggingface_hub is not installed.
    """
    with extra("hub"):
        from huggingface_hub import CommitOperationAdd, HfApi

    diffusion, kept = load(path)
    api = HfApi(endpoint=endpoint, token=token)
    files = [CommitOperationAdd(MODEL, Path(path).read_bytes())]
    text = card_of(repo, diffusion, kept) if card is None else card
    try:
        api.create_repo(repo, private=private, exist_ok=True)
        if card is not None or not api.file_exists(repo, "README.md"):  # perhaps edited there
            files.append(CommitOperationAdd("README.md", text.encode()))
        done = api.create_commit(repo, files, commit_message=message or "A model of anydiff")
    except _failures() as error:
        said = " ".join(str(error).split())
        raise ValueError(f"{path} was not written to {repo}: {said}") from error
    return str(done.oid)


def _failures() -> tuple[type[Exception], ...]:
    """What the client raises if the server refuses, or is not there."""
    with extra("hub"):
        from huggingface_hub import errors

    known: list[type[Exception]] = [errors.HfHubHTTPError, errors.HFValidationError, OSError]
    for name in ("httpx2", "httpx", "requests"):  # the client's own transport, by its version
        module = sys.modules.get(name)
        found = getattr(module, "TransportError", None) or getattr(module, "RequestException", None)
        known += [found] if isinstance(found, type) else []
    return tuple(known)


def card_of(name: str, diffusion: Any, kept: Mapping[str, Any]) -> str:
    """A card in Markdown: what a model is, how it was made, and how to draw with it.

    Arguments:
        name: Whose and which, ``"me/molecules"``.
        diffusion: As :func:`anydiff.load` gives it.
        kept: What the file keeps beside it.
    """
    kind, data, made = (kept.get(name) for name in ("kind", "data", "made"))
    kind = kind if isinstance(kind, str) else None
    if isinstance(data, list) and data:  # that of images has a size beside it
        data = data[0]
    size = sum(p.numel() for p in diffusion.parameters())
    rows = {"kind": kind, "trained on": Path(data).name if isinstance(data, str) else None}
    rows |= {"parameters": f"{size:,}", **(made if isinstance(made, dict) else {})}
    cells = {
        k: " ".join(str(v).replace("|", "/").split()) for k, v in rows.items() if v is not None
    }
    lines = [f"| {k} | {v} |" for k, v in cells.items()]
    tags = "".join(f"- {tag}\n" for tag in ("anydiff", "diffusion", cells.get("kind")) if tag)
    own = kind in ("images", "molecules", "sketches", "smiles")
    draw = f"\nor, of the file that it fetches, `anydiff sample {MODEL}`.\n" if own else ""
    return (
        f"---\nlibrary_name: anydiff\ntags:\n{tags}---\n\n# {name.rpartition('/')[2]}\n\n"
        "A diffusion model of [anydiff](https://github.com/anydiff/anydiff).\n\n"
        "```python\nimport anydiff\nfrom anydiff.hub import pull\n\n"
        f'diffusion, extra = anydiff.load(pull("{name}"))\n```\n{draw}\n| | |\n|---|---|\n'
        + "\n".join(lines)
        + "\n"
    )
