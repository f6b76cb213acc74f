"""Which tests hold the invariants I1 to I36 that every method of interpretation has to keep.

The tests lie beside the tests of their methods. Here is the table, so that none of them is renamed or deleted without a
word. A line above an entry says what it is about; "Ours" says where it is not the sentence of the survey to the letter.
"""

import ast
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
A = "tests/attributions/test_attributions.py::"
FAITHFULNESS = "tests/attributions/test_faithfulness.py::"
SHIFT = "tests/attributions/test_shift.py::"
MASS = "tests/attributions/test_mass.py::"
JSMA = "tests/attacks/test_jsma.py::"
UNIVERSAL = "tests/attacks/test_universal.py::"
FRAGILE = "tests/attacks/test_fragile.py::"
FEATURES = "tests/attacks/test_feature_adversary.py::"
HEO = "tests/defenses/test_manipulation.py::"
FINE_PRUNING = "tests/defenses/test_fine_pruning.py::"
JACOBIAN = "tests/defenses/test_jacobian.py::"
PENALTY = "tests/defenses/test_input_gradient.py::"
D = "tests/detectors/test_"
READ = "tests/interpretations/test_"

INVARIANTS: dict[str, tuple[str, ...]] = {
    # Integrated gradients sum to what the logit changes by: on digits the median error is below 2 % with 50 steps and
    # 0.5 % with 200, on random networks every error below 0.002.
    "I1": (
        A + "test_integrated_gradients_of_random_networks_are_complete_to_two_thousandths",
        A + "test_more_steps_make_integrated_gradients_complete",
        A + "test_two_points_on_the_way_are_enough_for_a_gradient_of_second_degree",
        A + "test_maps_add_up_to_the_difference_to_their_baseline",
    ),
    # They are empty at their own baseline, weight times way in a linear model, and the same in parts.
    "I2": (
        A + "test_an_image_that_is_its_own_baseline_has_an_empty_map",
        A + "test_integrated_gradients_of_a_linear_model_need_one_step",
        A + "test_rows_do_not_influence_each_other_and_chunks_change_nothing",
    ),
    # Saliency is the gradient with its sign, to the bit.
    "I3": (A + "test_saliency_is_the_gradient_to_the_bit",),
    # Without biases gradient times input and LRP are one map, which sums to the logit.
    "I4": (A + "test_lrp_and_input_x_gradient_of_a_network_without_biases_agree_and_sum_to_the_logit",),
    # LRP loses nothing at an Addition_Module, and a plain sum is refused.
    "I5": (A + "test_lrp_conserves_through_an_addition_module_and_refuses_a_plain_sum",),
    # DeepLIFT is complete where pooling takes means.
    "I6": (
        A + "test_deep_lift_adds_up_through_a_residual_sum_and_average_pooling",
        A + "test_maps_add_up_to_the_difference_to_their_baseline",
    ),
    # SmoothGrad without noise is the gradient; its seed decides everything.
    "I7": (
        A + "test_smooth_grad_without_noise_is_the_gradient_and_with_it_a_mean_of_gradients",
        A + "test_the_same_seed_gives_the_same_map_and_only_methods_that_draw_see_another",
    ),
    # Covered pixels of a linear model cost weight times pixel; Shapley values sum up, and KernelSHAP comes to them.
    "I8": (
        A + "test_occlusion_of_single_pixels_of_a_linear_model_is_weight_times_pixel",
        A + "test_maps_add_up_to_the_difference_to_their_baseline",
        A + "test_kernel_shap_comes_to_the_exact_values_as_samples_grow",
        A + "test_draws_from_the_kernel_estimate_the_values_that_weights_make_exact",
    ),
    # Grad-CAM has its shape, is not negative, and does not see the bias of its class. Ours: as large as the image.
    "I9": (
        A + "test_maps_have_their_shape_and_model_images_and_global_generator_are_as_they_were",
        A + "test_grad_cam_is_the_weighted_sum_of_the_last_maps_enlarged",
        A + "test_grad_cam_does_not_see_the_bias_of_its_class",
    ),
    # Images of a batch do not influence each other's maps. Ours: 1e-6, which is sharper.
    "I10": (A + "test_rows_do_not_influence_each_other_and_chunks_change_nothing",),
    # What is multiplied by 0 has no part. Ours: not of Grad-CAM, whose cells are coarse, nor of LIME, whose ridge
    # shares out among all patches; methods of patches are asked about a patch.
    "I11": (
        A + "test_a_pixel_that_is_multiplied_by_zero_gets_nothing",
        A + "test_a_pixel_that_the_model_does_not_see_gets_nothing",
        A + "test_a_patch_that_the_model_does_not_see_gets_nothing",
    ),
    # Random weights in the head make another map. Ours: ranks with signs, since an empty border makes sizes alike.
    "I12": (
        FAITHFULNESS
        + "test_maps_of_a_trained_network_do_not_survive_random_weights_but_pictures_of_edges_do",
    ),
    # Measures of shift: their values for equal, rescaled and independent maps; symmetric, but a change of sparsity.
    "I13": (
        SHIFT + "test_identical_maps_do_not_differ_in_any_measure",
        SHIFT + "test_the_size_of_a_map_does_not_matter_and_rows_are_their_own",
        SHIFT + "test_independent_maps_agree_by_chance_alone",
        SHIFT + "test_measures_are_symmetric_but_a_change_of_sparsity_changes_its_sign",
    ),
    # JSMA: its budget, the box, its end at success, and the pair that brute force finds.
    "I14": (
        JSMA + "test_no_more_pixels_change_than_two_per_round_and_each_stays_in_the_box",
        JSMA + "test_it_stops_at_the_first_error_whatever_the_target",
        JSMA + "test_the_pair_is_the_one_that_brute_force_finds",
        JSMA + "test_on_six_pixels_a_round_moves_the_best_pair_of_a_linear_model",
    ),
    # The universal perturbation: within eps, one for all, better than random signs where it was learnt.
    "I15": (
        UNIVERSAL + "test_one_perturbation_within_eps_serves_all_images",
        UNIVERSAL + "test_it_fools_at_least_as_many_images_learnt_from_as_random_signs_do",
    ),
    # The attack on explanations keeps labels, never raises the intersection, and cannot move a constant map.
    "I16": (
        FRAGILE + "test_every_prediction_stays_and_no_intersection_rises",
        FRAGILE + "test_more_steps_keep_no_more_of_the_top_pixels_and_the_last_iterate_counts",
        FRAGILE + "test_the_saliency_of_a_linear_model_cannot_be_moved",
    ),
    # Model manipulation: plain fine-tuning at weight 0, and a bound on the accuracy that it costs (0.1 here).
    "I17": (
        HEO + "test_without_a_weight_it_is_plain_fine_tuning_to_the_bit",
        HEO + "test_the_map_moves_to_the_frame_and_the_predictions_stay",
    ),
    # The feature adversary comes no less near with more restarts, within eps.
    "I18": (
        FEATURES + "test_restarts_never_move_away_from_the_guide",
        FEATURES + "test_it_comes_nearer_and_stays_in_the_ball",
    ),
    # Leaving out: weight times pixel of a linear function, exactly nothing where black is black already.
    "I19": (
        D + "ml_loo.py::test_the_effect_of_a_pixel_on_a_linear_function_is_weight_times_pixel",
        D + "ml_loo.py::test_leaving_out_what_is_there_already_has_exactly_no_effect",
    ),
    # Local dimension of 2000 points on a subspace of 2 or 5 dimensions, within 25 %.
    "I20": (D + "lid.py::test_points_of_a_subspace_have_its_dimension",),
    # Mahalanobis distances are blind to linear maps, and Euclidean where the covariance is the identity.
    "I21": (
        D + "mahalanobis.py::test_an_invertible_linear_map_of_the_features_changes_nothing",
        D + "mahalanobis.py::"
        "test_with_a_unit_covariance_it_is_the_squared_euclidean_distance_to_the_nearest_mean",
    ),
    # Feature squeezing: 0 where nothing is squeezed, never beyond [0, 2].
    "I22": (
        D + "feature_squeezing.py::test_a_squeezer_that_changes_nothing_scores_exactly_zero",
        D + "feature_squeezing.py::test_rounding_that_depends_on_the_batch_is_no_distance",
        D + "feature_squeezing.py::test_scores_lie_between_zero_and_two",
    ),
    # The judge of detectors: one half for random scores, no image on both sides, noise as long as the attack.
    "I23": (
        READ + "adversarial_detection.py::"
        "test_scores_of_chance_have_an_auroc_of_one_half_and_five_percent_of_alarms",
        D + "learning.py::test_random_scores_of_the_harness_are_worth_one_half",
        D + "learning.py::test_an_image_on_both_sides_is_refused",
        READ + "adversarial_detection.py::"
        "test_adversarial_examples_to_learn_from_are_twins_of_held_out_images_and_of_no_test_image",
        READ + "adversarial_detection.py::"
        "test_detectors_see_held_out_images_alone_and_never_those_that_set_the_threshold_or_judge",
        D + "learning.py::test_noise_has_the_l2_norm_of_the_attack_after_clipping",
        READ + "adversarial_detection.py::test_noise_has_the_l2_norm_of_the_attack_on_the_same_images",
    ),
    # TracIn of the head is Captum's.
    "I24": (D + "influence.py::test_tracin_is_that_of_captum_over_two_checkpoints",),
    # Influence foretells what leaving an example out does: correlation above 0.95, 200 examples.
    "I25": (
        D + "influence.py::test_the_hessian_is_that_of_autograd",
        D + "influence.py::test_influence_predicts_what_training_again_without_the_example_does",
        "tests/test_influence_poisoning.py::"
        "test_influence_on_a_target_predicts_what_leaving_an_image_out_does",
    ),
    # Spectral signatures: what sticks out is found, in any order, and no more than the share is flagged.
    "I26": (
        D + "spectral_signatures.py::test_a_tenth_six_standard_deviations_off_is_found",
        D + "spectral_signatures.py::test_centred_scores_are_squared_distances_along_the_longest_axis",
        D + "spectral_signatures.py::test_scores_follow_the_images_in_another_order",
        D + "spectral_signatures.py::test_never_more_than_the_share_times_its_excess_is_flagged",
        D + "spectral_signatures.py::test_the_share_that_is_thrown_out_is_counted_per_class",
    ),
    # Activation clustering: two far heaps are told apart, whichever of them k-means calls the first.
    "I27": (
        D + "activation_clustering.py::test_a_tenth_in_a_heap_of_its_own_is_flagged_to_the_last",
        D + "activation_clustering.py::test_it_does_not_matter_which_cluster_is_called_the_first",
    ),
    # Neural Cleanse: mask and pattern of a planted rule of one pixel, that class alone, and the constant of the MAD.
    "I28": (
        D + "neural_cleanse_scan.py::"
        "test_the_mask_of_a_rule_of_one_pixel_is_that_pixel_and_its_class_alone_is_accused",
        D + "inversion.py::test_the_mask_of_a_shortcut_lies_on_its_pixel",
        D + "inversion.py::test_kept_triggers_send_the_images_to_their_class",
        D + "neural_cleanse_scan.py::test_only_small_masks_that_work_are_accused",
        D + "neural_cleanse_scan.py::test_a_class_with_a_shortcut_is_accused_and_no_other",
        D + "neural_cleanse_scan.py::test_the_anomaly_index_of_an_odd_number_of_classes",
    ),
    # Fine-pruning: a pruned channel is silent for good; nothing pruned is nothing changed. Ours: no share is asked for,
    # but what accuracy may cost; a share of 0 is that of the pruning curve.
    "I29": (
        FINE_PRUNING + "test_a_pruned_channel_puts_out_exactly_nothing_before_and_after_the_fine_tuning",
        FINE_PRUNING + "test_a_network_of_which_nothing_can_go_stays_as_it_is",
        FINE_PRUNING + "test_a_unit_that_a_step_would_wake_is_silenced_again",
        FINE_PRUNING + "test_channels_that_were_silenced_stay_silent_through_the_fine_tuning",
        READ + "pruning.py::test_nothing_taken_away_changes_nothing",
    ),
    # Class selectivity: its range, 1 for a unit of one class, 0 for a constant one.
    "I30": (
        "tests/test_components.py::"
        "test_selectivity_of_activations_that_are_not_negative_lies_between_zero_and_one",
        "tests/test_components.py::"
        "test_a_unit_of_one_class_is_fully_selective_and_a_constant_one_is_not_at_all",
    ),
    # Concepts: a random one lies among the random ones in 9 of 10 runs, a planted one has a share of 1.
    "I31": (
        READ + "concepts.py::test_a_random_concept_is_rarely_called_significant",
        READ + "concepts.py::test_a_planted_concept_raises_every_logit_and_its_opposite_none",
    ),
    # Random projections of the Jacobian have its norm for a mean. The other penalty is exact, not an estimate.
    "I32": (
        JACOBIAN + "test_the_exact_norm_is_that_of_the_full_jacobian",
        JACOBIAN + "test_the_mean_of_two_hundred_draws_is_the_exact_norm_within_five_percent",
        PENALTY + "test_the_penalty_of_a_linear_model_is_as_computed_by_hand",
    ),
    # Of a linear model without bias alignment, linearised robustness and distance to the boundary are one.
    "I33": (READ + "gradients.py::test_in_a_linear_network_alignment_is_the_distance_to_the_boundary",),
    # Contributions along a perturbation add up to what the logit changes by.
    "I34": (READ + "patterns.py::test_contributions_add_up_to_the_change_of_a_logit",),
    # The mass ratio is 1 for a uniform map, and the inverse of the area for a map inside.
    "I35": (
        MASS + "test_a_uniform_map_has_ratio_1_and_one_inside_the_region_the_inverse_of_its_area",
        READ + "mass_readings.py::test_a_trigger_that_is_all_the_evidence_has_all_the_mass",
    ),
    # No attribution leaves a trace in the model, nor does one that breaks off.
    "I36": (
        A + "test_a_model_comes_back_as_it_was_from_a_pass_that_fails",
        A + "test_maps_have_their_shape_and_model_images_and_global_generator_are_as_they_were",
        A + "test_a_network_that_a_rule_would_misread_is_refused_by_name",
    ),
}


