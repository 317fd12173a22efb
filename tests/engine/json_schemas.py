"""A hundred JSON schemas, made for these tests: plain, recursive, deep, wide and odd ones."""

from __future__ import annotations

import json
from typing import Any

Schema = dict[str, Any]


def record(**properties: Any) -> Schema:
    """An object with these properties and no others."""
    return {**open_record(**properties), "additionalProperties": False}


def open_record(**properties: Any) -> Schema:
    """An object with these properties and perhaps others."""
    return {"type": "object", "properties": properties, "required": list(properties)}


def optional(**properties: Any) -> Schema:
    """An object with some of these properties and no others."""
    return {"type": "object", "properties": properties, "additionalProperties": False}


def ref(name: str) -> Schema:
    return {"$ref": f"#/$defs/{name}"}


TEXT: Schema = {"type": "string"}
SHORT: Schema = {"type": "string", "maxLength": 8}
INTEGER: Schema = {"type": "integer"}
DIGIT: Schema = {"type": "integer", "minimum": 0, "maximum": 9}
NUMBER: Schema = {"type": "number"}
FLAG: Schema = {"type": "boolean"}
NULL: Schema = {"type": "null"}


def array(items: Any, low: int | None = None, high: int | None = None) -> Schema:
    schema: Schema = {"type": "array", "items": items}
    if low is not None:
        schema["minItems"] = low
    if high is not None:
        schema["maxItems"] = high
    return schema


def nested(levels: int, wrap: str) -> Schema:
    schema: Schema = DIGIT
    for _ in range(levels):
        schema = record(a=schema) if wrap == "object" else array(schema, 1, 1)
    return schema


SCALARS: list[Schema] = [
    TEXT, INTEGER, NUMBER, FLAG, NULL, DIGIT, SHORT,
    {"type": "integer", "minimum": -5},
    {"type": "integer", "maximum": -100},
    {"type": "integer", "exclusiveMinimum": 10, "exclusiveMaximum": 12},
    {"type": "integer", "minimum": -1000, "maximum": 1000},
    {"type": "integer", "multipleOf": 7},
    {"type": "number", "minimum": 0, "maximum": 1},
    {"type": "number", "exclusiveMinimum": 0.25, "maximum": 0.75},
    {"type": "number", "minimum": -3.5, "exclusiveMaximum": -1.25},
    {"type": "string", "minLength": 3, "maxLength": 3},
    {"type": "string", "minLength": 5},
    {"type": "string", "maxLength": 0},
    {"type": "string", "pattern": "^[a-z]{2,5}-[0-9]+$"},
    {"type": "string", "pattern": "b"},
    {"type": "string", "pattern": "^(a+)+b$"},
    {"type": "string", "pattern": "^.{1,9999}$"},
    {"type": "string", "pattern": "^(red|green|blue)(,(red|green|blue))*$"},
    {"type": "string", "format": "date"},
    {"type": "string", "format": "uuid"},
    {"type": "string", "format": "ipv4"},
    {"type": "string", "format": "email"},
    {"type": "string", "format": "date-time"},
    {"type": "string", "format": "time"},
    {"const": "only this"},
    {"const": {"a": [1, None, True]}},
    {"enum": ["yes", "no", "不知道", "maybe \"quoted\"", "back\\slash", "🙂"]},
    {"enum": [1, 2.5, -3, None, False, "x", [1], {"k": "v"}]},
    {"enum": [f"value {index}" for index in range(2000)]},
    {"type": ["string", "null"]},
    {"type": ["integer", "boolean", "null"]},
    {"type": ["array", "object"]},
    {},
]  # fmt: skip

OBJECTS: list[Schema] = [
    {"type": "object"},
    record(name=TEXT, age=INTEGER),
    optional(a=DIGIT, b=DIGIT, c=DIGIT),
    open_record(id=INTEGER),
    record(a=record(b=record(c=record(d=TEXT)))),
    record(**{"with space": DIGIT, "with\"quote": FLAG, "ünï": NULL, "": DIGIT}),
    record(**{f"p{index}": DIGIT for index in range(40)}),
    optional(**{f"p{index}": FLAG for index in range(60)}),
    {"type": "object", "additionalProperties": INTEGER},
    {"type": "object", "additionalProperties": False},
    {"type": "object", "additionalProperties": array(DIGIT, 0, 3), "properties": {"x": TEXT}},
    {"type": "object", "patternProperties": {"^n_": INTEGER, "^s_": SHORT}, "additionalProperties": False},
    {"type": "object", "properties": {"a": DIGIT, "b": DIGIT}, "required": ["b"]},
    {"type": "object", "required": ["x", "y"]},
    {"type": "object", "properties": {"k": {"const": 1}, "v": {"enum": ["a", "b"]}}, "required": ["k", "v"]},
    record(kind={"const": "circle"}, radius={"type": "number", "exclusiveMinimum": 0}),
    record(tags=array(SHORT, 1, 3), point=array(NUMBER, 2, 2), note={"type": ["string", "null"]}),
    {"title": "Point", "description": "of a plane", "type": "object", "default": {}, "examples": [{}],
     "$schema": "https://json-schema.org/draft/2020-12/schema", "properties": {"x": NUMBER},
     "required": ["x"]},
    {"properties": {"a": {"type": "string"}}},
    {"required": ["a"]},
]  # fmt: skip

