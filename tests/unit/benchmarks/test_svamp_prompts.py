"""The prompts tried on SVAMP: their texts, and completions behind a beginning that is read once."""

from __future__ import annotations

from types import ModuleType

import pytest
import torch
import yaml

from scripts.draw_rooms import ROOT
from steer_lightning.testing import byte_tokenizer, tiny_model
from steer_lightning.types import Problem


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    import svamp_prompts

    return svamp_prompts


def test_the_configuration_takes_the_prompt_of_six_boxes(script: ModuleType) -> None:
    config = yaml.safe_load((ROOT / "configs/svamp/smollm2-135m-cpu.yaml").read_text())
    trial = script.TRIALS["chat-6-boxes-system"]
    assert config["data"]["template"]["init_args"]["text"] == trial.template.text
    assert config["model"]["sampling"]["max_new_tokens"] == trial.most_tokens
    assert tuple(config["model"]["sampling"]["stop_strings"]) == trial.stops


def test_examples_stand_in_both_forms(script: ModuleType) -> None:
    asked, calculation = script.BOXES[0]
    assert calculation == r"\boxed{5 + 3}"
    text = script.plain(script.EQUATIONS[:1]).render("How many?", None)
    assert text == f"Question: {asked}\nAnswer: 5 + 3 = 8\n\nQuestion: How many?\nAnswer:"
    text = script.chat(script.BOXES[:1], "S", begun="Answer:").render("How many?", None)
    assert text == (
        f"<|im_start|>system\nS<|im_end|>\n<|im_start|>user\n{asked}<|im_end|>\n"
        "<|im_start|>assistant\nAnswer: \\boxed{5 + 3}<|im_end|>\n"
        "<|im_start|>user\nHow many?<|im_end|>\n<|im_start|>assistant\nAnswer:"
    )


def test_greedy_rows_are_those_of_generate(script: ModuleType) -> None:
    model, tokenizer = tiny_model("llama").eval(), byte_tokenizer()
    texts = ["the same start: a", "the same start: and more", "the same start: or"]
    found = script.Answers(model, tokenizer, script.Trial(None, 8)).write(texts)
    assert len(found) == 3 * script.ROWS
    for k, text in enumerate(texts):
        ids = tokenizer(text, return_tensors="pt", add_special_tokens=False)["input_ids"]
        with torch.no_grad():
            whole = model.generate(ids, max_new_tokens=8, do_sample=False)[0, ids.shape[1] :]
        assert found[k * script.ROWS][0] == tokenizer.decode(whole, skip_special_tokens=True)


def test_verdicts_are_counted_apart(script: ModuleType) -> None:
    problems = [Problem(question="", answer="69"), Problem(question="", answer="8")]
    box = "\\boxed{74 - 5}"
    found = [(box, 4, True), (box, 4, True), ("none", 16, False)]
    found += [(box, 4, True), ("\\boxed{5 + 3}", 4, True), (box, 4, True)]
    result = script.judge(script.Trial(None, 16, answer_in="boxed"), problems, found)
    assert result["greedy"]["accuracy"] == 1 / 2
    sampled = result["temperature_1"]
    assert (sampled["accuracy"], sampled["cut_off"], sampled["no_answer"]) == (2 / 4, 1 / 4, 1)
    assert sampled["tokens"] == (4 + 16 + 4 + 4) / 4
