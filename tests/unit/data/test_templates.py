"""Templates, and chat templates that are of no use."""

from __future__ import annotations

import pytest

from steer_lightning import ConfigError
from steer_lightning.data import ChatTemplate, PlainTemplate
from steer_lightning.data.templates import check_template
from steer_lightning.testing import byte_tokenizer


def test_templates() -> None:
    tokenizer = byte_tokenizer()
    plain = PlainTemplate(r"Q: {question} \boxed{} A:")
    assert plain.render("1+1", tokenizer) == r"Q: 1+1 \boxed{} A:"
    with pytest.raises(ConfigError, match=r"must contain \{question\}"):
        PlainTemplate("no question")
    with pytest.raises(ConfigError, match=r"no chat template.*PlainTemplate"):
        check_template(ChatTemplate(), tokenizer)
    tokenizer.chat_template = "{% for m in messages %}[{{ m.role }}]{{ m.content }}{% endfor %}>"
    assert ChatTemplate("be kind").render("1+1", tokenizer) == "[system]be kind[user]1+1>"
    assert ChatTemplate(None).render("1+1", tokenizer) == "[user]1+1>"
    check_template(ChatTemplate(), tokenizer)
    tokenizer.chat_template = (
        "{% for m in messages %}{% if m.role == 'system' %}{{ m.content }}{% endif %}{% endfor %}"
    )
    with pytest.raises(ConfigError, match="drops the question"):
        check_template(ChatTemplate(), tokenizer)
    tokenizer.chat_template = "{{ raise_exception('System role not supported') }}"  # as Gemma 2
    with pytest.raises(ConfigError, match=r"System role not supported.*system: null"):
        check_template(ChatTemplate(), tokenizer)
