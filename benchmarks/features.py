"""Compare the speed of the feature kernel with ``edt.edt`` alone and with a reference implementation."""

from __future__ import annotations

import argparse
import multiprocessing
import resource
import statistics
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Literal, NamedTuple

import edt
import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from l2features.kernel import SegmentedChunk, compute_features, warm_up
from l2features.kernel.spans import release_memory
from l2features.testing.em_volume import em_parser, make_neuropil, read_em
from l2features.testing.oracle import check_equal, plain_features

ROW = "{:<20}{:>7} {:<7}{:>8}{:>9}{:>8}{:>9}{:>5}"
EXAMPLES = """
Measures these in turn, in one process on one core:
  kernel    compute_features(labels, resolution)
  mapped    the same features, from supervoxels and their labels: SegmentedChunk(...).features(...)
  edt       edt.edt(labels, anisotropy, black_border=False, parallel=1) alone
  plain     the reference: numpy and scikit-learn's PCA per label (l2features/testing/oracle.py)
"/ edt" is the best time divided by the best time of edt, "kernel x" the best time divided by that of kernel.
Memory (MB) is how far a call raises the peak memory of a fresh process.

examples:
  python benchmarks/features.py                          the EM volume if present, synthetic volumes
  python benchmarks/features.py --skip-plain --repeats 9
  python benchmarks/features.py labels.npy --resolution 8,8,40
"""


class Case(NamedTuple):
    """A label volume to measure; ``make`` creates the volume."""

    name: str
    make: Callable[[], np.ndarray]


def main(arguments: list[str] | None = None) -> int:
    options = parse(arguments)
    warm_up()
    print(f"{options.repeats} repeats, best time (median) in s, resolution {options.resolution} nm")
    print(ROW.format("volume", "labels", "what", "best", "(median)", "/ edt", "kernel x", "MB"))
    failed = [case.name for case in find_cases(options) if not run_case(case, options)]
    if failed:
        print(f"kernel and reference (plain) differ on: {', '.join(failed)}", file=sys.stderr)
    return 1 if failed else 0


def parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = em_parser(__doc__, EXAMPLES)
    parser.add_argument(
        "volumes",
        nargs="*",
        type=Path,
        metavar="FILE.npy",
        help="label volumes to measure; default: EM and synthetic volumes",
    )
    parser.add_argument(
        "--shape",
        type=_triple,
        default=(256, 256, 512),
        metavar="X,Y,Z",
        help="crop volumes to this size in voxels; default 256,256,512",
    )
    parser.add_argument(
        "--resolution",
        type=_triple,
        default=(16, 16, 40),
        metavar="X,Y,Z",
        help="nm per voxel; default 16,16,40",
    )
    parser.add_argument("--order", choices="FC", default="F", help="memory order of the volumes; default F")
    parser.add_argument(
        "--repeats", type=int, default=5, help="runs of each; the reference runs once; default 5"
    )
    parser.add_argument(
        "--skip-plain", action="store_true", help="skip the reference, and the check against it"
    )
    return parser.parse_args(arguments)


def _triple(text: str) -> tuple[float, ...]:
    numbers = tuple(float(part) if "." in part else int(part) for part in text.split(","))
    if len(numbers) != 3:
        raise argparse.ArgumentTypeError(f"{text!r}: expected three numbers such as 256,256,512")
    return numbers


def find_cases(options: argparse.Namespace) -> list[Case]:
    """Return the volumes in the given files; without files, the EM volume if present, and synthetic ones."""

    def crop(volume: np.ndarray) -> np.ndarray:
        return np.array(volume[tuple(slice(0, n) for n in options.shape)], order=options.order)

    if options.volumes:
        return [Case(path.name, partial(_cropped_file, path, crop)) for path in options.volumes]
    cases = []
    path = options.shared / "data" / "connectomics.npy.ckl.gz"
    if path.is_file():
        cases.append(Case("EM", lambda: crop(read_em(path))))
    else:
        print(f"no EM volume at {path}: synthetic volumes only", file=sys.stderr)
    makers = {
        "synthetic neuropil": make_neuropil,
        "20,000 tiny labels": make_tiny,
        "almost empty": make_almost_empty,
        "one giant label": make_giant,
        "mostly background": make_background,
    }
    return cases + [
        Case(name, partial(_made, make, options.shape, options.order)) for name, make in makers.items()
    ]


