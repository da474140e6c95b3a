"""Draw the pictures of docs/concepts.md: ``python docs/pictures/draw.py`` writes concepts.svg and node.svg.

Both follow the reader's theme, whose colours `themed` puts in. The node is that of the table in the README:
node 144185625606619138 of ``l2features sample``, in chunk 1, 1, 1.
"""

from __future__ import annotations

import io
import re
from pathlib import Path

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure
from scipy.ndimage import distance_transform_edt

from l2features import compute_features
from l2features.core.geometry import Chunk
from l2features.local.sample.segmentation_files import RESOLUTION, Sample, sample_chunks

FOLDER = Path(__file__).resolve().parent
INK, PAPER, GREY = "#1c1e26", "#fefeff", "#9a9ca5"
NODE, ACCENT = "#4c78d0", "#e0872b"
STYLE = f"""<style>
:root {{ --ink: {INK}; --paper: {PAPER} }}
@media (prefers-color-scheme: dark) {{ :root {{ --ink: #e6e7ec; --paper: #1f222b }} }}
</style>"""
CHUNK, LABEL = Chunk(1, 1, 1), 3


def themed(svg: str) -> str:
    """Replace ink and paper by variables that a dark theme sets."""
    svg = svg.replace(INK, "var(--ink)").replace(PAPER, "var(--paper)")
    svg = re.sub(r"(<svg[^>]*>)", lambda found: found[1] + STYLE, svg, count=1)
    return "\n".join(line.rstrip() for line in svg.splitlines()) + "\n"


# ------------------------------------------------------------------ supervoxel, L2 node, root, version
def text(x: float, y: float, words: str, size: int = 16, anchor: str = "middle", fill: str = INK) -> str:
    return f'<text x="{x}" y="{y}" font-size="{size}" text-anchor="{anchor}" fill="{fill}">{words}</text>'


def line(x1: float, y1: float, x2: float, y2: float, more: str = "") -> str:
    return f'<line x1="{x1}" y1="{y1}" x2="{x2}" y2="{y2}" stroke="{GREY}" stroke-width="1.5" {more}/>'


def disc(x: float, y: float, colour: str, words: str) -> str:
    circle = f'<circle cx="{x}" cy="{y}" r="19" fill="{colour}"/>'
    return circle + text(x, y + 6, words, 16, fill="#fff")


def band(colour: str, top: str, bottom: str) -> str:
    return f'<path d="{top} {bottom} Z" fill="{colour}" stroke="{PAPER}" stroke-width="4"/>'


