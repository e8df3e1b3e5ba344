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
)
"""Keywords that are read and may stand on one line only."""

MANY = (
    "atom_energy",
    "symfunction_short",
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

IGNORED = frozenset(TRAINING + ELECTROSTATIC)
"""Keywords whose lines are not looked at."""

KNOWN = frozenset(ONCE + MANY) | IGNORED | frozenset(ALIASES)
"""All keywords."""
