"""What is counted in two real dumps of XLA, and in a few lines as TPUs and meshes have them.

`program_h100.txt` is the optimized HLO of a loop for H100 (JAX 0.10.2), without its metadata, and
`thunks_h100.txt` its thunks. A step: a 3x3 convolution [128, 32, 32, 16] -> [128, 16, 16, 16],
another [128, 16, 16, 16] -> [128, 16, 16, 16], a mean, a matrix product [128, 16] x [16, 300], the
gradients for all factors, but not for the image, and an update.
"""

from pathlib import Path

import pytest

from cljax.benchmark import hlo_counts

FOLDER = Path(__file__).parent
CONVOLUTION = 2 * (128 * 16 * 16 * 16) * (3 * 3 * 16)
PRODUCT = 2 * 128 * 16 * 300
PADDED = 2 * 128 * 16 * 320  # the compiler splits 320 in 8 parts, not 300


@pytest.fixture(scope="module")
def module():
    return hlo_counts.Module((FOLDER / "program_h100.txt").read_text(encoding="utf-8"))


def test_kernels_of_the_step_only(module):
    counts = module.kernels()
    assert counts == {
        "convolutions": 5,
        "products": 3,
        "reductions": 3,
        "fusions": 8,
        "copies": 1,
        "converts": 0,
        "collectives": 0,
        "others": 0,
    }
    assert tuple(counts) == hlo_counts.KINDS
    # Each is a thunk of the step: the dump of the thunks numbers those from 6 to 25.
    assert sum(counts.values()) == 25 - 6 + 1


def test_flops_of_forward_and_backward_convolutions_and_products(module):
    flops = sorted(flops for flops, _ in module.work() if flops)
    assert flops == [PRODUCT, PRODUCT, PADDED] + [CONVOLUTION] * 5


def test_bytes(module):
    small, large = 4 * 128 * 16 * 16 * 16, 4 * 128 * 33 * 33 * 16
    of_convolutions = sorted(size for flops, size in module.work() if flops == CONVOLUTION)
    kernel = 4 * 3 * 3 * 16 * 16
    forward, backward = large + small + kernel, 2 * small + kernel
    # The strided one reads the padded image, forward and for its kernel's gradient.
    assert of_convolutions == [backward] * 3 + [forward] * 2


def test_launches():
    thunks = (FOLDER / "thunks_h100.txt").read_text(encoding="utf-8")
    # 20 kernels, of which 7 are in the step's only graph.
    assert hlo_counts.launches(thunks) == {"graphs": 1, "convolutions": 5, "kernels": 8}
    graph = thunks.replace("\n    000: kCommandBuffer", "\n    000: kConvolution")
    assert hlo_counts.launches(graph)["graphs"] == 0
    indented = "\n".join(f"    {line}" for line in thunks.splitlines())
    whole = f"000: kCommandBuffer [source | sink]\n{indented}"
    assert hlo_counts.launches(whole) == {"graphs": 0, "convolutions": 0, "kernels": 0}
    beside = f"000: kCommandBuffer [source | sink]\n    001: kCopy [source]\n{thunks}"
    assert hlo_counts.launches(beside) == hlo_counts.launches(thunks)
    before, _, rest = thunks.partition("condition:")
    assert hlo_counts.launches(before) == {"graphs": 0, "convolutions": 0, "kernels": 3}
    assert "body:" in rest


TPU = """HloModule m

%gathers (p.1: u8[50000,32], p.2: s32[4]) -> u8[4,32] {
  %p.1 = u8[50000,32]{1,0:T(8,128)(4,1)} parameter(0)
  %p.2 = s32[4]{0:T(128)} parameter(1)
  ROOT %g = u8[4,32]{1,0:T(8,128)(4,1)S(1)} gather(%p.1, %p.2), offset_dims={1}
}

%converts (p.3: u8[4,32]) -> bf16[4,32] {
  %p.3 = u8[4,32]{1,0:T(8,128)(4,1)} parameter(0)
  ROOT %c = bf16[4,32]{1,0:T(8,128)(2,1)} convert(%p.3)
}

%body (t: (s32[], u8[50000,32], s32[4])) -> (s32[], u8[50000,32], s32[4]) {
  %t = (s32[]{:T(128)}, u8[50000,32]{1,0:T(8,128)(4,1)}, /*index=2*/s32[4]{0}) parameter(0)
  %i = s32[]{:T(128)} get-tuple-element(%t), index=0
  %x = u8[50000,32]{1,0:T(8,128)(4,1)} get-tuple-element(%t), index=1
  %rows = s32[4]{0:T(128)} get-tuple-element(%t), index=2
  %key = u32[1]{0:T(128)S(6)} xor(%a, %b)
  %next = s32[]{:T(128)} add(%i, %i)
  %batch = u8[4,32]{1,0:T(8,128)(4,1)S(1)} fusion(%x, %rows), kind=kLoop, calls=%gathers
  %float = bf16[4,32]{1,0:T(8,128)(2,1)} fusion(%batch), kind=kLoop, calls=%converts
  %begun = (bf16[4,32]{1,0}, bf16[8,32]{1,0}) all-gather-start(%float), dimensions={0}
  %all = bf16[8,32]{1,0} all-gather-done(%begun)
  %sum = (bf16[8,32]{1,0}, f32[3]{0}) all-reduce(%all, %f), to_apply=%add
  %moved = (bf16[4,32]{1,0:S(1)}, bf16[4,32]{1,0}, u32[]{:S(2)}) copy-start(%float)
  ROOT %r = (s32[]{:T(128)}, u8[50000,32]{1,0}, s32[4]{0}) tuple(%next, %x, %rows)
}

ENTRY %main (a.1: s32[]) -> s32[] {
  %w = (s32[], u8[50000,32]{1,0}, s32[4]{0}) while(%init), condition=%cond, body=%body
  ROOT %n = f32[9]{0} negate(%other)
}
"""


def test_programs_of_tpus_and_meshes():
    module = hlo_counts.Module(TPU)
    counts = {kind: count for kind, count in module.kernels().items() if count}
    # A gather, what a scalar core does (none), a convert, two collectives, a copy.
    assert counts == {"fusions": 1, "converts": 1, "collectives": 2, "copies": 1}
    assert module.collectives() == [
        {"kind": "all-gather", "bytes": 2 * 8 * 32, "count": 1},
        {"kind": "all-reduce", "bytes": 2 * 8 * 32 + 4 * 3, "count": 1},
    ]
    # Of all images the batch counts, read and written; then the rows' numbers.
    assert (0, 2 * 4 * 32 + 4 * 4) in module.work()


def test_program_without_a_loop():
    entry = TPU.partition("ENTRY")[2].replace("while(%init), condition=%cond, body=%body", "sort()")
    counts = hlo_counts.Module(f"HloModule m\n\nENTRY{entry}").kernels()
    assert sum(counts.values()) == counts["others"] == 2


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("f32[2,3]{1,0}", 24),
        ("(bf16[4]{0:T(8,128)(2,1)}, pred[3]{0}, u8[0]{0})", 11),
        ("f64[]", 8),
        ("s4[3]", 3),
        ("f8e4m3fn[5]", 5),
    ],
)
def test_bytes_of_types(text, size):
    assert hlo_counts.num_bytes(text) == size
