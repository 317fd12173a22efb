"""Reads keys and values back out of the pages of the KV cache; `kv.py` wrote them. NumPy, slow."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from boli.cpu.header import check_below
from boli.cpu.layouts import padded
from boli.cpu.sizes import HEAD_PADDING, PAGE_SIZE, page_bytes

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
    check_below("page", pages, num_pages)
    whole = cache.reshape(config.num_hidden_layers, heads, num_pages, page_bytes(kv_type, width))
    content = whole[layer][:, pages].swapaxes(0, 1)  # a copy: [pages, heads, bytes]
    half = content[:, :, : 2 * PAGE_SIZE * width * _BYTES[kv_type]].reshape(len(pages), heads, 2, -1)
    keys, values = _numbers(half[:, :, 0], kv_type), _numbers(half[:, :, 1], kv_type)
    if kv_type == "bf16":
        keys = keys.reshape(*keys.shape[:2], width // 2, PAGE_SIZE, 2).swapaxes(-1, -2)
        values = values.reshape(*values.shape[:2], -1, HEAD_PADDING, 2).swapaxes(-1, -2)
    keys = keys.reshape(len(pages), heads, width, PAGE_SIZE).swapaxes(-1, -2)[:, :, _ORDER]
    blocks = values.reshape(len(pages), heads, width // HEAD_PADDING, PAGE_SIZE, HEAD_PADDING)
    values = blocks.swapaxes(2, 3).reshape(len(pages), heads, PAGE_SIZE, width)
    if kv_type != "bf16":
        values = values[:, :, _ORDER]
    if kv_type == "int8":
        scales = (
            content[:, :, 2 * PAGE_SIZE * width :].view(np.float32).reshape(len(pages), heads, 2, PAGE_SIZE)
        )
        scales = scales[..., _ORDER, None]
        keys, values = keys * scales[:, :, 0], values * scales[:, :, 1]
    return _in_order(keys, length, size), _in_order(values, length, size)


_BYTES = {"bf16": 2, "int8": 1, "f32": 4}


def _numbers(data: npt.NDArray[np.uint8], kv_type: str) -> Float32:
    data = np.ascontiguousarray(data)
    if kv_type == "f32":
        return data.view(np.float32)
    if kv_type == "int8":
        return data.view(np.int8).astype(np.float32)
    return (data.view(np.uint16).astype(np.uint32) << 16).view(np.float32)


def _in_order(pages: Float32, length: int, size: int) -> Float32:
    """`[pages, heads, 32, width]` as `[length, heads, size]`."""
    positions = pages.swapaxes(1, 2).reshape(-1, pages.shape[1], pages.shape[3])
    return np.ascontiguousarray(positions[:length, :, :size])
