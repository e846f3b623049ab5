"""What each ATen operator does to channels: `RULES` names one small function an operator.

How to add a rule: write a function `(run, *args, **kwargs) -> labels` that takes the operator's own
arguments in ATen's order, with tensors replaced by label tensors (`labels.py`). Put it beside its family,
add it to `RULES` under the operator's name, and a net that uses it to tests/nets.py, where the oracle
holds the cut net against the muted one. An operator without a rule raises `UnsupportedOpError`; none is
ever taken for an element-wise one.

Families:
- `moves.py`: data goes elsewhere unchanged; torch runs the operator itself on the labels;
- `meets.py`: element by element; one tensor carries its channels, several join theirs;
- `mixes.py`: softmax, reductions, matmul contract channels; what would change by a cut is locked;
- `layers.py`: convolutions, linear layers and normalisations own weights, and make channels.
"""

from __future__ import annotations

from edgeprune.graph import layers, meets, mixes, moves
from edgeprune.graph.run import Rule, constant, counted

#: Operators whose rules take a layer's own `State`; to all others a parameter comes as `meets.loose` labels.
LAYERS: dict[str, Rule] = {
    "batch_norm": layers.batch_norm,
    "conv2d": layers.conv2d,
    "conv_transpose2d": layers.conv_transpose2d,
    "group_norm": layers.group_norm,
    "layer_norm": layers.layer_norm,
    "linear": layers.linear,
}


def _table(rule: Rule, names: str) -> dict[str, Rule]:
    return dict.fromkeys(names.split(), rule)


#: ATen operator (without namespace, overload and the underscore of an in-place form) -> rule.
RULES: dict[str, Rule] = {
    **LAYERS,
    **_table(moves.move, "getitem permute transpose t unsqueeze squeeze expand repeat movedim swapaxes unbind flip"),
    **_table(meets.carry, "silu relu relu6 leaky_relu elu selu celu hardswish hardtanh gelu mish sigmoid hardsigmoid"),
    **_table(meets.carry, "log_sigmoid softplus softsign tanh threshold hardshrink softshrink"),
    **_table(meets.carry, "contiguous clone detach dropout feature_dropout alias to neg abs exp log cos sin sqrt"),
    **_table(meets.carry, "rsqrt square reciprocal clamp clamp_min clamp_max floor round sign erf logical_not"),
    **_table(meets.carry, "full_like zeros_like ones_like empty_like"),
    **_table(meets.carry, "max_pool2d avg_pool2d adaptive_avg_pool2d adaptive_max_pool2d"),
    **_table(meets.carry, "upsample_nearest2d upsample_bilinear2d upsample_bicubic2d grid_sampler"),
    **_table(meets.meet, "add sub rsub mul div pow maximum minimum atan2 remainder floor_divide"),
    **_table(meets.meet, "masked_fill gt lt ge le eq ne logical_and logical_or"),
    **_table(constant, "full zeros ones empty new_zeros new_ones new_full scalar_tensor meshgrid"),
    **_table(constant, "_assert_tensor_metadata sym_size"),
    **_table(moves.take, "slice select narrow"),
    **_table(moves.pick, "gather index_select"),
    **_table(mixes.reduce, "sum mean max min amax amin argmax all any"),
    **_table(mixes.ranked, "topk sort"),
    **_table(mixes.matmul, "matmul bmm"),
    **_table(moves.reshape, "reshape view unflatten"),
    **_table(moves.split, "split split_with_sizes"),
    **_table(moves.stack, "stack"),
    **_table(mixes.softmax, "softmax log_softmax"),
    "arange": counted,
    "cat": moves.cat,
    "chunk": moves.chunk,
    "copy": meets.copy_into,
    "flatten": moves.flatten,
    "glu": meets.glu,
    "index": moves.index,
    "pad": moves.pad,
    "pixel_shuffle": moves.pixel_shuffle,
    "pixel_unshuffle": moves.pixel_unshuffle,
    "prelu": meets.prelu,
    "scaled_dot_product_attention": mixes.attention,
    "type_as": meets.first,
    "where": meets.meet_three,
}
