"""The fused form: one branch-free formula with one exponential for a whole pool.

With per-neuron coefficients, every function that has `Coefficients` is

    x ← min(max(x, low), high)      a = |x·(scale + cubic·x²)| + square·x²
    e = exp(−a)                     t = expm1(−a)
    x > 0:  y = (p_1 + p_x·x + p_t·t + (p_e + p_xe·x + p_xee·x·e)·e) / (1 + p_d·e + p_dd·e²)
    x ≤ 0:  the same with n_x … n_dd
    and gain·(y + log·log1p(e)) + offset is returned.

Both e and t are needed: e − 1 would lose tanh and elu near 0, 1 + t the tail of the sigmoid. One
range reduction gives both. Terms that no function of a pool has are left out; the pool alone
decides which, so a value never depends on what its neighbours chose.

The derivative of relu, leaky_relu, identity, elu, selu, sigmoid and tanh is a quadratic in the
output y per sign of y; where a whole pool has it, only y is kept for the backward pass.

The gradient to the logits needs Σ_b g·f_k(x) for every k. The K functions lie in the span of J ≤ K
basis functions (leaky_relu is a sum of relu and identity), so J sums are enough.

NaN gives NaN, ±inf the limit of the function, ±0 the value at 0 without its sign; at a kink the
derivative is that of the negative side. float32 values are within 2.1 ulp of float64 for the
paper's functions, identity and gauss, and 2.9 for silu; gelu, mish and softplus within 1e-6
relative to max(1, |y|); gradients within 1e-6. 16-bit input is computed in float32, rounded once.
Results that are subnormal in float32 may come out as 0.
"""

import dataclasses
import functools
import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from smartmixed_jax import _checks
from smartmixed_jax.pools import ActivationPool, Affine, gauss, identity, leaky_relu, zero
from smartmixed_jax.types import Activation

INFINITY = float("inf")


class Coefficients(NamedTuple):
    """A function's numbers in the formula of the fused form.

    Below, e = exp(−a), t = expm1(−a), and (x clipped to [low, high])

        a = |x·(scale + cubic·x²)| + square·x²
        x > 0:  y = (p_1 + p_x·x + p_t·t + (p_e + p_xe·x + p_xee·x·e)·e) / (1 + p_d·e + p_dd·e²)
        x ≤ 0:  y = (      n_x·x + n_t·t + (n_e + n_xe·x + n_xee·x·e)·e) / (1 + n_d·e + n_dd·e²)
        f(x) = gain·(y + log·log1p(e)) + offset

    A function of yours joins the fused form by an attribute `coefficients`. If it is a weighted
    sum of other functions with coefficients, an attribute `basis` (functions → weights) saves a
    sum over the batch in the gradient to the logits.

    Attributes:
        low: where x may be clipped from below without changing the function; −inf where a term in
            x must reach it.
        high: the same from above.
        slope: (a0, a1, b0, b1, c) with dy/dx = (y > 0 ? a0 + a1·y : b0 + b1·y) + c·y², or None.

    Example:
        >>> import dataclasses, jax, jax.numpy as jnp
        >>> from smartmixed_jax import ActivationPool, Coefficients, covered
        >>> @dataclasses.dataclass(frozen=True)
        ... class ScaledTanh:                                   # tanh(x/2)
        ...     coefficients = Coefficients(low=-800.0, high=800.0, scale=1.0,
        ...                                 p_t=-1.0, p_d=1.0, n_t=1.0, n_d=1.0)
        ...     def __call__(self, x):
        ...         return jnp.tanh(x / 2)
        >>> covered(ActivationPool({"relu": jax.nn.relu, "half": ScaledTanh(), "sin": jnp.sin}))
        (0, 1)
    """

    low: float = -INFINITY
    high: float = INFINITY
    scale: float = 1.0
    cubic: float = 0.0
    square: float = 0.0
    p_1: float = 0.0
    p_x: float = 0.0
    p_t: float = 0.0
    p_e: float = 0.0
    p_xe: float = 0.0
    p_xee: float = 0.0
    p_d: float = 0.0
    p_dd: float = 0.0
    n_x: float = 0.0
    n_t: float = 0.0
    n_e: float = 0.0
    n_xe: float = 0.0
    n_xee: float = 0.0
    n_d: float = 0.0
    n_dd: float = 0.0
    log: float = 0.0
    gain: float = 1.0
    offset: float = 0.0
    slope: tuple[float, float, float, float, float] | None = None


