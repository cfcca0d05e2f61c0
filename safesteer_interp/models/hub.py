"""From a hub id to the folder of its snapshot, and why there is none."""

from __future__ import annotations

import re
from pathlib import Path

from huggingface_hub import snapshot_download
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    LocalEntryNotFoundError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from safesteer_interp.errors import InputError, UsageError

_HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")
_WANTED = ("*.json", "*.safetensors", "*.jinja", "*.txt", "*.model")


def is_hub_id(name: str) -> bool:
    """Whether a name has the form owner/name."""
    return _HUB_ID.fullmatch(name) is not None


def refuse_path(name: str) -> None:
    """Raises InputError for a name that is meant as a folder and is none."""
    looks_like_path = name.startswith((".", "/", "~")) or "\\" in name or name.count("/") > 1
    if looks_like_path or Path(name).exists():
        problem = "is a file" if Path(name).is_file() else "does not exist"
        raise InputError(f"the model folder {name} {problem}; give a folder with config.json and *.safetensors, or a hub id.")


def download(name: str, revision: str | None, *, trust_remote_code: bool, weights: bool = True) -> Path:
    """Folder of a hub snapshot (safetensors, JSON and tokenizer files only; without `weights` no safetensors).

    Raises UsageError for an id that is malformed, InputError for one that cannot be had.
    """
    wanted = [*(w for w in _WANTED if weights or w != "*.safetensors"), *(["*.py"] if trust_remote_code else [])]
    try:
        return Path(snapshot_download(name, revision=revision, allow_patterns=wanted))
    except HFValidationError:
        raise UsageError(
            f'"{name}" is no local folder, and malformed as a hub id: owner/name of letters, digits, "-", "_" and ".", at most 96 '
            'characters, without "--", ".." or ".git" at the end, and with no "-" or "." at either end; check the spelling.'
        ) from None
    except GatedRepoError:
        raise InputError(f'hub model "{name}" is gated; accept its licence on the hub and log in with `hf auth login`.') from None
    except RevisionNotFoundError:
        raise InputError(f'hub model "{name}" has no revision "{revision}"; check the branch, tag or commit.') from None
    except RepositoryNotFoundError:
        raise InputError(f'"{name}" is neither a local folder nor a model on the hub; check the spelling.') from None
    except (LocalEntryNotFoundError, OfflineModeIsEnabled, HfHubHTTPError, OSError) as cause:
        reason = " ".join(str(cause).split())[:120]
        raise InputError(
            f'"{name}" is no local folder, and the hub cannot be reached for it ({reason}); go online or give a folder.'
        ) from None
