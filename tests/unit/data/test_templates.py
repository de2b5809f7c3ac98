"""Templates, and chat templates that are of no use."""

from __future__ import annotations

import logging
from typing import Any

import pytest
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

from steer_lightning import ConfigError
from steer_lightning.data import ChatTemplate, PlainTemplate, Template, make_prompts
from steer_lightning.data.templates import INSTRUCTION, check_template
from steer_lightning.testing import BOS, EOS, byte_tokenizer
from steer_lightning.types import Problem


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


PHI3 = (  # as it was released
    "{{ bos_token }}{% for message in messages %}{% if message['role'] == 'user' %}<|user|>\n"
    "{{ message['content'] }}<|end|>\n<|assistant|>\n{% elif message['role'] == 'assistant' %}"
    "{{ message['content'] }}<|end|>\n{% endif %}{% endfor %}"
)
GEMMA2 = (
    "{% if messages[0]['role'] == 'system' %}{{ raise_exception('System role not supported') }}"
    "{% endif %}{% for m in messages %}<turn>{{ m['role'] }}\n{{ m['content'] | trim }}{% endfor %}"
)
CHATML = "{% for m in messages %}<|{{ m.role }}|>{{ m.content }}{% endfor %}<|assistant|>"
QUESTION = "What is 2+3?"


class Questions:
    def __init__(self, *questions: str) -> None:
        self.questions = questions

    def load(self) -> list[Problem]:
        return [Problem(question=question, answer="5") for question in self.questions]


def chatting(template: Any) -> PreTrainedTokenizerFast:
    tokenizer = byte_tokenizer()
    tokenizer.chat_template = template
    return tokenizer


def adding(single: str) -> PreTrainedTokenizerFast:
    """A tokenizer that adds special tokens to texts, `$A`."""
    tokenizer = byte_tokenizer()
    tokenizer._tokenizer.post_processor = processors.TemplateProcessing(
        single=single, special_tokens=[("<bos>", BOS), ("<eos>", EOS)]
    )
    return tokenizer


def prompt_of(template: Template, tokenizer: Any, question: str = QUESTION) -> tuple[str, list]:
    (prompt,) = make_prompts(Questions(question), template, tokenizer, 1000)
    return prompt.text, tokenizer.convert_ids_to_tokens(list(prompt.token_ids))


# ---- system messages


def test_a_system_message_that_the_chat_template_skips_is_an_error() -> None:
    tokenizer, init_args = chatting(PHI3), r"data\.template\.init_args\."
    for act in (
        lambda: check_template(ChatTemplate(), tokenizer),
        lambda: make_prompts(Questions(QUESTION), ChatTemplate(), tokenizer, 1000),
    ):
        with pytest.raises(ConfigError, match="drops it") as caught:
            act()
        assert caught.match(rf"{init_args}system_in_user: true.*{init_args}system: null")
    folded = ChatTemplate(system_in_user=True)
    check_template(folded, tokenizer)
    text, tokens = prompt_of(folded, tokenizer)
    assert text == f"<bos><|user|>\n{INSTRUCTION}\n\n{QUESTION}<|end|>\n<|assistant|>\n"
    assert tokens[0] == "<bos>" != tokens[1]
    assert prompt_of(ChatTemplate(None), tokenizer)[0] == (
        f"<bos><|user|>\n{QUESTION}<|end|>\n<|assistant|>\n"
    )


def test_a_system_message_that_the_chat_template_refuses_has_the_same_remedy() -> None:
    tokenizer = chatting(GEMMA2)
    with pytest.raises(ConfigError, match=r"System role not supported.*system_in_user: true"):
        check_template(ChatTemplate(), tokenizer)
    text, _ = prompt_of(ChatTemplate("Be brief.", system_in_user=True), tokenizer)
    assert text == f"<turn>user\nBe brief.\n\n{QUESTION}"


def test_a_system_message_may_be_broken_into_other_lines() -> None:
    tokenizer = chatting(GEMMA2.replace("'System", "'").replace("== 'system'", "== 'none'"))
    template = ChatTemplate("  Think.\n\nThen answer. \n")
    check_template(template, tokenizer)
    rendered = prompt_of(template, tokenizer)[0]
    assert rendered == f"<turn>system\nThink.\n\nThen answer.<turn>user\n{QUESTION}", "trimmed"
    assert template.system not in rendered
    tokenizer.chat_template = tokenizer.chat_template.replace("trim", "truncate(9, true)")
    with pytest.raises(ConfigError, match="drops it"):
        check_template(template, tokenizer)