SLOPE = ("a0", "a1", "b0", "b1", "c")

# Beyond these the exponential is 0 in float32 and in float64.
FAR = 800.0


LAMBDA, ALPHA = 1.0507009873554804934193349852946, 1.6732632423543772848170429916717
_GELU = 2 * math.sqrt(2 / math.pi)


def _leaky(slope: float) -> Coefficients:
    """x for x > 0, slope·x otherwise; the sign of y is that of x, if slope ≥ 0."""
    from_output = (1.0, 0.0, slope, 0.0, 0.0) if slope >= 0 else None
    return Coefficients(p_x=1.0, n_x=slope, slope=from_output)


# σ(x) = 1 / (1 + e) for x > 0, e / (1 + e) otherwise;  σ′ = y − y²
_SIGMOID = Coefficients(
    low=-FAR, high=FAR, p_1=1.0, p_d=1.0, n_e=1.0, n_d=1.0, slope=(0.0, 1.0, 0.0, 1.0, -1.0)
)
# tanh(x) = ∓t / (1 + e) with a = |2x|;  tanh′ = 1 − y²
_TANH = Coefficients(
    low=-FAR, high=FAR, scale=2.0, p_t=-1.0, p_d=1.0, n_t=1.0, n_d=1.0,
    slope=(1.0, 0.0, 1.0, 0.0, -1.0),
)  # fmt: skip
# silu(x) = x·σ(x) = x / (1 + e) for x > 0, x·e / (1 + e) otherwise
_SILU = Coefficients(low=-FAR, p_x=1.0, p_d=1.0, n_xe=1.0, n_d=1.0)

_KNOWN: dict[Any, Coefficients] = {
    # x for x > 0, 0 otherwise
    jax.nn.relu: Coefficients(low=0.0, p_x=1.0, slope=(1.0, 0.0, 0.0, 0.0, 0.0)),
    jax.nn.leaky_relu: _leaky(0.01),
    # x for x > 0, t = exp(x) − 1 otherwise;  elu′ = 1, y + 1
    jax.nn.elu: Coefficients(low=-FAR, p_x=1.0, n_t=1.0, slope=(1.0, 0.0, 1.0, 1.0, 0.0)),
    # λ·x for x > 0, λ·α·t otherwise;  selu′ = λ, y + λ·α
    jax.nn.selu: Coefficients(
        low=-FAR, p_x=LAMBDA, n_t=LAMBDA * ALPHA, slope=(LAMBDA, 0, LAMBDA * ALPHA, 1, 0)
    ),
    jax.nn.sigmoid: _SIGMOID,
    jax.lax.logistic: _SIGMOID,
    jnp.tanh: _TANH,
    jax.nn.tanh: _TANH,
    jax.lax.tanh: _TANH,
    jax.nn.silu: _SILU,
    # the tanh form: x·σ(2√(2/π)·(x + 0.044715·x³))
    jax.nn.gelu: _SILU._replace(scale=_GELU, cubic=0.044715 * _GELU),
    # x·tanh(softplus(x)) = x·(1 + 2e) / (1 + 2e + 2e²) for x > 0, x·(e + e²/2) / (1 + e + e²/2)
    jax.nn.mish: Coefficients(
        low=-FAR, p_x=1.0, p_xe=2.0, p_d=2.0, p_dd=2.0, n_xe=1.0, n_xee=0.5, n_d=1.0, n_dd=0.5
    ),
    identity: Coefficients(p_x=1.0, n_x=1.0, slope=(1.0, 0.0, 1.0, 0.0, 0.0)),
    jax.nn.identity: Coefficients(p_x=1.0, n_x=1.0, slope=(1.0, 0.0, 1.0, 0.0, 0.0)),
    zero: Coefficients(low=0.0, high=0.0, slope=(0.0, 0.0, 0.0, 0.0, 0.0)),
    # max(x, 0) + log1p(e)
    jax.nn.softplus: Coefficients(low=-FAR, p_x=1.0, log=1.0),
    # exp(−x²) = e with a = x²
    gauss: Coefficients(low=-FAR, high=FAR, scale=0.0, square=1.0, p_e=1.0, n_e=1.0),
}


