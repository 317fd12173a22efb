"""An OpenAI-compatible server: HTTP in front of one engine.

    app (who may ask, and what) ─▶ chat, completions, … ─▶ service (one thread steps the engine)

Everything that speaks to the engine goes through `service.Service`. Needs the extra `serve`.
"""
