"""Before and after on one page: a slider over the picture, its residual, and figures of noise and sharpness.

The residual z is what was taken away, in units of the noise that the camera is known to have,

    z = (x_before - x_after) / sqrt(K max(x_after, 0) + sigma_r^2)

with x the signal [DN], K the system gain [DN/e-] and sigma_r^2 the read variance [DN^2].  Pure noise is a gray field
without structure, equally strong in shadows and highlights; edges in it are detail that was lost.

Sharpness kept is the slope of edges after over before,

    s = sum g_a^2 / sum g_a g_b

over the steepest 1 % of the differences g of neighboring pixels of one phase, chosen in the result: 1 when edges are
as steep as they were, less when they were softened.  The noise of g_b is independent of g_a and averages out.
"""

from __future__ import annotations

import html as markup
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from rawkit.errors import RawkitError, UnsupportedRawError
from rawkit.raw.develop import develop, gray_world, upright
from rawkit.raw.image import AnyRaw, LinearImage, RawImage
from rawkit.report import html
from rawkit.resources import replacing
from rawkit.restore.noise_check import NoiseCheck, noise_check
from rawkit.sensor.database import FoundNoise
from rawkit.sensor.params import NoiseParams

MOST_PIXELS = 25_000_000  # of the part that is shown at full size; browsers decode three pictures of it
_GRAY, _GRAY_PER_SIGMA = 128, 24  # a residual of five sigma is black or white
_STEEPEST = 0.01
_MAD_OF_NORMAL = 0.6745  # median absolute value of a standard normal variable


@dataclass(frozen=True)
class Comparison:
    """Pictures and figures of a pair.

    Parameters
    ----------
    before, after : (H, W, 3) uint8 sRGB, upright
    residual : (H, W) or (H, W, 3) uint8
        128 + 24 z, in units of its own spread where the noise is unknown; of files of two kinds the difference of the
        renders, four times.
    check : NoiseCheck or None
        Noise of ``before`` against the parameters; None when they are unknown or the files are of two kinds.
    taken : float or None
        Robust standard deviation of z: 1 when all noise was taken away everywhere, more when detail was.
    left : float or None
        Share of the noise variance that remains in flat areas at the finest scale.
    sharpness : float or None
        Slope of edges, after over before.
    remarks : tuple of str
        What could not be told and why.
    """

    before: NDArray[np.uint8]
    after: NDArray[np.uint8]
    residual: NDArray[np.uint8]
    check: NoiseCheck | None
    taken: float | None
    left: float | None
    sharpness: float | None
    remarks: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, object]:
        """The figures, as plain values."""
        return {
            "noise_check": None if self.check is None else self.check.to_dict(),
            "noise_taken": self.taken,
            "noise_left": self.left,
            "sharpness_kept": self.sharpness,
            "remarks": list(self.remarks),
        }


def edge_slope(before: NDArray[np.float32], after: NDArray[np.float32]) -> float | None:
    """Sharpness kept: slope of the steepest edges, after over before (see module).

    Parameters
    ----------
    before, after : (P, h, w) float [DN, black removed]
        Planes of one phase each.

    Returns
    -------
    float or None
        None where nothing has an edge.

    Examples
    --------
    >>> step = np.repeat([[[0.0, 0.0, 100.0, 100.0]]], 4, axis=1)
    >>> edge_slope(step, step / 2)
    0.5
    """
    products = squares = 0.0
    for axis in (1, 2):
        g_before, g_after = np.diff(before, axis=axis), np.diff(after, axis=axis)
        size = np.abs(g_after)
        if not size.size:
            continue
        steep = size >= max(float(np.quantile(size, 1 - _STEEPEST)), np.finfo(np.float32).tiny)
        products += float(np.sum(g_after[steep].astype(np.float64) * g_before[steep]))
        squares += float(np.sum(np.square(g_after[steep], dtype=np.float64)))
    return squares / products if products > 0 and squares > 0 else None


