"""Plain mistakes are told at once, without torch, and are those that the parser finds, too."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from steer_lightning.cli import first_look, main
from steer_lightning.cli.first_look import ALSO, GROUPS, TRAINING, _Look, look_at
from steer_lightning.cli.fit import SteeringCLI
from steer_lightning.errors import ConfigError, ConfigErrors

ROOT = Path(__file__).parents[3]
QUICKSTART = ROOT / "configs/quickstart.yaml"
SIX = {
    "--model.sampling.group_size=many": "model.sampling.group_size = 'many': must be a whole",
    "--model.advantage=GRPOO": "model.advantage = 'GRPOO': there is no Advantage of this name",
    "--trainer.max_stepz=3": "trainer.max_stepz = '3': there is no such option. Did you mean tra",
    "--model.loss.klip=1": "model.loss.klip: steer_lightning.losses.PolicyGradient has no such",
    "--model.gradient_clip=Clip": "model.gradient_clip = 'Clip': there is no gradient clip of",
    "--model.dtype=fp8": "model.dtype = 'fp8': must be one of 'auto', 'float32', 'bfloat16'",
}
"""Wrong words, and how their messages begin."""

YAMLS = {
    "wrong_type": "model: {sampling: {group_size: many}}",
    "wrong_name": "model: {advantage: {class_path: GRPOO}}",
    "wrong_module": "model: {loss: {class_path: steer_lightning.losses.PolicyGradien}}",
    "wrong_argument": "data: {val: {class_path: Records, init_args: {pth: x}}}",
    "wrong_in_a_list": "model: {rewards: [{reward: MathRewar}]}",
    "own_class": "data: {val: {class_path: own_file.Mine, init_args: {pth: x}}}",
    "texts": "model: {sampling: {group_size: '4'}, mask_overlong: 'true', dtype: 'float32'}",
    "records": "model: {reward_pool: {class_path: steer_lightning.rewards.RewardPool, init_args: "
    "{num_workers: 1}}, steering: {layers: 0-1}, kl_in_reward: null}",
    "data": "train: {class_path: Arithmetic, init_args: {num_problems: 64}}",
    "own": "data: {val: {class_path: own_file.Mine, init_args: {path: x}}}",
}
OWN = """
class Mine:
    def __init__(self, path: str, limit: int = None) -> None:
        self.path, self.limit = path, limit

    def load(self):
        return []
"""
REFUSED = [
    *SIX,
    *(f"--config={name}.yaml" for name in YAMLS if name.startswith("wrong") or name == "own_class"),
    "--config=wrong_type.yaml --model.sampling.group_size=4",  # the parser checks each file, too
    "--config=wrong_argument.yaml --data.val=null",
    "--model.exact maybe",
    "--data.batch_size []",
    "--nope 3",
    "--data.train Aritmetic",
]
ACCEPTED = [
    *(f"--config={name}.yaml" for name in ("texts", "records", "own")),
    "--data data.yaml",
    "--model.steering LoRA --model.steering.rank 2",
    "--model.reward_pool RewardPool --model.reward_pool.init_args.num_workers 1",
    "--model.eval_sampling.group_size=2 --model.steering.layers=[1]",
    "--trainer.callbacks+=GracefulStop --trainer.max_time 00:01:00:00",
    "--data.train.class_path Arithmetic --data.train.init_args.num_problems 64",
    '--model.rewards+ {"reward":"MathReward"} --model.mask_overlong yes',
    "--model.optimizer Lion8bit --model.optimizer.lr=1 --model.base 5",
    "--model.loss PolicyGradient --model.loss.aggregation TokenMean",
    "--data.template steer_lightning.data.ChatTemplate --data.val null",
]


@pytest.fixture
def words(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """A command whose run is left out, in a folder with YAMLs and a class of a user's own."""
    for name, text in YAMLS.items():
        (tmp_path / f"{name}.yaml").write_text(text)
    (tmp_path / "own_file.py").write_text(OWN)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(SteeringCLI, "_run_subcommand", lambda cli, name: None)
    return ["fit", "--config", str(QUICKSTART)]


