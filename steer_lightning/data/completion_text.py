"""The tokens of a completion that are text for rewards: all except those that delimit texts."""

from __future__ import annotations

import logging
from collections.abc import Collection, Mapping
from typing import Any

from steer_lightning.data.templates import RAISED
from steer_lightning.system.printable import one_line, quoted

log = logging.getLogger(__name__)

NAMES = ("bos", "eos", "pad", "unk", "sep", "cls", "mask")
"""Roles that tokenizers give to special tokens; no token in these roles is text."""

MARK = "What ends this message?"


def ids_without_text(tokenizer: Any, ending_ids: Collection[int]) -> frozenset[int]:
    """Returns the tokens that are not part of the text that rewards read.

    A tokenizer's `skip_special_tokens` leaves out every special token. Some models write their form
    in such tokens, for instance `<think>` or `[THINK]`. A reward for that form would then never see
    it and always be 0. So only tokens that mark where a text begins or ends are left out: the
    model's EOS tokens, those that end a turn in its chat template, and the tokenizer's own BOS,
    EOS, padding and similar tokens.

    Args:
        tokenizer: Tokenizer of the model.
        ending_ids: EOS tokens of the model. Tokens that the sampling settings add to these do not
            belong here: a token such as `</answer>` may end a completion and be part of its form.
    """
    named = (getattr(tokenizer, f"{name}_token_id", None) for name in NAMES)
    ids = {token for token in named if token is not None}
    return frozenset(ending_ids) | turn_end_ids(tokenizer) | ids


def turn_end_ids(tokenizer: Any) -> frozenset[int]:
    """Returns the special tokens that a chat template writes after the model's own message.

    The token that opens a message is not included: some templates always open the next message.

    Args:
        tokenizer: Tokenizer of the model.

    Returns:
        Token ids; empty if there is no chat template, or it does not accept such a message.
    """
    if not getattr(tokenizer, "chat_template", None):
        return frozenset()
    messages = [{"role": "user", "content": "?"}, {"role": "assistant", "content": MARK}]
    try:
        text: str = tokenizer.apply_chat_template(messages, tokenize=False)
    except RAISED as error:
        log.debug("the chat template shows no end of a turn: %s", one_line(error))
        return frozenset()
    before, mark, behind = text.rpartition(MARK)
    if not mark:
        return frozenset()
    special = special_ids(tokenizer)
    opening, ending = (
        [
            token
            for token in tokenizer(part, add_special_tokens=False)["input_ids"]
            if token in special
        ]
        for part in (before, behind)
    )
    return frozenset(ending) - frozenset(opening[-1:])


def special_ids(tokenizer: Any) -> frozenset[int]:
    """Returns all special tokens of a tokenizer, including those without a role of their own."""
    added = tokenizer.added_tokens_decoder.items()
    return frozenset({*tokenizer.all_special_ids, *(k for k, token in added if token.special)})


def tell_of_endings(
    tokenizer: Any, ending_ids: Collection[int], samplings: Mapping[str, Any]
) -> None:
    """Warns if completions would run to the token limit because nothing ends them.

    Args:
        tokenizer: Tokenizer of the model.
        ending_ids: EOS tokens of the model.
        samplings: Settings with which completions are sampled, by their key in the configuration,
            such as `model.sampling`.
    """
    keys = [k for k, x in samplings.items() if not x.eos_token_ids and not x.stop_strings]
    if ending_ids or not keys:
        return
    ends = sorted(turn_end_ids(tokenizer))
    names = ", ".join(map(quoted, tokenizer.convert_ids_to_tokens(ends)))
    hint = f" The chat template ends a turn with {names}, {ends!r}." if ends else ""
    log.warning(
        "neither the model nor its tokenizer names an EOS token: every completion runs to "
        "max_new_tokens and counts as cut off. Set eos_token_ids or stop_strings of %s.%s",
        one_line(" and ".join(keys)),
        hint,
    )