def compare_images(
    before: AnyRaw, after: AnyRaw, noise: FoundNoise | None, *, exposure: float = 1.0, remarks: tuple[str, ...] = ()
) -> Comparison:
    """Compare two raws of one scene.

    Parameters
    ----------
    before, after : RawImage or LinearImage
        Of one size; their levels may differ (a denoised DNG stores finer steps).
    noise : FoundNoise or None
        Of ``before``; None: unknown.
    exposure : float
        Multiplies both renders.
    remarks : tuple of str

    Raises
    ------
    UnsupportedRawError
        The pictures have different sizes.
    """
    neutral = before.metadata.as_shot_neutral or gray_world(before)
    neutral = neutral if len(neutral) == 3 else None
    first = develop(before, exposure=exposure, neutral=neutral)
    second = develop(after, exposure=exposure, neutral=neutral)
    if first.shape != second.shape:
        sizes = " and ".join(f"{p.shape[1]} x {p.shape[0]}" for p in (first, second))
        raise UnsupportedRawError(f"the pictures are {sizes} pixels; two files of one picture are needed.")
    if not _same_kind(before, after):
        difference = np.clip(_GRAY + 4 * (first.astype(np.int16) - second), 0, 255).astype(np.uint8)
        told = "The files are of two kinds (mosaic and demosaiced): noise and sharpness are compared within one only."
        return Comparison(first, second, difference, None, None, None, None, (*remarks, told))
    x_before = before.signal()
    x_after = np.asarray(after.signal() * (_span(before) / _span(after)), np.float32)
    planes = [before.with_signal(x).planes() for x in (x_before, x_after)]
    residual = x_before - x_after
    check = taken = left = None
    if noise is not None:
        with np.errstate(divide="ignore", invalid="ignore"):
            residual /= np.sqrt(_variance(before, x_after, noise.params))
        residual[np.isnan(residual)] = 0  # no noise and no difference: a camera without read noise, at black
        taken = _spread(residual)
        params = noise.params.for_planes(before.plane_phases)
        white = float(np.min(before.white_level - np.asarray(before.black_level)))
        check = noise_check(planes[0], planes[1], params, white=white)
        with np.errstate(invalid="ignore"):  # nothing remains of noise that was simulated and taken back
            remaining = noise_check(planes[1], planes[1], params, white=white)
        if check.ratio and remaining.ratio is not None:
            left = remaining.ratio / check.ratio
    elif spread := _spread(residual):
        residual /= spread
    gray = np.clip(np.rint(_GRAY + _GRAY_PER_SIGMA * residual), 0, 255).astype(np.uint8)
    turned = upright(gray.reshape(*gray.shape[:2], -1), before.metadata.orientation)
    return Comparison(first, second, turned.squeeze(), check, taken, left, edge_slope(*planes), remarks)


def comparison_page(
    comparison: Comparison, *, before: str, after: str, noise: str, crop: tuple[int, int, int, int] | None = None
) -> str:
    """HTML document.

    Parameters
    ----------
    comparison : Comparison
    before, after : str
        Names of the files.
    noise : str
        Where the noise parameters come from, or why there are none.
    crop : (left, top, width, height) or None [pixels of the upright picture]
        Part that is shown; None: all, or its middle when it is larger than ``MOST_PIXELS``.
    """
    rows, columns, note = _part(comparison.before.shape[:2], crop)
    pictures = [p[rows, columns] for p in (comparison.before, comparison.after, comparison.residual)]
    blocks = [
        html.paragraph(f"{before} before, {after} after. Noise parameters: {noise}.", note=True),
        _viewer(pictures, before, after),
        html.paragraph(note, note=True) if note else "",
        html.heading("Figures"),
        html.table(("", "value", "what it says"), figures(comparison), wrap=True),
        *(html.paragraph(remark, note=True) for remark in comparison.remarks),
    ]
    return html.page(f"{before}: before and after", blocks)


def save_comparison(page: str, path: Path, *, overwrite: bool = False) -> None:
    """Write the page, whole or not at all."""
    with replacing(path, overwrite=overwrite) as temporary:
        temporary.write_text(page, encoding="utf-8")


def find_noise_or_why(image: AnyRaw, **options: object) -> tuple[FoundNoise | None, str]:
    """Noise parameters and their source; None and the reason where there are none."""
    from rawkit.sensor.database import find_noise

    try:
        found = find_noise(image, **options)  # pyright: ignore[reportArgumentType]
    except RawkitError as error:
        return None, f"not known ({error})"
    return found, found.description


def _same_kind(before: AnyRaw, after: AnyRaw) -> bool:
    if isinstance(before, RawImage) and isinstance(after, RawImage):
        return before.cfa == after.cfa and before.mosaic.shape == after.mosaic.shape
    return isinstance(before, LinearImage) and isinstance(after, LinearImage)


def _span(image: AnyRaw) -> np.float32:
    return np.float32(image.white_level - np.mean(image.black_level))


def _spread(values: NDArray) -> float:
    """Standard deviation of normal values, from their median absolute value, which edges do not move."""
    return float(np.median(np.abs(values))) / _MAD_OF_NORMAL


