"""Counts kernels, launches, arithmetic and traffic of a step in what a compiler leaves as text.

A step is the body of the program's largest loop, or the whole program if it has no loop. Loops and
branches within it count once.
"""

import math
import re
from collections import Counter
from collections.abc import Iterator
from typing import NamedTuple

KINDS = (
    *("convolutions", "products", "reductions", "fusions"),
    *("copies", "converts", "collectives", "others"),
)
_COMPUTATION = re.compile(r"\s*(ENTRY )?%?([\w.\-]+) \(")
_OPERATION = re.compile(
    r"^\s*(?:ROOT )?%?([\w.\-]+) = (\(.*?\)|\S+) ([\w\-]+)\((.*)$", re.MULTILINE
)
_ARRAY = re.compile(r"\b(pred|[suf]\d+|bf16|f8\w+)\[([\d,]*)\]")
_CALLED = re.compile(r"\b(?:body|to_apply|branch_computations|calls)=\{?((?:%?[\w.\-]+(?:, )?)+)")
_BITS = {"pred": 8, "bf16": 16}
# They compute nothing: names of values, control flow (counted by what it calls), and the ends of
# operations that have a beginning.
_NO_KERNELS = frozenset(
    {
        *("parameter", "constant", "tuple", "get-tuple-element", "bitcast", "add-dependency"),
        *("while", "conditional", "call", "after-all", "optimization-barrier", "opt-barrier"),
        *("partition-id", "replica-id"),
    }
)
_NO_CALLS = frozenset({"AllocateBuffer", "ConsumeBuffer", "AssumeGatherIndicesInBound"})
_COLLECTIVES = frozenset(
    {"all-reduce", "all-gather", "all-to-all", "reduce-scatter", "collective-permute"}
)
_MOVES = frozenset(
    ["copy", "bitcast", "transpose", "reshape", "parameter", "slice", "broadcast", "constant"]
)
_ON_NUMBERS = frozenset({"fusion", "custom-call", "copy", "copy-start"})  # kernels in any shape
_NUMBER = re.compile(r"\w+\[(1(,1)*)?\](\{|$)")
_THUNK = re.compile(r"^( *)\d+: (k\w+)")
LAUNCHES = ("graphs", "convolutions", "kernels")


class Operation(NamedTuple):
    """One operation of optimized HLO: its name, text of its type, opcode, and what follows."""

    name: str
    type: str
    opcode: str
    rest: str

    @property
    def operands(self) -> list[str]:
        """Names of the operands."""
        return re.findall(r"%([\w.\-]+)", self.rest.partition(")")[0])

    @property
    def target(self) -> str:
        """Name of the function that a custom call calls, or ""."""
        found = re.search(r'custom_call_target="([^"]*)"', self.rest)
        return found.group(1) if found else ""


