"""Starts rollout servers, waits for them, and compares their base with the trainer's."""

from __future__ import annotations

import logging
import os
import secrets
import shlex
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from steer_lightning.errors import UNKNOWN, ConfigError
from steer_lightning.model.policy import Policy
from steer_lightning.rollout.server_link import ServerLink
from steer_lightning.serving import rollout_server
from steer_lightning.serving.rollout_server import PROTOCOL, TOKEN, vocabulary_of
from steer_lightning.system.collectives import gather_objects, rank
from steer_lightning.system.printable import indented, one_line
from steer_lightning.system.tied_command import TiedCommand

log = logging.getLogger(__name__)

LOOK = 0.5
"""Seconds between two attempts to reach a server that has not answered yet."""

HOW = "python steer_lightning/serving/rollout_server.py --base BASE"
"""Command that starts a server, for messages."""


def connected(
    policy: Policy,
    addresses: Sequence[str],
    command: str | None,
    start_timeout: float,
    timeout: float,
) -> tuple[list[ServerLink], list[TiedCommand], int]:
    """Connects to servers, after the first process has started them if there is a command.

    Args:
        policy: Policy, whose weights need not be loaded.
        addresses: Addresses of the servers.
        command: Command that starts a server, or None.
        start_timeout: Seconds within which a server must answer for the first time.
        timeout: Seconds after which a server that samples nothing counts as lost.

    Returns:
        Connections to the servers, commands that have been started, and the number of tokens of
        the longest text that all servers can hold.

    Raises:
        ConfigError: If a server does not answer, or has another base than the trainer.
    """
    commands: list[TiedCommand] = []
    own = os.environ.get(TOKEN) or (secrets.token_urlsafe(16) if command is not None else None)
    token = gather_objects(own)[0]
    if token is None:
        raise ConfigError(
            TOKEN,
            None,
            rule="must be set to the token that the rollout servers have printed",
            why="Nobody but the trainer may change their vectors",
            fix=f"Run `export {TOKEN}=...`, or set model.engine.init_args.command, which starts "
            "the servers with a token of their own",
        )
    if command is not None and rank() == 0:
        for number, address in enumerate(addresses):
            _check_free(ServerLink(address.rstrip("/"), token, timeout))
            words = words_of(command, policy, address, number)
            commands.append(TiedCommand(words, "rollout-server", {TOKEN: token}))
            output = one_line(commands[-1].output)
            log.info("rollout server %d starts; its output is in %s", number, output)
    links, longest = [], []
    for number, address in enumerate(addresses):
        link = ServerLink(address.rstrip("/"), token, timeout)
        facts = _waited_for(link, commands[number] if commands else None, start_timeout)
        check_facts(policy, address, facts)
        links.append(link)
        longest.append(int(facts["max_model_len"]))
    return links, commands, min(longest)


def _check_free(link: ServerLink) -> None:
    """Raises a ConfigError if a server answers where one is going to be started."""
    if link.info() is not None:
        raise ConfigError(
            "model.engine.addresses",
            link.address,
            rule="another rollout server answers there already",
            why="It belongs to another run, or to one that was killed",
            fix="End it or choose another port, or leave model.engine.init_args.command out to "
            "use it",
        )


def words_of(command: str, policy: Policy, address: str, number: int) -> list[str]:
    """Returns the words of the command that starts a server.

    Args:
        command: Command with placeholders, see `VLLMEngine`.
        policy: Policy whose base the server loads.
        address: Address of the server.
        number: Number of the server.

    Raises:
        ConfigError: If the command can't be split into words, or has an unknown placeholder.
    """
    values = {
        "server": str(Path(rollout_server.__file__)),
        "base": str(policy.path),
        "dtype": dtype_of(policy),
        "port": str(urlsplit(address).port or (443 if address.startswith("https") else 80)),
        "number": str(number),
    }
    try:
        return [os.path.expanduser(word.format(**values)) for word in shlex.split(command)]
    except (ValueError, KeyError, IndexError) as error:
        raise ConfigError(
            "model.engine.command",
            command,
            rule=f"can't be read ({type(error).__name__}: {error})",
            why=f"Its placeholders are {', '.join(f'{{{key}}}' for key in values)}",
            fix="Write any other brace twice: {{ and }}",
        ) from error


def dtype_of(policy: Policy) -> str:
    """Returns the name of the dtype in which a policy's base is or will be loaded."""
    if policy.model is not None:
        found = policy.model.dtype
    else:
        found = policy.model_config.dtype if policy.dtype == "auto" else policy.dtype
    return str(found or "float32").removeprefix("torch.")


def _waited_for(
    link: ServerLink, command: TiedCommand | None, start_timeout: float
) -> dict[str, Any]:
    """Returns what a server says of itself, as soon as it answers."""
    end = time.monotonic() + start_timeout
    while (facts := link.info()) is None:
        status = None if command is None else command.status()
        if command is not None and status is not None:
            last = indented(command.last_lines())
            raise ConfigError(
                "model.engine.command",
                UNKNOWN,
                rule=f"the rollout server at {link.address} has ended with status {status}",
                why=f"Its output ends with: {last}" if last else "It has printed nothing",
                fix=f"All of it is in {command.output}",
            )
        if time.monotonic() > end:
            raise ConfigError(
                "model.engine.addresses",
                link.address,
                rule=f"no rollout server has answered there within {start_timeout:g} seconds",
                why="VLLMEngine samples on servers that run beside the trainer",
                fix=f"Start one with `{HOW}` in vLLM's environment, set "
                "model.engine.init_args.command, or raise model.engine.init_args.start_timeout",
            )
        time.sleep(LOOK)
    return facts


def check_facts(policy: Policy, address: str, facts: Mapping[str, Any]) -> None:
    """Raises a ConfigError if a server's base is not the trainer's.

    Args:
        policy: Policy, whose weights need not be loaded.
        address: Address of the server.
        facts: What the server says of itself, see `rollout_server.facts_of`.
    """
    if facts.get("protocol") != PROTOCOL:
        raise ConfigError(
            "model.engine.addresses",
            address,
            rule=f"the server there speaks version {facts.get('protocol')} of the protocol, and "
            f"the trainer version {PROTOCOL}",
            fix="Start it with the rollout_server.py of this version of steer-lightning",
        )
    config = policy.model_config.get_text_config()
    ours = {
        "architecture": (policy.model_config.architectures or [None])[0],
        "num_layers": config.num_hidden_layers,
        "width": config.hidden_size,
        "dtype": dtype_of(policy),
        "vocabulary": vocabulary_of(policy.tokenizer),
    }
    if not (facts.get("is_folder") or Path(policy.path).is_dir()):  # a folder may lie elsewhere
        ours |= {"base": policy.path, "revision": policy.revision}
    other = {key: (facts.get(key), own) for key, own in ours.items() if facts.get(key) != own}
    if not other:
        return
    shown = ", ".join(f"{key} {theirs!r} and not {own!r}" for key, (theirs, own) in other.items())
    raise ConfigError(
        "model.engine.addresses",
        address,
        rule=f"the rollout server there has {shown}",
        why=f"It serves {facts.get('base')!r}, and the run trains {policy.base!r}. Completions of "
        "another model are no samples of the policy",
        fix=f"Start it with --base {policy.path} --dtype {dtype_of(policy)}"
        + (f" --revision {policy.revision}" if policy.revision else ""),
    )