def _cropped_file(path: Path, crop: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
    return crop(np.load(path, mmap_mode="r"))


def _made(
    make: Callable[..., np.ndarray], shape: tuple[int, int, int], order: Literal["C", "F"]
) -> np.ndarray:
    return np.array(make(shape), order=order)


def make_tiny(shape: tuple[int, ...], n: int = 20_000) -> np.ndarray:
    """Return a volume of ``n`` boxes of a few voxels, each with its own label."""
    random = np.random.default_rng(1)
    volume = np.zeros(shape, np.uint32, order="F")
    corners = random.integers(0, shape, (n, 3))
    for label, (corner, size) in enumerate(zip(corners, random.integers(1, 6, (n, 3)), strict=True), 1):
        volume[tuple(slice(c, c + s) for c, s in zip(corner, size, strict=True))] = label
    return volume


def make_almost_empty(shape: tuple[int, ...]) -> np.ndarray:
    return make_tiny(shape, 10)


def make_giant(shape: tuple[int, ...]) -> np.ndarray:
    """Return a volume filled by one label, with a few holes of one voxel."""
    volume = np.ones(shape, np.uint32, order="F")
    holes = np.random.default_rng(2).integers(0, shape, (6, 3))
    volume[tuple(holes.T)] = 0
    return volume


def make_background(shape: tuple[int, ...]) -> np.ndarray:
    """Return a synthetic neuropil in which a twentieth of the labels is left, and the rest is background."""
    volume = make_neuropil(shape)
    volume[volume % 20 != 0] = 0
    return volume


def run_case(case: Case, options: argparse.Namespace) -> bool:
    """Print a volume's measurements; return whether the results equal the reference's."""
    labels = case.make()
    nm = options.resolution
    spacing = tuple(map(float, nm))
    supervoxels, mask = split_up(labels)
    calls: dict[str, Callable[[], object]] = {
        "kernel": lambda: compute_features(labels, nm),
        "mapped": lambda: compute_mapped(supervoxels, mask, nm),
        "edt": lambda: edt.edt(labels, anisotropy=spacing, black_border=False, parallel=1),
    }
    times = measure(calls, options.repeats)
    memory = {name: extra_memory(call) for name, call in calls.items()}
    rows = compute_features(labels, nm)
    agreed = compute_mapped(supervoxels, mask, nm).tobytes() == rows.tobytes()
    if not options.skip_plain:
        began = time.perf_counter()
        expected = plain_features(labels, nm)
        times["plain"] = [time.perf_counter() - began]
        agreed &= agrees(rows, expected)
    for name, seconds in times.items():
        best = min(seconds)
        seen = (best, statistics.median(seconds), best / min(times["edt"]), best / min(times["kernel"]))
        megabytes = f"{memory[name]:.0f}" if name in memory else ""
        print(ROW.format(case.name, len(rows), name, *(f"{number:.3f}" for number in seen), megabytes))
    sys.stdout.flush()
    return agreed


def split_up(labels: np.ndarray) -> tuple[np.ndarray, np.uint64]:
    """Cut labels into supervoxels by slabs of 32 voxels along z.

    Returns a tuple: the supervoxels (uint64, the labels' shape); the mask of the bits that hold the label.
    """
    slab = np.arange(labels.shape[2], dtype=np.uint64) // np.uint64(32) << np.uint64(40)
    supervoxels = np.where(labels > 0, labels + slab, np.uint64(0)).astype(np.uint64)
    supervoxels = np.array(supervoxels, order="F" if labels.flags.f_contiguous else "C")
    return supervoxels, np.uint64(2**40 - 1)


def compute_mapped(supervoxels: np.ndarray, mask: np.uint64, nm: tuple[float, ...]) -> np.ndarray:
    chunk = SegmentedChunk(supervoxels)
    return chunk.features(chunk.ids & mask, nm)


def measure(calls: dict[str, Callable[[], object]], repeats: int) -> dict[str, list[float]]:
    """Return the seconds of each call, by name. The calls run in turn, so that noise affects all alike."""
    times: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(repeats):
        for name, call in calls.items():
            began = time.perf_counter()
            call()
            times[name].append(time.perf_counter() - began)
    return times


def extra_memory(call: Callable[[], object]) -> float:
    """Return the MB by which ``call`` raises the peak memory of a forked process."""
    receiver, sender = multiprocessing.Pipe(duplex=False)
    process = multiprocessing.get_context("fork").Process(target=_send_growth, args=(call, sender))
    process.start()
    growth = receiver.recv()
    process.join()
    return growth


def _send_growth(call: Callable[[], object], sender: object) -> None:
    release_memory()
    before = _resident()
    call()
    sender.send((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 - before) / 1e6)  # type: ignore[attr-defined]


def _resident() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()


def agrees(rows: np.ndarray, expected: np.ndarray) -> bool:
    """Return whether rows equal the ``expected`` rows of the reference; print differences."""
    try:
        check_equal(rows, expected)
    except AssertionError as error:
        print(error, file=sys.stderr)
        return False
    return True


if __name__ == "__main__":
    sys.exit(main())
