"""Pages get their generated parts below the right heading, and keys their anchors."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

pytest.importorskip("myst_parser", reason='needs pip install -e ".[docs]"')

import reference_pages
from reference_pages import slug, with_generated_text


def test_a_comment_becomes_text_one_level_below(monkeypatch: pytest.MonkeyPatch) -> None:
    def write(word: str, level: int) -> str:
        return f"{word} at {level}"

    reference_pages.generated.cache_clear()
    monkeypatch.setitem(reference_pages.WRITERS, "keys", write)
    page = "# A\n\n## B\n\n<!-- generated: keys model -->\n\n# C\n\n<!-- generated: keys data -->\n"
    assert with_generated_text(page) == "# A\n\n## B\n\nmodel at 3\n\n# C\n\ndata at 2\n"
    assert with_generated_text("# A\n\n<!-- else -->\n") == "# A\n\n<!-- else -->\n"
    reference_pages.generated.cache_clear()


def test_anchors_of_keys_are_readable_and_others_are_as_on_github() -> None:
    assert slug("model.sampling") == "model-sampling"
    assert slug("Problems of data.val during the run") == "problems-of-dataval-during-the-run"


def test_a_missing_name_is_a_warning(monkeypatch: pytest.MonkeyPatch) -> None:
    class Env:
        def get_domain(self, name: str) -> SimpleNamespace:
            assert name == "py"
            return SimpleNamespace(objects={})

    told: list[str] = []
    monkeypatch.setattr(reference_pages.log, "warning", lambda *words: told.append(words[1]))
    reference_pages._check(None, Env())  # type: ignore[arg-type]
    assert "steer_lightning.advantages.RLOO" in told


def test_signatures_show_what_python_can_read() -> None:
    from steer_lightning.losses import Clip, Objective

    told = reference_pages._signature(None, "class", "", Clip, None, "(low: float = 0.2)", "")
    assert told == ("(low: float = 0.2)", "")
    told = reference_pages._signature(None, "class", "", Objective, None, "(*args, **kwargs)", "")
    assert told == ("", None)
    given = '(text: str = f"User: {{x}}", other: int = 3)'
    told = reference_pages._signature(None, "class", "", Clip, None, given, "")
    assert told == ("(text: str = ..., other: int = 3)", "")
