"""A trace for people: chapters made of a document, and how they look in a terminal and in a notebook.

`document → chapters (parts.py) → terminal | HTML`: chapters say what is told, in English or Chinese;
how it looks is up to the two renderers. Nothing in here knows the model or the engine.
"""