def _variance(image: AnyRaw, signal: NDArray[np.float32], params: NoiseParams) -> NDArray[np.float32]:
    """Of every pixel of ``signal`` [DN^2]."""
    phases = len(image.phases)
    gain, read = (np.broadcast_to(np.ravel(v), (phases,)) for v in (params.system_gain, params.read_var))
    if isinstance(image, RawImage):
        rows, columns = image.cfa.shape
        height, width = signal.shape
        turns = (-(-height // rows), -(-width // columns))
        gain, read = (np.tile(v[image.cfa.phase_map], turns)[:height, :width] for v in (gain, read))
    return np.asarray(gain * np.maximum(signal, 0) + read, np.float32)


def _part(size: tuple[int, int], crop: tuple[int, int, int, int] | None) -> tuple[slice, slice, str]:
    """Rows and columns that are shown, and what to say about it."""
    height, width = size
    if crop is not None:
        left, top, across, down = crop
        if left < 0 or top < 0 or across < 1 or down < 1 or left + across > width or top + down > height:
            raise ValueError(
                f"the part {across} x {down} at {left}, {top} is not inside the picture, {width} x {height}."
            )
        return slice(top, top + down), slice(left, left + across), f"Part {across} x {down} at {left}, {top}."
    if height * width <= MOST_PIXELS:
        return slice(None), slice(None), ""
    shrink = (MOST_PIXELS / (height * width)) ** 0.5
    down, across = int(height * shrink), int(width * shrink)
    top, left = (height - down) // 2, (width - across) // 2
    note = f"The middle {across} x {down} of {width} x {height} pixels is shown; --crop shows another part."
    return slice(top, top + down), slice(left, left + across), note


def figures(comparison: Comparison) -> list[tuple[str, str, str]]:
    """Name, value and meaning of every figure, for people."""

    def told(value: float | None, form: str) -> str:
        return "not known" if value is None else format(value, form)

    check, left = comparison.check, comparison.left
    removed = None if left is None or left <= 0 else 10 * np.log10(1 / left)
    rows = [
        ("Sharpness kept", told(comparison.sharpness, ".3f"),
         "Steepness of the steepest 1 % of edges, after over before; 1: as sharp as it was."),
        ("Taken away", told(comparison.taken, ".3f"),
         "Spread of before minus after, in standard deviations of the noise; 1: all of it, more: detail too."),
        ("Noise removed", "not known" if removed is None else f"{removed:.1f} dB",
         "Variance in flat areas between neighboring pixels of a color, before over after."),
    ]  # fmt: skip
    if check is not None:
        rows += [
            ("Noise check, dark", told(check.dark, ".2f"),
             "Variance before over what the noise parameters say, darker half of the flat areas; near 1 fits."),
            ("Noise check, bright", told(check.bright, ".2f"), "The same, brighter half."),
            ("Correlation", told(check.correlation, "+.2f"), "Of neighboring pixels of a color; 0: untouched raw."),
            ("Verdict", check.warning or ("fits" if check.ratio is not None else "no flat areas to tell by"),
             f"From {check.blocks} flat blocks of 8 x 8 pixels."),
        ]  # fmt: skip
    return rows


# ------------------------------------------------------------------------------------------------------ the viewer

_VIEWER_STYLE = """
.viewer .window:focus-visible { outline: 3px solid #3b82f6; outline-offset: 2px; }
.viewer .frame { position: relative; background: #808080; overflow: hidden; }
.viewer .window { overflow: auto; height: min(70vh, 48rem); cursor: grab; }
.viewer .stage { position: relative; margin: auto; }
.viewer .stage img { position: absolute; inset: 0; width: 100%; height: 100%; }
.viewer .sharp img { image-rendering: pixelated; }
.viewer .divider { position: absolute; top: 0; bottom: 0; width: 2.5rem; margin-left: -1.25rem; cursor: ew-resize;
  touch-action: none; }
.viewer .divider::after { content: ""; position: absolute; top: 0; bottom: 0; left: 50%; width: 2px; margin-left: -1px;
  background: #fff; box-shadow: 0 0 3px #000; }
.viewer .cut { display: flex; gap: 0.75rem; align-items: center; padding: 0.6rem 0; font-size: 0.9rem; }
.viewer .cut input { flex: 1; min-width: 0; height: 1.75rem; }
.viewer [hidden] { display: none; }
"""

_VIEWER_SCRIPT = """
for (const viewer of document.querySelectorAll('.viewer')) {
  const find = name => viewer.querySelector(name);
  const pane = find('.window'), stage = find('.stage'), divider = find('.divider'), cut = find('.cut input');
  const [before, after, residual] = stage.children;
  const width = +viewer.dataset.width, height = +viewer.dataset.height;
  const chosen = name => find('input[name=' + name + ']:checked').value;
  const fitting = () => {
    const fit = Math.min(pane.clientWidth / width, pane.clientHeight / height);
    pane.style.height = height * fit + 'px';
    return fit;
  };
  let scale = 1;
  function draw() {
    const view = chosen('view'), x = cut.value / 100 * pane.clientWidth;
    before.hidden = view === 'after' || view === 'residual';
    after.hidden = view === 'before' || view === 'residual';
    residual.hidden = view !== 'residual';
    divider.hidden = view !== 'slider';
    find('.cut').style.visibility = view === 'slider' ? 'visible' : 'hidden';
    divider.style.left = x + 'px';
    const at = x + pane.scrollLeft - stage.offsetLeft;
    after.style.clipPath = view === 'slider' ? 'inset(0 0 0 ' + Math.max(0, Math.min(at, width * scale)) + 'px)' : '';
  }
  function zoom() {
    const wanted = chosen('zoom'), fit = wanted === 'fit';
    const x = (pane.scrollLeft + pane.clientWidth / 2) / (width * scale);
    const y = (pane.scrollTop + pane.clientHeight / 2) / (height * scale);
    pane.style.overflow = fit ? 'hidden' : 'auto';
    pane.style.height = '';
    scale = fit ? fitting() : +wanted / 100 / devicePixelRatio;
    stage.classList.toggle('sharp', !fit);
    stage.style.width = width * scale + 'px';
    stage.style.height = height * scale + 'px';
    const middle = stage.dataset.placed ? [x, y] : [0.5, 0.5];
    if (!fit) stage.dataset.placed = 'yes';
    pane.scrollLeft = middle[0] * width * scale - pane.clientWidth / 2;
    pane.scrollTop = middle[1] * height * scale - pane.clientHeight / 2;
    draw();
  }
  viewer.addEventListener('change', event => event.target.name === 'zoom' ? zoom() : draw());
  cut.addEventListener('input', draw);
  pane.addEventListener('scroll', draw);
  addEventListener('resize', () => chosen('zoom') === 'fit' ? zoom() : draw());
  divider.addEventListener('pointerdown', event => divider.setPointerCapture(event.pointerId));
  divider.addEventListener('pointermove', event => {
    if (!divider.hasPointerCapture(event.pointerId)) return;
    const box = pane.getBoundingClientRect();
    cut.value = 100 * (event.clientX - box.left) / pane.clientWidth;
    draw();
  });
  pane.addEventListener('pointerdown', event => {
    if (event.pointerType === 'mouse' && event.button === 0) pane.setPointerCapture(event.pointerId);
  });
  pane.addEventListener('pointermove', event => {
    if (event.pointerType === 'mouse' && pane.hasPointerCapture(event.pointerId))
      pane.scrollBy(-event.movementX, -event.movementY);
  });
  const keys = {s: 'slider', b: 'before', a: 'after', r: 'residual', f: 'fit', 1: '100', 4: '400'};
  addEventListener('keydown', event => {
    const value = keys[event.key];
    if (!value || event.ctrlKey || event.metaKey || event.altKey) return;
    const button = find('input[value="' + value + '"]');
    button.checked = true;
    button.dispatchEvent(new Event('change', {bubbles: true}));
  });
  const start = new URLSearchParams(location.hash.slice(1));
  for (const [name, value] of start) {
    const button = [...viewer.querySelectorAll('fieldset input')].find(b => b.name === name && b.value === value);
    if (button) button.checked = true;
  }
  zoom();
}
"""


def _viewer(pictures: list[NDArray[np.uint8]], before: str, after: str) -> str:
    height, width = pictures[0].shape[:2]
    names = (f"before: {before}", f"after: {after}", "residual: before minus after, in units of the noise")
    images = "".join(
        f'<img alt="{markup.escape(name)}" src="{html.data_uri(picture, full_chroma=True)}" draggable="false">'
        for name, picture in zip(names, pictures, strict=True)
    )
    views = (("slider", "Slider"), ("before", "Before"), ("after", "After"), ("residual", "Residual"))
    zooms = (("fit", "Fit"), ("100", "100 %"), ("400", "400 %"))
    return (
        f'<style>{_VIEWER_STYLE}</style><div class="viewer" data-width="{width}" data-height="{height}">'
        + html.choice("View", "view", views)
        + html.choice("Zoom", "zoom", zooms)
        + '<div class="frame"><div class="window" tabindex="0" role="group" '
        'aria-label="the picture; arrow keys move it when it is zoomed">'
        f'<div class="stage">{images}</div></div><div class="divider"></div></div>'
        '<label class="cut"><span>before</span><input type="range" min="0" max="100" step="0.5" value="50" '
        'aria-label="border between before, left, and after, right, in percent"><span>after</span></label></div>'
        + html.paragraph(
            "Keys: s slider, b before, a after, r residual; f fit, 1 for 100 %, 4 for 400 %. The residual is gray "
            "without structure where only noise was taken away.",
            note=True,
        )
        + f"<script>{_VIEWER_SCRIPT}</script>"
    )
