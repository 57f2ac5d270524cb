"""A text with one of everything that costs are read from."""

import pytest

from tests.support.hlo import SUM, computation, text

SLICED = computation(
    "sliced",
    "%s = bf16[6,16,32]{2,1,0} parameter(0)",
    "%i = s32[]{:S(6)} parameter(1)",
    "%zero = s32[] constant(0)",
    "%one = bf16[1,16,32]{2,1,0} dynamic-slice(%s, %i, %zero, %zero), "
    "dynamic_slice_sizes={1,16,32}",
    "%flat = bf16[16,32]{1,0} bitcast(%one)",
)
PRODUCT = computation(
    "product",
    "%l = bf16[8,16]{1,0} parameter(0)",
    "%w = bf16[6,16,32]{2,1,0} parameter(1)",
    "%n = s32[]{:S(6)} parameter(2)",
    "%r = bf16[16,32]{1,0} fusion(%w, %n), kind=kLoop, calls=%sliced",
    "%convolution.1 = bf16[8,32]{1,0} convolution(%l, %r), dim_labels=bf_io->bf, "
    'metadata={op_name="jit(f)/transpose(jvp(fusekit-node=image))/dot_general"}',
)
SCATTERED = computation(
    "all-reduce-scatter",
    "%input = bf16[8,32]{1,0} parameter(0)",
    "%all-reduce.1 = bf16[8,32]{1,0} all-reduce(%input), channel_id=2, "
    "replica_groups=mesh['axis_0'=2,'axis_1'=2] {'axis_1'}, to_apply=%sum",
    "%none = u32[] constant(0)",
    "%own = bf16[8,16]{1,0} dynamic-slice(%all-reduce.1, %none, %none), dynamic_slice_sizes={8,16}",
)
BODY = computation(
    "body",
    "%carried = (s32[], bf16[8,16]{1,0}, bf16[6,16,32]{2,1,0}) parameter(0)",
    "%at = s32[] get-tuple-element(%carried), index=0",
    "%by = s32[] constant(1)",
    "%next = s32[] add(%at, %by)",
    "%h = bf16[8,16]{1,0} get-tuple-element(%carried), index=1",
    "%all = bf16[6,16,32]{2,1,0} get-tuple-element(%carried), index=2",
    "%fusion.1 = bf16[8,32]{1,0:S(1)} fusion(%h, %all, %at), kind=kOutput, calls=%product, "
    'backend_config={"window_config":{"estimated_cycles":"700"}}',
    "%fusion.2 = bf16[8,16]{1,0} fusion(%fusion.1), kind=kCustom, calls=%all-reduce-scatter, "
    'metadata={op_name="jit(f)/jvp(fusekit-node=image)/dot_general"}',
    "%again = (s32[], bf16[8,16]{1,0}, bf16[6,16,32]{2,1,0}) tuple(%next, %fusion.2, %all)",
)
CONDITION = computation(
    "condition",
    "%state = (s32[], bf16[8,16]{1,0}, bf16[6,16,32]{2,1,0}) parameter(0)",
    "%turn = s32[] get-tuple-element(%state), index=0",
    "%six = s32[] constant(6)",
    "%less = pred[] compare(%turn, %six), direction=LT",
)
BRANCH = computation(
    "branch",
    "%q = bf16[8,16]{1,0} parameter(0)",
    "%d = bf16[8,8]{1,0} dot(%q, %q), lhs_contracting_dims={1}, rhs_contracting_dims={1}",
)
RICH = text(
    "%x = bf16[8,16]{1,0:T(8,128)(2,1)} parameter(0), sharding={devices=[2,2]<=[4]}",
    "%weights = bf16[6,16,32]{2,1,0} parameter(1)",
    "%which = s32[] parameter(2)",
    "%begin = s32[] constant(0)",
    "%start = (s32[], bf16[8,16]{1,0}, bf16[6,16,32]{2,1,0}) tuple(%begin, %x, %weights)",
    "%while.1 = (s32[], bf16[8,16]{1,0}, bf16[6,16,32]{2,1,0}) while(%start), "
    "condition=%condition, body=%body",
    "%out = bf16[8,16]{1,0} get-tuple-element(%while.1), index=1",
    "%chosen = bf16[8,8]{1,0} conditional(%which, %out, %out), "
    "branch_computations={%branch, %branch}",
    "%copy-start = (bf16[8,8]{1,0:S(1)}, bf16[8,8]{1,0}, u32[]{:S(2)}) copy-start(%chosen)",
    "%copy-done = bf16[8,8]{1,0:S(1)} copy-done(%copy-start)",
    "%permuted = bf16[8,8]{1,0} collective-permute(%copy-done), channel_id=3, "
    "source_target_pairs={{0,1},{1,0},{2,3},{3,2}}",
    "%after = token[] after-all()",
    "%gathered = bf16[16,8]{1,0} all-gather(%permuted), channel_id=4, replica_groups=[2,2]<=[4], "
    "dimensions={0}",
    '%kernel = f32[16,8]{1,0} custom-call(%gathered), custom_call_target="tpu_custom_call", '
    'backend_config={"custom_call_config":{"body":"QQ==","cost_estimate":{"flops":"42"}}}',
    before=SUM + SLICED + PRODUCT + SCATTERED + BODY + CONDITION + BRANCH,
    devices=4,
)


@pytest.fixture(scope="session")
def rich() -> str:
    return RICH
