"""The `[data]` section of a training file: what to train on."""

import math
from dataclasses import dataclass, field

from bpjax.io.label_keys import LabelKeys
from bpjax.spec import check, register
from bpjax.training.splits import SPLITS
from bpjax.units import SYSTEMS


@register
@dataclass(frozen=True)
class DataOptions:
    """What to train on.

    Attributes:
      train: files of structures with energies and forces (and stresses): anything ASE reads, data files of RuNNer and n2p2,
        npz (see `bpjax.io.npz`).
      validation: files to watch while training; empty to set a share of the training structures aside.
      test: files that the finished model is measured on.
      validation_fraction: share of the training structures that is set aside when `validation` is empty.
      test_fraction: share of the training structures that is set aside for test, before all else; needs `test` to be empty.
      split: how structures are set aside: "stratified" (each group gives its share), "random", "groups" (whole groups),
        "files" (whole files), "energy" (evenly spread over the energies per atom).
      outliers: what is done with training and validation structures whose energy or largest force is far from all others
        (the sanity report lists them) or above `max_force`: "keep", "drop" or "refuse".
      max_force: forces above this, in eV/A, are taken for a mistake; None for no such limit.
      unlabelled: what is done with structures without an energy or without forces: "refuse" them, "drop" them, or "keep" those
        that have one of the two.
      weights: weight of each group (`config_type` or `group` of a structure) in the loss; `default` for those not named.
      isolated: energy of the isolated atom of each element in eV. An isolated atom among the training structures (one atom,
        not periodic or `config_type` isolated_atom) serves as well and is not trained on.
      keys: names of the labels in the files, where they are not those of ASE; see `bpjax.io.label_keys.LabelKeys`.
      contradictions: what is done with labels that contradict each other beyond doubt, such as forces that are gradients or
        stresses of the other sign: "refuse" them, or "keep" them and go on.
      units: "hartree-bohr", "ev-angstrom" or "kcal/mol-angstrom", of files that do not say theirs: data files of RuNNer and
        n2p2, npz without `e_unit` and `r_unit`; None if there are none.
      format: ASE's name of the format of all files, where they do not show it.
      species: elements of the types 1, 2, ... of LAMMPS files that do not say them.
    """

    train: tuple[str, ...]
    validation: tuple[str, ...] = ()
    test: tuple[str, ...] = ()
    validation_fraction: float = 0.1
    test_fraction: float = 0.0
    split: str = "stratified"
    outliers: str = "keep"
    max_force: float | None = None
    unlabelled: str = "refuse"
    weights: dict[str, float] = field(default_factory=dict)
    isolated: dict[str, float] = field(default_factory=dict)
    units: str | None = None
    keys: LabelKeys = field(default_factory=LabelKeys)
    contradictions: str = "refuse"
    format: str | None = None
    species: tuple[str, ...] = ()

    def __post_init__(self):
        check(len(self.train) > 0, "train", self.train, "name at least one file")
        fraction = self.validation_fraction
        check(0 < fraction < 1, "validation_fraction", fraction, "must be between 0 and 1")
        aside = self.test_fraction
        check(0 <= aside < 1, "test_fraction", aside, "must be at least 0 and below 1")
        check(not (aside and self.test), "test_fraction", aside, "is for runs without files in test")
        check(bool(self.validation) or fraction + aside < 1, "test_fraction", aside, "leaves nothing to train on")
        for name, allowed in (
            ("split", tuple(SPLITS)),
            ("outliers", ("keep", "drop", "refuse")),
            ("unlabelled", ("refuse", "drop", "keep")),
            ("contradictions", ("refuse", "keep")),
        ):
            value = getattr(self, name)
            check(value in allowed, name, repr(value), f"must be {' or '.join(map(repr, allowed))}")
        limit = self.max_force
        check(limit is None or (math.isfinite(limit) and limit > 0), "max_force", limit, "must be positive")
        check(self.units is None or self.units in SYSTEMS, "units", self.units, f"must be {' or '.join(SYSTEMS)}")
        for group, weight in self.weights.items():
            check(math.isfinite(weight) and weight >= 0, f"weights.{group}", weight, "must be at least 0")
