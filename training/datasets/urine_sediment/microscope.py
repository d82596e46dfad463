"""The microscope and its camera: from what light meets to the picture."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray
from scipy import fft

from training.datasets.urine_sediment.shapes import Bools, Floats, gaussian_blur

Bytes = NDArray[np.uint8]

# Red, green, blue, as a camera's filters weigh them.
WAVELENGTHS_UM = (0.61, 0.54, 0.46)

REFERENCE_UM = 0.54


@dataclass(frozen=True)
class Laboratory:
    """One microscope, its camera, and how people there set them.

    Lengths in micrometres; ``light`` and ``haze`` in grey levels of 255; the rest are fractions.
    """

    um_per_px: float
    light: tuple[float, float, float]
    contrast: float
    focus_um: float
    focus_spread_um: float
    objective: float  # numerical aperture
    condenser: float  # numerical aperture, stopped down as for unstained sediment
    tilt: tuple[float, float]  # of the illumination, in numerical aperture
    vignetting: float
    noise: float
    haze: float
    sharpening: float
    softness_px: float
    jpeg_quality: int


LABORATORIES = {
    # A video camera: cool light, small pixels on the slide, in focus, sharpened.
    "A": Laboratory(
        um_per_px=0.30,
        light=(176.0, 190.0, 177.0),
        contrast=1.0,
        focus_um=1.6,
        focus_spread_um=0.9,
        objective=0.65,
        condenser=0.13,
        tilt=(0.05, -0.06),
        vignetting=0.07,
        noise=3.8,
        haze=1.3,
        sharpening=0.55,
        softness_px=0.55,
        jpeg_quality=88,
    ),
    # A still camera: warm light, higher magnification, flatter, focused lower, darker corners.
    "B": Laboratory(
        um_per_px=0.24,
        light=(196.0, 178.0, 158.0),
        contrast=0.72,
        focus_um=-1.9,
        focus_spread_um=1.5,
        objective=0.55,
        condenser=0.17,
        tilt=(-0.07, -0.02),
        vignetting=0.26,
        noise=5.2,
        haze=2.2,
        sharpening=0.15,
        softness_px=0.9,
        jpeg_quality=80,
    ),
}


class Particle(NamedTuple):
    """What light meets, on a square patch around the particle's centre.

    ``phase`` [h, w] radians at ``REFERENCE_UM``; ``density`` [h, w] natural-log absorption,
    weighed per colour by ``tint``; ``inside`` [h, w] is the mask.
    """

    phase: Floats
    density: Floats
    tint: tuple[float, float, float]
    inside: Bools


Painter = Callable[[np.random.Generator, float], Particle]


def expose(particle: Particle, defocus_um: float, lab: Laboratory) -> Floats:
    """The light behind a particle [h, w, 3], 1 where nothing is in its way."""
    channels = []
    for tint, wavelength in zip(particle.tint, WAVELENGTHS_UM, strict=True):
        phase = particle.phase * np.float32(REFERENCE_UM / wavelength)
        # An achromat brings red and blue to focus a little beyond green.
        shifted = defocus_um + 6.0 * abs(wavelength - REFERENCE_UM)
        channels.append(carry(phase, particle.density * np.float32(tint), shifted, wavelength, lab))
    return np.stack(channels, axis=2)


def carry(
    phase: Floats, density: Floats, defocus_um: float, wavelength_um: float, lab: Laboratory
) -> Floats:
    """Intensity [h, w] in the plane in focus, of light that passed phase and density.

    Fresnel propagation through the objective's aperture, for one direction of light; the
    condenser's other directions shift that picture by defocus times their slope, a blur.

    Source: Goodman, Introduction to Fourier Optics, sections 4.2 and 6.2.
    """
    wave = np.exp(-0.5 * density + 1j * phase).astype(np.complex64)
    fy = fft.fftfreq(phase.shape[0], lab.um_per_px).astype(np.float32)[:, None]
    fx = fft.fftfreq(phase.shape[1], lab.um_per_px).astype(np.float32)[None, :]
    tilt_y, tilt_x = (t / wavelength_um for t in lab.tilt)
    cut = lab.objective / wavelength_um
    off_axis = ((fy + np.float32(tilt_y)) ** 2 + (fx + np.float32(tilt_x)) ** 2) / np.float32(
        cut**2
    )
    turn = np.float32(-np.pi * wavelength_um * defocus_um) * (fy**2 + fx**2)
    # The eighth power: a round aperture whose rim is as soft as the grid needs.
    lens = np.exp(-(off_axis**4) + 1j * turn).astype(np.complex64)
    lens /= abs(lens[0, 0])
    behind = fft.ifft2(fft.fft2(wave - 1) * lens) + 1
    intensity = (behind.real**2 + behind.imag**2).astype(np.float32)
    blur = abs(defocus_um) * lab.condenser / 2 / lab.um_per_px + 0.35
    return gaussian_blur(intensity, blur)


def photograph(light: Floats, rng: np.random.Generator, lab: Laboratory) -> Bytes:
    """The camera's picture, uint8 [H, W, 3] RGB, of relative light [H, W, 3]."""
    size = (light.shape[0], light.shape[1])
    lit = light ** np.float32(lab.contrast) * _illumination(rng, size, lab)
    picture = gaussian_blur(lit, lab.softness_px)
    picture += np.float32(lab.sharpening) * (picture - gaussian_blur(picture, 1.3))
    shot = np.sqrt(np.clip(picture, 1, None) / 180) * np.float32(lab.noise)
    grain = rng.standard_normal(picture.shape, np.float32) * np.float32(0.6)
    grain += rng.standard_normal((*size, 1), np.float32) * np.float32(0.8)
    # The camera interpolates its colour filters, so its grain spans more than a pixel.
    picture += shot * gaussian_blur(grain, 0.6) * np.float32(1.8)
    # Compression leaves colour grain in blotches of a few pixels, as it stores colour coarsely.
    blotches = rng.standard_normal(picture.shape, np.float32)
    picture += shot * gaussian_blur(blotches, 1.6) * np.float32(2.0)
    pixels = np.clip(picture + 0.5, 0, 255).astype(np.uint8)
    return _as_jpeg(pixels, lab.jpeg_quality)