class Module:
    """A program as text of optimized HLO.

    Attributes:
      computations: operations of each computation, by its name.
      step: operations of a step, those of computations that it calls included.
    """

    def __init__(self, text: str):
        """Reads the text of `jax.stages.Compiled.as_text`."""
        self.computations: dict[str, list[Operation]] = {}
        entry = ""
        for part in text.split("\n\n"):
            if found := _COMPUTATION.match(part):
                entry = found.group(2) if found.group(1) else entry
                operations = [Operation(*match) for match in _OPERATION.findall(part)]
                self.computations[found.group(2)] = operations
        bodies = re.findall(r"\bbody=%?([\w.\-]+)", text)
        steps = [list(self._flat(name)) for name in [*bodies, "" if bodies else entry] if name]
        self.step = max(steps, key=lambda step: sum(map(_is_kernel, step)), default=[])
        self._types = {o.name: o.type for some in self.computations.values() for o in some}

    def kernels(self) -> dict[str, int]:
        """Counts the kernels of a step by kind: each of `KINDS`."""
        counts = Counter(self._kind(operation) for operation in self.step if _is_kernel(operation))
        return {kind: counts[kind] for kind in KINDS}

    def collectives(self) -> list[dict]:
        """Lists the collectives of a step: {"kind", "bytes" of one's result, "count"}."""
        found = Counter(
            (kind, self._result_bytes(operation))
            for operation in self.step
            if (kind := operation.opcode.removesuffix("-start")) in _COLLECTIVES
        )
        return [{"kind": kind, "bytes": size, "count": n} for (kind, size), n in found.items()]

    def _result_bytes(self, operation):
        size = num_bytes(operation.type)
        if operation.opcode.endswith("-start") and operation.opcode != "all-reduce-start":
            size -= sum(num_bytes(self._types[name]) for name in operation.operands)  # kept along
        return size

    def work(self) -> list[tuple[int, int]]:
        """Returns (FLOPs, bytes read and written) of each kernel of a step.

        FLOPs are those of convolutions and matrix products as the compiler writes them. Bytes are
        the sizes of operands and results; of an operand from which a fusion only takes slices or
        gathers, those of what it takes.
        """
        return [(self._flops(o), self._bytes(o)) for o in self.step if _is_kernel(o)]

    def _flat(self, name) -> Iterator[Operation]:
        for operation in self.computations.get(name, ()):
            yield operation
            if operation.opcode in ("while", "conditional", "call"):
                for called in self._called(operation):
                    yield from self._flat(called)

    def _called(self, operation):
        lists = _CALLED.findall(operation.rest)
        return [name.strip(" %") for names in lists for name in names.split(",") if name.strip()]

    def _inside(self, operation) -> list[Operation]:
        """The operation, and for a fusion all that are in it."""
        inside = [operation]
        for name in self._called(operation) if operation.opcode == "fusion" else ():
            for other in self.computations.get(name, ()):
                inside += self._inside(other)
        return inside

    def _kind(self, operation):
        inside = self._inside(operation)
        opcodes = {o.opcode for o in inside}
        target = operation.target
        if operation.opcode.removesuffix("-start") in _COLLECTIVES:
            return "collectives"
        if "convolution" in opcodes or "$conv" in target:
            return "convolutions"
        if "dot" in opcodes or "gemm" in target or "matmul" in target:
            return "products"
        if opcodes & {"reduce", "reduce-window"}:
            return "reductions"
        rest = opcodes - {"fusion"}
        if opcodes & {"copy-start", "async-start"} or rest <= _MOVES:
            return "copies"
        if "convert" in opcodes and rest <= _MOVES | {"convert"}:
            return "converts"
        return "fusions" if operation.opcode == "fusion" else "others"

    def _flops(self, operation):
        flops = 0
        for inside in self._inside(operation):
            if inside.opcode == "convolution" or "$conv" in inside.target:
                flops += self._convolution_flops(inside)
            elif inside.opcode == "dot" or "gemm" in inside.target or "matmul" in inside.target:
                flops += self._product_flops(inside)
        return flops

    def _convolution_flops(self, operation):
        """2 x outputs x kernel size x channels in, whichever of the three arrays is computed."""
        labels = re.search(r"dim_labels=(\w+)_(\w+)->(\w+)", operation.rest)
        assert labels is not None, operation
        arrays = [*(self._types[name] for name in operation.operands[:2]), operation.type]
        if "BackwardInput" in operation.target:
            arrays = [arrays[2], arrays[1], arrays[0]]
        elif "BackwardFilter" in operation.target:
            arrays = [arrays[0], arrays[2], arrays[1]]
        kernel, output = (_shape(text) for text in arrays[1:])
        channels = kernel[labels.group(2).index("o")]
        return 2 * math.prod(output) * math.prod(kernel) // max(channels, 1)

    def _product_flops(self, operation):
        """2 x outputs x contracted size; a library call without axes contracts the usual ones."""
        left, right = (_shape(self._types[name]) for name in operation.operands[:2])
        axes = re.search(
            r'lhs_contracting_dim(?:s=\{|ensions":\[)["\s]*([\d,"\s]*)', operation.rest
        )
        contracted = [int(axis) for axis in re.findall(r"\d+", axes.group(1))] if axes else []
        depth = math.prod(left[axis] for axis in contracted) if contracted else right[0]
        return 2 * math.prod(_shape(operation.type)) * depth

    def _bytes(self, operation):
        size = num_bytes(operation.type)
        called = self._called(operation) if operation.opcode == "fusion" else ()
        inside = [o for name in called for o in self.computations.get(name, ())]
        places = {o.rest.partition(")")[0]: o.name for o in inside if o.opcode == "parameter"}
        for place, name in enumerate(operation.operands):
            whole = num_bytes(self._types.get(name, ""))
            size += _bytes_read(inside, places[str(place)], whole) if inside else whole
        return size