def _basis(function: Any) -> Mapping[Activation, float]:
    """The function as a weighted sum of others, so that a pool needs fewer sums over the batch."""
    if function is jax.nn.selu:
        return {jax.nn.relu: LAMBDA * (1 - ALPHA), jax.nn.elu: LAMBDA * ALPHA}
    if function is jax.nn.leaky_relu:
        function = leaky_relu(0.01)
    if isinstance(function, leaky_relu):
        return {jax.nn.relu: 1 - function.slope, identity: function.slope}
    return getattr(function, "basis", {function: 1.0})


def coefficients(function: Activation) -> Coefficients | None:
    """The function's coefficients: known by object, or its attribute `coefficients`; else None.

    Raises:
        TypeError: it is no function, or its attribute is no Coefficients of numbers.

    Example:
        >>> from smartmixed_jax import coefficients
        >>> coefficients(jax.nn.elu).n_t, coefficients(jnp.sin)
        (1.0, None)
    """
    if isinstance(function, Affine):
        inner = coefficients(function.function)
        if inner is None:
            return None
        gain, offset = inner.gain * function.scale, (inner.offset - function.shift) * function.scale
        return inner._replace(gain=gain, offset=offset, slope=None)
    if isinstance(function, leaky_relu):
        return _leaky(function.slope)
    _checks.check("coefficients", function=function)
    known = _KNOWN.get(function)
    if known is None and (known := getattr(function, "coefficients", None)) is not None:
        _checks.check(f"coefficients of {_checks.shown(function)}", coefficients=known)
    return known


def _are_coefficients(known: Any) -> bool:
    are = isinstance(known, Coefficients) and isinstance(known.slope, tuple | None)
    return are and all(isinstance(number, int | float) for number in known[:-1])


_checks.KINDS.update(coefficients=("Coefficients of numbers", _are_coefficients))


def covered(pool: ActivationPool) -> tuple[int, ...]:
    """The indices of the pool's functions that the fused form evaluates; () in the general form.

    Raises:
        TypeError: pool is no ActivationPool.
        ValueError: the pool asks for the form "fused" and a function has no coefficients.

    Example:
        >>> from smartmixed_jax import REGRESSION_POOL, covered
        >>> fused = covered(REGRESSION_POOL)
        >>> [name for k, name in enumerate(REGRESSION_POOL.names) if k not in fused]
        ['sin', 'square']
    """
    _checks.check("covered", pool=pool)
    return _formula(pool).covered


@dataclasses.dataclass(frozen=True, eq=False)
class _Formula:
    """What a pool needs of the formula: numbers that all its functions share, and the others.

    Attributes:
        covered: indices of the functions with coefficients.
        shared: names → number; a term whose number is 0 is left out.
        varying: names → row of `table`; equal rows are there once.
        table: [C, K] float64; 0 for functions without coefficients.
        from_output: the derivative is taken from the output.
    """

    covered: tuple[int, ...]
    shared: Mapping[str, float]
    varying: Mapping[str, int]
    table: np.ndarray
    from_output: bool

    def bind(self, rows: jax.Array, dtype: Any) -> dict[str, Any]:
        """names → number, or the row of `rows` [C + 1, …] that broadcasts against x.

        rows: or the choices themselves, ints that broadcast against x; then each element chooses
            among the numbers of the table.
        """
        if jnp.issubdtype(rows.dtype, jnp.integer):
            parts = [_among(row, rows, dtype) for row in self.table]
        else:
            parts = [rows[row] for row in range(len(self.table))]
        return {**self.shared, **{name: parts[row] for name, row in self.varying.items()}}


def _among(numbers: np.ndarray, choices: jax.Array, dtype: Any) -> jax.Array:
    """numbers[choices], by comparisons, which XLA fuses into what uses them."""
    values, counts = np.unique(numbers, return_counts=True)
    most = values[np.argmax(counts)]
    chosen = jnp.full(choices.shape, most, dtype)
    for k in np.flatnonzero(numbers != most):
        chosen = jnp.where(choices == k, jnp.asarray(numbers[k], dtype), chosen)
    return chosen


