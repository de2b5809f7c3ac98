"""Templates, and chat templates that are of no use."""

from __future__ import annotations

import re
from typing import Any

import pytest
from tokenizers import processors
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
    "{% if add_generation_prompt %}<turn>model\n{% endif %}"
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
    tokenizer.add_special_tokens({"additional_special_tokens": ["<sep>"]})
    special = [("<bos>", BOS), ("<eos>", EOS), ("<sep>", tokenizer.convert_tokens_to_ids("<sep>"))]
    tokenizer._tokenizer.post_processor = processors.TemplateProcessing(
        single=single, special_tokens=special
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
    assert text == f"<turn>user\nBe brief.\n\n{QUESTION}<turn>model\n"


def test_a_system_message_may_be_broken_into_other_lines() -> None:
    tokenizer = chatting(GEMMA2.replace("'System", "'").replace("== 'system'", "== 'none'"))
    template = ChatTemplate("  Think.\n\nThen answer. \n")
    check_template(template, tokenizer)
    rendered = prompt_of(template, tokenizer)[0]
    trimmed = "Think.\n\nThen answer."
    assert rendered == f"<turn>system\n{trimmed}<turn>user\n{QUESTION}<turn>model\n"
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
    assert "options: the chat template does not use enable_thinkng" in caplog.text


QWEN25 = "{% if messages[0].role != 'system' %}<|system|>You are Qwen.<eos>\n{% endif %}" + CHATML
ALPACA = (
    "{{ bos_token }}{% if messages[0].role != 'system' %}Below is a task.\n\n{% endif %}"
    "{% for m in messages %}{{ m.role }}:\n{{ m.content }}{{ eos_token if m.role == 'assistant' }}"
    "{% endfor %}assistant:\n"
)


@pytest.mark.parametrize(
    ("chat_template", "written"),
    [(QWEN25, "<|system|>You are Qwen."), (ALPACA, "Below is a task."), (CHATML, ""), (PHI3, "")],
)
def test_a_system_message_of_the_chat_template_itself_is_told(
    chat_template: str, written: str, caplog: pytest.LogCaptureFixture
) -> None:
    tokenizer = chatting(chat_template)
    for template in (ChatTemplate(None), ChatTemplate(system_in_user=True)):
        caplog.clear()
        check_template(template, tokenizer)
        told = "gets no system message, but writes one of its own, which the model reads: "
        assert (f'{told}"{written}"' in caplog.text) == bool(written) == bool(caplog.text)
    caplog.clear()
    if chat_template != PHI3:
        check_template(ChatTemplate("Be brief."), tokenizer)
    assert caplog.text == ""


# ---- questions as they are


@pytest.mark.parametrize(
    ("content", "changed"),
    [
        ("m.content[:20]", 1),
        ("m.content | replace('<', '&lt;')", 2),
        ("m.content.split('</think>')[-1]", 1),
        ("m.content | lower", 3),
        ("m.content | trim", 0),
    ],
)
def test_a_chat_template_that_changes_questions_is_an_error_with_their_number(
    content: str, changed: int
) -> None:
    source = Questions(" What is 2+3?\n", "What is <b> in a</think>b?", "Is 2<3?", "x" * 10)
    tokenizer = chatting(CHATML.replace("m.content", content))
    if not changed:
        assert len(make_prompts(source, ChatTemplate(None), tokenizer, 1000)) == 4
        return
    rule = f"{changed} of 4 questions are not contained in their prompts unchanged, the first being"
    with pytest.raises(ConfigError, match=rule) as caught:
        make_prompts(source, ChatTemplate(None), tokenizer, 1000)
    first = 1 if "lower" in content else 2
    caught.match(rf"problem {first} of Questions\. .*is rendered as")
    assert "leave these problems out" in caught.value.fix


def test_a_users_template_that_changes_questions_is_told(caplog: pytest.LogCaptureFixture) -> None:
    class Rewritten(PlainTemplate):
        def render(self, question: str, tokenizer: Any) -> str:
            return super().render(question.replace("$", ""), tokenizer)

    source = Questions("2+3", "$2+3$", "$x$")
    make_prompts(source, Rewritten("{question}="), byte_tokenizer(), 1000)
    (record,) = (x for x in caplog.records if "repeat" not in x.getMessage())
    assert record.getMessage() == (
        "data.template = Rewritten: 2 of 3 questions are not contained in their prompts unchanged, "
        "the first being problem 2 of Questions: '$2+3$' is rendered as '2+3='"
    )


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
        (Nothing(), "must render text, but returned None"),
        (Own(KeyError("x\x1b[2J")), r"fails to render a question: KeyError: 'x\\x1b\[2J'"),
        (Own("  \n"), "renders nothing"),
        (Own(ids=RuntimeError("y")), "fails to encode a prompt: RuntimeError: y"),
        (Own(ids=[]), "has no tokens"),
        (Own(ids="abc"), "must encode a prompt as a list of whole numbers, but returned 'abc'"),
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
        ("<bos> $A <sep>", "{question}=", ["<bos>", "2", "="]),
        ("<bos> $A <eos> <eos>", "{question}=", ["<bos>", "2", "="]),
        ("<sep> $A <sep> <eos>", "{question}<sep>", ["<sep>", "2", "<sep>"]),  # its own stays
        ("<bos> $A <sep>", "<bos>{question}=", ["<bos>", "2", "="]),
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


@pytest.mark.parametrize("blank", ["", "\n", " \n\n"])
@pytest.mark.parametrize("end", ["<eos>", "<|im_end|>"])
def test_a_prompt_that_ends_in_the_end_of_a_turn_is_an_error(end: str, blank: str) -> None:
    tokenizer = chatting(
        "{% for m in messages %}<|im_start|>{{ m.content }}<|im_end|>\n{% endfor %}"
        "{% if add_generation_prompt %}<|im_start|>{% endif %}"
    )
    tags = ["<|im_start|>", "<|im_end|>"]
    tokenizer.add_special_tokens({"additional_special_tokens": tags})
    with pytest.raises(ConfigError, match=rf"end in {re.escape(end)} \(problem 1.*opens? the"):
        prompt_of(PlainTemplate(f"{{question}}{end}{blank}"), tokenizer)
    text = f"{{question}}{end}{blank}<|im_start|>{blank}"
    assert prompt_of(PlainTemplate(text), tokenizer)[0] == text.format(question=QUESTION)


IM = "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"


@pytest.mark.parametrize("special", [[], ["<|im_start|>", "<|im_end|>"]])
def test_a_chat_template_that_does_not_open_the_answer_is_an_error(special: list[str]) -> None:
    tokenizer = chatting(IM)
    tokenizer.add_special_tokens({"additional_special_tokens": special})
    for template in (ChatTemplate(), ChatTemplate(None), ChatTemplate(system_in_user=True)):
        with pytest.raises(ConfigError, match="ignores add_generation_prompt") as caught:
            check_template(template, tokenizer)
        caught.match(r"answers begin after '<\|im_start\|>assistant\\n'")
    for (
        opened
    ) in (  # asked for, always, as the model's own, and with thoughts that answers leave out
        IM + "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}",
        IM + "<|im_start|>assistant\n",
        "{% for m in messages %}{{ '[INST]' + m.content + '[/INST]' if m.role != 'assistant' else "
        "m.content + eos_token }}{% endfor %}",
        IM + "{% if add_generation_prompt %}<|im_start|>assistant\n<think>{% endif %}",
    ):
        tokenizer.chat_template = opened
        check_template(ChatTemplate(), tokenizer)
        assert prompt_of(ChatTemplate(), tokenizer)[0]


def test_added_tokens_are_told(caplog: pytest.LogCaptureFixture) -> None:
    prompt_of(PlainTemplate("{question}"), adding("<bos> $A"))
    assert caplog.text == "", "as models want it"
    prompt_of(PlainTemplate("{question}"), adding("<bos> $A <eos>"))
    assert 'Questions: the tokenizer adds "<eos>" after texts' in caplog.text
    caplog.clear()
    prompt_of(PlainTemplate("{question}"), adding("<bos> $A <sep>"))
    assert 'Questions: the tokenizer adds "<sep>" after texts' in caplog.text
    caplog.clear()
    tokenizer = adding("<bos> $A")
    tokenizer.chat_template = CHATML
    prompt_of(ChatTemplate(), tokenizer)
    assert 'adds "<bos>" before texts, but the chat template does not render it' in caplog.text
    caplog.clear()
    tokenizer.chat_template = "{{ bos_token }}" + CHATML
    assert prompt_of(ChatTemplate(), tokenizer)[1][:2] == ["<bos>", "<"]
    assert caplog.text == "", "as Llama 3 and Gemma have it"