@pytest.mark.parametrize("mistake", REFUSED)
def test_the_parser_refuses_what_the_look_refuses(
    mistake: str,
    words: list[str],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    with pytest.raises(ConfigError) as found:
        look_at([*words, *mistake.split()])
    assert not isinstance(found.value, ConfigErrors)
    monkeypatch.setattr(first_look, "look_at", lambda words: None)
    assert main([*words, *mistake.split()]) == 2
    said = capsys.readouterr().err
    assert said.startswith(f"error: {str(found.value).partition(' Did you mean')[0]}"), said


@pytest.mark.parametrize(
    "settings",
    [*ACCEPTED[::2], *(pytest.param(x, marks=pytest.mark.slow) for x in ACCEPTED[1::2])],
)
def test_the_look_accepts_what_the_parser_accepts(settings: str, words: list[str]) -> None:
    look_at([*words, *settings.split()])
    assert main([*words, *settings.split()]) == 0


NULLS = {
    "model: {sampling: {eos_token_ids: null}}": "model.sampling.eos_token_ids: must be a list, not",
    "data: {batch_size: null}": "data.batch_size: must be a whole number, not null",
    "trainer: {max_steps: null}": "trainer.max_steps: must be a whole number, not null",
    "model: {steering: {class_path: LowRankVectors, init_args: {rank: null}}}": "rank: must be a",
    "model: {schedule: null}": "model.schedule: can't be null",
}


@pytest.mark.parametrize("text", NULLS)
def test_null_is_refused_where_the_class_would_fail_on_it(text: str, words: list[str]) -> None:
    Path("null.yaml").write_text(text)
    with pytest.raises(ConfigError, match=re.escape(NULLS[text])) as found:
        look_at([*words, "--config=null.yaml"])
    assert not isinstance(found.value, ConfigErrors)


def test_null_is_accepted_where_it_is_a_value_or_the_default(words: list[str]) -> None:
    mine = "{class_path: own_file.Mine, init_args: {path: x, limit: null}}"
    Path("null.yaml").write_text(
        f"{{model: {{guidance: null}}, data: {{val: null, train: {mine}}}}}"
    )
    look_at([*words, "--config=null.yaml"])
    assert main([*words, "--config=null.yaml"]) == 0


def test_a_plain_setting_has_no_settings_of_its_own(
    words: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    mistake = "--model.base.nope=3"
    with pytest.raises(ConfigError, match=r"model\.base\.nope = '3': there is no such option"):
        look_at([*words, mistake])
    monkeypatch.setattr(first_look, "look_at", lambda words: None)
    assert main([*words, mistake]) == 2, "the parser, too, but it says that the base must be text"


def test_all_mistakes_are_told_at_once_and_without_torch(tmp_path: Path) -> None:
    (tmp_path / "q.yaml").write_text(QUICKSTART.read_text().replace("  train:", "  trane:"))
    script = (
        "import sys; from steer_lightning.cli import main; code = main(sys.argv[1:]); "
        "assert not {'torch', 'lightning', 'transformers'} & set(sys.modules); sys.exit(code)"
    )
    command = [sys.executable, "-c", script, "fit", "--config", "q.yaml", *SIX]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 2, done.stderr
    first, *lines = done.stderr.splitlines()
    assert first == "error: 8 settings are wrong:"
    told = ["data.trane: there is no such option. Did you mean data.train", *SIX.values()]
    told.append("data.train = None: must be set. Set it with --data.train, or in the YAML")
    assert len(lines) == len(told) == 8
    assert all(line.startswith(f"    {text}") for line, text in zip(lines, told, strict=True))


def test_the_look_knows_the_parsers_options(
    words: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    real: set[str] = set()
    add = SteeringCLI.add_arguments_to_parser

    def also(cli: SteeringCLI, parser: object) -> None:
        add(cli, parser)  # type: ignore[arg-type]
        real.update(name for name in cli.options if not name.endswith(("help", "+")))

    monkeypatch.setattr(SteeringCLI, "add_arguments_to_parser", also)
    assert main(words) == 0
    look = _Look(TRAINING)
    known = {*ALSO, *TRAINING}
    for group, signature in look.signatures.items():
        known |= set(look._options(signature, f"{group}."))
    assert real <= known
    within = real - TRAINING.keys()  # arguments of a class, which the parser reads in one piece
    further = {name for name in known - real if name.rpartition(".")[0] not in within}
    assert further == {"model.seed", "data.seed", "ckpt_path", "weights_only", "verbose"}


@pytest.mark.parametrize("command", GROUPS)
def test_the_classes_of_each_command_are_found(command: str) -> None:
    assert _Look(GROUPS[command]).signatures.keys() == GROUPS[command].keys()


CONFIGURATIONS = [
    path for path in sorted((ROOT / "configs").glob("*/*.yaml")) if path.parent.name != "sweep"
]


@pytest.mark.parametrize("path", CONFIGURATIONS, ids=lambda path: path.stem)
def test_no_configuration_of_the_repository_is_refused(path: Path) -> None:
    folder = path.parent.name
    command = folder if folder in ("difference", "evaluate", "lens") else "fit"
    before = ["--config", str(QUICKSTART)] if command == "fit" else []
    assert look_at([command, *before, "--config", str(path)]) is None


ODD = (
    *("model: {1: 2, null: 3}", "model: {loss: {class_path: 5, init_args: [1]}}", "[1, 2]", "3"),
    *("model: {rewards: {reward: 3}}", "model: {rewards: [3, null, [x]]}", "model: null"),
    *("data: {train: {class_path: a..b}}", "data: {train: {class_path: .a}}", "? [a]\n: 3"),
    *(
        "data: {train: {class_path: '', init_args: null}}",
        "model: {sampling: [1], engine: 2024-01-01}",
    ),
)


@pytest.mark.parametrize("text", ODD)
def test_odd_files_are_refused_or_left_to_the_parser(text: str, tmp_path: Path) -> None:
    (tmp_path / "odd.yaml").write_text(text)
    with pytest.raises(ConfigError):  # of the training problems, if of nothing else
        look_at(
            ["fit", "--config", str(tmp_path / "odd.yaml"), "--nope", "--", "--=", "--model.=1"]
        )


def test_the_option_beside_a_wrong_one_is_meant_rather_than_one_elsewhere(tmp_path: Path) -> None:
    """Seen with the sampling of a callback, for which an option of the model was named."""
    (tmp_path / "run.yaml").write_text(
        "trainer: {callbacks: [{class_path: BenchmarkEval, init_args: {sampling: {grup_size: 1}}}]}"
    )
    own = r"Did you mean trainer\.callbacks\.init_args\.sampling\.group_size\?$"
    with pytest.raises(ConfigError, match=own):
        look_at(["fit", f"--config={QUICKSTART}", f"--config={tmp_path / 'run.yaml'}"])
    with pytest.raises(ConfigError, match=r"Did you mean model\.sampling\.group_size"):
        look_at(["fit", f"--config={QUICKSTART}", "--model.samplng.group_size=3"])


def test_options_of_other_commands_are_looked_at() -> None:
    told = "max_prompt_tokenz = '3': there is no such option. Did you mean max_prompt_tokens"
    with pytest.raises(ConfigError, match=told):
        look_at(["evaluate", "--max-prompt-tokenz=3"])
    with pytest.raises(ConfigError, match=r"^to = 'ggu': must be one of 'transformers', 'peft'"):
        look_at(["export", "--vectors", "v", "--to", "ggu", "--output", "x"])
    with pytest.raises(ConfigErrors, match=r"port = 'x'.*\n.*vectorz.* Did you mean vectors\?$"):
        look_at(["play", "--port=x", "--vectorz=v"])
    for command in ("evaluate", "lens", "serve", "play"):
        look_at([command, "--print_config"])
        look_at([command, "--print_config=skip_default", "--vectors", "a"])
        with pytest.raises(ConfigError, match=r"ckpt_path = 'x': there is no such option"):
            look_at([command, "--ckpt_path=x"])
    look_at(["evaluate", "--max-prompt-tokens=3", "--vectors", "a", "b", "--overwrite"])
    look_at(["report", "--nope"])
    look_at(["fit", "--model.nope.help"])
