"""Potentials of RuNNer and n2p2: folders with ``input.nn``, ``scaling.data`` and ``weights.NNN.data``.

`read_potential` and `write_potential` convert between such folders and models of this package; `read_folder` and `write_folder`
take them as they are. Written from the formulas in the publications (Behler, J. Chem. Phys. 134, 074106 (2011); Singraber,
Behler, Dellago, J. Chem. Theory Comput. 15, 1827 (2019)) and from the files themselves.
"""

from bpjax.interop.n2p2.export import write_potential as write_potential
from bpjax.interop.n2p2.folder import Folder as Folder
from bpjax.interop.n2p2.folder import read_folder as read_folder
from bpjax.interop.n2p2.folder import write_folder as write_folder
from bpjax.interop.n2p2.functions import sort_key as sort_key
from bpjax.interop.n2p2.functions import sorted_functions as sorted_functions
from bpjax.interop.n2p2.potential import read_potential as read_potential
from bpjax.interop.n2p2.settings import Settings as Settings
from bpjax.interop.n2p2.settings import read_settings as read_settings
from bpjax.interop.n2p2.settings import settings_text as settings_text
