"""The status page as a person meets it: by keyboard, by screen reader (axe-core), without scripts, in the dark, on a phone."""

import argparse
import json
import pathlib
import time

from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import sync_playwright

DESKTOP = {"width": 1280, "height": 900}
PHONE = {"width": 390, "height": 844}


class Visit:
    """A browser's window that notes whatever goes wrong in it."""

    def __init__(self, browser, page, **options):
        self.at = page.rstrip("/")
        self.context = browser.new_context(**options)
        self.tab = self.context.new_page()
        self.wrong = []
        self.tab.on("console", lambda m: m.type in ("error", "warning") and self.wrong.append(f"{m.type}: {m.text}"))
        self.tab.on("pageerror", lambda error: self.wrong.append(f"script: {error}"))
        self.tab.on("dialog", lambda dialog: (self.wrong.append(f"dialog: {dialog.message}"), dialog.dismiss()))
        self.tab.on("requestfailed", self.failed)
        self.tab.on("response", lambda r: r.status >= 400 and self.wrong.append(f"{r.status}: {r.url}"))

    def failed(self, request):
        # Streams end with their page, and so does whatever the browser had still to fetch; pictures that are missing are looked for in `go`.
        if request.failure != "net::ERR_ABORTED" and not request.url.split("?")[0].endswith("/events"):
            self.wrong.append(f"failed: {request.url} {request.failure}")

    def go(self, path):
        self.tab.goto(self.at + path, wait_until="load")
        self.tab.evaluate("document.querySelectorAll('img').forEach((image) => (image.loading = 'eager'))")
        self.until("[...document.images].every((image) => image.complete)")
        self.tab.evaluate("Promise.all([...document.images].filter((i) => i.naturalWidth).map((image) => image.decode()))")
        broken = self.tab.evaluate("[...document.images].filter((image) => !image.naturalWidth).map((image) => image.src)")
        assert not broken, f"{path}: pictures that do not show: {broken}"
        wide = self.tab.evaluate("document.documentElement.scrollWidth - innerWidth")
        assert wide <= 0, f"{path}: {wide} pixels too wide"

    def until(self, condition, seconds=30):
        """Waits for a condition; the browser's own way to wait evaluates texts, which the page's policy forbids."""
        last = time.monotonic() + seconds
        while not self.tab.evaluate(condition):
            assert time.monotonic() < last, f"not within {seconds} s: {condition}"
            time.sleep(0.1)

    def sign_in(self, token):
        self.tab.goto(self.at + "/jobs")
        assert self.tab.url.endswith("/sign-in"), self.tab.url
        assert self.tab.evaluate("document.activeElement.name") == "token", "the field has the focus"
        self.tab.keyboard.type(token)
        self.tab.keyboard.press("Enter")
        self.tab.wait_for_url("**/jobs")

    def focused(self):
        return self.tab.evaluate("document.activeElement.innerText || document.activeElement.getAttribute('aria-label') || ''").strip()

    def fine(self):
        assert not self.wrong, self.wrong
        self.context.close()


def accessible(visit, what):
    """No violation of WCAG 2.2 A, AA, nor of good practice, as far as axe-core sees."""
    found = Axe().run(visit.tab, options={"resultTypes": ["violations"]}).response["violations"]
    told = [f"{v['id']}: {v['help']}: {[node['html'][:200] for node in v['nodes'][:3]]}" for v in found]
    assert not told, f"{what}: {told}"


def keyboard(visit, first_job):
    """Tab goes through the page in the order in which it is read."""
    visit.go("/jobs")
    order = []
    for _ in range(8):
        visit.tab.keyboard.press("Tab")
        order.append(visit.focused())
    want = ["Skip to the content", "Likeness", "Jobs", "Subjects", "Fleet", "Tenants", "Sign out", first_job]
    assert order == want, order
    visit.go("/jobs")
    visit.tab.keyboard.press("Tab")
    visit.tab.keyboard.press("Enter")
    assert visit.tab.evaluate("document.activeElement.id") == "main", "the link skips to the content"


def live(visit, job):
    """The page of a job that goes on follows it, without being loaded again."""
    visit.go(f"/jobs/{job}")
    visit.tab.evaluate("window.same = true")
    standing = visit.tab.locator("#standing-0")
    before = standing.inner_text()
    visit.until(f"document.querySelector('#standing-0').innerText !== {json.dumps(before)}")
    visit.until("document.querySelectorAll('#learning-0 polyline').length > 0")
    assert visit.tab.evaluate("window.same"), "the page was loaded again"
    assert "Learning" in standing.inner_text(), standing.inner_text()


def hostile(visit, job):
    """What is written by others is text."""
    for path in (f"/jobs/{job}", "/subjects/mallory", "/jobs"):
        visit.go(path)
        assert visit.tab.evaluate("document.scripts.length") == 1, path
        assert visit.tab.evaluate("[...document.querySelectorAll('*')].every((e) => ![...e.attributes].some((a) => a.name.startsWith('on')))")
    visit.go(f"/jobs/{job}")
    assert "<script>alert(1)</script>" in visit.tab.locator("main").inner_text()