def _bytes_read(operations, name, whole):
    """Bytes of an array that operations read: all, or what they take of it."""
    size = 0
    for user in operations:
        if name in user.operands[:1] and user.opcode in ("gather", "dynamic-slice", "slice"):
            size += num_bytes(user.type)
        elif name in user.operands and user.opcode in ("bitcast", "reshape"):
            size += _bytes_read(operations, user.name, whole)
        elif name in user.operands:
            return whole
    return min(size, whole)


def _is_kernel(operation):
    if operation.opcode in _NO_KERNELS or operation.target in _NO_CALLS:
        return False
    # A TPU's compiler leaves arithmetic on numbers outside of fusions, for the scalar core.
    is_number = _NUMBER.match(operation.type) and operation.opcode not in _ON_NUMBERS
    return not is_number and not operation.opcode.endswith(("-done", "-update"))


def num_bytes(text: str) -> int:
    """Returns the bytes of the arrays in the text of a type, without padding."""
    total = 0
    for kind, shape in _ARRAY.findall(text):
        bits = _BITS.get(kind) or int(re.findall(r"\d+", kind)[0])
        total += math.prod(map(int, filter(None, shape.split(",")))) * max(bits, 8) // 8
    return total


def _shape(text):
    [(_, shape), *_] = _ARRAY.findall(text)
    return [int(size) for size in shape.split(",") if size]


def launches(thunks: str) -> dict[str, int]:
    """Counts what the host launches in a step: each of `LAUNCHES`.

    Args:
      thunks: XLA's dump of a GPU program's thunks: a line each, indented within the body of a
        loop, and within a CUDA graph (kCommandBuffer), which is one launch.

    Returns:
      Zeros if the loop is itself within a graph: then nothing is launched step by step.
    """
    lines = thunks.splitlines()
    bodies = {i: _block(lines[i + 1 :]) for i, line in enumerate(lines) if line.strip() == "body:"}
    start, body = max(bodies.items() or [(0, _block(lines))], key=lambda found: len(found[1]))
    counts, graph = Counter(), math.inf
    if _is_in_graph(lines[: start + 1]):
        body = []
    for indent, kind in body:
        if indent > graph:  # in the graph that the line above begins
            continue
        graph = indent if kind == "kCommandBuffer" else math.inf
        if kind not in ("kWhile", "kConditional", "kSequential") and not kind.endswith("Done"):
            kinds = {"kCommandBuffer": "graphs", "kConvolution": "convolutions"}
            counts[kinds.get(kind, "kernels")] += 1
    return {kind: counts[kind] for kind in LAUNCHES}


def _is_in_graph(lines):
    """Whether the last line stands within a CUDA graph."""
    indent = len(lines[-1]) - len(lines[-1].lstrip())
    for line in reversed(lines):
        before = len(line) - len(line.lstrip())
        if before < indent and (match := _THUNK.match(line)):
            indent = before
            if match.group(2) == "kCommandBuffer":
                return True
    return False


def _block(lines):
    """Returns (indent, kind) of the thunks from the first line on that are indented as it is."""
    found = []
    for line in lines:
        if match := _THUNK.match(line):
            if found and len(match.group(1)) < found[0][0]:
                break
            found.append((len(match.group(1)), match.group(2)))
    return found
