"""Figures are files of the kind that their suffix says, and need matplotlib only when they are drawn."""

import sys
from pathlib import Path

import pytest

from swarm.cli.plots import Panel, Series, check_figure, write_figure
from swarm.domain.errors import InvalidInputError, NotFoundError, UsageError


def panels() -> list[Panel]:
    line = Series(label="SM", x=[1.0, 2.0, 3.0], y=[0.9, 0.4, 0.3], spread=[0.1, 0.1, 0.0])
    dots = Series(label="Ens", x=[1.0, 10.0], y=[5.0, 4.0], joined=False, names=["w1", "w5"])
    return [
        Panel(title="error", x_label="mega-batch", y_label="error", series=[line]),
        Panel(title="cost", x_label="FLOPs", y_label="CER", series=[dots], log_x=True, log_y=True),
    ]


@pytest.mark.parametrize(("name", "head"), [("a.png", b"\x89PNG"), ("b.svg", b"<?xml")])
def test_a_figure_is_of_the_kind_that_its_suffix_says(tmp_path: Path, name: str, head: bytes) -> None:
    path = tmp_path / "new" / name
    write_figure(path, panels())
    assert path.read_bytes().startswith(head)


def test_the_same_series_give_the_same_svg(tmp_path: Path) -> None:
    write_figure(tmp_path / "a.svg", panels())
    write_figure(tmp_path / "b.svg", panels())
    text = (tmp_path / "a.svg").read_text()
    assert text == (tmp_path / "b.svg").read_text()


def test_another_suffix_and_no_panels_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"\.png or \.svg"):
        check_figure(tmp_path / "a.pdf")
    with pytest.raises(InvalidInputError, match="no panels"):
        write_figure(tmp_path / "a.svg", [])
    with pytest.raises(InvalidInputError, match="lengths"):
        Series(label="x", x=[1.0], y=[1.0, 2.0])


def test_without_matplotlib_the_error_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(NotFoundError, match=r"swarm\[plots\]"):
        check_figure(tmp_path / "a.svg")
