r"""Pictures of molecules: grids of balls and sticks, and animations of one molecule's denoising.

A small ray caster: atoms are spheres and bonds cylinders, seen along the z axis from infinity; each pixel
shows the nearest surface. Molecules are rotated so that their principal axes are those of the picture,
the longest horizontal, and all molecules of a grid have one scale. Bonds are those that are given, in
two or three lines if they are double or triple, or else those of :mod:`anydiff.molecules.bonds`; a green
dot marks a molecule that is stable by them. Atoms can be highlighted, for instance those that were given
while the others were generated.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from anydiff.drawing import beside, pillow, text_width, tiled, write_gif, write_image
from anydiff.files import PathLike
from anydiff.molecules.bonds import Array, as_array, as_charges, bond_orders, stable
from anydiff.molecules.elements import formula_parts
from anydiff.molecules.fields import AROMATIC
from anydiff.molecules.valences import stable_atoms

__all__ = ["animate", "draw_grid", "grid", "principal_axes"]

_COLORS = {
    1: (238, 240, 243), 5: (244, 170, 140), 6: (86, 92, 102), 7: (58, 104, 224), 8: (226, 54, 48),
    9: (92, 190, 100), 14: (205, 175, 130), 15: (240, 140, 30), 16: (236, 200, 50),
    17: (60, 185, 70), 35: (150, 60, 40), 53: (130, 50, 160),
}  # fmt: skip
_COVALENT = {
    1: 0.31, 5: 0.84, 6: 0.76, 7: 0.71, 8: 0.66, 9: 0.57, 14: 1.11, 15: 1.07, 16: 1.05, 17: 1.02,
    35: 1.20, 53: 1.39,
}  # ångström  # fmt: skip
_OTHER_COLOR, _OTHER_RADIUS = (200, 110, 170), 1.4
_STICK = {1: (0.115, 0.0), 2: (0.075, 0.125), 3: (0.06, 0.16)}  # order: radius and offset, ångström
_LIGHT = np.array([-0.42, 0.55, 0.72]) / np.linalg.norm([-0.42, 0.55, 0.72])
_EYE = np.array([0, 0, 1.0])
_MARK, _MARK_RADIUS = (255, 217, 112), 0.62  # of the band around highlighted atoms, ångström
_HALF = (_LIGHT + _EYE) / np.linalg.norm(_LIGHT + _EYE)  # between the light and the eye
_ROOM = 12  # pixels around the words at the left of a grid
_SMOOTH = 3  # pixels are averages of _SMOOTH × _SMOOTH


def _radius(z: int) -> float:
    """The ball's radius in ångström."""
    return 0.19 + 0.31 * _COVALENT.get(z, _OTHER_RADIUS)


def principal_axes(pos: np.ndarray) -> np.ndarray:
    """A rotation R (3, 3) whose rows are the principal axes, longest first, tilted by 14°.

    ``pos @ R.T`` shows the molecule from its flat side, a little from above.

    Arguments:
        pos: (n, 3), positions in ångström.
    """
    centered = pos - pos.mean(0)
    axes = np.linalg.svd(centered, full_matrices=True)[2]
    skew = ((centered @ axes.T) ** 3).sum(0)  # signs that do not depend on the orientation
    axes = axes * np.where(skew < 0, -1.0, 1.0)[:, None]
    axes[2] *= np.sign(np.linalg.det(axes))
    tilt = math.radians(14)  # so that flat molecules show their depth
    cos, sin = math.cos(tilt), math.sin(tilt)
    lean = np.array([[1, 0, 0], [0, cos, -sin], [0, sin, cos]])
    return np.asarray(lean @ axes)


