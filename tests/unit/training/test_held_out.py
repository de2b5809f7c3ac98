"""What `validate` and `test` tell before they answer."""

from __future__ import annotations

from pathlib import Path

import lightning as L
import pytest

from steer_lightning import PromptDataModule, SteeringModule
from steer_lightning.data import PlainTemplate
from steer_lightning.rollout import Sampling
from tests.no_eos import Questions, save_without_eos


@pytest.mark.filterwarnings("ignore")  # those of Lightning, which the command leaves out
@pytest.mark.parametrize("stop_strings", [[], ["a"]])
@pytest.mark.parametrize("stage", ["validate", "test"])
def test_answers_that_nothing_ends_are_told(
    tmp_path: Path, stage: str, stop_strings: list[str], caplog: pytest.LogCaptureFixture
) -> None:
    sampling = Sampling(group_size=1, max_new_tokens=2, stop_strings=stop_strings)
    module = SteeringModule(base=save_without_eos(tmp_path / "base"), eval_sampling=sampling)
    data = PromptDataModule(
        Questions(), Questions(), Questions(), template=PlainTemplate("{question}="), batch_size=1
    )
    trainer = L.Trainer(
        logger=False, enable_progress_bar=False, default_root_dir=tmp_path, accelerator="cpu"
    )
    getattr(trainer, stage)(module, data, verbose=False)
    told = "Set eos_token_ids or stop_strings of model.eval_sampling.\n"
    assert caplog.text.count(told) == (not stop_strings)
