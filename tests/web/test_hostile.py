"""Text of the model and of files is shown as text: it is never markup, never a control, never invisible."""

from __future__ import annotations

from web.conftest import Opener
from web.made_document import HOSTILE, make_document


def test_model_text_never_acts(opener: Opener) -> None:
    document = make_document(layers=2, generated=12, hostile=True)
    for name in ("name", "format", "kv_cache_type"):
        document["model"][name] = HOSTILE[0]
    document["text"]["messages"] = [
        {"role": HOSTILE[0], "content": "</script><script>window.owned=1</script>"}
    ]
    document["weights"][1]["name"] = document["weights"][0]["type"] = HOSTILE[0]
    document["stages"][5]["source"] = document["stages"][5]["equation"] = HOSTILE[0]
    document["machine"]["cpu"] = HOSTILE[0]
    opened = opener(document)
    page = opened.page
    for _ in range(12):
        page.keyboard.press("ArrowRight")
    page.locator("[data-stage='attention_norm']").click()
    page.keyboard.press("t")
    assert page.evaluate("window.owned ?? null") is None
    assert "owned" not in page.title().replace(HOSTILE[0], "")
    # One script is the document, one the page; nothing that model text asks for is there.
    assert page.locator("script").count() == 2
    assert page.locator("img, iframe, object, embed, link, base, form[action]").count() == 0
    body = page.locator("body").inner_text()
    assert "<img·src=x" in body.replace(" ", "·")
    assert "⟨202E⟩evil⟨2066⟩" in body
    assert "␛[31mred" in body
    everything = page.evaluate(
        """() => {
            const all = [...document.querySelectorAll('*')].flatMap((one) => [...one.attributes])
            return document.body.textContent + all.map((one) => one.value).join()
        }"""
    )
    script = page.locator("script").last.inner_text()
    for forbidden in ("\u202e", "\u2066", "\x1b"):
        assert forbidden not in everything.replace(script, "")


def test_the_policy_allows_nothing_from_outside(opener: Opener) -> None:
    opened = opener(make_document(layers=2, generated=3))
    refused = opened.page.evaluate(
        """async () => {
            const seen = []
            document.addEventListener('securitypolicyviolation', (one) => seen.push(one.effectiveDirective))
            const image = document.createElement('img')
            image.src = 'data:image/png;base64,AAAA'
            document.body.append(image)
            const script = document.createElement('script')
            script.textContent = 'window.owned = 1'
            document.body.append(script)
            await fetch('http://127.0.0.1:9/').catch(() => null)
            await new Promise((done) => setTimeout(done, 50))
            return [seen.sort(), window.owned ?? null]
        }"""
    )
    assert refused == [["connect-src", "img-src", "script-src-elem"], None]
    opened.troubles.clear()
    opened.requests[1:] = []


def test_the_front_end_never_writes_markup() -> None:
    from boli.trace.page.writing import asset

    script = asset("page.js")
    assert "@html" not in script
    assert "document.write" not in script
    assert "eval(" not in script
