"""The 25 properties of backward passes, and where each is tested.

All are identities that hold for every input. Hypothesis draws at least 100 calls for each test in the profile "ci" (see
`tinyres.testing.strategies`), and each runs on NumPy and on the strict fake of CuPy. The files beside this one hold the
tests; here is their table, and a test that it is complete.

g: a random cotangent. ⟨·,·⟩: the sum of the element-wise product. s² = σ² + ε.
"""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

CONV = {
    1: ("convolution is bilinear in x and w", "convolution_is_bilinear"),
    2: ("⟨conv(x, w), g⟩ = ⟨x, dx⟩", "convolution_and_its_input_gradient_are_adjoint"),
    3: ("⟨conv(x, w), g⟩ = ⟨w, dw⟩", "convolution_and_its_weight_gradient_are_adjoint"),
    4: ("⟨im2col x, C⟩ = ⟨x, col2im C⟩", "im2col_and_col2im_are_adjoint", "col2im_and_im2col_are_adjoint"),
    5: ("col2im(im2col x) = x ⊙ coverage", "columns_added_back_count_how_often_each_pixel_is_covered"),
    6: (
        "at stride 1, dx = conv(pad(g, k − 1 − p), flipped wᵀ)",
        "at_stride_1_dx_is_a_convolution_with_the_flipped_kernels",
    ),
    7: ("circular shifts commute with convolution", "circular_shifts_commute_with_circular_convolution"),
    8: ("a Dirac kernel is the identity, dx = g", "a_dirac_kernel_is_the_identity"),
    9: ("permuting input channels permutes dw", "permuting_input_channels_permutes_their_gradients"),
    10: ("db = Σg; dx = 0 where no window looks", "the_bias_gradient_is_the_sum_and_unseen_pixels_have_none"),
}
BATCH_NORM = {
    11: ("mean y = β, var y = γ²σ²/s²", "batch_norm_sets_mean_and_variance"),
    12: (
        "Σdx = 0 per channel, and a bias before it has zero gradient",
        "batch_norm_gradient_sums_to_zero",
        "a_bias_before_a_batch_norm_has_no_gradient",
    ),
    13: ("Σ dx·x̂ = (γ/s)(ε/s²) Σ g·x̂", "batch_norm_gradient_along_x_hat"),
    14: ("BN of ax + b with a²ε = sgn(a)·BN of x with ε", "batch_norm_forgets_scale_and_shift"),
    15: ("at γ = 1, ⟨Jg, u⟩ = ⟨g, Ju⟩", "batch_norm_jacobian_is_symmetric"),
    16: ("⟨y, g⟩ = γ·dγ + β·dβ", "batch_norm_output_against_its_own_gradients"),
    17: (
        "g constant gives dx = 0, g = x̂ gives (ε/s³)·x̂",
        "batch_norm_annihilates_constants_and_nearly_x_hat",
    ),
}
NETWORKS = {
    18: (
        "⟨W_l, dW_l⟩ = ⟨f, ∂L/∂f⟩ in every layer of a net of rectifiers",
        "every_layer_of_a_relu_net_conserves_the_same",
    ),
    19: (
        "convolution before batch norm: ⟨w, dw⟩ = γ(ε/s²) Σ g·x̂ per filter",
        "weights_before_a_batch_norm_are_nearly_orthogonal_to_their_gradients",
    ),
    20: (
        "⟨x, dx⟩ = ⟨y, g⟩ for rectifier and pooling; Σdx = Σg for an average; rows of a softmax's gradient sum to 0",
        "rectifier_and_pooling_are_homogeneous",
        "average_pooling_conserves_the_gradients_sum",
        "rows_of_the_cross_entropy_gradient_sum_to_zero",
    ),
    21: (
        "dx = g + J_Fᵀ g; with zero γ, y = x and dx = g to the bit",
        "the_gradient_of_a_block_is_the_skips_plus_the_branchs",
        "with_zero_gamma_residual_blocks_are_the_identity_to_the_bit",
        "with_zero_gamma_the_fused_kernel_passes_the_residual_to_the_bit",
    ),
    22: (
        "x_L − x_0 = Σ F_l; gradients by path length sum to the whole",
        "the_branches_sum_to_what_a_chain_adds",
        "gradients_by_path_length_sum_to_the_whole_gradient",
    ),
}
ENGINE = {
    23: (
        "the pullback is linear in g; broadcasting and summing are adjoint",
        "pullback_is_linear",
        "broadcasting_and_summing_are_adjoint",
        "broadcast_operands_have_the_summed_gradient",
    ),
    24: (
        "permuting the batch permutes; dw(A ⊕ B) = dw(A) + dw(B); two backwards give twice the gradient",
        "permuting_the_batch_permutes_outputs_and_gradients",
        "permuting_the_batch_of_a_network",
        "weight_gradients_of_two_batches_add_up",
        "gradients_of_two_batches_add_up_in_a_network",
        "operations_give_the_kernels_gradients_and_add_up",
        "networks_repeat_to_the_bit_and_agree_on_both_modules",
    ),
    25: (
        "repeatable to the bit, nothing mutated, no .grad shared, NumPy ≡ CuPy",
        "kernels_look_at_values_alone_and_change_nothing",
        "operations_give_the_kernels_gradients_and_add_up",
        "networks_repeat_to_the_bit_and_agree_on_both_modules",
    ),
}
PROPERTIES = CONV | BATCH_NORM | NETWORKS | ENGINE


def hypothesis_tests():
    """The names of all tests beside this file that are Hypothesis's and run on both array modules."""
    for path in Path(__file__).parent.glob("test_properties_*.py"):
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            if isinstance(node, ast.FunctionDef) and any("given" in ast.unparse(d) for d in node.decorator_list):
                assert "settings" not in "".join(map(ast.unparse, node.decorator_list)), "the profile says how many"
                if "device" in {argument.arg for argument in node.args.args}:
                    yield node.name.removeprefix("test_")


def test_no_number_is_missing():
    assert list(PROPERTIES) == list(range(1, 26))


@pytest.mark.parametrize("number", PROPERTIES)
def test_every_property_has_its_tests(number):
    _, *tests = PROPERTIES[number]
    assert tests and set(tests) <= set(hypothesis_tests())
