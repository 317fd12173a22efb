"""Reads keys and values back out of the pages of the KV cache; `kv.py` wrote them. NumPy, slow."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from boli.cpu.header import check_below
from boli.cpu.layouts import padded
from boli.cpu.sizes import HEAD_PADDING, KV_BYTES, PAGE_SIZE, page_bytes, pages_together

if TYPE_CHECKING:
    from boli.blueprint.config import Config
    from boli.engine.batch import Float32, Int32

# Where each position of a page lies: even ones come before odd ones.
_ORDER = np.concatenate([np.arange(0, PAGE_SIZE, 2), np.arange(1, PAGE_SIZE, 2)]).argsort()


def read_pages(
    cache: npt.NDArray[np.uint8],
    config: Config,
    kv_type: str,
    layer: int,
    page_table: Int32,
    length: int,
    num_pages: int,
) -> tuple[Float32, Float32]:
    """See `CpuRunner.keys_values`."""
    heads, size, width = config.num_key_value_heads, config.head_dim, padded(config.head_dim, HEAD_PADDING)
    pages = np.ascontiguousarray(page_table, np.int32)[: -(-length // PAGE_SIZE)]
    if not 0 <= layer < config.num_hidden_layers:
        raise ValueError(f"layer outside 0 … {config.num_hidden_layers - 1}")
    if not 0 <= length <= len(pages) * PAGE_SIZE:
        raise ValueError(f"{length} positions are not in {len(pages)} pages")
    check_below("page", pages.tolist(), num_pages)
    together = pages_together(num_pages)
    whole = cache.reshape(
        config.num_hidden_layers, num_pages // together, heads, together, page_bytes(kv_type, width)
    )
    content = whole[layer][pages // together, :, pages % together]  # a copy: [pages, heads, bytes]
    end = PAGE_SIZE * width * KV_BYTES[kv_type]
    keys, values = (_numbers(content[..., at : at + end], kv_type) for at in (0, end))
    page = len(pages), heads
    if kv_type == "bf16":  # pairs: of dimensions in keys, of positions in values
        keys = keys.reshape(*page, width // 2, PAGE_SIZE, 2).swapaxes(-1, -2)
        values = values.reshape(*page, width // 2, HEAD_PADDING, 2).swapaxes(-1, -2)
    keys = keys.reshape(*page, width, PAGE_SIZE).swapaxes(-1, -2)[:, :, _ORDER]
    values = values.reshape(*page, width // HEAD_PADDING, PAGE_SIZE, HEAD_PADDING).swapaxes(2, 3)
    values = values.reshape(*page, PAGE_SIZE, width)
    if kv_type != "bf16":
        values = values[:, :, _ORDER]
    if kv_type == "int8":
        scales = np.ascontiguousarray(content[..., 2 * end :]).view(np.float32)
        scales = scales.reshape(*page, 2, PAGE_SIZE)[..., _ORDER, None]
        keys, values = keys * scales[:, :, 0], values * scales[:, :, 1]
    return _in_order(keys, length, size), _in_order(values, length, size)


def _numbers(data: npt.NDArray[np.uint8], kv_type: str) -> Float32:
    """Bytes as float32."""
    data = np.ascontiguousarray(data)
    if kv_type == "f32":
        return data.view(np.float32)
    if kv_type == "int8":
        return data.view(np.int8).astype(np.float32)
    return (data.view(np.uint16).astype(np.uint32) << 16).view(np.float32)


def _in_order(pages: Float32, length: int, size: int) -> Float32:
    """`[pages, heads, 32, width]` as `[length, heads, size]`."""
    positions = pages.swapaxes(1, 2).reshape(len(pages) * PAGE_SIZE, pages.shape[1], pages.shape[3])
    return np.ascontiguousarray(positions[:length, :, :size])
