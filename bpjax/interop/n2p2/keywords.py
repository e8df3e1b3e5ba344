"""Keywords of ``input.nn``, by what becomes of them."""

ALIASES = {
    "nnp_generation": "nnp_type",
    "nnp_type_gen": "nnp_type",
    "nnp_gen": "nnp_type",
    "symfunction": "symfunction_short",
}
"""Second names."""

ONCE = (
    "number_of_elements",
    "elements",
    "cutoff_type",
    "cutoff_alpha",
    "scale_symmetry_functions",
    "scale_min_short",
    "scale_max_short",
    "center_symmetry_functions",
    "scale_symmetry_functions_sigma",
    "global_hidden_layers_short",
    "global_nodes_short",
    "global_activation_short",
    "normalize_nodes",
    "mean_energy",
    "conv_length",
    "conv_energy",
    "nnp_type",
    "nn_type_short",
)
"""Keywords that are read and may stand on one line only."""

MANY = (
    "atom_energy",
    "symfunction_short",
    "global_symfunction_short",
    "element_symfunction_short",
    "element_hidden_layers_short",
    "element_nodes_short",
    "element_activation_short",
)
"""Keywords that are read and may stand on many lines."""

ELECTROSTATIC = (
    "global_hidden_layers_electrostatic",
    "global_nodes_electrostatic",
    "global_activation_electrostatic",
    "element_hidden_layers_electrostatic",
    "element_nodes_electrostatic",
    "element_activation_electrostatic",
    "conv_charge",
    "fixed_gausswidth",
    "ewald_truncation_error_method",
    "ewald_prec",
    "screen_electrostatics",
    "four_pi_epsilon",
    "initial_hardness",
)
"""Keywords that say nothing about a short-range potential."""


def _each(name: str, *endings: str) -> tuple[str, ...]:
    return tuple(name + ending for ending in endings)


TRAINING = (
    "random_seed",
    "test_fraction",
    "epochs",
    "normalize_data_set",
    "use_short_forces",
    *_each("rmse_threshold", "", "_energy", "_force", "_charge"),
    *_each("rmse_threshold_trials", "", "_energy", "_force", "_charge"),
    "short_energy_error_threshold",
    "short_force_error_threshold",
    "energy_fraction",
    "force_fraction",
    "charge_fraction",
    "short_energy_fraction",
    "short_force_fraction",
    "force_energy_ratio",
    *_each("use_old_weights", "_short", "_charge"),
    "weights_min",
    "weights_max",
    *_each("nguyen_widrow_weights", "_short", "_charge"),
    "precondition_weights",
    "main_error_metric",
    *_each("write_", "trainpoints", "trainforces", "traincharges", "weights_epoch", "neuronstats", "trainlog"),
    "repeated_energy_update",
    "updater_type",
    "parallel_mode",
    "jacobian_mode",
    "update_strategy",
    *_each("selection_mode", "", "_energy", "_force", "_charge"),
    *_each("task_batch_size", "_energy", "_force", "_charge"),
    "gradient_type",
    "gradient_eta",
    *_each("gradient_adam_", "eta", "beta1", "beta2", "epsilon"),
    *_each("kalman_", "type", "epsilon", "eta", "etatau", "etamax", "q0", "qtau", "qmin", "lambda_short", "nue_short"),
    "memorize_symfunc_results",
    "force_weight",
)
"""Keywords of training, which do not change what the potential is."""

RUNNER = (
    "runner_mode",
    "random_number_type",
    "use_short_nn",
    "points_in_memory",
    "mix_all_points",
    "fitting_unit",
    *_each("calculate_", "forces", "stress", "hessian"),
    *_each("analyze_", "error", "composition", "error_energy_step", "error_force_step", "error_charge_step"),
    *_each("bond_", "threshold"),
    *_each("charge_", "error_threshold", "group", "grouping_by_structure", "update_scaling"),
    *_each("check_", "forces", "input_forces"),
    "data_clustering",
    "debug_mode",
    *_each("detailed_timing", "", "_epoch"),
    *_each("dynforce_type", ""),
    "enable_on_the_fly_input",
    "energy_threshold",
    "find_contradictions",
    "fix_weights",
    "growth_mode",
    "force_grouping_by_structure",
    "force_threshold",
    "force_update_scaling",
    "ion_forces_only",
    "joint_energy_force_update",
    *_each("kalman_damp_", "short", "force", "charge"),
    *_each("kalman_lambda_", "charge", "charge_constraint"),
    *_each("kalman_nue_", "charge", "charge_constraint"),
    "kalman_learning_rate",
    "max_energy",
    "max_force",
    "md_mode",
    *_each("nn_group", "", "_shuffle"),
    "nn_type_elec",
    "electrostatic_type",
    *_each("noise_", "energy", "force", "charge"),
    *_each("optmode_", "charge", "short_energy", "short_force"),
    "parallel_mode_short",
    "prepare_md",
    *_each("print_", "all_short_weights", "all_electrostatic_weights", "convergence_vector", "date_and_time"),
    *_each("print_", "force_components", "mad", "all_deriv_weights"),
    *_each("read_", "kalman_matrices", "unformatted"),
    "regularize_fit_param",
    "remove_atom_energies",
    "repeated_energy_update_short",
    *_each("reset_kalman", ""),
    "restrict_weights",
    "save_kalman_matrices",
    *_each("scale_", "max_elec", "min_elec"),
    "scaled_force_update",
    *_each("separate_", "bias_ini_short", "kalman_short"),
    *_each("short_", "energy_group", "force_group", "energy_fraction_worst"),
    *_each("shuffle_weights_short_atomic", ""),
    "silent_mode",
    *_each("steepest_descent_step_", "charge", "energy_short", "force_short"),
    "symfunction_correlation",
    "update_single_element",
    *_each("use_", "atom_charges", "atom_energies", "charge_constraint", "damping", "electrostatics_during_fit"),
    *_each("use_", "fixed_charges", "ipi", "noisematrix", "old_scaling", "omp_mkl", "sf_groups"),
    *_each("use_systematic_weights_", "short", "elec"),
    *_each("weight_", "analysis"),
    *_each("weighte_", "min", "max"),
    *_each("weights_", "elec_min", "elec_max"),
    *_each("worst_update_", "energy", "force", "charge"),
    *_each("write_", "binding_energy_only", "fit_statistics", "pdb", "pov", "pwscf", "symfunctions"),
    *_each("write_", "temporary_weights", "unformatted", "xyz", "weights_epoch_short"),
)
"""Keywords of RuNNer that n2p2 does not have, for training, output and units of what it prints."""

REFUSED = {
    "use_electrostatics": "electrostatic energies",
    "use_vdw": "dispersion",
    "vdw_type": "dispersion",
    "use_charge_equilibration": "charge equilibration",
}
"""Keywords that add to the energy what is not supported, and what that is."""

IGNORED = frozenset(TRAINING + ELECTROSTATIC + RUNNER)
"""Keywords whose lines are not looked at."""

KNOWN = frozenset(ONCE + MANY) | IGNORED | frozenset(ALIASES)
"""All keywords."""
