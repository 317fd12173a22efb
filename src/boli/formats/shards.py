"""Which safetensors files of a folder belong together: one, or the shards that an index names."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from boli.errors import CorruptFile, FormatError, ModelNotFound, UnsafeFile
from boli.formats.safetensors import SafetensorsFile, without_duplicates
from boli.formats.tensor_file import quoted
