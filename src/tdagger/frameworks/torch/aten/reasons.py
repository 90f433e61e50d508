"""Why some ATen ops can't be imported: what a user is told, and what docs/coverage.md lists."""

from __future__ import annotations

from typing import NamedTuple


class Reason(NamedTuple):
    """The kind of a reason, for counting, and what is said to a user."""

    kind: str
    why: str


SHAPE = Reason("data-dependent", "the shape of its result depends on the data, and a TDAG's shapes are fixed")
NUMBER = Reason(
    "data-dependent", "it makes a Python number of a tensor's value, which isn't known before the network runs"
)
LOOP = Reason("loop", "how many steps it takes depends on the data")
RANDOM = Reason("random", "no rule draws random numbers of its kind: draw them outside and pass them as an input")
MEMORY = Reason("memory", "it asks how a tensor lies in memory, and a value has no place in memory")
LINALG = Reason("linalg", "factoring a matrix takes steps that depend on the data; external=True leaves it to torch")
SPARSE = Reason("sparse", "sparse tensors aren't imported: make them dense first")
HALF_COMPLEX = Reason("complex", "complex numbers are of two 32 or 64 bit floats here, not of half precision")
QUANTIZED = Reason("quantized", "torch's quantized tensors aren't imported: use integer tensors and scales")
EAGER = Reason("framework", "it is a callback of the framework, not a function of tensors")


def _all(reason: Reason, names: str) -> dict[str, Reason]:
    return dict.fromkeys(names.split(), reason)


#: ATen name, without overload and trailing underscore, to why it can't be imported.
REASONS: dict[str, Reason] = {
    **_all(SHAPE, """
        repeat_interleave nonzero nonzero_numpy argwhere
        masked_select unique_dim unique_consecutive unique_dim_consecutive _unique
        _unique2 bincount histogramdd _histogramdd_bin_edges histogram
    """),
    **_all(NUMBER, "_local_scalar_dense item is_nonzero equal allclose"),
    **_all(LOOP, """
        special_chebyshev_polynomial_t special_chebyshev_polynomial_u special_chebyshev_polynomial_v
        special_chebyshev_polynomial_w special_hermite_polynomial_h special_hermite_polynomial_he
        special_laguerre_polynomial_l special_legendre_polynomial_p special_shifted_chebyshev_polynomial_t
        special_shifted_chebyshev_polynomial_u special_shifted_chebyshev_polynomial_v
        special_shifted_chebyshev_polynomial_w _ctc_loss ctc_loss segment_reduce
        igamma igammac special_gammainc special_gammaincc special_zeta gcd lcm
    """),
    **_all(RANDOM, """
        poisson binomial rrelu_with_noise _sample_dirichlet _standard_gamma fractional_max_pool2d fractional_max_pool3d
    """),
    **_all(MEMORY, "sym_stride sym_storage_offset sym_is_contiguous stride storage_offset is_contiguous set"),
    **_all(LINALG, """
        cholesky cholesky_inverse cholesky_solve geqrf ormqr orgqr qr svd _linalg_svd _linalg_eigh _linalg_det
        _linalg_slogdet _linalg_solve_ex lu_solve lu_unpack _lu_with_info triangular_solve logdet slogdet det inverse
        pinverse linalg_cholesky linalg_cholesky_ex linalg_cond linalg_eig linalg_eigvals _linalg_eigvals linalg_eigh
        linalg_eigvalsh linalg_det linalg_slogdet linalg_householder_product linalg_inv linalg_inv_ex linalg_ldl_factor
        linalg_ldl_factor_ex linalg_ldl_solve linalg_lstsq linalg_lu linalg_lu_factor linalg_lu_factor_ex
        linalg_lu_solve linalg_matrix_rank linalg_pinv linalg_qr linalg_solve linalg_solve_ex linalg_solve_triangular
        linalg_svd linalg_svdvals linalg_tensorinv linalg_tensorsolve matrix_exp linalg_matrix_exp
    """),
    **_all(SPARSE, """
        to_sparse _to_sparse sparse_sampled_addmm _sparse_mm _sparse_mm_reduce_impl sparse_mask _to_dense
        sparse_coo_tensor sparse_csr_tensor
    """),
    **_all(QUANTIZED, "quantize_per_tensor quantize_per_channel dequantize"),
    **_all(HALF_COMPLEX, "chalf"),
    **_all(EAGER, "record_stream"),
}  # fmt: skip


def reason_of(name: str) -> Reason | None:
    """Why the ATen op called ``name`` (without overload) can't be imported; None if nothing is known."""
    return REASONS.get(name.removesuffix("_")) or REASONS.get(name)


def kind_of(message: str) -> str:
    """The kind of reason that the text of an import error gives; "no rule" if it gives none of the table."""
    return next((r.kind for r in set(REASONS.values()) if r.why in message), "no rule")