ARRAYS: list[Schema] = [
    {"type": "array"},
    array(INTEGER),
    array(DIGIT, 5, 5),
    array(SHORT, 2, 4),
    array(array(DIGIT, 1, 2), 1, 2),
    array(record(a=DIGIT), 1, 3),
    array(FLAG, 0, 0),
    array({"enum": ["a", "b", "c"]}, 3),
    {"type": "array", "prefixItems": [TEXT, INTEGER], "items": False},
    {"type": "array", "prefixItems": [DIGIT, FLAG], "items": SHORT, "maxItems": 4},
    {"type": "array", "prefixItems": [DIGIT, DIGIT], "minItems": 2, "items": NULL},
    array({"type": ["null", "boolean"]}, 4, 6),
    array(DIGIT, 0, 5000),
]

CHOICES: list[Schema] = [
    {"anyOf": [TEXT, INTEGER]},
    {"anyOf": [record(a=DIGIT), record(b=FLAG)]},
    {"anyOf": [array(DIGIT, 1, 2), record(x=TEXT), NULL]},
    {"oneOf": [TEXT, INTEGER]},
    {"oneOf": [record(kind={"const": "a"}, a=DIGIT), record(kind={"const": "b"}, b=FLAG)]},
    {"allOf": [{"type": "string"}, {"minLength": 2}, {"maxLength": 4}]},
    {"allOf": [open_record(a=DIGIT), open_record(b=FLAG)]},
    {"allOf": [{"$ref": "#/$defs/base"}, {"properties": {"b": DIGIT}, "required": ["b"]}],
     "$defs": {"base": open_record(a=DIGIT)}},
    {"anyOf": [{"anyOf": [{"anyOf": [DIGIT, FLAG]}, NULL]}, SHORT]},
    record(value={"anyOf": [INTEGER, TEXT, array(INTEGER, 0, 2)]}),
]  # fmt: skip

RECURSIVE: list[Schema] = [
    {"type": "object", "properties": {"v": DIGIT, "next": {"anyOf": [{"$ref": "#"}, NULL]}},
     "required": ["v", "next"], "additionalProperties": False},
    {"$defs": {"tree": record(value=DIGIT, children=array(ref("tree"), 0, 2))}, "$ref": "#/$defs/tree"},
    {"$defs": {"a": record(b={"anyOf": [ref("b"), NULL]}), "b": record(a={"anyOf": [ref("a"), NULL]})},
     "anyOf": [ref("a"), ref("b")]},
    {"$defs": {"sum": {"anyOf": [DIGIT, record(op={"enum": ["+", "*"]}, left=ref("sum"), right=ref("sum"))]}},
     "$ref": "#/$defs/sum"},
    {"definitions": {"list": {"anyOf": [NULL,
     {"type": "array", "prefixItems": [DIGIT, {"$ref": "#/definitions/list"}], "minItems": 2,
      "items": False}]}}, "$ref": "#/definitions/list"},
    {"$defs": {"json": {"anyOf": [NULL, FLAG, DIGIT, SHORT, array(ref("json"), 0, 2),
     {"type": "object", "additionalProperties": ref("json")}]}}, "$ref": "#/$defs/json"},
]  # fmt: skip

DEEP: list[Schema] = [
    nested(10, "object"),
    nested(20, "object"),
    nested(30, "array"),
    nested(50, "array"),
    {"$defs": {f"l{index}": record(next=ref(f"l{index + 1}")) for index in range(25)} | {"l25": DIGIT},
     "$ref": "#/$defs/l0"},
]  # fmt: skip

ODD: list[Schema] = [
    {"type": "string", "pattern": "^[\\u4e00-\\u9fff]{1,4}$"},
    {"type": "string", "pattern": "^\\d{3}\\s\\w+$"},
    record(a={"type": "string", "pattern": '^[^"\\\\]*$'}),
    {"$defs": {"unused": {"$ref": "#/$defs/unused"}}, "type": "integer"},
    record(**{"$ref": DIGIT, "type": TEXT, "enum": FLAG}),
    {"type": "object", "properties": {"never": False}, "additionalProperties": FLAG},
    {"enum": [json.dumps({"nested": "json"}), "\n", "\t", "\u0001", "</tool_call>", "<|im_end|>"]},
    {"anyOf": [{"const": index} for index in range(300)]},
]

SCHEMAS: list[Schema] = [*SCALARS, *OBJECTS, *ARRAYS, *CHOICES, *RECURSIVE, *DEEP, *ODD]


REFUSED: dict[str, Any] = {
    "no schema": [1],
    "a number": 3,
    "depth": nested(5000, "object"),
    "enum of 100,000": {"enum": [f"value {index}" for index in range(100_000)]},
    "many properties": record(**{f"p{index}": DIGIT for index in range(5000)}),
    "refers to itself only": {"$ref": "#"},
    "a ring of references": {
        "$defs": {"a": ref("b"), "b": ref("a")},
        "$ref": "#/$defs/a",
    },
    "nowhere": {"$ref": "#/$defs/missing"},
    "impossible": {"type": "object", "properties": {"a": False}, "required": ["a"]},
    "contradiction": {"type": "string", "minLength": 5, "maxLength": 3},
    "false": False,
    "half a character": {"const": "\ud800"},
    "unknown type": {"type": "hiccup"},
    "unknown format": {"type": "string", "format": "hiccup"},
    "not": {"not": {"type": "string"}},
    "unique": {"type": "array", "uniqueItems": True},
    "conditions": {"if": {"type": "string"}, "then": {"maxLength": 3}},
    "look-ahead": {"type": "string", "pattern": "(?=a)b"},
    "overlapping choices": {"oneOf": [{"type": "integer", "minimum": 3}, {"type": "integer", "maximum": 5}]},
    "its own rules": {"x-guidance": {"lenient": True}, "type": "array", "uniqueItems": True},
    "product of choices": {
        "allOf": [{"anyOf": [{"properties": {f"p{i}{j}": INTEGER}} for j in range(3)]} for i in range(12)]
    },
}