@cache
def functions(file: str) -> dict[str, ast.FunctionDef]:
    """Test functions of a file, by name."""
    body = ast.parse((ROOT / file).read_text(encoding="utf-8")).body
    return {node.name: node for node in body if isinstance(node, ast.FunctionDef)}


def asserts(function: ast.FunctionDef) -> bool:
    """Whether a function can fail: it asserts, expects an error, or compares arrays."""
    calls = [node.func for node in ast.walk(function) if isinstance(node, ast.Call)]
    names = {call.attr for call in calls if isinstance(call, ast.Attribute)}
    checks = {"raises", "assert_allclose", "assert_array_equal", "assert_close"}
    return bool(names & checks) or any(isinstance(node, ast.Assert) for node in ast.walk(function))


def test_there_are_thirty_six_of_them() -> None:
    assert list(INVARIANTS) == [f"I{number}" for number in range(1, 37)]
    assert all(INVARIANTS.values())


@pytest.mark.parametrize("name", INVARIANTS)
def test_every_invariant_is_held_by_tests_that_exist_and_can_fail(name: str) -> None:
    addresses = INVARIANTS[name]
    assert len(set(addresses)) == len(addresses)
    for address in addresses:
        file, _, test = address.partition("::")
        assert Path(file).name.startswith("test_") and test.startswith("test_"), address
        found = functions(file)
        assert test in found, f"{name}: {file} has no test {test}"
        assert asserts(found[test]), f"{address} checks nothing"
        skipped = [ast.unparse(mark) for mark in found[test].decorator_list if "skip" in ast.unparse(mark)]
        assert not skipped and "xfail" not in "".join(map(ast.unparse, found[test].decorator_list))
