"""FLOPs of products against hand counts."""

import pytest

from fusekit.errors import HloError
from fusekit.plan.hlo import costs
from tests.support.hlo import computation, text


def flops(*lines: str, before: str = "") -> int:
    return costs(text(*lines, before=before), {"data": 1}).dot_flops


def convolved(given: str, kernel: str, out: str, rest: str) -> int:
    return flops(
        f"%x = f32{given} parameter(0)",
        f"%k = f32{kernel} parameter(1)",
        f"%c = f32{out} convolution(%x, %k), {rest}",
    )


def test_a_dot_contracts_what_it_says() -> None:
    found = flops(
        "%a = bf16[2,3,5]{2,1,0} parameter(0)",
        "%b = bf16[2,5,7]{2,1,0} parameter(1)",
        "%c = bf16[2,3,7]{2,1,0} dot(%a, %b), lhs_batch_dims={0}, lhs_contracting_dims={2}, "
        "rhs_batch_dims={0}, rhs_contracting_dims={1}",
    )
    assert found == 2 * 2 * 3 * 5 * 7
    outer = flops(
        "%a = f32[3]{0} parameter(0)",
        "%c = f32[3,3]{1,0} dot(%a, %a), lhs_contracting_dims={}, rhs_contracting_dims={}",
    )
    assert outer == 2 * 3 * 3


def test_products_count_in_fusions_within_fusions() -> None:
    inner = computation(
        "inner",
        "%a = f32[3,5]{1,0} parameter(0)",
        "%c = f32[3,3]{1,0} dot(%a, %a), lhs_contracting_dims={1}, rhs_contracting_dims={1}",
    )
    outer = computation(
        "outer",
        "%a = f32[3,5]{1,0} parameter(0)",
        "%b = f32[3,3]{1,0} fusion(%a), kind=kLoop, calls=%inner",
        "%c = f32[3,3]{1,0} dot(%b, %b), lhs_contracting_dims={1}, rhs_contracting_dims={0}",
    )
    found = flops(
        "%a = f32[3,5]{1,0} parameter(0)",
        "%f = f32[3,3]{1,0} fusion(%a), kind=kOutput, calls=%outer",
        before=inner + outer,
    )
    assert found == 2 * 3 * 3 * 5 + 2 * 3 * 3 * 3


def test_a_convolution_without_a_window_is_a_matrix_product() -> None:
    found = convolved("[8,16]{1,0}", "[16,32]{1,0}", "[8,32]{1,0}", "dim_labels=bf_io->bf")
    assert found == 2 * 8 * 16 * 32


@pytest.mark.parametrize(
    ("size", "out", "window", "pairs"),
    [
        # along one axis, outputs x kernel positions that meet a value, of an input of 6
        (3, 4, "size=3", 12),
        (3, 6, "size=3 pad=1_1", 16),  # 2 of 18 lie in the padding
        (3, 3, "size=3 stride=2 pad=0_1", 8),  # 1 of 9
        (2, 2, "size=2 rhs_dilate=4", 4),  # 0 4, 1 5
        (2, 4, "size=2 pad=1_1 rhs_dilate=4", 6),  # -1 3, 0 4, 1 5, 2 6
        (3, 2, "size=3 pad=-1_-1", 6),  # the middle four
        (1, 11, "size=1 lhs_dilate=2", 6),  # every other output meets a hole
    ],
)
def test_padding_and_holes_are_no_work(size: int, out: int, window: str, pairs: int) -> None:
    found = convolved(
        "[2,6,3]{2,1,0}",
        f"[{size},3,4]{{2,1,0}}",
        f"[2,{out},4]{{2,1,0}}",
        f"window={{{window}}}, dim_labels=b0f_0io->b0f",
    )
    assert found == 2 * (2 * 4) * pairs * 3


def test_two_axes_multiply() -> None:
    # 64 x 64, kernel 3 x 3, stride 2, padded by one at the end: 95 of 96 pairs along each axis
    found = convolved(
        "[16,64,64,8]{0,3,2,1}",
        "[3,3,8,128]{3,2,1,0}",
        "[16,32,32,128]{3,0,2,1}",
        "window={size=3x3 stride=2x2 pad=0_1x0_1}, dim_labels=b01f_01io->b01f",
    )
    assert found == 2 * 16 * 128 * 95 * 95 * 8


