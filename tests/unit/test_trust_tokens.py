"""Join tokens and join lines: what is written is read back; what is malformed never shows its secret."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from swarm.domain.errors import UsageError
from swarm.trust.tokens import JoinToken, new_join_token, parse_join_line, parse_join_token, secret_hash

PIN = "ab" * 32
TOKEN = JoinToken(id="tulip123", pin=PIN, secret="s" * 43)


def test_a_token_reads_back_and_every_one_is_new() -> None:
    tokens = [new_join_token(PIN) for _ in range(50)]
    assert all(parse_join_token(token.text) == token for token in tokens)
    assert len({token.secret for token in tokens}) == len({token.id for token in tokens}) == 50
    assert parse_join_token(f"  {tokens[0].text}\n") == tokens[0]


def test_a_token_shows_its_secret_in_its_text_only() -> None:
    token = new_join_token(PIN)
    assert token.secret not in repr(token) and token.secret not in str(token)
    assert token.secret in token.text
    assert secret_hash(token.secret) == secret_hash(token.secret) != secret_hash(token.secret + "x")


@pytest.mark.parametrize(
    ("address", "host", "port"),
    [
        ("127.0.0.1:7070", "127.0.0.1", 7070),
        ("plants.example.org:443", "plants.example.org", 443),
        ("my_host:1", "my_host", 1),
        ("[::1]:7070", "::1", 7070),
        ("[fe80::1]:65535", "fe80::1", 65535),
    ],
)
def test_a_join_line_has_token_host_and_port(address: str, host: str, port: int) -> None:
    assert parse_join_line(f"{TOKEN.text}@{address}") == (TOKEN, host, port)
    assert parse_join_line(f"swarm join {TOKEN.text}@{address} ") == (TOKEN, host, port)


@pytest.mark.parametrize(
    "address",
    [
        "",
        "host",
        "host:",
        ":7070",
        "host:0",
        "host:65536",
        "host:-1",
        "host:+7",
        "host:７０",
        "host:abc",
        "::1:7070",
        "[::1]",
        "[zz]:7070",
        "[host]:7070",
        "ho st:7070",
        "-host:7070",
        "a..b:7070",
        "https://host:7070",
        "host:7070/path",
    ],
)
def test_a_malformed_address_is_refused_without_the_secret(address: str) -> None:
    with pytest.raises(UsageError, match="join line") as caught:
        parse_join_line(f"{TOKEN.text}@{address}")
    assert TOKEN.secret not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "nothing"),
        ("hello", "does not begin with swm1"),
        (f"swm2.tulip123.{PIN}.{'s' * 43}", "does not begin with swm1"),
        (f"swm1.tulip123.{PIN}", "3 parts"),
        (f"swm1.tulip123.{PIN}.{'s' * 43}.more", "5 parts"),
        (f"swm1.TULIP.{PIN}.{'s' * 43}", "malformed id"),
        (f"swm1.tulip123.{PIN[:-1]}.{'s' * 43}", "pin of 63"),
        (f"swm1.tulip123.{PIN[:-1]}g.{'s' * 43}", "pin"),
        (f"swm1.tulip123.{PIN}.short", "secret of 5"),
        (f"swm1.tulip123.{PIN}.{'s' * 42}!", "secret of 43"),
    ],
)
def test_a_malformed_token_is_refused_by_what_is_wrong(text: str, reason: str) -> None:
    for parse, line in ((parse_join_token, text), (parse_join_line, f"{text}@host:7070")):
        with pytest.raises(UsageError, match="join token") as caught:
            parse(line)
        assert reason in str(caught.value)
        assert "s" * 20 not in str(caught.value)
        assert "swarm token create" in str(caught.value)


def test_a_join_line_without_an_address_is_refused() -> None:
    with pytest.raises(UsageError, match="no @") as caught:
        parse_join_line(TOKEN.text)
    assert TOKEN.secret not in str(caught.value)


@given(st.text(max_size=300))
def test_any_text_is_a_token_or_a_usage_error(text: str) -> None:
    for parse in (parse_join_token, parse_join_line):
        with pytest.raises(UsageError):
            parse(text)


@given(st.integers(min_value=0, max_value=len(TOKEN.text) - 1), st.characters())
def test_a_changed_character_is_refused_or_changes_the_token(position: int, character: str) -> None:
    text = TOKEN.text[:position] + character + TOKEN.text[position + 1 :]
    try:
        assert (parse_join_token(text) == TOKEN) == (text == TOKEN.text)
    except UsageError:
        assert text != TOKEN.text
