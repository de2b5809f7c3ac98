"""The tables of the docs are made of the results, on whichever page they stand."""

from __future__ import annotations

import re

import pytest

from benchmarks import tables

NAMED = re.compile(r"<!-- table: (\S+) -->")


def test_a_table_is_made_anew_and_the_text_around_it_stays() -> None:
    text = "Before.\n<!-- table: doubling_quickstart -->\nold\n<!-- end -->\nAfter.\n"
    lines = tables.filled_in(text).splitlines()
    assert lines[:2] == ["Before.", "<!-- table: doubling_quickstart -->"]
    assert lines[-2:] == ["<!-- end -->", "After."]
    assert lines[2] == "| completions of | rollout and update | against half the length |"
    assert "| 256 tokens | 6.665 s | 2.29 x |" in lines


@pytest.mark.parametrize("name", ["rollout_quickstart", "algorithms", "scaling", "memory_plan"])
def test_every_page_with_a_table_is_checked(name: str) -> None:
    pages = [page for page in tables.DOCUMENTS if name in NAMED.findall(page.read_text())]
    assert len(pages) == 1