@functools.lru_cache(maxsize=256)
def _formula(pool: ActivationPool) -> _Formula:
    known = [None if pool.form == "general" else coefficients(f) for f in pool.functions]
    rows = {k: _row(record) for k, record in enumerate(known) if record is not None}
    if pool.form == "fused" and len(rows) < len(pool):
        missing = [name for name, record in zip(pool.names, known, strict=True) if record is None]
        raise ValueError(f"{pool}: form 'fused' is asked for, but {missing} have no coefficients")
    # Beside functions outside the family x is kept for the backward pass anyway.
    from_output = len(rows) == len(pool) and all("a0" in row for row in rows.values())
    shared: dict[str, float] = {}
    varying: dict[str, int] = {}
    table: dict[tuple[float, ...], int] = {}
    for name in (*_FORWARD, *(SLOPE if from_output else ())) if rows else ():
        values = tuple(rows[k][name] if k in rows else 0.0 for k in range(len(pool)))
        used = {values[k] for k in rows}
        if len(used) == 1:
            shared[name] = used.pop()
        else:
            varying[name] = table.setdefault(values, len(table))
    array = np.array(list(table)).reshape(len(table), len(pool))
    return _Formula(tuple(rows), shared, varying, array, from_output)


_FORWARD = tuple(name for name in Coefficients._fields if name != "slope")


def _row(record: Coefficients) -> dict[str, float]:
    row = record._asdict()
    slope = row.pop("slope")
    return row if slope is None else {**row, **dict(zip(SLOPE, slope, strict=True))}


# Coefficients per neuron


def static_coefficients(pool: ActivationPool, choices: np.ndarray) -> np.ndarray:
    """The coefficients of static choices [N]: [C + 1, N] float64, a constant of the program."""
    # The last row is there to be different: XLA folds an array of equal values even behind an
    # optimization barrier, and would then compile the formula differently.
    last = np.arange(choices.size)[None] + 0.5
    return np.concatenate([_formula(pool).table[:, choices], last])


@functools.partial(jax.jit, static_argnums=(0, 2))
def traced_coefficients(pool: ActivationPool, choices: jax.Array, dtype: Any) -> jax.Array:
    """The coefficients of traced choices [N]: [C + 1, N] of dtype."""
    table = jnp.asarray(np.concatenate([_formula(pool).table, np.zeros((1, len(pool)))]), dtype)
    drawn = choices[None] == jnp.arange(len(pool))[:, None]
    # The one entry that is not −∞: exact, also where it is infinite, which a product is not. And a
    # reduction is computed once; XLA would do a lookup, behind a barrier or not, in every row of x.
    return jnp.max(jnp.where(drawn[None], table[:, :, None], -INFINITY), axis=1)


# The formula


def wide(dtype: Any) -> Any:
    """The dtype of the formula and of sums: at least float32."""
    return jnp.float64 if dtype == jnp.float64 else jnp.float32


# Compiled where the caller is not: some fifty operations one by one would take seconds at first.
@functools.partial(jax.jit, static_argnums=0)
def evaluate(pool: ActivationPool, x: jax.Array, rows: jax.Array) -> jax.Array:
    """The formula at x, float32 or float64.

    rows: of coefficients [C + 1, …], or choices, that broadcast against x.
    """
    return _evaluate(_formula(pool).bind(rows, x.dtype), x)


@functools.partial(jax.jit, static_argnums=0)
def derivative(pool: ActivationPool, x: jax.Array, y: Any, rows: jax.Array) -> jax.Array:
    """dy/dx: from y where it is given and every function of the pool allows it, else from x."""
    formula = _formula(pool)
    c = formula.bind(rows, x.dtype)
    # Clipped where the derivative is constant, so that it is finite at ±inf.
    if y is None or not formula.from_output:
        near = _clip(x, -1e30, 1e30)
        return jax.jvp(functools.partial(_evaluate, c), (near,), (jnp.ones_like(x),))[1]
    y = _clip(y, -FAR, FAR)
    positive = y > 0
    constant, linear = (_choose(positive, c[a], c[b]) for a, b in (("a0", "b0"), ("a1", "b1")))
    result = _sum(constant, _times(_sum(linear, _times(c["c"], y)), y))
    return jnp.broadcast_to(jnp.asarray(result, y.dtype), y.shape)