def test_settings_of_a_chat_template() -> None:
    for system in (None, ""):
        with pytest.raises(ConfigError, match="system_in_user = True: needs a system message"):
            ChatTemplate(system, system_in_user=True)
    with pytest.raises(ConfigError, match="must not set add_generation_prompt, tokenize"):
        ChatTemplate(options={"tokenize": True, "add_generation_prompt": False, "x": 1})


def test_options_that_the_chat_template_does_not_read_are_told(
    caplog: pytest.LogCaptureFixture,
) -> None:
    tokenizer = chatting(CHATML + "{% if enable_thinking %}<think>{% endif %}")
    template = ChatTemplate(options={"enable_thinking": True})
    check_template(template, tokenizer)
    assert caplog.text == ""
    assert prompt_of(template, tokenizer)[0].endswith("<|assistant|><think>")
    check_template(ChatTemplate(options={"enable_thinkng": True, "tools": None}), tokenizer)
    assert "options: the chat template does not read enable_thinkng" in caplog.text


# ---- what is no prompt


@pytest.mark.parametrize(
    ("template", "rule"),
    [
        ("", "has no chat template"),
        ("{# nothing #}\n\n", "renders nothing"),
        ("{% for m in messages %}{% for p in m.content %}{{ p.text }}{% endfor %}{% endfor %}",
         "renders nothing"),
        ("{{ messages[0].content }}{{ tools | length }}", "refuses the messages: object of type"),
        ("{{ messages[5]['content'] }}", "refuses the messages: list object has no element 5"),
        ("{{ 1 / 0 }}", "refuses the messages: division by zero"),
        ("{{ messages.content }}{{ messages.x.y }}", "refuses the messages: 'list object' has no"),
        ("{% for m in messages %}", "refuses the messages: Unexpected end of template"),
        ({"default": "{{ messages[-1].content }}", "tool_use": "x"}, "drops it"),
        ({"rag": "x", "tool_use": "x"}, "refuses the messages: .*multiple chat templates"),
        ("{{ messages[0].content }}", "drops the question"),
    ],
)  # fmt: skip
def test_chat_templates_that_make_no_prompt_are_errors(template: Any, rule: str) -> None:
    with pytest.raises(ConfigError, match=rule) as caught:
        check_template(ChatTemplate(), chatting(template))
    assert caught.value.key.startswith("data.template")
    assert caught.value.fix


class Own:
    """A user's own template."""

    def __init__(self, text: Any = "ok: {}", ids: Any = None) -> None:
        self.text, self.ids = text, ids

    def render(self, question: str, tokenizer: Any) -> Any:
        if isinstance(self.text, Exception) and question == QUESTION:
            raise self.text
        return self.text.format(question) if isinstance(self.text, str) else question

    def encode(self, text: str, tokenizer: Any) -> Any:
        if isinstance(self.ids, Exception):
            raise self.ids
        return tokenizer(text)["input_ids"] if self.ids is None else self.ids


class Nothing(Own):
    def render(self, question: str, tokenizer: Any) -> Any:
        return None if question == QUESTION else question


@pytest.mark.parametrize(
    ("template", "rule"),
    [
        (Nothing(), "must render text, and returned None"),
        (Own(KeyError("x\x1b[2J")), r"fails to render a question: KeyError: 'x\\x1b\[2J'"),
        (Own("  \n"), "renders nothing"),
        (Own(ids=RuntimeError("y")), "fails to encode a prompt: RuntimeError: y"),
        (Own(ids=[]), "has no tokens"),
        (Own(ids="abc"), "must encode a prompt as a list of whole numbers, and returned 'abc'"),
        (Own(ids=[[1, 2]]), "must encode a prompt as a list of whole numbers"),
        (Own(ids=[1, None]), "must encode a prompt as a list of whole numbers"),
        (Own(ids=[7, EOS]), "prompts end in <eos>"),
    ],
)
def test_a_users_template_that_fails_is_an_error_with_template_and_problem(
    template: Template, rule: str
) -> None:
    questions = Questions("first", QUESTION)
    if not isinstance(template, Nothing) and not isinstance(template.text, Exception):
        questions = Questions(QUESTION)
    with pytest.raises(ConfigError, match=rule) as caught:
        make_prompts(questions, template, byte_tokenizer(), 1000)
    assert (caught.value.key, caught.value.value) == ("data.template", type(template).__name__)
    caught.match(rf"\(problem {len(questions.questions)} of Questions\)")
    assert caught.value.fix
    assert str(caught.value).isprintable()