def concepts() -> str:
    """Return the drawing of how the terms build on each other."""
    blue, orange, both = NODE, ACCENT, "#8a5bb5"
    parts = [f'<rect width="560" height="640" rx="8" fill="{PAPER}"/>']
    parts.append(text(12, 26, "Supervoxels, in chunks of the volume", anchor="start"))
    for x, name in ((20, "chunk A"), (280, "chunk B")):
        parts.append(
            f'<rect x="{x}" y="40" width="260" height="150" fill="none" stroke="{GREY}" '
            'stroke-dasharray="6 4" stroke-width="1.5"/>'
        )
        parts.append(text(x + 8, 183, name, 14, "start", GREY))
    pieces = [
        (blue, "M20 66 Q75 40 130 62", "L130 106 Q75 88 20 110"),
        (blue, "M130 62 Q210 92 280 70", "L280 112 Q210 134 130 106"),
        (blue, "M280 70 Q360 46 420 68", "L420 110 Q360 92 280 112"),
        (blue, "M420 68 Q480 84 540 60", "L540 100 Q480 126 420 110"),
        (orange, "M20 132 Q150 112 280 136", "L280 160 Q150 140 20 156"),
        (orange, "M280 136 Q410 160 540 130", "L540 154 Q410 182 280 160"),
    ]
    parts += [band(*piece) for piece in pieces]
    parts.append(text(12, 226, "L2 nodes: an object's supervoxels in one chunk", anchor="start"))
    places = {"N1": (110, blue), "N3": (200, orange), "N2": (370, blue), "N4": (460, orange)}
    parts.append(text(12, 322, "Roots: an object", anchor="start"))
    for node, root in (("N1", 240), ("N2", 240), ("N3", 330), ("N4", 330)):
        parts.append(line(places[node][0], 262, root, 350))
    parts += [disc(x, 262, colour, name) for name, (x, colour) in places.items()]
    parts += [disc(240, 350, blue, "R1"), disc(330, 350, orange, "R2")]
    parts.append(text(12, 418, "Versions: all nodes and roots at one time", anchor="start"))
    parts.append(line(20, 560, 530, 560) + f'<path d="M540 560 l-12 -5 v10 z" fill="{GREY}"/>')
    parts.append(text(540, 582, "time", 14, "end", GREY))
    parts.append(
        line(270, 440, 270, 566, 'stroke-dasharray="3 4"') + text(270, 584, "edit: merge N1 and N3", 14)
    )
    for x, name in ((130, "version 1"), (415, "version 2")):
        parts.append(line(x, 552, x, 568) + text(x, 546, name, 14))
    for root, nodes in ((85, (50, 110)), (185, (155, 215))):
        parts += [line(root, 456, node, 508) for node in nodes]
    parts += [line(415, 456, node, 508) for node in (345, 415, 485)]
    parts += [disc(85, 456, blue, "R1"), disc(185, 456, orange, "R2"), disc(415, 456, both, "R3")]
    for x, colour, name in ((50, blue, "N1"), (110, blue, "N2"), (155, orange, "N3"), (215, orange, "N4")):
        parts.append(disc(x, 510, colour, name))
    parts += [disc(345, 510, both, "N5"), disc(415, 510, blue, "N2"), disc(485, 510, orange, "N4")]
    parts.append(text(280, 620, "N5 is computed. N2 and N4 keep their rows. N1, N3, R1, R2 retire.", 15))
    inside = "\n".join(parts)
    return (
        '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 560 640" width="560" '
        f'font-family="sans-serif">\n{inside}\n</svg>'
    )


# ------------------------------------------------------------------ the attributes of a node
def node() -> str:
    """Return the picture of a node's attributes, as SVG."""
    (labels,) = (one.labels for one in sample_chunks(Sample()) if one.chunk == CHUNK)
    rows = compute_features(labels, RESOLUTION)
    (row,) = rows[rows["label"] == LABEL]
    inside = labels == LABEL
    mpl.rcParams.update({"svg.fonttype": "none", "svg.hashsalt": "node", "font.family": "sans-serif"})
    figure = Figure(figsize=(6.2, 9.6), facecolor=PAPER, layout="constrained")
    for axes, draw in zip(
        figure.subplots(3, 2).ravel(), (size, area, distances, coordinate, faces, principal_axes), strict=True
    ):
        x, y = (n * nm for n, nm in zip(labels.shape[:2], RESOLUTION[:2], strict=True))
        axes.set(xlim=(-40, x + 40), ylim=(y + 40, -40), aspect="equal", xticks=(), yticks=())
        axes.axis("off")
        axes.set_title(draw(axes, inside, labels, row), fontsize=12, color=INK)
        axes.add_patch(mpl.patches.Rectangle((0, 0), x, y, fill=False, edgecolor=GREY, linestyle="--"))
    file = io.StringIO()
    figure.savefig(file, format="svg", metadata={"Date": None, "Creator": None})
    svg = file.getvalue()
    return re.sub(r"font: ([\d.]+px) [^;\"]*", r"font: \1 sans-serif", svg[svg.index("<svg") :])


def show(axes: Axes, mask: np.ndarray, colour: str) -> None:
    """Fill the voxels of a slice, bool (x, y)."""
    rgba = np.zeros((*mask.T.shape, 4))
    rgba[mask.T] = mpl.colors.to_rgba(colour)
    axes.imshow(rgba, extent=extent(mask), interpolation="none")


def mark(axes: Axes, voxel: np.ndarray) -> None:
    """Draw a cross at the centre of a voxel (x, y)."""
    axes.plot(*(voxel + 0.5) * RESOLUTION[:2], "x", color=ACCENT, markersize=9, markeredgewidth=3)


