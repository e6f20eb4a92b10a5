"""Bearer tokens of HTTP callers: kept as hashes, valid until they expire or are revoked; who is admitted."""

import json
from pathlib import Path

import pytest

from coordinator.bearer_tokens import BearerTokens
from coordinator.open_inference.callers import HttpCallers, is_loopback
from swarm.domain.errors import ConflictError, InvalidInputError, NotFoundError, UnauthenticatedError
from swarm.domain.ids import NodeId
from swarm.trust.signing import Signer

APP = NodeId("app")


class Book:
    """Tokens over a folder, at a time that the test sets."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.signer, self.now = folder, Signer.generate(), 1000.0
        self.tokens = self.opened()

    def opened(self) -> BearerTokens:
        return BearerTokens(self.folder, self.signer, lambda: self.now)


@pytest.fixture
def book(tmp_path: Path) -> Book:
    return Book(tmp_path / "bearer")


async def test_a_token_names_its_holder_also_after_a_restart_and_only_its_hash_is_kept(book: Book) -> None:
    token, view = await book.tokens.create(APP, 60.0, "k")
    assert book.tokens.holder(token) == book.opened().holder(token) == "app"
    assert (view.bearer, view.role, view.expires_at) == ("app", "client", 1060.0)
    (file,) = book.folder.iterdir()
    secret = token.rpartition(".")[2]
    assert secret not in file.read_text() and file.stat().st_mode & 0o777 == 0o600
    assert await book.opened().create(APP, 60.0, "k") == (token, view)


@pytest.mark.parametrize(
    "text", ["", "swb1", "swb1.b00000000." + "0" * 64, "swm1.ab12.x", "swb1.bzzzzzzzz.0", "\u00e9"]
)
async def test_what_is_no_token_is_refused(book: Book, text: str) -> None:
    await book.tokens.create(APP, 60.0, "k")
    with pytest.raises(UnauthenticatedError, match="not known here"):
        book.tokens.holder(text)


async def test_a_token_with_another_secret_is_refused_without_being_repeated(book: Book) -> None:
    token, _ = await book.tokens.create(APP, 60.0, "k")
    other, _ = await book.tokens.create(NodeId("b"), 60.0, "l")
    mixed = ".".join([*token.split(".")[:2], other.split(".")[2]])
    with pytest.raises(UnauthenticatedError) as caught:
        book.tokens.holder(mixed)
    assert other.split(".")[2] not in str(caught.value)


async def test_an_expired_and_a_revoked_token_are_refused_by_name(book: Book) -> None:
    token, _ = await book.tokens.create(APP, 60.0, "k")
    other, view = await book.tokens.create(NodeId("bea"), 600.0, "l")
    book.now = 1060.0
    with pytest.raises(UnauthenticatedError, match="of app: found expired"):
        book.tokens.holder(token)
    await book.tokens.revoke(view.id)
    with pytest.raises(UnauthenticatedError, match="of bea: found revoked"):
        book.opened().holder(other)
    with pytest.raises(ConflictError):
        await book.tokens.create(NodeId("bea"), 600.0, "l")
    with pytest.raises(ConflictError):
        await book.tokens.create(NodeId("other"), 600.0, "k")
    with pytest.raises(NotFoundError):
        await book.tokens.revoke("bffffffff")
    assert [each.bearer for each in book.tokens.views()] == ["app"]


@pytest.mark.parametrize("lifetime_s", [0.0, -1.0, 400 * 86_400.0])
async def test_a_lifetime_has_bounds(book: Book, lifetime_s: float) -> None:
    with pytest.raises(InvalidInputError):
        await book.tokens.create(APP, lifetime_s, "k")


async def test_a_damaged_file_lets_nobody_in_and_stops_nobody(book: Book) -> None:
    token, view = await book.tokens.create(APP, 60.0, "k")
    (book.folder / "bbbbbbbbb.json").write_text("{")
    (book.folder / "baaaaaaaa.json").write_text(json.dumps({"hash": "x"}))
    assert [each.id for each in book.opened().views()] == [view.id]
    assert book.opened().holder(token) == "app"


async def test_on_loopback_everybody_is_admitted_by_its_own_names_and_elsewhere_nobody(book: Book) -> None:
    token, _ = await book.tokens.create(APP, 60.0, "k")
    here = HttpCallers(book.tokens, is_loopback=True)
    for host in ("127.0.0.1:7080", "localhost", "[::1]:7080", "LOCALHOST:1"):
        assert here.admit({"host": host}) == "client/loopback"
    for host in ("evil.example:7080", "", "127.0.0.1.evil.example", "[::2]"):
        with pytest.raises(UnauthenticatedError, match="Host"):
            here.admit({"host": host})
    local = {"host": "127.0.0.1:7080", "origin": "http://localhost:3000"}
    assert here.admit(local) == "client/loopback"
    for origin in ("https://evil.example", "null", "http://localhost.evil.example:7080", ""):
        with pytest.raises(UnauthenticatedError, match="Origin"):
            here.admit({"host": "127.0.0.1:7080", "origin": origin})
    elsewhere = HttpCallers(book.tokens, is_loopback=False)
    for callers in (here, elsewhere):
        assert callers.admit({"authorization": f"bearer {token}", "host": "any.example"}) == "client/app"
        with pytest.raises(UnauthenticatedError):
            callers.admit({"authorization": "Bearer ", "host": "127.0.0.1"})
    with pytest.raises(UnauthenticatedError, match="no bearer token"):
        elsewhere.admit({"host": "127.0.0.1"})


def test_an_address_is_loopback_or_it_is_not() -> None:
    assert all(map(is_loopback, ("127.0.0.1", "127.9.9.9", "::1", "localhost")))
    assert not any(map(is_loopback, ("0.0.0.0", "::", "10.0.0.1", "example.org", "")))
