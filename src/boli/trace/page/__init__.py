"""The page: one trace as one HTML file that needs nothing else, opened from disk.

The front end is built from `web/` (`npm ci && npm run build` there) into `assets/`. This package puts it
together with a document. The file loads nothing: its content security policy allows the one script and the
one style sheet in it by their hashes, and no request at all.
"""

from __future__ import annotations

from boli.trace.page.writing import page_html, write_page

__all__ = ["page_html", "write_page"]
