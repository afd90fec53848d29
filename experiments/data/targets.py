"""The functions to fit, by what makes them hard. Add one in a line; its task is `function:NAME`.

A target takes its variables as arrays of one shape and returns that shape; the number of variables
is the number of its arguments. All are finite and of moderate size for variables in [−2, 2], the
range of the tasks; where a formula asks for another range, its variables are shifted into it here.
"""

import math
from collections.abc import Callable

import numpy as np
from scipy import special

Target = Callable[..., np.ndarray]


FIRST: dict[str, Target] = {
    "product_sine": lambda x1, x2, x3: x1 * x2 + np.sin(2 * x3),
    "normal_density": lambda x1, x2: (
        np.exp(-((x1 / (np.abs(x2) + 1)) ** 2) / 2) / math.sqrt(2 * math.pi)
    ),
    "kinks": lambda x1, x2, x3: np.maximum(x1 - 0.5, 0) - np.maximum(x2, 0) + np.abs(x3 + 0.3),
    "radial_wave": lambda x1, x2: np.sin(3 * np.sqrt(x1**2 + x2**2 + 0.1)),
    "ratio": lambda x1, x2, x3, x4: (x1 - x2) / (1 + x3**2 + x4**2),
    # The last seven: two formulas of Feynman's lectures (I.8.14, I.16.6) and one like I.37.4, a
    # polynomial, a steep wall, a product of unlike factors, a slow growth.
    "distance": lambda x1, x2, x3, x4: np.sqrt((x1 - x2) ** 2 + (x3 - x4) ** 2),
    "sum_of_velocities": lambda x1, x2: (x1 + x2) / (1 + x1 * x2 / 10),
    "interference": lambda x1, x2, x3: x1**2 + x2**2 + 2 * np.abs(x1 * x2) * np.cos(x3),
    "rosenbrock": lambda x1, x2: (1 - x1) ** 2 + 5 * (x2 - x1**2) ** 2,
    "wall": lambda x1, x2, x3: np.tanh(4 * (x1 + x2)) * x3,
    "decay": lambda x1, x2: np.exp(-np.abs(x1)) * np.cos(2 * x2),
    "growth": lambda x1, x2, x3: np.log(1 + x1**2 + x2**2) * x3,
}
"""The twelve with which the preset `recommended` was found."""

FEYNMAN: dict[str, Target] = {
    # I.9.18, with 1 in the denominator so that it has no pole: nine variables.
    "gravity": lambda g, m1, m2, x1, x2, y1, y2, z1, z2: (
        g * m1 * m2 / (1 + (x2 - x1) ** 2 + (y2 - y1) ** 2 + (z2 - z1) ** 2)
    ),
    # I.11.19
    "dot_product": lambda x1, x2, x3, y1, y2, y3: x1 * y1 + x2 * y2 + x3 * y3,
    # I.12.11
    "lorentz_force": lambda q, e, b, v, angle: q * (e + b * v * np.sin(angle)),
    # I.24.6
    "oscillator_energy": lambda m, w, w0, x: m * (w**2 + w0**2) * x**2 / 4,
    # I.30.3, five slits
    "grating": lambda i0, angle: i0 * special.diric(angle, 5) ** 2,
    # I.41.16, frequency from 1.5 to 5.5, temperature from 2 to 6
    "black_body": lambda w, t: (w + 3.5) ** 3 / np.expm1((w + 3.5) / (t + 4)),
    # III.14.14, temperature from 2 to 6
    "diode": lambda i0, v, t: i0 * np.expm1(3 * v / (t + 4)),
    # II.6.15a, the distance at least 1
    "dipole_field": lambda p, x, y, z: (
        p * z * np.sqrt(x**2 + y**2) / (1 + x**2 + y**2 + z**2) ** 2.5
    ),
}
"""Of Feynman's lectures, by the numbers of AI Feynman (Udrescu and Tegmark, arXiv 1905.11481),
constants 1."""

PRODUCTS: dict[str, Target] = {
    "product_of_five": lambda x1, x2, x3, x4, x5: x1 * x2 * x3 * x4 * x5,
    "product_of_waves": lambda x1, x2, x3: np.sin(2 * x1) * np.cos(3 * x2) * x3,
    "sum_of_unlike": lambda x1, x2, x3, x4: (
        np.tanh(3 * x1) + np.exp(-(x2**2)) + np.abs(x3) + np.sin(3 * x4)
    ),
}

KINKS: dict[str, Target] = {
    "highest_plane": lambda x1, x2, x3, x4: np.maximum(np.maximum(x1 + x2, 2 * x3 - 1), -x4),
    "hinge_product": lambda x1, x2: np.maximum(x1, 0) * np.abs(x2),
    "triangle_wave": lambda x1, x2: np.abs(np.mod(1.5 * x1, 2) - 1) + x2,
    "cone": lambda x1, x2, x3: np.maximum(1.5 - np.sqrt(x1**2 + x2**2 + x3**2), 0),
}

OSCILLATIONS: dict[str, Target] = {
    "chirp": lambda x1, x2: np.sin(2 * x1**2) + x2,
    "beats": lambda x1, x2: np.sin(5 * x1) * np.sin(4 * x2),
    "wave_packet": lambda x1, x2: np.exp(-(x1**2) - x2**2) * np.cos(6 * x1),
    "plane_wave": lambda x1, x2, x3: np.sin(5 * x1 + 3 * x2 - 2 * x3),
}

SPECIAL: dict[str, Target] = {
    # Order 0.5 to 2.5, argument 2 to 10
    "bessel": lambda order, x: special.jv((order + 3) / 2, 2 * (x + 3)),
    # Amplitude −2 to 2, parameter 0.15 to 0.75
    "elliptic_integral": lambda angle, m: special.ellipkinc(angle, 0.15 * (m + 3)),
    # sn, argument −6 to 6, parameter 0.15 to 0.75
    "elliptic_function": lambda u, m: special.ellipj(3 * u, 0.15 * (m + 3))[0],
    # Degree 3, order 2; polar angle 0 to π, azimuth 0 to 2π
    "spherical_harmonic": lambda polar, azimuth: np.real(
        special.sph_harm_y(3, 2, math.pi / 4 * (polar + 2), math.pi / 2 * (azimuth + 2))
    ),
    "airy": lambda x1, x2: special.airy(2 * x1)[0] * x2,
}
"""Of mathematical physics, as scipy has them."""

SUITE: dict[str, Target] = {**FEYNMAN, **PRODUCTS, **KINKS, **OSCILLATIONS, **SPECIAL}
"""Not looked at when the preset was found."""

TARGETS: dict[str, Target] = {**FIRST, **SUITE}
