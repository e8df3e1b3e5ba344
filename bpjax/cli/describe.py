"""``bpjax describe``: features of every atom of structures, for comparing structures and for other models."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from bpjax.cli.common import FileOptions, Units, check_outputs, read_frames, use_dtype
from bpjax.errors import ConfigError


@dataclass(frozen=True)
class Options(FileOptions):
    """Features (descriptors) of every atom of structures, as arrays of NumPy.

    SPEC.toml names the descriptor and its options, for example

      type = "DefaultACSF"
      cutoff = 5.5

    Elements that it does not give are those of the structures. OUT.npz, read by numpy.load, holds features (atoms of all
    structures, D), offsets (row of the first atom of each structure, and the number of rows at the end), labels (D,) and
    numbers (atomic number of each row). Features of structure n are features[offsets[n]:offsets[n + 1]].

    Example: bpjax describe structures.xyz --descriptor acsf.toml -o features.npz
    """

    structures: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="IN")]
    """Structures in any format that ASE reads, or a RuNNer data file; all frames are taken."""

    descriptor: Annotated[Path, tyro.conf.arg(metavar="SPEC.toml")]
    """The descriptor: its type (ACSF, DefaultACSF, SOAP, ...) and options."""

    output: Annotated[Path, tyro.conf.arg(aliases=["-o"], metavar="OUT.npz")]
    """Where the features go."""

    average: Literal["outer", "inner"] | None = None
    """One row for each structure, without numbers: outer, the mean over its atoms; inner, for SOAP, the power spectrum of the
    mean expansion coefficients."""

    units: Units = None
    """Units of a RuNNer data file, which does not say them; required with such files alone."""

    dtype: Literal["float32", "float64"] = "float32"
    """Precision of the evaluation and of the features."""

    overwrite: bool = False
    """Replace OUT.npz if it exists."""

    def __post_init__(self) -> None:
        if self.output.suffix != ".npz":
            raise ValueError(f"output {self.output}: features are written as NumPy archive; the name must end in .npz")


def run(options: Options) -> None:
    """Evaluates the descriptor on all structures and writes the features."""
    check_outputs([options.output], options.overwrite, (options.descriptor, options.structures))
    use_dtype(options.dtype)

    import numpy as np

    from bpjax.descriptors.choose import descriptor_for
    from bpjax.elements import sorted_elements
    from bpjax.io.atomic import write_npz
    from bpjax.potential.describe import average_features, describe
    from bpjax.progress import progress

    spec = read_spec(options.descriptor)
    frames = read_frames(options.structures, units=options.units, how=options)
    elements = sorted_elements([symbol for atoms in frames for symbol in set(atoms.get_chemical_symbols())])
    descriptor = descriptor_for(spec, elements, str(options.descriptor))
    if options.average:
        rows = average_features(descriptor, frames, options.average, options.dtype, progress, options.structures)
        found = list(rows[:, None, :])
    else:
        found = describe(descriptor, frames, options.dtype, progress, options.structures)
    arrays = {
        "features": np.concatenate(found),
        "offsets": np.cumsum([0, *map(len, found)]),
        "labels": np.array(descriptor.labels),
    }
    if not options.average:
        arrays["numbers"] = np.concatenate([atoms.numbers for atoms in frames])
    write_npz(options.output, arrays)
    rows, columns = arrays["features"].shape
    print(f"wrote {options.output}: {rows} {'structures' if options.average else 'atoms'}, {columns} features")


def read_spec(path: Path) -> dict[str, Any]:
    """The file as plain values, with the name of a descriptor under ``type``.

    Raises:
      FormatError: the file is missing or is not TOML.
      ConfigError: no type, or one that is no descriptor.
    """
    import bpjax.descriptors  # noqa: F401  makes the descriptors known
    from bpjax.spec import from_toml, registered

    spec: dict[str, Any] = from_toml(dict[str, Any], path)
    known = {name for name, cls in registered().items() if _describes(cls)}
    if not isinstance(spec.get("type"), str) or spec["type"] not in known:
        said = f"{spec['type']!r} is no descriptor" if "type" in spec else "missing"
        raise ConfigError(f"{said}; allowed: {', '.join(sorted(known))}", str(path), "type")
    return spec


def _describes(cls: type) -> bool:
    """Whether a class is a descriptor, or builds one for given elements."""
    return hasattr(cls, "build") or all(hasattr(cls, name) for name in ("__call__", "size", "labels", "working_set"))
