"""Nothing that comes in as data is run as code, or takes the memory of the run."""

from __future__ import annotations

import ast
import json
import pickle
import resource
import struct
import time
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import save

from steer_lightning import ConfigError, load_vectors
from steer_lightning.callbacks import RolloutTable
from steer_lightning.callbacks.checkpoint_file import DamagedCheckpointError, load_checkpoint
from steer_lightning.cli.resumable_runs import check_same_settings, find_checkpoint
from steer_lightning.results.report.files import read_settings
from tests.integration.conftest import Config
from tests.reliability import hostile
from tests.reliability.conftest import Figure
from tests.reliability.hostile import Payload

PACKAGE = Path(__file__).parents[2] / "steer_lightning"
Run = Callable[..., Any]


def test_a_checkpoint_with_a_payload_is_refused_and_not_run(
    config: Config, run: Run, tmp_path: Path
) -> None:
    mark = tmp_path / "owned"
    path = tmp_path / "hostile.ckpt"
    for write in (
        lambda: torch.save({"steering_run": Payload(mark)}, path),
        lambda: path.write_bytes(pickle.dumps(Payload(mark))),
        lambda: torch.save(Payload(mark), path, _use_new_zipfile_serialization=False),
    ):
        write()
        with pytest.raises(DamagedCheckpointError) as error:
            load_checkpoint(path)
        assert "weights_only" not in str(error.value), "no advice to load it all the same"
        with pytest.raises(ConfigError, match="ckpt_path"):
            find_checkpoint(str(path), tmp_path)
    torch.save({"steering_run": Payload(mark)}, path)
    done = run(config, "--ckpt_path", str(path))
    assert done.returncode == 2
    assert "Traceback" not in done.stderr
    assert not mark.exists()


@pytest.mark.filterwarnings("ignore:Be aware that when using `ckpt_path`")
def test_every_command_reads_checkpoints_by_our_own_reader(
    config: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from steer_lightning.cli import main

    config["trainer"].update(max_steps=1, callbacks=[])
    config["model"]["verifier"] = config["model"]["rewards"][0]["reward"]
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(config))
    monkeypatch.chdir(tmp_path)

    def lightnings_own(*_: Any, **__: Any) -> None:
        raise AssertionError("it leaves the choice to torch and the environment")

    monkeypatch.setattr("lightning.fabric.plugins.io.torch_io.pl_load", lightnings_own)
    assert main(["fit", "--config", "config.yaml"]) == 0
    for command in ("validate", "test"):
        assert main([command, "--config", "config.yaml", "--ckpt_path", "last"]) == 0


def checkpoint_of(pickled: bytes, path: Path, compression: int = zipfile.ZIP_STORED) -> None:
    """A checkpoint with another pickle in it, its checksum of zip right."""
    torch.save({"weight": torch.zeros(2**20)}, path)
    with zipfile.ZipFile(path) as file:
        parts = {name: file.read(name) for name in file.namelist()}
    with zipfile.ZipFile(path, "w", compression) as file:
        for name, content in parts.items():
            file.writestr(name, pickled if pickled and name.endswith("data.pkl") else content)


def item(key: bytes, value: bytes) -> bytes:
    return b"X" + struct.pack("<I", len(key)) + key + value + b"s"


CHECKED = b"\x80\x02}q\x00" + item(b"sha256", b"X\x01\x00\x00\x000")
DEEP = b"]" * 100_000 + b"a" * 99_999
LAUGHS = b"]]q\x01a" + b"".join(  # a list of lists, each of which holds the one before ten times
    b"]q" + bytes([n]) + (b"h" + bytes([n - 1]) + b"a") * 10 + b"a" for n in range(2, 12)
)


