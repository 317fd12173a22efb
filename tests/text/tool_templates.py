"""Chat templates with tools, in the styles that models have, written for these tests."""

from __future__ import annotations

from text.templates import CHATML, LLAMA_3

HERMES = """\
{%- if tools %}
    {{- '<|im_start|>system\\n' }}
    {%- if messages[0]['role'] == 'system' %}{{- messages[0]['content'] + '\\n\\n' }}{%- endif %}
    {{- 'Functions you may call:\\n<tools>' }}
    {%- for tool in tools %}{{- '\\n' }}{{- tool | tojson }}{%- endfor %}
    {{- '\\n</tools>\\nWrite <tool_call>\\n{"name": <name>, "arguments": <object>}\\n</tool_call>.' }}
    {{- '<|im_end|>\\n' }}
{%- elif messages[0]['role'] == 'system' %}
    {{- '<|im_start|>system\\n' + messages[0]['content'] + '<|im_end|>\\n' }}
{%- endif %}
{%- for message in messages %}
    {%- if message.role == 'assistant' %}
        {{- '<|im_start|>assistant' }}
        {%- if message.content %}{{- '\\n' + message.content }}{%- endif %}
        {%- for call in message.tool_calls or [] %}
            {{- '\\n<tool_call>\\n{"name": ' + (call.function.name | tojson) + ', "arguments": ' }}
            {{- call.function.arguments | tojson + '}\\n</tool_call>' }}
        {%- endfor %}
        {{- '<|im_end|>\\n' }}
    {%- elif message.role == 'tool' %}
        {{- '<|im_start|>user\\n<tool_response>\\n' + message.content + '\\n</tool_response><|im_end|>\\n' }}
    {%- elif message.role != 'system' %}
        {{- '<|im_start|>' + message.role + '\\n' + message.content + '<|im_end|>\\n' }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}{{- '<|im_start|>assistant\\n' }}{%- endif %}
"""

# Arguments are written as they come: they must be JSON text already.
HERMES_TEXT = HERMES.replace("call.function.arguments | tojson +", "call.function.arguments +")

# A list of calls between one pair of tags.
SMOLLM_2 = """\
{%- if tools %}
    {{- '<|im_start|>system\\nYou have these functions: ' }}{{- tools | tojson }}
    {{- '\\nAnswer with <tool_call>[{"name": "f", "arguments": {"a": 1}}]</tool_call><|im_end|>\\n' }}
{%- endif %}
{%- for message in messages %}
    {{- '<|im_start|>' + message.role + '\\n' + (message.content or '') }}
    {%- if message.tool_calls %}
        {{- '<tool_call>[' }}
        {%- for call in message.tool_calls %}
            {{- '{"name": ' + (call.function.name | tojson) + ', "arguments": ' }}
            {{- (call.function.arguments | tojson) + '}' }}{{- ', ' if not loop.last }}
        {%- endfor %}
        {{- ']</tool_call>' }}
    {%- endif %}
    {{- '<|im_end|>\\n' }}
{%- endfor %}
{%- if add_generation_prompt %}{{- '<|im_start|>assistant\\n' }}{%- endif %}
"""

# Tells of calls and has no place for them in messages.
SMOLLM_3 = """\
{{- '<|im_start|>system\\n' }}
{%- if tools %}
    {{- '### Tools\\n<tools>\\n' }}
    {%- for tool in tools %}{{- (tool.function | tojson) + '\\n' }}{%- endfor %}
    {{- '</tools>\\nFor each call:\\n<tool_call>\\n{"name": <function-name>, ' }}
    {{- '"arguments": <args-object>}\\n' }}
    {{- '</tool_call>\\n' }}
{%- endif %}
{{- '<|im_end|>\\n' }}
{%- for message in messages %}
    {%- set role = 'user' if message.role == 'tool' else message.role %}
    {{- '<|im_start|>' + role + '\\n' + message.content + '<|im_end|>\\n' }}
{%- endfor %}
{%- if add_generation_prompt %}{{- '<|im_start|>assistant\\n' }}{%- endif %}
"""

# The same, with its own name for the list of tools.
SMOLLM_3_XML = SMOLLM_3.replace("if tools", "if xml_tools").replace("in tools", "in xml_tools[:]")

# A form that boli does not know: the calls stand behind a word, in a list.
MISTRAL_TOOLS = """\
{%- for message in messages %}
    {%- if message.role == 'user' %}
        {%- if tools %}{{- '[AVAILABLE_TOOLS]' + (tools | tojson) + '[/AVAILABLE_TOOLS]' }}{%- endif %}
        {{- '[INST]' + message.content + '[/INST]' }}
    {%- elif message.tool_calls %}
        {{- '[TOOL_CALLS][' }}
        {%- for call in message.tool_calls %}
            {{- '{"name": "' + call.function.name + '", "arguments": ' }}
            {{- (call.function.arguments | tojson) + '}' }}{{- ', ' if not loop.last }}
        {%- endfor %}
        {{- ']' }}
    {%- else %}{{- message.content }}
    {%- endif %}
{%- endfor %}
"""

# Elements of XML instead of JSON, between the same tags.
XML_CALLS = """\
{%- if tools %}
    {{- tools | tojson }}{{- 'Write <tool_call>\\n<function=name>…</function></tool_call>' }}
{%- endif %}
{%- for message in messages %}
    {{- '<|im_start|>' + message.role + '\\n' + message.content }}
    {%- for call in message.tool_calls or [] %}
        {{- '<tool_call>\\n<function=' + call.function.name + '>\\n' }}
        {%- for name, value in call.function.arguments.items() %}
            {{- '<parameter=' + name + '>' + value + '</parameter>\\n' }}
        {%- endfor %}
        {{- '</function>\\n</tool_call>' }}
    {%- endfor %}
    {{- '<|im_end|>\\n' }}
{%- endfor %}
"""

# Hermes without a place for results.
NO_RESULTS = HERMES.replace("message.role == 'tool'", "message.role == 'nobody'").replace(
    "{%- elif message.role != 'system' %}", "{%- elif message.role == 'user' %}"
)

# A bare call behind a word of its own.
FUNCTION_WORD = LLAMA_3.replace('\\n\\n{"name"', '\\n\\ncall {"name"')

NONE = CHATML

__all__ = [
    "FUNCTION_WORD", "HERMES", "HERMES_TEXT", "LLAMA_3", "MISTRAL_TOOLS", "NONE", "NO_RESULTS", "SMOLLM_2",
    "SMOLLM_3", "SMOLLM_3_XML", "XML_CALLS",
]  # fmt: skip