def basis(pool: ActivationPool, x: jax.Array, share: bool = False) -> list[jax.Array]:
    """φ_1(x) … φ_J(x), whose sums by `basis_matrix` are the pool's functions at x.

    Args:
        pool: K functions.
        x: any shape.
        share: computes exp(−|x|) once for all basis functions, where XLA would otherwise compute it
            in the loop of each.
    """
    x_wide = x.astype(wide(x.dtype))
    e = jnp.exp(jnp.where(x_wide > 0, -x_wide, x_wide)) if share else None
    return [
        function(x) if record is None else _evaluate(_row(record), x_wide, e)
        for function, record in _basis_of(pool)[0]
    ]


def basis_matrix(pool: ActivationPool) -> np.ndarray:
    """[J, K] with f_k = Σ_j matrix[j, k] · φ_j, J ≤ K."""
    return _basis_of(pool)[1]


@functools.lru_cache(maxsize=256)
def _basis_of(
    pool: ActivationPool,
) -> tuple[list[tuple[Activation, Coefficients | None]], np.ndarray]:
    fused = covered(pool)
    sums: list[Mapping[Any, float]] = [
        _basis(function) if k in fused else {function: 1.0}
        for k, function in enumerate(pool.functions)
    ]
    functions = list(dict.fromkeys(function for weights in sums for function in weights))
    matrix = np.array([[weights.get(f, 0.0) for weights in sums] for f in functions])
    members = {function for k in fused for function in sums[k]}
    return [(f, coefficients(f) if f in members else None) for f in functions], matrix


def _evaluate(c: Mapping[str, Any], x: jax.Array, exponential: Any = None) -> jax.Array:
    """The formula, with coefficients c by name.

    exponential: exp(−|x|) where it is known already. It serves functions with `scale` 1 or 2, and
    makes t = e − 1 exact to an absolute error only: enough for sums over a batch, not for values.
    """
    x = _clip(x, c["low"], c["high"])
    near = _clip(x, -FAR, FAR)  # where it matters; keeps 0 · x finite
    a = _times(_sum(c["scale"], _times(c["cubic"], near * near)), x)
    positive = x > 0
    m = _sum(jnp.where(positive, -a, a), _times(c["square"], -(near * near)))
    if exponential is not None and c["scale"] in (1.0, 2.0) and c["cubic"] == c["square"] == 0.0:
        e = exponential if c["scale"] == 1.0 else exponential * exponential
        t = e - 1
    else:
        e, t = exp_and_expm1(m)
    if not _is_number(c["square"], 0.0):
        # x² is rounded, and near −80 the exponential would magnify that to 80 ulp.
        e = e * (1 - _times(c["square"], _rounding_of_square(near)))

    def numerator(p: str) -> Any:
        inner = _sum(c[p + "_e"], _times(_sum(c[p + "_xe"], _times(c[p + "_xee"], e)), near))
        return _sum(_times(c[p + "_x"], x), _times(c[p + "_t"], t), _times(inner, e))

    def choose(name: str) -> Any:
        return _choose(positive, c["p_" + name], c["n_" + name])

    log = _times(c["log"], _log1p(e))
    p, n = _sum(c["p_1"], numerator("p")), numerator("n")
    n = 0 * near if _is_number(n, 0.0) else n  # NaN stays NaN
    denominator = _sum(1.0, _times(_sum(choose("d"), _times(choose("dd"), e)), e))
    y = _choose(positive, p, n)
    y = y if _is_number(denominator, 1.0) else y / denominator
    return jnp.broadcast_to(_sum(_times(c["gain"], _sum(y, log)), c["offset"]), x.shape)


