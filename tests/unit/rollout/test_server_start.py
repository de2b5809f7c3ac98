from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from steer_lightning.errors import ConfigError
from steer_lightning.model.policy import Policy
from steer_lightning.rollout.server_start import check_facts, connected, dtype_of, words_of
from steer_lightning.testing import save_tiny
from tests.rollout_stand_in import TOKEN, StandIn


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> str:
    return save_tiny(tmp_path_factory.mktemp("tiny"))


@pytest.fixture
def policy(folder: str) -> Policy:
    return Policy(folder)


@pytest.fixture
def server(folder: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[StandIn]:
    monkeypatch.setenv("STEER_LIGHTNING_ROLLOUT_TOKEN", TOKEN)
    with StandIn(folder) as found:
        yield found


def test_words_of_a_command_name_what_the_trainer_has(policy: Policy) -> None:
    command = "env GPU={number} '{server}' --base {base} --dtype {dtype} --port {port} '{{}}'"
    words = words_of(command, policy, "http://h:81/x", 3)
    server = words.pop(2)
    assert Path(server).name == "rollout_server.py"
    assert Path(server).is_file()
    assert words == ["env", "GPU=3", "--base", str(policy.path), "--dtype", "float32",
                     "--port", "81", "{}"]  # fmt: skip


@pytest.mark.parametrize("command", ["serve '", "serve {model}", "serve {", "serve {0}"])
def test_a_command_that_can_not_be_read_is_refused(policy: Policy, command: str) -> None:
    with pytest.raises(ConfigError, match=r"can't be read .* {server}, {base}"):
        words_of(command, policy, "http://h:81", 0)


def test_the_dtype_is_that_of_the_loaded_base(policy: Policy, folder: str) -> None:
    assert dtype_of(policy) == "float32"
    assert dtype_of(Policy(folder, dtype="bfloat16")) == "bfloat16"
    loaded = Policy(folder, dtype="bfloat16")
    loaded.load()
    assert dtype_of(loaded) == "bfloat16"


def test_servers_are_connected_without_loading_weights(policy: Policy, server: StandIn) -> None:
    links, commands, longest = connected(policy, [server.address + "/"], None, 5, 7)
    assert (links[0].address, links[0].timeout) == (server.address, 7)
    assert not commands
    assert longest == 256
    assert policy.model is None


def test_a_server_is_not_started_where_another_one_answers(policy: Policy, server: StandIn) -> None:
    with pytest.raises(ConfigError, match="another rollout server answers there already"):
        connected(policy, [server.address], "sleep 60", 5, 5)


def test_a_command_that_ends_shows_its_output(policy: Policy) -> None:
    code = "import os; print('token', bool(os.environ['STEER_LIGHTNING_ROLLOUT_TOKEN'])); exit(4)"
    command = f'{sys.executable} -c "{code}"'
    told = r"command: the rollout server at http://127.0.0.1:9 has ended with status 4"
    with pytest.raises(ConfigError, match=told + ".*ends with: token True"):
        connected(policy, ["http://127.0.0.1:9"], command, 60, 5)
    with pytest.raises(ConfigError, match=told + r"\. It has printed nothing\. All of it"):
        connected(policy, ["http://127.0.0.1:9"], f'{sys.executable} -c "exit(4)"', 60, 5)


def test_servers_that_are_not_there_are_not_waited_for_without_end(
    policy: Policy, server: StandIn
) -> None:
    with pytest.raises(ConfigError, match=r"within 0\.1 seconds.*rollout_server\.py --base BASE"):
        connected(policy, ["http://127.0.0.1:9"], None, 0.1, 5)


def test_a_token_is_needed(policy: Policy, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("STEER_LIGHTNING_ROLLOUT_TOKEN", raising=False)
    with pytest.raises(ConfigError, match="must be set to the token"):
        connected(policy, ["http://127.0.0.1:9"], None, 1, 1)


@pytest.mark.parametrize(
    ("facts", "told"),
    [
        ({"protocol": 0}, "version 0 of the protocol"),
        ({"dtype": "bfloat16"}, "dtype 'bfloat16' and not 'float32'.*--dtype float32"),
        ({"width": 64, "num_layers": 9}, "num_layers 9 and not 3, width 64 and not 32"),
        ({"architecture": "Qwen2ForCausalLM"}, "and not 'LlamaForCausalLM'"),
        ({"vocabulary": "0"}, "vocabulary '0'"),
    ],
)
def test_another_base_is_refused(
    policy: Policy, server: StandIn, facts: dict[str, Any], told: str
) -> None:
    check_facts(policy, server.address, server.facts)
    with pytest.raises(ConfigError, match=told):
        check_facts(policy, server.address, {**server.facts, **facts})


def test_names_of_the_hub_and_revisions_are_compared(server: StandIn, policy: Policy) -> None:
    of_hub: Any = SimpleNamespace(
        model=None, base="a/b", path="a/b", revision="r1", dtype="float32",
        model_config=policy.model_config, tokenizer=policy.tokenizer,
    )  # fmt: skip
    facts = {**server.facts, "is_folder": False, "base": "a/b", "revision": "r1"}
    check_facts(of_hub, "http://h", facts)
    for other in ({"base": "a/c"}, {"revision": None}):
        with pytest.raises(ConfigError, match="--base a/b --dtype float32 --revision r1"):
            check_facts(of_hub, "http://h", {**facts, **other})
