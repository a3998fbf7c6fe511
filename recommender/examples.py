"""Training examples whose features were named by other runs than this one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from feedloop.contracts.seeds import Feature
from recommender.arrays import VECTOR, Floats, column, matrix

NAMES = pa.list_(pa.string())
SEPARATOR = "\x1f"


def aligned(
    examples: pa.Table, names: Sequence[str], features: Mapping[str, Feature]
) -> pa.Table:
    """``examples`` with feature_values in the order of ``names``.

    A row's feature_names say what its values are: the log holds lists that were
    scored before a feature was added. What a row doesn't have takes the
    registry's default, and 0 where it isn't a registered feature; what is no
    longer a feature is left out. Raises ``ContractError`` where a row's values
    and names differ in number.
    """
    values = column(examples, "feature_values", VECTOR)
    layout = pc.binary_join(column(examples, "feature_names", NAMES), SEPARATOR)
    layouts = layout.dictionary_encode()
    default = [
        features[name].default_value if name in features else 0.0 for name in names
    ]
    found: Floats = np.tile(np.array(default, np.float32), (len(values), 1))
    codes = layouts.indices.to_numpy(zero_copy_only=False)
    for code, joined in enumerate(layouts.dictionary.to_pylist()):
        rows = np.flatnonzero(codes == code)
        own = joined.split(SEPARATOR)
        given, _ = matrix(values.take(pa.array(rows)), len(own))
        for at, name in enumerate(names):
            if name in own:
                found[rows, at] = given[:, own.index(name)]
    offsets = np.arange(len(values) + 1, dtype=np.int32) * len(names)
    lists = pa.ListArray.from_arrays(pa.array(offsets), pa.array(found.ravel()))
    place = examples.schema.get_field_index("feature_values")
    return examples.set_column(place, "feature_values", lists)
