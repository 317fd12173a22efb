"""A page in a browser, with what it asked for and what went wrong in it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from playwright.sync_api import Browser, Locator, Page


@dataclass
class Opened:
    """A page.

    Attributes:
        page: Playwright's.
        requests: Addresses of everything that was loaded or tried to be.
        troubles: Errors of scripts, and what the content security policy refused.
    """

    page: Page
    requests: list[str] = field(default_factory=list)
    troubles: list[str] = field(default_factory=list)

    def part(self, name: str) -> Locator:
        """The element of a `data-testid`."""
        return self.page.get_by_test_id(name)

    def text(self, name: str) -> str:
        """What it says."""
        return self.part(name).inner_text()

    def slide(self, name: str, value: float) -> None:
        """Moves a slider."""
        self.part(name).evaluate(
            """(slider, value) => {
                slider.value = value
                slider.dispatchEvent(new Event('input', { bubbles: true }))
            }""",
            value,
        )

    def fits(self, width: int) -> None:
        """Makes the screen so wide, and waits until nothing is wider; its policy forbids waiting inside."""
        self.page.set_viewport_size({"width": width, "height": 844})
        for _ in range(50):
            if self.page.evaluate("document.documentElement.scrollWidth") <= width:
                return
            self.page.wait_for_timeout(50)
        raise AssertionError(f"something is wider than a screen of {width} pixels")


def open_page(browser: Browser, address: str, *, wait_for: str = "decision", **context: Any) -> Opened:
    """Opens an address in a context of its own.

    Args:
        browser: Where.
        address: What.
        wait_for: The `data-testid` that is there once it is ready.
        context: Of the browser, such as `viewport`, `color_scheme`, `locale`.
    """
    settings = {"viewport": {"width": 1440, "height": 900}, "locale": "en-US", **context}
    page = browser.new_context(**settings).new_page()
    opened = Opened(page)
    page.on("request", lambda request: opened.requests.append(request.url))
    page.on("pageerror", lambda error: opened.troubles.append(str(error)))
    page.on(
        "console",
        lambda message: (
            opened.troubles.append(message.text) if message.type in ("error", "warning") else None
        ),
    )
    page.goto(address)
    page.get_by_test_id(wait_for).wait_for()
    return opened
