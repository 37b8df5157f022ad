"""A compiled graph's kernel: ranking and look-ups in `_native.pyx`."""

from typing import TYPE_CHECKING

from groundwire.kg.format import Folder
from groundwire.kg.native import native
from groundwire.kg.rank import WEIGHTS
from groundwire.kg.settings import GraphSettings

if TYPE_CHECKING:
    from groundwire.kg._native import Kernel

_ARRAYS = """key_filter term_digit key_hash part_hash spelling_hash terms_offset outgoing incoming triple_subject
triple_predicate triple_object triple_graph incoming_triple term_words_offset term_words about_offset about""".split()  # noqa: SIM905


def open_kernel(folder: Folder, settings: GraphSettings, filter_shift: int, type_node: int) -> "Kernel | None":
    """The kernel on a folder's arrays; None when the package was built without it."""
    if native is None:
        return None
    arrays = {name: folder.array(name) for name in _ARRAYS}
    if folder.has("term_vectors"):
        arrays["term_vectors"] = folder.array("term_vectors")
    limits = settings.outgoing_limit, settings.incoming_limit
    kernel: Kernel = native.Kernel(arrays, folder.blob("terms"), filter_shift, *limits, type_node, WEIGHTS)
    return kernel