class _Canvas:
    """Colour and depth of every pixel; y points up and the eye is at z = +∞."""

    def __init__(self, width: int, height: int, scale: float) -> None:
        self.color = np.full((height, width, 3), 255.0, np.float32)
        self.depth = np.full((height, width), -np.inf, np.float32)
        self.marked = np.zeros((height, width), bool)
        self.scale = scale  # pixels per ångström
        self.x = (np.arange(width) + 0.5 - width / 2) / scale
        self.y = -(np.arange(height) + 0.5 - height / 2) / scale

    def _patch(self, low: np.ndarray, high: np.ndarray) -> tuple[slice, slice]:
        columns = np.searchsorted(self.x, [low[0], high[0]])
        rows = np.searchsorted(-self.y, [-high[1], -low[1]])
        return slice(*rows.tolist()), slice(*columns.tolist())

    def _put(
        self, patch: tuple[slice, slice], inside: np.ndarray, depth: np.ndarray,
        normal: np.ndarray, color: np.ndarray,
    ) -> None:  # fmt: skip
        seen = inside & (depth > self.depth[patch])
        diffuse = np.clip(normal @ _LIGHT, 0, None)[..., None]
        shine = np.clip(normal @ _HALF, 0, None)[..., None] ** 42
        shaded = color * (0.50 + 0.56 * diffuse) + 105 * shine
        self.depth[patch][seen] = depth[seen]
        self.color[patch][seen] = np.minimum(shaded, 255)[seen]

    def sphere(self, center: np.ndarray, radius: float, color: Sequence[float]) -> None:
        patch = self._patch(center - radius, center + radius)
        x, y = np.meshgrid(self.x[patch[1]] - center[0], self.y[patch[0]] - center[1])
        square = radius**2 - x**2 - y**2
        up = np.sqrt(np.clip(square, 0, None))
        normal = np.stack([x, y, up], axis=-1) / radius
        self._put(patch, square > 0, center[2] + up, normal, np.broadcast_to(color, normal.shape))

    def stick(
        self, a: np.ndarray, b: np.ndarray, radius: float,
        color_a: Sequence[float], color_b: Sequence[float], middle: float,
    ) -> None:  # fmt: skip
        """A cylinder from a to b that changes colour at `middle` of its length."""
        length = float(np.linalg.norm(b - a))
        u = (b - a) / max(length, 1e-9)
        across = 1 - u[2] ** 2
        if across < 1e-4:  # seen end on: its own atom hides it
            return
        patch = self._patch(np.minimum(a, b) - radius, np.maximum(a, b) + radius)
        x, y = np.meshgrid(self.x[patch[1]], self.y[patch[0]])
        p = np.stack([x - a[0], y - a[1], np.full_like(x, -a[2])], axis=-1)

        # the ray p + s·e_z against the cylinder |m + s·d| = radius, m and d normal to the axis
        along = p @ u
        m = p - along[..., None] * u
        d = _EYE - u[2] * u
        half = m @ d
        square = half**2 - across * ((m**2).sum(-1) - radius**2)
        s = (-half + np.sqrt(np.clip(square, 0, None))) / across
        t = along + s * u[2]
        normal = (m + s[..., None] * d) / radius
        inside = (square > 0) & (t >= 0) & (t <= length)
        color = np.where((t < middle * length)[..., None], color_a, color_b)
        self._put(patch, inside, s, normal, color)

    def mark(self, a: np.ndarray, b: np.ndarray) -> None:
        """A band from a to b, behind the atoms and bonds."""
        patch = self._patch(np.minimum(a, b) - _MARK_RADIUS, np.maximum(a, b) + _MARK_RADIUS)
        p = np.stack(np.meshgrid(self.x[patch[1]], self.y[patch[0]]), axis=-1) - a[:2]
        way = (b - a)[:2]
        along = np.clip(p @ way / max(float(way @ way), 1e-9), 0, 1)
        self.marked[patch] |= ((p - along[..., None] * way) ** 2).sum(-1) < _MARK_RADIUS**2

    def finish(self) -> np.ndarray:
        """The picture (H, W, 3): distant surfaces are paler, and outlines are drawn."""
        covered = np.isfinite(self.depth)
        color = self.color.copy()
        color[self.marked & ~covered] = _MARK
        if covered.any():
            near, far = self.depth[covered].max(), self.depth[covered].min()
            haze = 0.30 * (near - self.depth[covered]) / max(near - far, 3.0)
            color[covered] += (255 - color[covered]) * haze[:, None]
        edge = np.zeros(self.depth.shape, bool)
        depth = np.where(covered, self.depth, -1e3)
        reach = max(1, round(0.022 * self.scale))
        for axis in (0, 1):
            for step in (reach, -reach):
                # between neighbours far apart in depth, the line is on the nearer one
                edge |= covered & (depth - np.roll(depth, step, axis) > 0.30)
        color[edge] *= 0.42
        return color.astype(np.uint8)


