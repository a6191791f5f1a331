"""Labels beside points, none on another: places found by trying all around, nearest first."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Boxes = NDArray[np.float64]
"""[n, 4]: left, bottom, right, top, in pixels."""

RADII = (5.0, 9.0, 15.0, 24.0, 36.0, 50.0, 68.0, 90.0, 120.0)
DIRECTIONS = 16
SWEEPS = 5
"""Passes over all labels; after the first each is placed anew with the others where they are."""
_COVERED, _CROSSED, _TOUCHED, _FAR, _ASIDE = 4.0, 150.0, 50.0, 1.5, 12.0
"""Prices: per pixel² covered, per label and per obstacle crossed on the way, per pixel of distance, and for not standing
to the right or left of its point."""


def spread(wanted: Sequence[float], gap: float, low: float, high: float) -> list[float]:
    """Positions at least ``gap`` apart, in the order of those wanted and near them, within ``low`` and ``high``.

    Where there is too little room for that, they are spaced evenly over what there is.
    """
    order = sorted(range(len(wanted)), key=wanted.__getitem__)
    gap = min(gap, (high - low) / max(1, len(order) - 1))
    blocks: list[tuple[float, list[int]]] = []
    for at in order:
        blocks.append((min(max(wanted[at], low), high), [at]))
        while len(blocks) > 1 and _top(blocks[-2], gap) + gap > _bottom(blocks[-1], gap):
            (one, ours), (other, theirs) = blocks[-2:]
            both = [*ours, *theirs]
            middle = (one * len(ours) + other * len(theirs)) / len(both)
            half = gap * (len(both) - 1) / 2
            blocks[-2:] = [(min(max(middle, low + half), high - half), both)]
    found = [0.0] * len(order)
    for middle, members in blocks:
        for place, at in enumerate(members):
            found[at] = middle + gap * (place - (len(members) - 1) / 2)
    return found


def shifted(boxes: Boxes, obstacles: Boxes, most: float, low: float, high: float) -> Boxes:
    """All boxes [n, 4] moved up or down together, at most so far, to where they cover least, nearest first.

    They stay between ``low`` and ``high`` where there is such a place.
    """
    moves = sorted(np.arange(-most, most + 1, 2.0), key=lambda move: (abs(move), move))
    inside = [move for move in moves if boxes[:, 1].min() + move >= low and boxes[:, 3].max() + move <= high]
    offered = [np.add(boxes, (0, move, 0, move)) for move in inside or moves]
    cost = [_covered(one, obstacles).sum() + 0.5 * at for at, one in enumerate(offered)]
    return offered[int(np.argmin(cost))]


def _top(block: tuple[float, list[int]], gap: float) -> float:
    return block[0] + gap * (len(block[1]) - 1) / 2


def _bottom(block: tuple[float, list[int]], gap: float) -> float:
    return block[0] - gap * (len(block[1]) - 1) / 2


def place(points: Boxes, sizes: Boxes, obstacles: Boxes, within: Sequence[float]) -> Boxes:
    """A box for the label of each point, covering as little as possible and near it.

    ``points`` [n, 2] and ``sizes`` [n, 2] in pixels, ``obstacles`` [m, 4] what labels should not cover, ``within`` the box
    that they must not leave. Always the same places for the same input.
    """
    boxes = np.full((len(points), 4), np.nan)
    offered = [_candidates(point, size, within) for point, size in zip(points, sizes, strict=True)]
    crowded = np.argsort([-np.sum(np.hypot(*(points - point).T) < 60) for point in points], kind="stable")
    for _ in range(SWEEPS):
        for at in crowded:
            placed = ~np.isnan(boxes[:, 0])
            placed[at] = False
            others = boxes[placed]
            lines = _paths(points[placed], _nearest(points[placed], others))
            candidates, price = offered[at]
            covered = _covered(candidates, obstacles) + 3 * _covered(candidates, others)
            tips = _nearest(points[at], candidates)
            crossed = _CROSSED * _crossings(points[at], tips, others) + _TOUCHED * _crossings(
                points[at], tips, obstacles
            )
            boxes[at] = candidates[
                int(np.argmin(price + _COVERED * covered + crossed + _CROSSED * _run_through(candidates, lines)))
            ]
    return boxes


def leader(point: NDArray[np.float64], box: NDArray[np.float64]) -> NDArray[np.float64]:
    """Where on a box [4] a line from a point [2] should end."""
    return _nearest(point, box[None])[0]


def _candidates(point: Boxes, size: Boxes, within: Sequence[float]) -> tuple[Boxes, NDArray[np.float64]]:
    """Boxes all around a point and the price of each for distance and direction; those that leave the frame cost most."""
    angle = np.arange(DIRECTIONS) * (2 * np.pi / DIRECTIONS)
    radius, angle = (grid.ravel() for grid in np.meshgrid(RADII, angle, indexing="ij"))
    middle = point + np.stack([np.cos(angle) * (radius + size[0] / 2), np.sin(angle) * (radius + size[1] / 2)], axis=1)
    boxes = np.concatenate([middle - size / 2, middle + size / 2], axis=1)
    outside = np.maximum(0, np.asarray(within[:2]) - boxes[:, :2]) + np.maximum(
        0, boxes[:, 2:] - np.asarray(within[2:])
    )
    aside = np.abs(np.sin(angle)) > 0.1
    return boxes, _FAR * radius + _ASIDE * aside + 1e4 * outside.sum(axis=1)


def _covered(boxes: Boxes, others: Boxes) -> NDArray[np.float64]:
    """Area that each box [n, 4] shares with all others [m, 4]: [n]."""
    if not len(others):
        return np.zeros(len(boxes))
    low = np.maximum(boxes[:, None, :2], others[None, :, :2])
    high = np.minimum(boxes[:, None, 2:], others[None, :, 2:])
    area: NDArray[np.float64] = np.prod(np.maximum(high - low, 0), axis=2).sum(axis=1)
    return area


def _nearest(point: Boxes, boxes: Boxes) -> Boxes:
    return np.clip(point, boxes[:, :2], boxes[:, 2:])


def _paths(points: Boxes, tips: Boxes) -> NDArray[np.float64]:
    """Places along the lines from points [n, 2] to tips [n, 2]: [steps, n, 2]."""
    return points + np.linspace(0, 1, 12)[:, None, None] * (tips - points)


def _inside(paths: NDArray[np.float64], boxes: Boxes) -> NDArray[np.bool_]:
    """Whether lines [steps, n, 2] run through boxes [m, 4]: [n, m]."""
    inside = (paths[:, :, None] > boxes[:, :2]) & (paths[:, :, None] < boxes[:, 2:])
    return np.asarray(inside.all(axis=3).any(axis=0))


def _crossings(point: Boxes, tips: Boxes, others: Boxes) -> NDArray[np.float64]:
    """How many of the other boxes [m, 4] the line from a point [2] to each tip [n, 2] runs through: [n]."""
    return _inside(_paths(point, tips), others).sum(axis=1).astype(float)


def _run_through(boxes: Boxes, lines: NDArray[np.float64]) -> NDArray[np.float64]:
    """How many of the lines [steps, m, 2] run through each box [n, 4]: [n]."""
    return _inside(lines, boxes).sum(axis=0).astype(float)
