"""Uploads vectors to the hub with a model card, and loads them from there."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import cast

from huggingface_hub import HfApi, hf_hub_download
from huggingface_hub.errors import HfHubHTTPError

from steer_lightning.errors import ConfigError
from steer_lightning.results.model_card import model_card
from steer_lightning.steering import SteeringVectors, load_vectors
from steer_lightning.system.hub_answers import ENDPOINT, hub_or_cache
from steer_lightning.system.run_files import CONFIG, REWARD_CURVE, SUMMARY

FILES = (SteeringVectors.file_name, SUMMARY, CONFIG, REWARD_CURVE)
"""The files of a run that are uploaded, if they exist; completions are never uploaded."""

HUB_ERRORS = (OSError, ValueError, cast("type[Exception]", HfHubHTTPError.__bases__[0]))
"""Errors of the hub's client; the last one comes from the HTTP library that it happens to use."""


def push_to_hub(
    run: str | Path,
    repo_id: str,
    *,
    private: bool | None = None,
    overwrite: bool = False,
) -> str:
    """Uploads the vectors, configuration, summary and curve of a run, with a new model card.

    The account is the one of `hf auth login`, or of HF_TOKEN in the environment.

    Args:
        run: Folder of the run.
        repo_id: Repository, as USER/NAME; it is created if it does not exist.
        private: Whether a new repository is private; None takes the hub's default.
        overwrite: Whether to add a commit to a repository that already contains vectors.

    Returns:
        The address of the commit.

    Raises:
        ConfigError: If the folder holds no run, a file is damaged, or the hub refuses.
    """
    folder = Path(run)
    card = model_card(folder, repo_id)
    with _hub_errors("to", repo_id):
        api = HfApi()
        if not overwrite and api.file_exists(repo_id, SteeringVectors.file_name):
            raise ConfigError(
                "to",
                repo_id,
                rule="already contains vectors",
                fix="Name another repository, or set --overwrite, which adds a commit and keeps "
                "the earlier one",
            )
        api.create_repo(repo_id, private=private, exist_ok=True)
        with tempfile.TemporaryDirectory() as staged:
            for name in FILES:
                if (folder / name).is_file():
                    shutil.copyfile(folder / name, Path(staged) / name)
            card.save(Path(staged) / "README.md")
            commit = api.upload_folder(
                repo_id=repo_id, folder_path=staged, commit_message="Steering vectors"
            )
    return str(commit.commit_url)


def from_hub(repo_id: str, revision: str | None = None) -> SteeringVectors:
    """Loads vectors from the hub, or from the cache if they were downloaded before.

    For example::

        with attach(model, from_hub("user/name")):
            model.generate(**inputs)

    Args:
        repo_id: Repository, as USER/NAME.
        revision: Branch, tag or commit of the repository.

    Raises:
        ConfigError: If the hub has no such vectors or can't be reached.
    """
    with _hub_errors("repo_id", repo_id):
        path = hf_hub_download(repo_id, SteeringVectors.file_name, revision=revision)
    return load_vectors(path)


@contextmanager
def _hub_errors(key: str, repo_id: str) -> Iterator[None]:
    """Turns errors of the hub's client into a ConfigError."""
    endpoint = os.environ.get("HF_ENDPOINT", ENDPOINT)
    fix = f"Check name and network ({endpoint}), and log in with `hf auth login` or HF_TOKEN"
    try:
        with hub_or_cache(key, repo_id, fix):
            yield
    except HUB_ERRORS as error:
        if isinstance(error, ConfigError):
            raise
        why = " ".join(str(error).split()).rstrip(".")
        raise ConfigError(key, repo_id, rule="the hub can't be used", why=why, fix=fix) from error
