"""Filters that clients write become SQL without their text."""

from __future__ import annotations

import re
from datetime import timedelta

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from covey.database.filters import MAX_COMPARISONS, Fields, Integer, Text, condition
from covey.errors import Invalid

FIELDS: Fields = {"email": Text("lower(email)", str.lower), "name": Text("name"), "age": Integer("age")}


@pytest.mark.parametrize(
    ("text", "sql", "arguments"),
    [
        ("", "true", ()),
        ("  ", "true", ()),
        ('email = "Ada@Example.org"', "lower(email) = $3::text", ("ada@example.org",)),
        ("age>=18", "age >= $3::bigint", (18,)),
        ("age != -1", "age IS DISTINCT FROM $3::bigint", (-1,)),
        (
            ' name != "x" AND age < 5  AND age > 1 ',
            "name IS DISTINCT FROM $3::text AND age < $4::bigint AND age > $5::bigint",
            ("x", 5, 1),
        ),
        (r'name = "a \"quoted\" \\ word AND age = 1"', "name = $3::text", (r'a "quoted" \ word AND age = 1',)),
        ('name = "\'; DROP TABLE account; --"', "name = $3::text", ("'; DROP TABLE account; --",)),
    ],
)
def test_a_filter_is_columns_operators_and_parameters(text: str, sql: str, arguments: tuple[object, ...]) -> None:
    assert condition(text, FIELDS, first=3) == (sql, arguments)


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("nothing", "a comparison .* at character 1"),
        ('phone = "1"', "only email, name, age can be compared, at character 1"),
        ("age = 1 phone = 2", "AND is expected at character 9"),
        ("age = 1 AND", "AND is expected at character 9"),
        ("age = 1 AND ", "a comparison .* at character 12|AND is expected"),
        ("age = 1 OR age = 2", "AND is expected at character 9"),
        ("age = 1; DROP TABLE account", "a comparison"),
        ("age = 1ANDage = 2", "a comparison"),
        ('age = "1"', "age is compared with an integer"),
        ("name = 1", "name is compared by = or !="),
        ('name < "x"', "name is compared by = or !="),
        ("age = 1.5", "a comparison"),
        ("age = 9999999999999999999", "a comparison"),
        ('name = "open', "a comparison"),
        (r'name = "a\n"', "a comparison"),
        ("age = 1 AND " * 100, "more than 1000 characters"),
        (" AND ".join(["age = 1"] * (MAX_COMPARISONS + 1)), "more than 10 comparisons"),
    ],
)
def test_what_is_no_filter_is_refused_with_the_place_and_without_its_text(text: str, why: str) -> None:
    with pytest.raises(Invalid, match=why) as caught:
        condition(text, FIELDS, first=1)

    assert caught.value.errors[0]["pointer"] == "#/filter"
    assert "DROP" not in str(caught.value)


_ALPHABET = st.sampled_from(list("abemailnamegAND \"'\\=<>!;-()$0123456789\n\0ü"))


@settings(max_examples=300, deadline=timedelta(seconds=1))
@given(st.text(_ALPHABET, max_size=60))
@example('email = "x" AND age > 1')
def test_whatever_is_sent_nothing_of_it_is_in_the_sql(text: str) -> None:
    try:
        sql, arguments = condition(text, FIELDS, first=1)
    except Invalid:
        return

    part = r"(lower\(email\)|name|age) (=|<|<=|>|>=|IS DISTINCT FROM) \$\d+::(text|bigint)"
    assert re.fullmatch(rf"true|{part}( AND {part})*", sql)
    assert sql.count("$") == len(arguments)