def test_a_chat_template_that_fails_for_one_problem_names_it() -> None:
    tokenizer = chatting(
        "{% if '7' in messages[-1].content %}{{ raise_exception('no sevens') }}{% endif %}" + CHATML
    )
    check_template(ChatTemplate(), tokenizer)
    with pytest.raises(ConfigError, match=r"no sevens \(problem 3 of Questions\)"):
        make_prompts(Questions("1", "2", "7"), ChatTemplate(), tokenizer, 1000)


def test_a_tokenizer_without_a_vocabulary_makes_no_prompt() -> None:
    empty = PreTrainedTokenizerFast(tokenizer_object=Tokenizer(models.BPE()))
    with pytest.raises(ConfigError, match=r"has no tokens \(problem 1 of Questions\)"):
        make_prompts(Questions(QUESTION), PlainTemplate("{question}"), empty, 1000)


# ---- special tokens


@pytest.mark.parametrize(
    ("single", "text", "tokens"),
    [
        ("$A", "{question}=", ["2", "="]),
        ("<bos> $A", "{question}=", ["<bos>", "2", "="]),
        ("$A <eos>", "{question}=", ["2", "="]),
        ("<bos> $A <eos>", "{question}=", ["<bos>", "2", "="]),
        ("<bos> $A", "<bos>{question}=", ["<bos>", "2", "="]),
        ("<bos> $A <eos>", "<bos>{question}=", ["<bos>", "2", "="]),
        ("$A", "<bos>{question}=", ["<bos>", "2", "="]),
        ("<bos> $A", "<bos><bos>{question}", ["<bos>", "<bos>", "<bos>", "2"]),  # it is asked for
        ("<bos> $A <eos>", "1<eos>{question}", ["<bos>", "1", "<eos>", "2"]),
    ],
)
def test_prompts_begin_with_one_bos_and_end_where_the_answer_begins(
    single: str, text: str, tokens: list[str]
) -> None:
    assert prompt_of(PlainTemplate(text), adding(single), "2")[1] == tokens


def test_a_prompt_whose_own_text_ends_in_eos_is_an_error() -> None:
    for single in ("$A", "<bos> $A <eos>"):
        with pytest.raises(ConfigError, match=r"end in <eos> \(problem 1.*nothing follows"):
            prompt_of(PlainTemplate("{question}<eos>"), adding(single))
    tokenizer = chatting("{% for m in messages %}{{ m.content }}{{ eos_token }}{% endfor %}")
    with pytest.raises(ConfigError, match=r"end in <eos>.*add_generation_prompt"):
        prompt_of(ChatTemplate(), tokenizer)


def test_added_tokens_are_told(caplog: pytest.LogCaptureFixture) -> None:
    prompt_of(PlainTemplate("{question}"), adding("<bos> $A"))
    assert caplog.text == "", "as models want it"
    prompt_of(PlainTemplate("{question}"), adding("<bos> $A <eos>"))
    assert 'Questions: the tokenizer adds "<eos>" behind texts' in caplog.text
    caplog.clear()
    tokenizer = adding("<bos> $A")
    tokenizer.chat_template = CHATML
    prompt_of(ChatTemplate(), tokenizer)
    assert 'adds "<bos>" in front of texts, but the chat template renders none' in caplog.text
    caplog.clear()
    tokenizer.chat_template = "{{ bos_token }}" + CHATML
    assert prompt_of(ChatTemplate(), tokenizer)[1][:2] == ["<bos>", "<"]
    assert caplog.text == "", "as Llama 3 and Gemma have it"


def test_questions_that_hold_special_tokens_are_told(caplog: pytest.LogCaptureFixture) -> None:
    questions = Questions("2 < 3?", "x<eos>y", "<bos>")
    make_prompts(questions, PlainTemplate("{question}="), byte_tokenizer(), 1000)
    told = 'Questions: 2 of 3 questions hold text that is a special token of the model, such as "<e'
    assert told in caplog.text
    assert "in problem 2:" in caplog.text


def test_characters_that_the_tokenizer_does_not_know_are_told(
    caplog: pytest.LogCaptureFixture,
) -> None:
    words = {"<unk>": 0, "two": 1, "plus": 2, "three": 3}
    inner = Tokenizer(models.WordLevel(words, unk_token="<unk>"))
    inner.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=inner, unk_token="<unk>")
    with caplog.at_level(logging.WARNING):
        make_prompts(Questions("two plus three"), PlainTemplate("{question}"), tokenizer, 9)
        assert caplog.text == ""
        make_prompts(Questions("two", "two over\n"), PlainTemplate("{question}"), tokenizer, 9)
    told = '1 of 2 prompts hold characters that the tokenizer does not know, such as "two over\\n"'
    assert told in caplog.text