def _render(
    pos: np.ndarray, z: np.ndarray, width: int, height: int, scale: float,
    marked: np.ndarray | None = None, given: tuple[np.ndarray, np.ndarray] | None = None,
) -> np.ndarray:  # fmt: skip
    """A picture (height, width, 3) of one molecule in its orientation, with given bonds and orders."""
    canvas = _Canvas(width, height, scale)
    fine = np.isfinite(pos).all(1)  # a sample may have diverged
    pos, z = pos[fine], z[fine]
    if given is not None:
        pairs, orders = given
        seen = fine[pairs].all(1)
        pairs, orders = (fine.cumsum() - 1)[pairs[seen]], orders[seen]
    else:
        pairs, orders = bond_orders(pos, z, np.zeros(len(z), np.int64))
    marked = np.zeros(len(z), bool) if marked is None else marked[fine]
    colors = [_COLORS.get(int(n), _OTHER_COLOR) for n in z]
    radii = [_radius(int(n)) for n in z]
    for center, radius, color in zip(pos, radii, colors, strict=True):
        canvas.sphere(center, radius, color)
    alone = np.repeat(np.flatnonzero(marked)[:, None], 2, axis=1)
    for i, j in [*alone.tolist(), *pairs[marked[pairs].all(1)].tolist()]:
        canvas.mark(pos[i], pos[j])
    if len(pairs) > 4 * len(z):  # fallen together: thousands of sticks, which the balls would hide
        pairs, orders = pairs[:0], orders[:0]
    for (i, j), order in zip(pairs.tolist(), orders.tolist(), strict=True):
        order = 2 if order == AROMATIC else order
        radius, offset = _STICK[order]
        side = _side(pos, pairs, i, j) * offset
        length = np.linalg.norm(pos[j] - pos[i])
        middle = 0.5 + 0.5 * float(radii[i] - radii[j]) / max(float(length), 1e-9)
        for k in range(order):
            shift = side * (2 * k / (order - 1) - 1) if order > 1 else 0 * side
            canvas.stick(pos[i] + shift, pos[j] + shift, radius, colors[i], colors[j], middle)
    return canvas.finish()


def _side(pos: np.ndarray, pairs: np.ndarray, i: int, j: int) -> np.ndarray:
    """The direction in which the sticks of a multiple bond are offset: in its substituents' plane."""
    u = pos[j] - pos[i]
    others = pairs[(pairs == i).any(1) | (pairs == j).any(1)].ravel()
    others = others[(others != i) & (others != j)]
    for k in others.tolist():
        v = pos[k] - pos[i]
        v = v - u * (v @ u) / max(float(u @ u), 1e-9)
        if np.linalg.norm(v) > 0.3:
            return np.asarray(v / np.linalg.norm(v))
    v = np.cross(u, _EYE)
    return v / max(float(np.linalg.norm(v)), 1e-9)


def _caption(picture: Any, parts: list[tuple[str, str]], dot: bool) -> None:
    """Write pairs of text and subscript at the foot of a picture, with or without a green dot."""
    _, ImageDraw, ImageFont = pillow()
    draw = ImageDraw.Draw(picture)
    pieces = [(text, k) for pair in parts for k, text in enumerate(pair) if text]
    size, room = picture.width / 17, 0.94 * picture.width
    for _ in range(2):  # the second time fitted to the width
        fonts = ImageFont.load_default(size), ImageFont.load_default(0.68 * size)
        dot_width = 0.85 * size if dot else 0.0
        width = sum(fonts[k].getlength(text) for text, k in pieces) + dot_width
        if width <= room:
            break
        size *= room / width
    x, base = (picture.width - width) / 2, picture.height - 0.55 * size
    if dot:
        r = 0.24 * size
        middle = base - 0.36 * size
        draw.ellipse((x, middle - r, x + 2 * r, middle + r), fill=(38, 166, 91))
        x += dot_width
    for text, k in pieces:
        draw.text((x, base + k * 0.18 * size), text, fill=(70, 74, 82), font=fonts[k], anchor="ls")
        x += fonts[k].getlength(text)