def _rounding_of_square(x: jax.Array) -> jax.Array:
    """x² minus its rounded value, by splitting x in two halves (Dekker 1971)."""
    integer, mask = (jnp.int32, -(2**12)) if x.dtype == jnp.float32 else (jnp.int64, -(2**27))
    bits = jax.lax.bitcast_convert_type(jax.lax.stop_gradient(x), integer)
    high = jax.lax.bitcast_convert_type(bits & mask, x.dtype)
    low = x - high
    return (high * high - x * x) + (2 * high * low + low * low)


@jax.custom_jvp
def exp_and_expm1(m: jax.Array) -> tuple[jax.Array, jax.Array]:
    """(exp(m), expm1(m)) for m ≤ 0 from one range reduction; m [...] float32 or float64.

    Cody & Waite's reduction m = n·ln 2 + r, and expm1(r) by the degree-7 polynomial of Cephes'
    expf. Below −88 the results are 0 and −1. Relative error about 1 ulp each.
    """
    if m.dtype != jnp.float32:
        return jnp.exp(m), jnp.expm1(m)
    m = jnp.where(m < -88.0, -88.0, m)
    # Adding 1.5 · 2²³ rounds to an integer, which then stands in the lowest bits. (Subtracting the
    # number again would be faster still, but XLA cancels the two.)
    shifted = jax.lax.bitcast_convert_type(m * math.log2(math.e) + 12582912.0, jnp.int32)
    integer = shifted - 0x4B400000
    n = integer.astype(jnp.float32)
    r = (m - n * 0.693359375) + n * 2.12194440e-4
    q = jnp.full_like(r, _POLYNOMIAL[0])
    for coefficient in _POLYNOMIAL[1:]:
        q = q * r + coefficient
    p = q * (r * r) + r
    power = jax.lax.bitcast_convert_type((integer + 127) << 23, jnp.float32)  # 2ⁿ; 0 for n = −127
    # Not power + power · p: the product may be flushed to 0 where the sum is a normal number.
    return power * (1 + p), power * p + (power - 1)


@exp_and_expm1.defjvp
def _(primals: tuple[jax.Array], tangents: tuple[jax.Array]) -> tuple[Any, Any]:
    e, t = exp_and_expm1(*primals)
    return (e, t), (e * tangents[0], e * tangents[0])


_POLYNOMIAL = (1.9875691500e-4, 1.3981999507e-3, 8.3334519073e-3, 4.1665795894e-2, 1.6666665459e-1,
               5.0000001201e-1)  # fmt: skip


@jax.custom_jvp
def _log1p(e: jax.Array) -> jax.Array:
    """log(1 + e) for 0 ≤ e ≤ 1: 2 artanh(s) with s = e/(2 + e) ≤ 1/3, by its series to s¹⁵."""
    if e.dtype != jnp.float32:
        return jnp.log1p(e)
    twice = 2 * e / (2 + e)
    square = twice * twice / 4
    series = jnp.full_like(e, 1 / 15)
    for power in range(13, 0, -2):
        series = series * square + 1 / power
    return twice * series


@_log1p.defjvp
def _(primals: tuple[jax.Array], tangents: tuple[jax.Array]) -> tuple[jax.Array, jax.Array]:
    return _log1p(*primals), tangents[0] / (1 + primals[0])


# Sums of terms that may be numbers: a term with the number 0 costs nothing


def _is_number(value: Any, number: float) -> bool:
    return isinstance(value, float) and value == number


def _times(coefficient: Any, value: jax.Array) -> Any:
    if _is_number(coefficient, 0.0):
        return 0.0
    return value if _is_number(coefficient, 1.0) else coefficient * value


def _sum(*terms: Any) -> Any:
    kept = [term for term in terms if not _is_number(term, 0.0)]
    return functools.reduce(lambda a, b: a + b, kept) if kept else 0.0


def _choose(positive: jax.Array, p: Any, n: Any) -> Any:
    same = p is n or (isinstance(p, float) and isinstance(n, float) and p == n)
    return p if same else jnp.where(positive, p, n)


def _clip(x: jax.Array, low: Any, high: Any) -> jax.Array:
    # Not jnp.clip: this is one instruction each, and lets NaN through.
    if not _is_number(low, -INFINITY):
        x = jnp.where(x < low, low, x)
    if not _is_number(high, INFINITY):
        x = jnp.where(x > high, high, x)
    return x