@pytest.mark.parametrize(
    ("pickled", "told"),
    [
        (CHECKED + item(b"x", DEEP) + b".", "unfolds"),
        (CHECKED + item(b"x", b"h\x00") + b".", "unfolds"),  # holds itself
        (CHECKED + item(b"x", LAUGHS) + b".", "unfolds"),
        (b"\x80\x02}X\x02\x00\x00\x00\xff\xfeh\x00s.", "can't be read"),
        (b"\x80\x02h\x09.", "can't be read"),
        (b"\x80\x02a.", "can't be read"),
    ],
    ids=["deep", "holds itself", "laughs", "no text", "no memo", "no stack"],
)
def test_a_checkpoint_that_unfolds_or_breaks_is_refused(
    pickled: bytes, told: str, tmp_path: Path
) -> None:
    path = tmp_path / "hostile.ckpt"
    checkpoint_of(pickled, path)
    with pytest.raises(DamagedCheckpointError, match=told):
        load_checkpoint(path)


def test_a_checkpoint_takes_no_more_memory_than_the_file_has(tmp_path: Path) -> None:
    path = tmp_path / "hostile.ckpt"
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for size in (2**30, 2**40):
        torch.save({"weight": torch.zeros(1).expand(size), "sha256": "0"}, path)
        with pytest.raises(DamagedCheckpointError, match="unfolds"):
            load_checkpoint(path)
    checkpoint_of(b"", path, zipfile.ZIP_DEFLATED)
    with pytest.raises(DamagedCheckpointError, match="is compressed"):
        load_checkpoint(path)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100_000  # kilobytes


def header(content: object, data: bytes = b"") -> bytes:
    text = content if isinstance(content, bytes) else json.dumps(content).encode()
    return struct.pack("<Q", len(text)) + text + data


def vectors_header(**changes: Any) -> dict[str, Any]:
    tensor = {"dtype": "F32", "shape": [1, 4], "data_offsets": [0, 16]}
    metadata = {"format_version": "1", "site": "layer_output", "layers": "[0]"}
    metadata |= {"num_layers": "2", "width": "4", "base_model": "x"}
    tensor |= {key: changes.pop(key) for key in list(changes) if key in tensor}
    return {"__metadata__": {**metadata, **changes}, "vectors": tensor}


ZEROS = bytes(16)
HOSTILE_HEADERS: dict[str, bytes] = {
    "empty": b"",
    "short": b"\x01\x02",
    "length of 16 exabytes": struct.pack("<Q", 2**64 - 1),
    "length of a terabyte": struct.pack("<Q", 2**40) + b"{}",
    "no JSON": header(b"{" * 1000),
    "nested": header(b"[" * 100_000 + b"]" * 100_000),
    "not UTF-8": header(b'{"\xff\xfe": 1}'),
    "a list": header([1, 2]),
    "metadata of numbers": header({"__metadata__": {"layers": 3}}),
    "offsets beyond the file": header(vectors_header(data_offsets=[0, 2**50]), ZEROS),
    "offsets backwards": header(vectors_header(data_offsets=[16, 0]), ZEROS),
    "offsets negative": header(vectors_header(data_offsets=[-16, 0]), ZEROS),
    "shape beyond the data": header(vectors_header(shape=[2**40, 2**40]), ZEROS),
    "shape that overflows": header(vectors_header(shape=[2**63, 2]), ZEROS),
    "shape negative": header(vectors_header(shape=[-1, 4]), ZEROS),
    "other dtype": header(vectors_header(dtype="F64"), ZEROS),
    "no dtype": header(vectors_header(dtype="PICKLE"), ZEROS),
    "width of 10^18": header(vectors_header(width=str(10**18)), ZEROS),
    "layers of 10^18": header(vectors_header(num_layers=str(10**18)), ZEROS * 2),
    "a range of layers": header(vectors_header(layers='"0-999999999999"'), ZEROS),
    "layers in text": header(vectors_header(layers="__import__('os')"), ZEROS),
    "layers nested": header(vectors_header(layers="[" * 50_000), ZEROS),
    "layers of bools": header(vectors_header(layers="[false]"), ZEROS),
    "layers of floats": header(vectors_header(layers="[0.0]"), ZEROS),
    "layers of infinity": header(vectors_header(layers="[Infinity]"), ZEROS),
    "layers a million": header(vectors_header(layers=json.dumps([0] * 10**6)), ZEROS),
    "digits": header(vectors_header(num_layers="9" * 100_000), ZEROS),
    "no metadata": save({"vectors": torch.zeros(1, 4)}),
    "other tensors": save({"weights": torch.zeros(1, 4), "vectors": torch.zeros(1, 4)}),
    "NaN": header(vectors_header(), struct.pack("<4f", 0, float("nan"), 0, 0)),
    "a pickle": pickle.dumps(Payload(Path("/tmp/owned-by-vectors"))),
    "a zip": b"PK\x03\x04" + bytes(100),
}


