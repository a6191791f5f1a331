"""How pictures look: colours for light and dark pages, fonts, and the frame with a title, drawn without global state."""

from __future__ import annotations

import io
import textwrap
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

WIDTH = 8.0
"""Inches; at 100 pixels each what a README shows."""
TITLE_SIZE, NOTE_SIZE, TEXT_SIZE = 12.0, 9.0, 9.5
MARGIN = 0.15
"""Inches around everything."""
DOTS = 150
"""Pixels per inch of bitmaps."""
MARKERS = "osD^vPX"
HATCHES = ("", "////", "....", "xxxx", "----")
"""Tell apart bars of one colour."""


@dataclass(frozen=True)
class Theme:
    """Colours as #rrggbb. ``methods``: by a method's place, told apart by the colour-blind (Okabe & Ito 2008).

    ``phases``: the stages of each phase from its first to its last. ``shares``: from none to all.
    """

    background: str
    ink: str
    faint: str
    grid: str
    methods: tuple[str, ...]
    phases: dict[str, tuple[str, ...]]
    shares: tuple[str, ...]

    def colour(self, place: int | None) -> str:
        return self.faint if place is None else self.methods[place % len(self.methods)]

    def marker(self, place: int | None) -> str:
        return "o" if place is None else MARKERS[place // len(self.methods) % len(MARKERS)]


THEMES = {
    "light": Theme(
        background="#ffffff",
        ink="#1f2328",
        faint="#59636e",
        grid="#e4e8ec",
        methods=("#0072b2", "#d55e00", "#1f2328", "#009e73", "#cc79a7", "#e69f00", "#56b4e9"),
        phases={
            "pruning": ("#6b2500", "#e07b28", "#ffe0b8"),
            "fine-tuning": ("#00507d", "#7cc0ea"),
            "inference": ("#00664a", "#8fd9bf"),
        },
        shares=("#f2f7fb", "#0072b2"),
    ),
    "dark": Theme(
        background="#0d1117",
        ink="#f0f6fc",
        faint="#9198a1",
        grid="#252b33",
        methods=("#4aa3e0", "#ff8a3d", "#f0f6fc", "#2bc79b", "#e39cc4", "#f2b632", "#9bd6f7"),
        phases={
            "pruning": ("#ffe3c2", "#e8873a", "#7a3305"),
            "fine-tuning": ("#8ecbf2", "#1f6fa8"),
            "inference": ("#8fe0c5", "#1b7f61"),
        },
        shares=("#161d26", "#4aa3e0"),
    ),
}


@contextmanager
def style(theme: Theme) -> Iterator[None]:
    """matplotlib's own defaults with our colours and fonts, whatever this machine's settings; put back at the end."""
    ours: dict[str, Any] = {
        "font.family": ["DejaVu Sans"],
        "font.size": TEXT_SIZE,
        "text.parse_math": False,
        "text.color": theme.ink,
        "axes.labelcolor": theme.ink,
        "axes.edgecolor": theme.faint,
        "axes.facecolor": theme.background,
        "axes.labelsize": TEXT_SIZE,
        "axes.grid": True,
        "axes.axisbelow": True,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.unicode_minus": True,
        "grid.color": theme.grid,
        "grid.linewidth": 0.8,
        "xtick.color": theme.faint,
        "ytick.color": theme.faint,
        "xtick.labelcolor": theme.ink,
        "ytick.labelcolor": theme.ink,
        "xtick.labelsize": NOTE_SIZE,
        "ytick.labelsize": NOTE_SIZE,
        "figure.facecolor": theme.background,
        "savefig.facecolor": theme.background,
        "hatch.color": between((theme.grid, theme.faint), 0.35),
        "hatch.linewidth": 0.6,
        "svg.fonttype": "path",
        "svg.hashsalt": "prunebench",
        "path.simplify": True,
    }
    defaults = {key: value for key, value in mpl.rcParamsDefault.items() if key not in ("backend", "backend_fallback")}
    with mpl.rc_context({**defaults, **ours}), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing from font")
        yield


@dataclass(frozen=True, eq=False)
class Sheet:
    """A picture's paper, with its title and note on it. ``base``: inches from its foot to what is drawn, ``room`` high."""

    figure: Figure
    height: float
    base: float
    room: float

    def wide(self, text: str, size: float, weight: str = "normal") -> float:
        """Inches that a text takes, the longest of its lines."""
        shown = self.figure.text(0, 0, text, size=size, weight=weight)
        width = shown.get_window_extent().width / self.figure.dpi
        shown.remove()
        return float(width)

    def fit(self, text: str, inches: float, size: float, weight: str = "normal") -> str:
        """The text, each line cut where it is wider than that."""
        return "\n".join(self._fit(line, inches, size, weight) for line in text.split("\n"))

    def _fit(self, line: str, inches: float, size: float, weight: str) -> str:
        kept = line
        while len(kept) > 1 and (width := self.wide(kept, size, weight)) > inches:
            kept = kept[: max(1, min(len(kept) - 2, int(len(kept) * inches / width) - 1))] + "…"
        return kept

    def axes(self, left: float, bottom: float, width: float, height: float) -> Axes:
        """Axes by inches from the lower left corner of the room."""
        return self.figure.add_axes(
            (left / WIDTH, (self.base + bottom) / self.height, width / WIDTH, height / self.height)
        )


def sheet(theme: Theme, title: str, note: str, room: float, place: str = "") -> Sheet:
    """Paper with a title and a line below it, ``room`` inches for what is to be drawn, and the note at the foot."""
    places = textwrap.wrap(plain(place, 200), 100)
    notes = textwrap.wrap(plain(note, 1000), 114) or [""]
    base = MARGIN + 0.165 * len(notes) + 0.08
    above = MARGIN + 0.25 + 0.17 * len(places) + 0.12
    height = base + room + above
    figure = Figure(figsize=(WIDTH, height))
    FigureCanvasAgg(figure)
    left, top = MARGIN / WIDTH, 1 - MARGIN / height
    made = Sheet(figure, height, base, room)
    small: dict[str, Any] = {"size": NOTE_SIZE, "color": theme.faint, "linespacing": 1.3}
    figure.text(left, top, plain(title, 80), size=TITLE_SIZE, weight="bold", va="top")
    figure.text(
        left, top - 0.25 / height, made.fit("\n".join(places), WIDTH - 2 * MARGIN, NOTE_SIZE), va="top", **small
    )
    figure.text(left, MARGIN / height, "\n".join(notes), va="bottom", **small)
    return made


def plain(text: str, longest: int = 60) -> str:
    """One line of printable text, cut where it is longer."""
    words = " ".join("".join(letter if letter.isprintable() else " " for letter in text).split())
    return words if len(words) <= longest else words[: longest - 1] + "…"


def folded(text: str, width: int) -> str:
    """At most two lines of about ``width`` letters."""
    lines = textwrap.wrap(plain(text, 2 * width), width, break_on_hyphens=False)
    return "\n".join(lines[:1] + ([" ".join(lines[1:])] if lines[1:] else []))


def between(stops: Sequence[str], share: float) -> str:
    """The colour that far along the way from the first to the last of some."""
    parts = [[int(one[at : at + 2], 16) for one in stops] for at in (1, 3, 5)]
    return "#" + "".join(f"{round(np.interp(share, np.linspace(0, 1, len(stops)), part)):02x}" for part in parts)


def dark_on(colour: str) -> bool:
    """Whether black is easier to read on it than white (relative luminance, WCAG 2.1)."""
    parts = [int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5)]
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2] > 0.179


def saved(figure: Figure, title: str, alt: str, kind: str) -> bytes:
    """The picture's bytes, as ``svg`` or ``png``, always the same: no date, no version, no random ids."""
    out = io.BytesIO()
    if kind == "svg":
        about = {"Title": plain(title, 1000), "Description": plain(alt, 5000), "Creator": None, "Date": None}
        figure.savefig(out, format="svg", metadata=about)
    else:
        figure.savefig(out, format="png", dpi=DOTS, metadata={"Software": None})
    return out.getvalue()