def extent(mask: np.ndarray) -> tuple[float, float, float, float]:
    return (0, mask.shape[0] * RESOLUTION[0], mask.shape[1] * RESOLUTION[1], 0)


def size(axes: Axes, inside: np.ndarray, labels: np.ndarray, row: np.void) -> str:
    z = int(row["rep_coord_nm"][2])
    show(axes, (labels[..., z] > 0) & ~inside[..., z], GREY + "40")
    show(axes, inside[..., z], NODE)
    return f"size_nm3: {row['size_nm3']:,} voxels\nof 16 × 16 × 40 nm in all slices"


def area(axes: Axes, inside: np.ndarray, _: np.ndarray, row: np.void) -> str:
    piece = inside[..., int(row["rep_coord_nm"][2])]
    show(axes, piece, NODE + "60")
    step = np.array(RESOLUTION[:2])
    for axis in (0, 1):
        at = np.argwhere(np.diff(piece.astype(np.int8), axis=axis) != 0)
        start = at + np.eye(2, dtype=int)[axis]
        axes.add_collection(
            LineCollection(np.stack((start, start + np.eye(2, dtype=int)[1 - axis]), 1) * step, colors=ACCENT)
        )
    return f"area_nm2: {row['area_nm2']:,} nm² of faces\nto other labels; none at the border"


def distances(axes: Axes, inside: np.ndarray, _: np.ndarray, row: np.void) -> str:
    found = distance_transform_edt(inside, sampling=RESOLUTION)
    where = np.unravel_index(found.argmax(), found.shape)
    shown = np.ma.masked_equal(found[..., where[2]].T, 0)
    axes.imshow(shown, extent=extent(inside[..., 0]), cmap="viridis", interpolation="none")
    mark(axes, np.array(where[:2]))
    largest, mean = row["max_dt_nm"], row["mean_dt_nm"]
    return f"max_dt_nm: {largest} nm, at the cross;\nmean_dt_nm: {mean:.1f} nm, of all voxels"


def coordinate(axes: Axes, inside: np.ndarray, _: np.ndarray, row: np.void) -> str:
    show(axes, inside.any(axis=2), NODE + "60")
    centre = (np.argwhere(inside).mean(axis=0) + 0.5) * RESOLUTION
    axes.plot(*centre[:2], "o", color=INK, markersize=8, fillstyle="none", markeredgewidth=2)
    mark(axes, row["rep_coord_nm"][:2])
    return "rep_coord_nm: the cross, well inside,\nnear the centroid (circle)"


def faces(axes: Axes, inside: np.ndarray, _: np.ndarray, row: np.void) -> str:
    show(axes, inside.any(axis=2), NODE + "60")
    border = np.zeros(inside.shape[:2], dtype=bool)
    border[:, 0], border[:, -1] = inside[:, 0].any(axis=1), inside[:, -1].any(axis=1)
    show(axes, border, ACCENT)
    lower, upper = row["chunk_intersect_count"][:, 1]
    return f"chunk_intersect_count in y:\n{lower} voxels at the lower face, {upper} upper"


def principal_axes(axes: Axes, inside: np.ndarray, _: np.ndarray, row: np.void) -> str:
    show(axes, inside.any(axis=2), NODE + "60")
    centre = (np.argwhere(inside).mean(axis=0) + 0.5) * RESOLUTION
    spread = row["pca_val"] / np.sqrt(row["size_nm3"] - 1)
    for direction, length in zip(row["pca"].astype(float), spread, strict=True):
        ends = np.stack((centre - direction * length, centre + direction * length))
        axes.plot(ends[:, 0], ends[:, 1], color=ACCENT, linewidth=3)
    return "pca: three axes, seen along z;\npca_val: how far voxels spread"


if __name__ == "__main__":
    for name, drawn in (("concepts", concepts()), ("node", node())):
        file = FOLDER / f"{name}.svg"
        file.write_text(themed(drawn))
        print(f"{file}: {file.stat().st_size / 1000:.0f} kB")
