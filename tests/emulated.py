"""native.c for another processor, in an emulator: a library that is called as the compiled one."""

from __future__ import annotations

import subprocess
from ctypes import Structure, addressof, c_float, c_int64, memmove, string_at
from pathlib import Path

from models.transformer.native.compiled import (
    SOURCE,
    EmbeddingStruct,
    HeadStruct,
    LinearStruct,
    StackStruct,
)
from models.transformer.native.panels import PANEL
from models.westlake.firefly.native_layers import ConvolutionStruct
from models.westlake.firefly.native_refinement import RefinementStruct
from models.westlake.firefly.native_vocoder import VocoderStruct

COMPILER, EMULATOR = "aarch64-linux-gnu-gcc", "qemu-aarch64"
FLAGS = ("-O3", "-march=armv8.2-a+dotprod", "-fno-math-errno", "-fopenmp-simd", "-static")
PRODUCT, QUANTISE, DRAW, STEP, CODES, CORRECT, PANELS, VOCODER, REFINEMENT, EMBED, TEXT = range(11)


class EmulatedLibrary:
    """native.c's functions, which a process of tests/emulated.c computes.

    Args:
        folder: for the compiled file.
    """

    def __init__(self, folder: Path) -> None:
        program = folder / "emulated"
        source = Path(__file__).with_name("emulated.c")
        command = [COMPILER, *FLAGS, f"-I{SOURCE.parent}", "-o", program, source, "-lm"]
        subprocess.run(command, check=True, capture_output=True)
        self.process = subprocess.Popen(
            [EMULATOR, program], stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )

    def close(self) -> None:
        self.process.communicate()

    def native_product_scratch(self, *sizes: int) -> int:
        return 0

    native_scratch = native_codes_scratch = native_draw_scratch = native_product_scratch
    native_vocoder_scratch = native_refinement_scratch = native_product_scratch
    native_text_scratch = native_product_scratch

    def native_width(self) -> int:
        return 4

    native_side = native_sample_bytes = native_width

    def native_added(self) -> int:
        return 1

    native_pairs = native_added

    def native_max_stages(self) -> int:
        return 16

    def native_product(self, linear, x, norm, eps, y, rows, scratch, threads) -> None:
        struct = LinearStruct.from_address(linear)
        inputs = _memory(x, 4 * rows * struct.inputs), _memory(norm, 2 * struct.inputs)
        self._send(PRODUCT, threads, *_linear(struct), *inputs, bytearray(c_float(eps)), rows)
        self._receive(y, 4 * rows * struct.outputs)

    def native_embed(self, embedding, grid, batch, length, x, scratch) -> int:
        struct = EmbeddingStruct.from_address(embedding)
        rows = _memory(struct.tokens, 2 * struct.vocab * struct.dim)
        rows = rows, _memory(struct.codes, 2 * struct.num_books * struct.book_size * struct.dim)
        sizes = struct.vocab, struct.num_books, struct.book_size, struct.dim, struct.spoken
        columns = _memory(grid, 8 * batch * (1 + struct.num_books) * length), batch, length
        self._send(EMBED, 1, *_linear(struct.head), *rows, *sizes, *columns)
        known = c_int64()
        self._receive(addressof(known), 8)
        self._receive(x, 2 * batch * length * struct.dim)
        return known.value

    def native_panels(self, rows, outputs, numbers, panels, copies, threads) -> None:
        self._send(PANELS, threads, _memory(rows, 4 * outputs * numbers), outputs, numbers)
        self._receive(panels, 4 * _whole_panels(outputs) * numbers)

    def native_quantise(self, weight, rows, inputs, bits, steps, scales, threads) -> None:
        self._send(QUANTISE, threads, _memory(weight, 4 * rows * inputs), rows, inputs, bits)
        self._receive(steps, rows * inputs * bits // 8)
        self._receive(scales, rows * (4 if bits == 8 else inputs // 64 * 8))

    def native_correct(self, weight, rows, inputs, block, factors, steps, scales, threads) -> None:
        size = sum(min(block, inputs - first) ** 2 for first in range(0, inputs, block))
        parts = _memory(weight, 4 * rows * inputs), _memory(factors, 4 * size)
        self._send(CORRECT, threads, *parts, rows, inputs, block)
        self._receive(steps, rows * inputs // 2)
        self._receive(scales, rows * inputs // 64 * 8)

    def native_draw(
        self, logits, window, settings, points, rows, size, width, drawn, scratch, threads
    ) -> None:
        inputs = _memory(logits, 4 * rows * size), _memory(window, 8 * rows * width)
        inputs += _memory(settings, 12 * rows), _memory(points, 8 * rows)
        self._send(DRAW, threads, *inputs, rows, size, width)
        self._receive(drawn, 8 * rows)

    def native_text(
        self, head, x, norm, eps, leanings, settled, window, settings, points, rows, width, drawn,
        scratch, threads,
    ) -> None:  # fmt: skip
        struct = LinearStruct.from_address(head)
        dim, size = struct.inputs, struct.outputs
        parts = _memory(x, 2 * rows * dim), _memory(norm, 2 * dim), bytearray(c_float(eps))
        added = [_memory(leaning, 4 * size) if leaning else b"" for leaning in leanings]
        inputs = bytes(settled), _memory(window, 8 * rows * width)
        inputs += _memory(settings, 12 * rows), _memory(points, 8 * rows)
        self._send(TEXT, threads, *_linear(struct), *parts, rows, width, *added, *inputs)
        self._receive(addressof(drawn), 8 * rows)

    def native_step(self, stack, x, angles, caches, lengths, rooms, rows, scratch, threads) -> None:
        struct = StackStruct.from_address(stack)
        row_size = 4 * struct.kv_heads * struct.head_dim  # of a position in a cache
        caches = [
            place for row in caches for place in (c_int64 * struct.num_blocks).from_address(row)
        ]
        sizes = [row_size * rooms[n // struct.num_blocks] for n in range(len(caches))]
        before = [None] * struct.num_blocks + caches[: -struct.num_blocks]
        known = [cache == other for cache, other in zip(caches, before)]
        given = [0 if is_known else cache for is_known, cache in zip(known, caches)]
        num_positions = 1 + max(lengths)
        inputs = (
            _memory(x, 2 * rows * struct.dim),
            _memory(angles, 4 * num_positions * struct.head_dim),
        )
        inputs += bytes(lengths), bytes(rooms), rows
        self._send(STEP, threads, *_stack(struct), *inputs, *map(_memory, given, sizes))
        self._receive(x, 2 * rows * struct.dim)
        for cache, size in zip(caches, sizes):
            self._receive(cache, size)

    def native_codes(
        self, head, x, angles, windows, settings, points, rows, count, width, codes, scratch,
        threads,
    ) -> None:  # fmt: skip
        struct = HeadStruct.from_address(head)
        dim, num_codes = struct.stack.dim, struct.output.outputs
        parts = *_stack(struct.stack), *_linear(struct.output), _memory(struct.norm, 2 * dim)
        parts += _memory(struct.embedding, 2 * dim * num_codes), _memory(x, 2 * rows * dim)
        parts += (
            _memory(angles, 4 * count * struct.stack.head_dim),
            _memory(windows, 8 * rows * count * width),
            _memory(settings, 12 * rows),
            _memory(points, 8 * rows * count),
        )
        self._send(CODES, threads, *parts, rows, count, width)
        self._receive(codes, 8 * rows * count)

    def native_vocoder(
        self, vocoder, hidden, states, wave, rows, positions, scratch, threads
    ) -> None:
        struct = VocoderStruct.from_address(vocoder)
        convs, rate = [struct.first, struct.last], 1
        parts = [*_convolution(struct.first), *_convolution(struct.last), struct.num_stages]
        for stage in struct.stages[: struct.num_stages]:
            inner = stage.convs[: stage.num_stacks * stage.num_pairs * 2]
            parts += [*_convolution(stage.up), stage.num_stacks, stage.num_pairs]
            parts += [part for conv in inner for part in _convolution(conv)]
            convs += [stage.up, *inner]
            rate *= stage.up.outputs // inner[0].inputs
        parts.append(_memory(hidden, 4 * rows * positions * struct.first.inputs))
        size = max(map(_state_end, convs))
        self._send(VOCODER, threads, *parts, *_states(states, rows, positions, 4 * size))
        self._receive(wave, 4 * rows * positions * rate)
        for state in states:
            self._receive(state, 4 * size)

    def native_refinement(
        self, blocks, frame, states, latent, num_blocks, rows, frames, scratch, threads
    ) -> None:
        structs, size, rate = (RefinementStruct * num_blocks).from_address(blocks), 0, 1
        parts: list[int | bytes | bytearray] = [num_blocks]
        channels = structs[0].up.inputs
        for block in structs:
            for conv in (block.up, block.wide, block.narrow):
                parts += _convolution(conv)
                size = max(size, _state_end(conv))
            size = max(size, block.state + (block.taps - 1) * channels)
            parts.append(_memory(block.depthwise, 4 * block.taps * channels))
            vectors = block.bias, block.norm_weight, block.norm_bias
            parts += [_memory(vector, 4 * channels) for vector in vectors]
            eps = bytearray(block)[RefinementStruct.eps.offset :][: RefinementStruct.eps.size]
            parts += [block.taps, block.state, eps]
            rate *= block.up.outputs // channels
        parts.append(_memory(frame, 4 * rows * frames * channels))
        self._send(REFINEMENT, threads, *parts, *_states(states, rows, frames, 4 * size))
        self._receive(latent, 4 * rows * frames * rate * channels)
        for state in states:
            self._receive(state, 4 * size)

    def _send(self, *parts: int | bytes | bytearray) -> None:
        """Numbers; bytes after their number; and bytearrays as they are."""
        for part in parts:
            if not isinstance(part, bytearray):
                number = len(part) if isinstance(part, bytes) else part
                self.process.stdin.write(number.to_bytes(8, "little", signed=True))
            if not isinstance(part, int):
                self.process.stdin.write(part)
        self.process.stdin.flush()

    def _receive(self, address: int, num_bytes: int) -> None:
        found = self.process.stdout.read(num_bytes)
        assert len(found) == num_bytes, "the process has ended"
        memmove(address, found, num_bytes)


def _memory(address: int | None, num_bytes: int) -> bytes:
    return string_at(address, num_bytes) if address else b""


def _whole_panels(outputs: int) -> int:
    return -(-outputs // PANEL) * PANEL


def _linear(linear: Structure) -> list[int | bytes]:
    outputs = _whole_panels(linear.outputs)
    groups = outputs * linear.inputs // 64
    return [
        _memory(linear.weight, outputs * 4 * -(-linear.inputs * linear.bits // 32)),
        _memory(linear.scale, linear.outputs * 2 if linear.bits == 8 else groups * 4),
        _memory(linear.bias, linear.outputs * 2),
        linear.inputs, linear.outputs, linear.bits,
    ]  # fmt: skip


def _convolution(conv: ConvolutionStruct) -> list[int | bytes | bytearray]:
    terms = conv.taps // 3 * 4 + (0, 2, 3)[conv.taps % 3] if conv.paired else conv.taps
    return [
        _memory(conv.weight, 4 * conv.outputs * terms * conv.inputs),
        _memory(conv.bias, 4 * conv.outputs),
        conv.inputs, conv.outputs, conv.taps, conv.dilation, conv.state, conv.paired,
    ]  # fmt: skip


def _state_end(conv: ConvolutionStruct) -> int:
    """Numbers up to those that are kept of its inputs."""
    return conv.state + (conv.taps - 1) * conv.dilation * conv.inputs


def _states(states, rows: int, count: int, num_bytes: int) -> list[int | bytes | bytearray]:
    return [rows, count, num_bytes, *(bytearray(string_at(state, num_bytes)) for state in states)]


def _stack(stack: Structure) -> list[int | bytes | bytearray]:
    parts: list[int | bytes | bytearray] = [stack.num_blocks]
    for block in stack.blocks[: stack.num_blocks]:
        norms = block.attention_norm, block.feed_forward_norm
        parts += [_memory(norm, 2 * stack.dim) for norm in norms]
        for linear in (block.qkv, block.out, block.gate_up, block.down):
            parts += _linear(linear)
    parts += [stack.dim, stack.heads, stack.kv_heads, stack.head_dim, stack.hidden]
    eps = bytearray(stack)[StackStruct.eps.offset :][: StackStruct.eps.size]
    return [*parts, eps]