def _illumination(rng: np.random.Generator, size: tuple[int, int], lab: Laboratory) -> Floats:
    H, W = size
    y = np.linspace(-1, 1, H, dtype=np.float32)[:, None]
    x = np.linspace(-1, 1, W, dtype=np.float32)[None, :]
    cy, cx = rng.normal(0, 0.12, 2).astype(np.float32)
    tilt_y, tilt_x = rng.normal(0, 0.025, 2).astype(np.float32)
    shade = 1 - np.float32(lab.vignetting / 2) * ((y - cy) ** 2 + (x - cx) ** 2)
    shade = (shade + tilt_y * y + tilt_x * x)[:, :, None]
    colour = np.array(lab.light, np.float32) * (1 + rng.normal(0, 0.012, 3).astype(np.float32))
    mottle = np.zeros((H, W), np.float32)
    for cells, height in ((6, 1.0), (24, 0.8), (96, 0.6)):
        coarse = rng.standard_normal((cells, cells), np.float32) * np.float32(height * lab.haze)
        mottle += np.asarray(cv2.resize(coarse, (W, H), interpolation=cv2.INTER_CUBIC), np.float32)
    lit: Floats = colour * np.float32(rng.normal(1, 0.03)) * shade + mottle[:, :, None]
    return lit


def _as_jpeg(pixels: Bytes, quality: int) -> Bytes:
    """The picture after the camera's own JPEG compression."""
    ok, data = cv2.imencode(".jpg", pixels[:, :, ::-1], [cv2.IMWRITE_JPEG_QUALITY, quality])
    if not ok:
        raise ValueError("the drawn field could not be encoded as JPEG")
    back = cv2.imdecode(data, cv2.IMREAD_COLOR)
    if back is None:
        raise ValueError("the drawn field could not be decoded from JPEG")
    return np.ascontiguousarray(back[:, :, ::-1]).astype(np.uint8, copy=False)