def done(visit, job):
    """A finished job has it all, in its order."""
    visit.go(f"/jobs/{job}")
    headings = visit.tab.locator("h3").all_inner_texts()
    assert headings == ["Photos", "Learning", "Previews", "Avatars", "Contact sheet"], headings
    previews = visit.tab.locator("#previews-0 figure")
    steps = previews.all_inner_texts()
    assert steps in (["Step 40"], ["Step 80"], ["Step 40", "Step 80"]), steps
    assert previews.last.locator("img").get_attribute("alt") == f"Preview of ada, made by a model after {steps[-1].lower()}"
    words = visit.tab.locator("#curve-0-words").inner_text()
    assert "steps" in words and "evaluation set" in words, words
    assert visit.tab.locator("#avatars-0 img").count() == 3
    assert visit.tab.locator("#sheet-0 img").count() == 1
    assert all(visit.tab.locator("img").evaluate_all("(all) => all.map((image) => image.alt)")), "every picture has words"
    with visit.tab.expect_download() as saved:
        visit.tab.get_by_text("Download the embedding").click()
    assert saved.value.suggested_filename == "embedding.safetensors"


def without_scripts(browser, page, token, paths):
    """Everything can be read, and links and forms do what they say."""
    visit = Visit(browser, page, java_script_enabled=False, viewport=DESKTOP)
    tab = visit.tab
    tab.goto(visit.at + "/")
    tab.get_by_label("Access key or token").fill(token)
    tab.get_by_role("button", name="Sign in").click()
    for path in paths:
        tab.goto(visit.at + path)
        assert tab.locator("h1").count() == 1, path
        assert len(tab.locator("main").inner_text()) > 20, path
    tab.goto(visit.at + "/jobs")
    tab.get_by_role("link", name="ada", exact=True).click()
    assert tab.locator("#avatars-0 img").count() == 3
    assert tab.locator("#previews-0 img").count() >= 1
    tab.get_by_role("link", name="Subjects").click()
    assert tab.locator("h1").inner_text() == "Subjects"
    tab.get_by_role("button", name="Sign out").click()
    tab.goto(visit.at + "/jobs")
    assert tab.url.endswith("/sign-in"), "signed out"
    visit.fine()


def signed_out(visit):
    cookie = visit.context.cookies()[0]
    assert cookie["httpOnly"] and cookie["sameSite"] == "Strict", cookie
    assert visit.tab.evaluate("document.cookie") == "", "no script reads it"
    visit.tab.get_by_role("button", name="Sign out").click()
    visit.tab.wait_for_url("**/sign-in")
    assert not visit.context.cookies()
    visit.tab.goto(visit.at + "/fleet")
    assert visit.tab.url.endswith("/sign-in")


def refused(browser, page):
    """A wrong key is told next to its field."""
    visit = Visit(browser, page, viewport=DESKTOP)
    visit.tab.goto(visit.at + "/sign-in")
    visit.tab.keyboard.type("wrong")
    visit.tab.keyboard.press("Enter")
    visit.tab.get_by_role("alert").wait_for()
    accessible(visit, "a wrong key")
    visit.wrong = [wrong for wrong in visit.wrong if "401" not in wrong]  # the answer is one
    visit.fine()


def main():
    parser = argparse.ArgumentParser()
    for name in ("page", "token", "done", "hostile", "long", "many"):
        parser.add_argument(f"--{name}", required=True)
    parser.add_argument("--shots", type=pathlib.Path)
    args = parser.parse_args()
    token = pathlib.Path(args.token).read_text().strip()
    paths = {
        "jobs": "/jobs",
        "done": f"/jobs/{args.done}",
        "hostile": f"/jobs/{args.hostile}",
        "long": f"/jobs/{args.long}",
        "many": f"/jobs/{args.many}",
        "course": f"/jobs/{args.many}/subjects/subject-01",
        "subjects": "/subjects",
        "subject": "/subjects/mallory",
        "fleet": "/fleet",
        "tenants": "/tenants",
    }
    began = time.monotonic()
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path="/usr/bin/chromium", args=["--no-sandbox"])
        for scheme in ("light", "dark"):
            for width, viewport in (("desktop", DESKTOP), ("phone", PHONE)):
                visit = Visit(browser, args.page, color_scheme=scheme, viewport=viewport)
                visit.tab.goto(visit.at + "/sign-in")
                shots = {"sign-in": None, **paths}
                for name, path in shots.items():
                    if name == "jobs":
                        visit.sign_in(token)
                    if path:
                        visit.go(path)
                    accessible(visit, f"{name}, {scheme}, {width}")
                    if args.shots:
                        args.shots.mkdir(parents=True, exist_ok=True)
                        visit.tab.screenshot(path=args.shots / f"{name}-{width}-{scheme}.png", full_page=True)
                visit.fine()
        visit = Visit(browser, args.page, viewport=DESKTOP, accept_downloads=True)
        visit.sign_in(token)
        keyboard(visit, first_job="subject-01, subject-02, subject-03 and 1 more")
        done(visit, args.done)
        hostile(visit, args.hostile)
        live(visit, args.long)
        signed_out(visit)
        visit.fine()
        without_scripts(browser, args.page, token, paths.values())
        refused(browser, args.page)
        browser.close()
    print(f"check.py: {len(paths) + 1} pages, light and dark, wide and narrow, in {time.monotonic() - began:.0f} s")


main()