@pytest.mark.parametrize("name", HOSTILE_HEADERS)
def test_a_hostile_vectors_file_is_refused_at_once(name: str, tmp_path: Path) -> None:
    path = tmp_path / "hostile.safetensors"
    path.write_bytes(HOSTILE_HEADERS[name])
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    start = time.monotonic()
    with pytest.raises(ConfigError) as error:
        load_vectors(path)
    assert time.monotonic() - start < 10
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100_000  # kilobytes
    assert len(str(error.value)) < 2000
    assert not Path("/tmp/owned-by-vectors").exists()


def test_hostile_headers_are_counted(figure: Figure) -> None:
    path_of_a_good_one = header(vectors_header(), ZEROS)
    assert path_of_a_good_one not in HOSTILE_HEADERS.values()
    figure("hostile_vectors_files", len(HOSTILE_HEADERS))


def test_the_good_file_that_the_hostile_ones_were_made_from_loads(tmp_path: Path) -> None:
    (tmp_path / "good.safetensors").write_bytes(header(vectors_header(), ZEROS))
    assert load_vectors(tmp_path / "good.safetensors").layers == (0,)


BOMB = "a0: &a0 [x]\n" + "\n".join(
    f"a{n + 1}: &a{n + 1} [{','.join([f'*a{n}'] * 9)}]" for n in range(30)
)
HOSTILE_YAML = {
    "a call": "model: !!python/object/apply:os.system ['touch owned']",
    "an object": "model: !!python/object/new:os.system ['touch owned']",
    "a name": "model: {base: !!python/name:os.system ''}",
    "a module": "model: {base: !!python/module:os ''}",
    "aliases": BOMB + "\nmodel: {base: *a30}",
    "aliases in a file that it names": "model: bomb.yaml",
    "aliases in a list's file": "model: {rewards: bomb.yaml}",
    "aliases in a text": "model: {seed: " + json.dumps(BOMB) + "}",
    "an alias of itself": "model: &a {base: *a}",
    "nested": "model: " + "[" * 3000,
    "nested deep": "model: " + "[" * 10**6,
    "binary": "model: \x00\x01",
    "not a mapping": "- 1\n- 2",
    "nothing": "",
    "a command as a class": "model: {rewards: [{reward: {class_path: os.system}}]}",
}


@pytest.mark.parametrize("name", HOSTILE_YAML)
def test_a_hostile_yaml_is_refused_with_one_message(name: str, run: Run, tmp_path: Path) -> None:
    (tmp_path / "hostile.yaml").write_text(HOSTILE_YAML[name])
    (tmp_path / "bomb.yaml").write_text(BOMB)
    done = run(None, "--config", "hostile.yaml", "--data.train", "steer_lightning.data.Arithmetic")
    assert done.returncode == 2, done.stderr[-500:]
    assert "Traceback" not in done.stderr
    assert done.stderr.startswith("error: ")
    assert len(done.stderr) < 5000
    assert not (tmp_path / "owned").exists()


def test_a_hostile_configuration_beside_a_checkpoint(tmp_path: Path) -> None:
    (tmp_path / "run-1/checkpoints").mkdir(parents=True)
    path = tmp_path / "run-1/checkpoints/last.ckpt"
    for text in (BOMB + "\nmodel: {loss: *a30}", "model: !!python/name:os.system ''", "- 1", "\0"):
        (tmp_path / "run-1/config.yaml").write_text(text)
        with pytest.raises(ConfigError, match=r"config\.yaml': can't be read"):
            check_same_settings(path, "model: {loss: null}")
    (tmp_path / "run-1/config.yaml").write_text(BOMB + "\nmodel: {loss: *a30}")
    with pytest.raises(ConfigError, match="unfolds"):
        read_settings(tmp_path / "run-1")  # which the report shows


