"""Lines of Ollama's API, and the answer in one piece."""

from __future__ import annotations

from ollama import ChatResponse, GenerateResponse

from boli.server.ollama_stream import OllamaWriter
from server.tellings import STORY, ending, tell


def test_lines_of_a_conversation() -> None:
    writer = OllamaWriter("toy", chat=True)
    lines = tell(writer, STORY)
    parsed = [ChatResponse.model_validate(line) for line in lines]
    assert [line["done"] for line in lines] == [False] * (len(lines) - 1) + [True]
    whole = ChatResponse.model_validate(writer.document)
    assert "".join(each.message.content or "" for each in parsed) == whole.message.content
    assert whole.message.content == "I shall ask: 你好 🙂 Done."
    called = [call for each in parsed for call in each.message.tool_calls or ()]
    assert called == list(whole.message.tool_calls or ())
    assert [(call.function.name, call.function.arguments) for call in called] == [
        ("weather", {"city": "Paris"}), ("time", {})
    ]  # fmt: skip


def test_lines_of_a_text() -> None:
    writer = OllamaWriter("toy", chat=False)
    lines = tell(writer, STORY[:2], ending("length"))
    parsed = [GenerateResponse.model_validate(line) for line in lines]
    assert "".join(each.response or "" for each in parsed) == writer.document["response"]
    assert (lines[-1]["done_reason"], writer.document["done_reason"]) == ("length", "length")


def test_figures_are_nanoseconds_and_counts() -> None:
    writer = OllamaWriter("toy", chat=True)
    last = tell(writer, STORY)[-1]
    figures = {
        "total_duration": 2_500_000_000, "load_duration": 0, "prompt_eval_count": 30,
        "prompt_eval_duration": 500_000_000, "eval_count": 7, "eval_duration": 1_250_000_000,
    }  # fmt: skip
    assert figures.items() <= last.items()
    assert figures.items() <= writer.document.items()
    assert last["done_reason"] == "stop"


def test_log_probabilities_go_with_the_text() -> None:
    entry = {"token": "a", "logprob": -0.5, "bytes": [97], "top_logprobs": []}
    writer = OllamaWriter("toy", chat=True)
    (line,) = writer.text("a", [entry])
    writer.text("b", [])
    writer.end(ending())
    assert line["logprobs"] == writer.document["logprobs"] == [entry]
