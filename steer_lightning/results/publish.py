"""Vectors to the hub with a model card, and back."""

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
from steer_lightning.system.hub_answers import ENDPOINT, check_hub_answers
from steer_lightning.system.run_files import CONFIG, REWARD_CURVE, SUMMARY

FILES = (SteeringVectors.file_name, SUMMARY, CONFIG, REWARD_CURVE)
"""What is uploaded of a run, where it is there; completions stay here."""

HUB_ERRORS = (OSError, ValueError, cast("type[Exception]", HfHubHTTPError.__bases__[0]))
"""What the hub's client raises; the last one is of the HTTP library that it happens to use."""


def push_to_hub(
    run: str | Path,
    repo_id: str,
    *,
    private: bool | None = None,
    overwrite: bool = False,
) -> str:
    """Uploads a run's vectors, configuration, summary and curve with a generated model card.

    The account is that of `hf auth login`, or of the environment's HF_TOKEN.

    Args:
        run: A run's folder.
        repo_id: The repository, USER/NAME; it is made if it is missing.
        private: Whether a new repository is private; None takes the hub's default.
        overwrite: Adds a commit to a repository that holds vectors already.

    Returns:
        The address of the commit.

    Raises:
        ConfigError: If the folder is no run's or damaged, or the hub refuses.
    """
    folder = Path(run)
    card = model_card(folder, repo_id)
    with _hub_errors("to", repo_id):
        api = HfApi()
        if not overwrite and api.file_exists(repo_id, SteeringVectors.file_name):
            raise ConfigError(
                "to",
                repo_id,
                rule="holds vectors already",
                fix="Name another repository, or give --overwrite: that adds a commit, and the "
                "earlier one stays",
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
    """Loads vectors from the hub; what was downloaded before is taken from the cache.

        with attach(model, from_hub("user/name")):
            model.generate(**inputs)

    Args:
        repo_id: The repository, USER/NAME.
        revision: Branch, tag or commit.

    Raises:
        ConfigError: If the hub has no such vectors or can't be reached.
    """
    with _hub_errors("repo_id", repo_id):
        path = hf_hub_download(repo_id, SteeringVectors.file_name, revision=revision)
    return load_vectors(path)


@contextmanager
def _hub_errors(key: str, repo_id: str) -> Iterator[None]:
    """Turns what the hub's client raises into a ConfigError."""
    endpoint = os.environ.get("HF_ENDPOINT", ENDPOINT)
    fix = f"Check the name and the network ({endpoint}), and log in by `hf auth login` or HF_TOKEN"
    try:
        check_hub_answers(key, repo_id, fix)
        yield
    except HUB_ERRORS as error:
        if isinstance(error, ConfigError):
            raise
        why = " ".join(str(error).split()).rstrip(".")
        raise ConfigError(key, repo_id, rule="the hub can't be used", why=why, fix=fix) from error
