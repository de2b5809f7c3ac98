"""The command `completion`: a script by which a shell completes commands, options and names.

The script holds all words, so that the shell answers at once. A script that asked the command
itself, as that of argcomplete does, would import torch at each key press. shtab writes scripts that
hold all words, but it supports neither fish nor the names of configurations.
"""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Mapping, Sequence
from contextlib import redirect_stdout, suppress
from dataclasses import dataclass
from importlib import import_module
from typing import Literal

from steer_lightning.cli import COMMANDS
from steer_lightning.cli.options import read_options
from steer_lightning.cli.shipped import configurations

OPTION = re.compile(r"^  (?:-\w(?: \w+)?, )?--(\w[\w.-]*)", re.MULTILINE)

BASH = r"""_steer_lightning() {
  local found= current=${COMP_WORDS[COMP_CWORD]} before=${COMP_WORDS[COMP_CWORD-1]}
  # bash splits --config=NAME into three words
  if [[ $current == '=' ]]; then current=; fi
  if [[ $before == '=' ]]; then before=${COMP_WORDS[COMP_CWORD-2]}; fi
  if (( COMP_CWORD == 1 )); then found='COMMANDS'
  elif [[ $before == --config || $before == -c ]]; then
    COMPREPLY=($(compgen -W 'NAMES' -- "$current") $(compgen -f -- "$current"))
    return
  else
    case "${COMP_WORDS[1]} $COMP_CWORD $current" in
      configs\ 3\ *) found='NAMES' ;;
CASES
    esac
  fi
  COMPREPLY=($(compgen -W "$found" -- "$current"))
}
complete -o default -F _steer_lightning steer-lightning"""

ZSH = r"""#compdef steer-lightning
_steer-lightning() {
  local found= current=$PREFIX before=${words[CURRENT-1]}
  if [[ $current == --config=* ]]; then compset -P '*='; before=--config; fi
  if (( CURRENT == 2 )); then found='COMMANDS'
  elif [[ $before == --config || $before == -c ]]; then
    compadd -- NAMES
    _files
    return
  else
    case "${words[2]} $((CURRENT - 1)) $current" in
      configs\ 3\ *) found='NAMES' ;;
CASES
    esac
  fi
  if [[ -n $found ]]; then compadd -- ${=found}; else _files; fi
}
if [[ ${funcstack[1]} == _steer-lightning ]]; then _steer-lightning "$@"
else compdef _steer-lightning steer-lightning; fi"""


TAKES_OPTIONS_OF = {"sweep": "fit"}
"""Commands that take all options of another one beside their own."""


@dataclass(frozen=True)
class Words:
    """The words that may follow a command.

    Attributes:
        options: Names of the command's options, without dashes.
        verbs: Words that may directly follow the command.
    """

    options: Sequence[str]
    verbs: Sequence[str] = ()


def words_of(command: str) -> Words:
    """Reads the options of a command from its help."""
    verbs = VERBS.get(command, list)()
    # `vectors scale --help` lists options of its own verb
    helps = [[command, verb, "--help"] for verb in verbs if command != "completion"]
    texts = map(_printed, helps or [[command, "--help"]])
    options = {option for text in texts for option in OPTION.findall(text)}
    if command in TAKES_OPTIONS_OF:
        options |= set(words_of(TAKES_OPTIONS_OF[command]).options)
    return Words(sorted(options - {"print_config"}), verbs)


def _printed(words: Sequence[str]) -> str:
    """Returns what a command prints before it ends."""
    said = io.StringIO()
    with redirect_stdout(said), suppress(SystemExit):
        import_module(COMMANDS[words[0]].module).run(words)
    return said.getvalue()


def _verbs_of_vectors() -> list[str]:
    from steer_lightning.cli.vectors import VERBS

    return list(VERBS)


VERBS: dict[str, Callable[[], list[str]]] = {
    "vectors": _verbs_of_vectors,
    "configs": lambda: ["copy"],
    "completion": lambda: list(SHELLS),
}
"""Words that may directly follow each command."""


def _with_cases(template: str, words: Mapping[str, Words]) -> str:
    """Inserts the words into a script of bash or zsh."""
    cases = []
    for command, following in words.items():
        options = " ".join(f"--{option}" for option in following.options)
        cases.append(f"      {command}\\ *\\ -*) found='{options}' ;;")
        if following.verbs:
            cases.append(f"      {command}\\ 2\\ *) found='{' '.join(following.verbs)}' ;;")
    filled = template.replace("COMMANDS", " ".join(words)).replace("CASES", "\n".join(cases))
    return filled.replace("NAMES", " ".join(configurations()))


def bash(words: Mapping[str, Words]) -> str:
    """Returns the script for bash, with the words that may follow each command."""
    return _with_cases(BASH, words)


def zsh(words: Mapping[str, Words]) -> str:
    """Returns the script for zsh, with the words that may follow each command."""
    return _with_cases(ZSH, words)


def fish(words: Mapping[str, Words]) -> str:
    """Returns the script for fish, with the words that may follow each command."""
    about = "complete -c steer-lightning"
    helps = {command: COMMANDS[command].help.replace("'", r"\'") for command in words}
    lines = [f"{about} -f -n __fish_use_subcommand -a {c} -d '{helps[c]}'" for c in words]
    names = " ".join(configurations())
    lines.append(f"{about} -n '__fish_seen_subcommand_from copy' -f -a '{names}'")
    for command, following in words.items():
        behind = f"{about} -n '__fish_seen_subcommand_from {command}'"
        if following.verbs:
            verbs = " ".join(following.verbs)
            is_first = f"{behind[:-1]}; and not __fish_seen_subcommand_from {verbs}'"
            lines.append(f"{is_first} -f -a '{verbs}'")
        lines += [f"{behind} -l {option}" for option in following.options if option != "config"]
        if "config" in following.options:
            lines.append(f"{behind} -l config -r -a '{names}'")
    return "\n".join(lines)


SHELLS: dict[str, Callable[[Mapping[str, Words]], str]] = {"bash": bash, "zsh": zsh, "fish": fish}


def as_text(shell: Literal["bash", "zsh", "fish"]) -> str:
    """Returns the script for a shell.

    Args:
        shell: The shell.
    """
    return SHELLS[shell]({command: words_of(command) for command in COMMANDS})


def run(words: Sequence[str]) -> None:
    """Runs `completion`.

    Args:
        words: The command and the shell.

    Raises:
        ConfigError: For any mistake.
    """
    options = read_options(
        words[1:],
        as_text,
        prog="steer-lightning completion",
        description="Prints a script with which a shell completes commands, options and names.",
        positional="shell",
    )
    print(as_text(**options))