def grid(
    pos: Array,
    z: Array,
    index: Array,
    *,
    columns: int | None = None,
    captions: Sequence[str] | None = None,
    size: int = 400,
    marked: Array | None = None,
    rows: Sequence[str] = (),
    bonds: Array | None = None,
    orders: Array | None = None,
    charges: Array | None = None,
) -> Any:
    """A grid of molecules as a picture.

    Arguments:
        pos: (N, 3), positions in ångström.
        z: (N,), atomic numbers.
        index: (N,), the molecule of each row.
        columns: Molecules in a row; by default about as many as rows.
        captions: One for each molecule; by default its formula.
        size: Width of a molecule in pixels.
        marked: (N,) of booleans, atoms to highlight. A molecule with two or more of them is rotated to
            their principal axes, so that molecules with equal highlighted parts look alike.
        rows: Words to the left of the rows, or of the first ones.
        bonds: (E, 2), the rows of the two atoms of each bond; by default they follow from distances.
        orders: (E,), their orders: 1, 2, 3, or 4 if aromatic.
        charges: (N,), formal charges, which with `bonds` determine what is stable.

    Returns:
        (H, W, 3) of uint8, or a Pillow image.

    Raises:
        ImportError: Pillow is not installed; or RDKit, which other elements than H, C, N, O and F need.
        ValueError: There are no molecules, or captions, `marked`, bonds, orders or charges do not fit.
    """
    Image = pillow()[0]
    pos, z, index = as_array(pos).astype(np.float64), as_array(z), as_array(index)
    if len(z) == 0:
        raise ValueError("there are no molecules to draw.")
    molecules = [index == m for m in np.unique(index)]
    if captions is not None and len(captions) != len(molecules):
        raise ValueError(f"{len(captions)} captions for {len(molecules)} molecules.")
    marked = np.zeros(len(z), bool) if marked is None else as_array(marked)
    if marked.shape != z.shape or marked.dtype != bool:
        raise ValueError(f"marked is {marked.dtype} {marked.shape}; give ({len(z)},) of booleans.")

    height = round(0.84 * size)
    turned = []
    for rows_of in molecules:
        some = rows_of & marked
        like = pos[some if np.count_nonzero(some) > 1 else rows_of]
        turned.append(_turned(pos[rows_of], pos[rows_of], like))
    half = np.max([np.nan_to_num(np.abs(p)).max(0) for p in turned], axis=0) + 0.5
    half = np.minimum(half, 12.0)  # or one molecule in pieces makes all others tiny
    scale = _SMOOTH * min(0.48 * size / half[0], 0.41 * size * 0.84 / half[1])  # room for captions
    if bonds is None:
        pairs, kinds = None, None
        sound = stable(pos, z, index)[1]
    else:
        pairs, kinds, atoms = _given(z, bonds, orders, charges)
        atoms &= np.isfinite(pos).all(1)
        sound = np.array([atoms[rows_of].all() for rows_of in molecules])

    tiles = []
    for k, (rows_of, p) in enumerate(zip(molecules, turned, strict=True)):
        p = p + np.array([0, 0.06 * size * _SMOOTH / scale, 0])  # above the caption
        own = None
        if pairs is not None and kinds is not None:
            inside = rows_of[pairs].all(1)
            own = (rows_of.cumsum() - 1)[pairs[inside]], kinds[inside]
        wide, high = size * _SMOOTH, height * _SMOOTH
        drawn = _render(p, z[rows_of], wide, high, scale, marked[rows_of], own)
        picture = Image.fromarray(drawn)
        parts = formula_parts(z[rows_of]) if captions is None else [(captions[k], "")]
        _caption(picture, parts, bool(sound[k]))
        tiles.append(np.asarray(picture.reduce(_SMOOTH)))
    sheet = tiled(np.stack(tiles), columns or math.ceil(math.sqrt(len(tiles))))
    if rows:
        heights = [height * (k + 0.5) for k in range(len(rows))]
        margin = math.ceil(text_width(rows)) + 2 * _ROOM
        sheet = beside(
            sheet, rows, heights, margin=margin, left=_ROOM, ink=(70, 74, 82), ground=255
        )
    return sheet


