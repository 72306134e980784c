"""The tests that the pages show, collected here as if they stood here: with the fixtures of the plugin."""

from __future__ import annotations

from tests.docs.pages import own_code, pages

for _page in pages():
    if "\nasync def test_" in own_code(_page) or "\ndef test_" in own_code(_page):
        exec(compile(own_code(_page), str(_page), "exec", dont_inherit=True), globals())


def test_there_are_some() -> None:
    assert "test_who_joins_is_welcomed" in globals()