CODE = """
import pathlib
pathlib.Path({mark!r}).touch()
from transformers import LlamaConfig, LlamaForCausalLM
class MyConfig(LlamaConfig):
    model_type = "mine"
class MyModel(LlamaForCausalLM):
    config_class = MyConfig
"""


def test_code_of_a_model_runs_only_if_the_yaml_says_so_and_is_logged(
    config: Config, run: Run, tmp_path: Path
) -> None:
    base, mark = Path(tmp_path / "model"), tmp_path / "owned"
    import shutil

    shutil.copytree(config["model"]["base"], base)
    (base / "mine.py").write_text(CODE.format(mark=str(mark)))
    facts = json.loads((base / "config.json").read_text())
    classes = {"AutoConfig": "mine.MyConfig", "AutoModelForCausalLM": "mine.MyModel"}
    facts |= {"model_type": "mine", "auto_map": classes, "architectures": ["MyModel"]}
    (base / "config.json").write_text(json.dumps(facts))
    config["model"]["base"] = str(base)
    done = run(config)
    assert done.returncode == 2
    assert "trust_remote_code" in done.stderr
    assert not mark.exists()
    done = run(config, "--model.trust_remote_code=true", "--trainer.max_steps=1")
    assert mark.exists()
    assert "trust_remote_code is on: code from" in done.stderr
    mark.unlink()
    with (base / "mine.py").open("a") as file:
        file.write("import os\nos._exit(7)\n")
    done = run(config, "--model.trust_remote_code=true")
    assert done.returncode == 7
    assert "trust_remote_code is on: code from" in done.stderr, "told before any of it runs"


FORBIDDEN = {"eval", "exec", "compile", "__import__"}
UNPICKLERS = {"rewards/pool_keeper.py", "rewards/pool_worker.py"}  # of what the trainer has sent


def test_nothing_in_the_package_evaluates_text() -> None:
    for file in PACKAGE.rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text())):
            if not isinstance(node, ast.Call):
                continue
            called = ast.unparse(node.func)
            assert called not in FORBIDDEN | {"os.system", "yaml.load", "pickle.load"}, file
            if called == "pickle.loads":
                assert str(file.relative_to(PACKAGE)) in UNPICKLERS
            if called == "torch.load":
                safe = [word for word in node.keywords if word.arg == "weights_only"]
                assert [ast.literal_eval(word.value) for word in safe] == [True], file
            assert "shell" not in [word.arg for word in node.keywords], file


def test_no_hostile_text_reaches_the_terminal_as_a_command() -> None:
    table = RolloutTable(max_characters=10_000)
    for text in (row.text for row in hostile.hostile_completions()):
        shown = table._cut(text)
        assert "\n" not in shown
        assert all(character.isprintable() or character in "\t\xa0" for character in shown)
        shown.encode()


TELLS_ALL = """
class TellsAll:
    in_process = True

    def __call__(self, completions):
        raise RuntimeError("\\x1b[2J owned" + completions[0].text)
"""


def test_messages_of_files_and_of_a_users_code_are_no_commands_either(
    config: Config, run: Run, tmp_path: Path
) -> None:
    (tmp_path / "tells.py").write_text(TELLS_ALL)
    metadata = {"format_version": "1", "site": "layer_output", "layers": "[0, 1, 2]"}
    metadata |= {"num_layers": "3", "width": "32", "base_model": "\x1b]0;owned\x07"}
    (tmp_path / "v.safetensors").write_bytes(save({"vectors": torch.zeros(3, 32)}, metadata))
    config["model"]["steering"] = {"init_from": "v.safetensors"}
    config["model"]["rewards"] = [{"reward": "tells.TellsAll"}]
    config["trainer"]["callbacks"] = []
    done = run(config)
    assert done.returncode == 1
    assert "trained on \\x1b]0;owned\\x07, not on" in done.stderr
    assert "RuntimeError: \\x1b[2J owned" in done.stderr
    assert "\x1b" not in done.stdout + done.stderr