def draw_grid(path: PathLike, pos: Array, z: Array, index: Array, **look: Any) -> None:
    """The :func:`grid` of molecules as a PNG of 200 dots per inch.

    Arguments:
        path: The file.
        pos: (N, 3), positions in ångström.
        z: (N,), atomic numbers.
        index: (N,), the molecule of each row.
        look: As of :func:`grid`.

    Raises:
        ImportError: As :func:`grid`.
        ValueError: As :func:`grid`.
    """
    write_image(path, grid(pos, z, index, **look), dpi=200)


def _given(
    z: np.ndarray, bonds: Array, orders: Array | None, charges: Array | None
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Bonds and orders, checked, and which atoms are stable by them."""
    pairs = as_array(bonds).reshape(-1, 2)
    kinds = as_array([] if orders is None else orders)
    fits = len(kinds) == len(pairs) and ((kinds >= 1) & (kinds <= AROMATIC)).all()
    if not fits or (len(pairs) and (pairs.min() < 0 or pairs.max() >= len(z))):
        raise ValueError(
            f"bonds are {pairs.shape} and orders {kinds.shape} for {len(z)} atoms; give (E, 2) rows, and "
            "(E,) of 1 to 4."
        )
    pairs, kinds = pairs.astype(np.int64), kinds.astype(np.int64)
    given = None if charges is None else as_charges(charges, z)
    return pairs, kinds, stable_atoms(z, pairs, kinds, given)


def _turned(pos: np.ndarray, box: np.ndarray, like: np.ndarray) -> np.ndarray:
    """pos, rotated to the principal axes of `like` and moved so that the box of `box` is centred."""
    box, like = (p[np.isfinite(p).all(1)] for p in (box, like))
    if not (len(box) and len(like)):
        return pos
    axes = principal_axes(like)
    flat = box @ axes.T
    return np.asarray(pos @ axes.T - (flat.max(0) + flat.min(0)) / 2)


def animate(
    path: PathLike,
    frames: Sequence[Array],
    z: Array,
    *,
    size: int = 360,
    fps: float = 20,
    hold: float = 2.0,
) -> None:
    """One molecule's denoising as a GIF that repeats.

    All frames are rotated to the principal axes of the last one and show the same box.

    Arguments:
        path: The file.
        frames: Positions (n, 3) in ångström at T moments, from noise to the molecule.
        z: Atomic numbers (n,), or (T, n) if elements change along the path.
        size: Pixels of the square picture's side.
        fps: Frames per second, at most 50; GIF counts time in hundredths of a second.
        hold: Seconds that the last frame is held.

    Raises:
        ImportError: Pillow is not installed; or RDKit, which other elements than H, C, N, O and F need.
        ValueError: There are no frames, frames and `z` do not fit, or `fps` or `hold` is out of range.
    """
    Image = pillow()[0]
    if len(frames) == 0:
        raise ValueError("there are no frames to show.")
    positions = [as_array(frame).astype(np.float64) for frame in frames]
    elements = np.array([as_array(row) for row in z]) if np.ndim(z[0]) else as_array(z)[None]
    elements = np.broadcast_to(elements, (len(positions), elements.shape[-1]))
    if any(p.shape != (elements.shape[1], 3) for p in positions):
        raise ValueError(f"every frame must be ({elements.shape[1]}, 3), a position for each of z.")

    last = positions[-1]
    turned = [_turned(p, last, last) for p in positions]
    extent = max(2.5, float(np.nan_to_num(np.abs(turned[-1]), posinf=0).max()))
    scale = 0.43 * size * _SMOOTH / (extent + 0.5)
    fine = size * _SMOOTH
    pictures = [
        Image.fromarray(_render(p, n, fine, fine, scale)).reduce(_SMOOTH)
        for p, n in zip(turned, elements, strict=True)
    ]
    images = [picture.quantize(160, dither=Image.Dither.NONE) for picture in pictures]
    write_gif(path, images, fps=fps, hold=hold, optimize=True)