def test_a_batched_product_written_as_a_dilated_convolution() -> None:
    """TPU's form: 16 products of 128 x 128, not 16 times as many."""
    found = convolved(
        "[16,128,128]{2,1,0}",
        "[16,128,128]{2,1,0}",
        "[16,128,128]{2,1,0}",
        "window={size=16 stride=15 lhs_dilate=16}, dim_labels=0bf_0io->0bf",
    )
    assert found == 2 * 16 * 128**3


def test_a_kernel_of_a_grouped_convolution_has_the_features_of_one_group() -> None:
    found = convolved(
        "[2,6,64]{2,1,0}",
        "[3,1,64]{2,1,0}",
        "[2,4,64]{2,1,0}",
        "window={size=3}, dim_labels=b0f_0io->b0f, feature_group_count=64",
    )
    assert found == 2 * (2 * 64) * 12


def test_a_gpu_library_call_counts_by_its_shapes() -> None:
    config = (
        '{"gemm_backend_config":{"dot_dimension_numbers":{"lhs_contracting_dimensions":["1"]}}}'
    )
    found = flops(
        "%a = f32[3,5]{1,0} parameter(0)",
        "%b = f32[5,7]{1,0} parameter(1)",
        '%g = (f32[3,7]{1,0}, s8[64]{0}) custom-call(%a, %b), custom_call_target="__cublas$gemm", '
        f"backend_config={config}",
    )
    assert found == 2 * 3 * 5 * 7


@pytest.mark.parametrize(
    ("called", "operands", "result"),
    [
        ("convForward", ("[2,6,3]", "[4,3,3]"), "[2,4,4]"),
        ("convBackwardInput", ("[2,4,4]", "[4,3,3]"), "[2,6,3]"),
        ("convBackwardFilter", ("[2,6,3]", "[2,4,4]"), "[4,3,3]"),
    ],
)
def test_a_gpu_gradient_costs_what_its_convolution_costs(
    called: str, operands: tuple[str, str], result: str
) -> None:
    found = flops(
        f"%a = f32{operands[0]}{{2,1,0}} parameter(0)",
        f"%b = f32{operands[1]}{{2,1,0}} parameter(1)",
        f"%c = (f32{result}{{2,1,0}}, u8[0]{{0}}) custom-call(%a, %b), window={{size=3}}, "
        f'dim_labels=b0f_o0i->b0f, custom_call_target="__cudnn${called}"',
    )
    assert found == 2 * (2 * 4) * (3 * 4) * 3


def test_kernels_count_apart() -> None:
    found = costs(
        text(
            "%a = f32[3,5]{1,0} parameter(0)",
            '%k = f32[3,5]{1,0} custom-call(%a), custom_call_target="tpu_custom_call", '
            'backend_config={"custom_call_config":{"cost_estimate":{"flops":"123"}}}',
            '%b = f32[3,5]{1,0:S(1)} custom-call(), custom_call_target="AllocateBuffer"',
            "%r = f32[3,7]{1,0} ragged-dot(%k, %a, %a)",
        ),
        {"data": 1},
    )
    assert found.dot_flops == 0
    assert found.custom_calls == {"tpu_custom_call": 1, "ragged-dot": 1}
    assert found.custom_flops == 123


def test_shapes_that_do_not_fit_are_told() -> None:
    with pytest.raises(HloError, match="c names axis 2 of 2"):
        flops(
            "%a = f32[3,5]{1,0} parameter(0)",
            "%c = f32[3,3]{1,0} dot(%a, %a), lhs_contracting_dims={2}, rhs_contracting_dims={1}",
        )
    with pytest.raises(HloError, match="window"):
        convolved(
            "[2,6,3]{2,1,0}", "[3,3,4]{2,1,0}", "[2,4,4]{2,1,0}",
            "window={size=3x3 stride=1x1}, dim_labels=b0f_0io->b0f",
        )  # fmt: skip
