"""How much one request may ask for. What is beyond is refused before anything is copied or computed."""

from __future__ import annotations

MAX_BODY_BYTES = 8 << 20
MAX_JSON_DEPTH = 64
MAX_CHOICES = 16  # n
MAX_BEST_OF = 20
MAX_LOGPROBS = 20
MAX_STOPS = 16
MAX_STOP_CHARACTERS = 256
MAX_LOGIT_BIAS = 1024
MAX_PROMPTS = 64
MAX_TEXTS = 2048  # that become vectors, as OpenAI has it
MAX_ANSWERS = 128  # prompts times n
MAX_MESSAGES = 1024
MAX_PARTS = 1024  # of the content of a message
MAX_TOOLS = 128
MAX_SCHEMA_BYTES = 256 << 10
MAX_NAME_CHARACTERS = 256  # of a model, a user, a role
MAX_WHOLE_NUMBER = 2**31 - 1  # of counts without a bound of their own; what does not fit is cut off
