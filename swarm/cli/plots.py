"""Figures from plain series, as PNG or SVG. matplotlib (extra `plots`) is loaded only when one is written."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from swarm.domain.errors import InvalidInputError, NotFoundError, UsageError

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

FORMATS = (".png", ".svg")
PANEL_INCHES = (5.2, 4.2)
MOST_BESIDE = 3
DOTS_PER_INCH = 120


@dataclass(frozen=True, slots=True, kw_only=True)
class Series:
    """Points of one kind: x [n] and y [n], a line through them where `joined`, dots on them where `marked`.

    spread [n] draws y +- spread; names [n] are written beside the points. Raises InvalidInputError where
    lengths differ.
    """

    label: str
    x: Sequence[float]
    y: Sequence[float]
    joined: bool = True
    marked: bool = True
    spread: Sequence[float] = ()
    names: Sequence[str] = ()

    def __post_init__(self) -> None:
        lengths = {len(self.x), len(self.y)} | {len(part) for part in (self.spread, self.names) if part}
        if len(lengths) > 1:
            raise InvalidInputError(
                f"series {self.label}",
                found=f"lengths {sorted(lengths)}",
                expected="as many of each as of points",
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class Panel:
    """One pair of axes, with units in its labels."""

    title: str
    x_label: str
    y_label: str
    series: Sequence[Series]
    log_x: bool = False
    log_y: bool = False


def write_figure(path: Path, panels: Sequence[Panel]) -> None:
    """Draw panels, at most three in a row, into path, `.png` or `.svg`; its folder is made.

    An SVG of the same series is the same file. Raises UsageError for another suffix, NotFoundError where
    matplotlib is not installed, InvalidInputError without panels.
    """
    check_figure(path)
    if not panels:
        raise InvalidInputError(f"figure {path}", found="no panels", expected="at least one")
    figure = _figure(len(panels))
    for axes, panel in zip(figure.axes, panels, strict=True):
        _draw(axes, panel)
    path.parent.mkdir(parents=True, exist_ok=True)
    metadata = {"Date": None} if path.suffix == ".svg" else {}
    figure.savefig(path, dpi=DOTS_PER_INCH, metadata=metadata)


def check_figure(path: Path) -> None:
    """Raise, before there is anything to draw, where `write_figure` could not write to path."""
    if path.suffix not in FORMATS:
        raise UsageError(f"figure {path}", found=f"suffix {path.suffix!r}", expected=" or ".join(FORMATS))
    try:
        import matplotlib  # noqa: F401
    except ImportError as error:
        raise NotFoundError(
            "matplotlib",
            found="not installed",
            expected="matplotlib, which draws figures",
            remedy="pip install 'swarm[plots]'",
        ) from error


def _figure(count: int) -> "Figure":
    import matplotlib as mpl
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    mpl.rcParams["svg.hashsalt"] = "swarm"
    width, height = PANEL_INCHES
    columns = min(count, MOST_BESIDE)
    rows = -(-count // columns)
    figure = Figure(figsize=(width * columns, height * rows), layout="constrained")
    FigureCanvasAgg(figure)
    for place in range(count):
        figure.add_subplot(rows, columns, place + 1)
    return figure


def _draw(axes: "Axes", panel: Panel) -> None:
    for series in panel.series:
        axes.errorbar(
            series.x,
            series.y,
            yerr=series.spread or None,
            linestyle="-" if series.joined else "none",
            marker="o" if series.marked else "none",
            markersize=3,
            linewidth=1,
            capsize=2,
            label=series.label,
        )
        for name, x, y in zip(series.names, series.x, series.y, strict=False):
            axes.annotate(name, (x, y), xytext=(3, 3), textcoords="offset points", fontsize=6)
    axes.set(title=panel.title, xlabel=panel.x_label, ylabel=panel.y_label)
    if panel.log_x:
        axes.set_xscale("log")
    if panel.log_y:
        axes.set_yscale("log")
    axes.grid(visible=True, alpha=0.3)
    if any(series.label for series in panel.series):
        axes.legend(fontsize=7)
