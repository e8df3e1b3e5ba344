"""The command line: ``bpjax COMMAND``, thin over the functions of the package.

A command is a module ``bpjax.cli.NAME``, listed in `COMMANDS` with one line that says what it does. It holds

``Options``
    A frozen dataclass. Its docstring is the head of ``bpjax NAME --help``: a first line, an empty line, more if needed, and
    an example. Every field has a type, and below it a docstring, which is the help text of the option. Required files are
    ``tyro.conf.Positional[Path]``. What can be checked without reading files is checked in ``__post_init__``, which raises
    `ValueError` with name, value and what is allowed.
``run(options) -> int | None``
    Does the work. None counts as 0, the exit status of success.

`bpjax.cli.main` parses the options with tyro and turns errors into exit statuses:

======  ==============================================================================================================
status  meaning
======  ==============================================================================================================
0       done
1       a defect of bpjax; one line ``bpjax: error: internal: ...`` on standard error
2       bad input: `BpjaxError`, `ValueError` or `OSError`, shown as one line ``bpjax: error: ...`` on standard error
130     ctrl-C; one line, with the text of the `KeyboardInterrupt` if it has one ("continue with --resume")
======  ==============================================================================================================

With ``BPJAX_DEBUG=1`` in the environment the traceback is shown too.

Importing a command module must be quick, because ``--help`` waits for it: import tyro and the standard library at the top
and everything that needs jax, ase or numpy inside ``run`` (or in functions that it calls). Results go to standard output or
to files, progress and remarks to standard error (`bpjax.progress.progress`). Output files appear whole or not at all, and
existing ones are kept unless ``--overwrite`` is given: call `bpjax.cli.common.check_outputs` before any work is done.
"""

COMMANDS = {
    "quickstart": "train, test and run silicon from the data shipped with bpjax; start here",
    "train": "fit a potential to energies, forces and stresses",
    "sweep": "train many points of a space of options at once and keep the best",
    "evaluate": "errors of a model against labelled structures",
    "predict": "energies, forces and stresses of structures",
    "describe": "features of the atoms of structures",
    "md": "molecular dynamics with jax-md",
    "bench": "speed and memory of a model on this machine",
    "hop": "surface hopping between electronic states",
    "convert": "potentials and structures from and to n2p2 and RuNNer",
}
"""Name of each command and what it does; the module is ``bpjax.cli.NAME``."""
