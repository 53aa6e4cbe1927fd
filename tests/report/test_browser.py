"""The page in headless Chromium: it sorts, pages and searches, quietly and without a network."""

import shutil

import numpy as np
import pytest
from scipy.sparse import csr_array

import sparsecode

BROWSER = (
    shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
)
DRIVER = shutil.which("chromedriver")
pytestmark = pytest.mark.skipif(
    not (BROWSER and DRIVER), reason="needs Chromium and its chromedriver"
)


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    from selenium import webdriver

    options = webdriver.ChromeOptions()
    options.binary_location = BROWSER
    flags = """headless no-sandbox disable-gpu disable-dev-shm-usage no-first-run disable-sync
    force-prefers-reduced-motion disable-background-networking disable-component-update"""
    for flag in (*flags.split(), f"user-data-dir={tmp_path_factory.mktemp('profile')}"):
        options.add_argument("--" + flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    driver = webdriver.Chrome(options, webdriver.ChromeService(DRIVER))
    yield driver
    driver.quit()


@pytest.fixture
def page(browser, tmp_path):
    """Open reports; at the end nothing was logged and nothing but the file itself was asked for."""

    def opened(report, width=1280, fragment=""):
        path = tmp_path / "page.html"
        path.write_text(report.to_html(), encoding="utf-8")
        browser.set_window_size(width, 1600)
        browser.get("about:blank")
        browser.get_log("performance")
        browser.get(path.as_uri() + fragment)
        return Page(browser)

    yield opened
    assert browser.get_log("browser") == []
    asked = [
        entry["message"].split('"url":"', 1)[1].split('"', 1)[0]
        for entry in browser.get_log("performance")
        if "Network.requestWillBeSent" in entry["message"] and '"url":"' in entry["message"]
    ]
    assert [url for url in asked if not url.startswith(("file:", "data:", "about:"))] == []


class Page:
    """What a person does on the page."""

    def __init__(self, driver):
        self.driver = driver

    def run(self, script, *arguments):
        return self.driver.execute_script(script, *arguments)

    def latents(self):
        return [
            int(number)
            for number in self.run(
                "return [...document.querySelectorAll('.open')].map((b) => b.dataset.latent)"
            )
        ]

    def found(self):
        return self.run("return document.getElementById('found').textContent")

    def search(self, text):
        box = self.driver.find_element("id", "search")
        box.clear()
        box.send_keys(text or " ")

    def choose(self, name, value):
        from selenium.webdriver.support.ui import Select

        Select(self.driver.find_element("id", name)).select_by_value(value)


def test_sorting(page, full):
    shown = page(full)
    columns = full.data["atlas"]["columns"]
    for name in ("frequency", "importance", "information", "kurtosis"):
        shown.choose("sort", name)
        values = [columns[name][latent] for latent in shown.latents()]
        known = [value for value in values if value is not None]
        assert known == sorted(known, reverse=True)
        assert values[: len(known)] == known, "what is not a number comes last"
        best = max(value for value in columns[name] if value is not None)
        assert known[0] == best
    shown.driver.find_element("id", "direction").click()
    values = [columns["kurtosis"][latent] for latent in shown.latents()]
    assert values == sorted(values, key=lambda value: (value is None, value))
    shown.choose("sort", "index")
    assert shown.latents()[:3] == [0, 1, 2]


def test_paging_shows_every_latent_once(page, full):
    shown = page(full)
    shown.choose("sort", "index")
    seen = shown.latents()
    assert len(seen) == 48
    for _ in range(3):
        shown.driver.find_elements("css selector", "[data-pager] button")[1].click()
        seen += shown.latents()
    assert seen == list(range(150))
    assert "145 to 150" in shown.found()
    assert not shown.driver.find_elements("css selector", "[data-pager] button")[1].is_enabled()
    shown.choose("size", "96")
    assert len(shown.latents()) == 96


def test_searching(page, full):
    shown = page(full)
    shown.search("137")
    assert shown.latents() == [137]
    shown.search("nothing like it")
    assert shown.latents() == []
    assert "matches" in shown.found()
    shown.search("")
    assert len(shown.latents()) == 48
    dead = [i for i, status in enumerate(full.data["atlas"]["status"]) if status == "dead"]
    shown.search("dead")
    assert sorted(shown.latents()) == dead[:48]


def test_details_by_keyboard_and_by_link(page, full):
    shown = page(full)
    first = shown.latents()[0]
    shown.run("document.querySelector('.open').focus()")
    active = shown.driver.switch_to.active_element
    active.send_keys("\ue007")  # Enter
    title = shown.driver.find_element("id", "detail-title")
    assert title.text == f"Latent {first}"
    assert title.is_displayed()
    shown.driver.switch_to.active_element.send_keys("\ue00c")  # Escape
    assert not shown.run("return document.getElementById('detail').open")
    assert shown.run("return document.activeElement.dataset.latent") == str(first)
    linked = page(full, fragment="#latent-42")
    assert linked.driver.find_element("id", "detail-title").text == "Latent 42"


def test_pictures_are_drawn(page, full):
    shown = page(full)
    assert shown.run("return document.querySelectorAll('.sprite').length") > 48
    loaded = shown.run(
        "const done = [...document.images].map((i) => {i.loading = 'eager'; return i.decode()});"
        "return Promise.all(done).then(() => done.length)"
    )
    assert loaded > 60
    backgrounds = shown.run(
        "return [...document.querySelectorAll('.sprite')].every((s) =>"
        " getComputedStyle(s).backgroundImage.startsWith('url(\"data:image/png'))"
    )
    assert backgrounds
    assert shown.run("return document.querySelectorAll('#charts svg, #model svg').length") == 8


@pytest.mark.parametrize("width", [500, 1280])
def test_nothing_is_wider_than_the_window(page, full, width):
    shown = page(full, width=width)
    assert shown.run("return document.documentElement.scrollWidth <= window.innerWidth")


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_has_contrast_in_light_and_dark(page, full, scheme):
    shown = page(full)
    feature = [{"name": "prefers-color-scheme", "value": scheme}]
    shown.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": feature})
    for selector in ("body", ".rule", ".badge", "nav a", ".figures"):
        assert shown.run(CONTRAST, selector) >= 4.5, (scheme, selector)
    shown.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": []})


CONTRAST = """
const luminance = (rgb) => rgb.map((v) => v / 255).map((v) =>
  v <= .03928 ? v / 12.92 : ((v + .055) / 1.055) ** 2.4)
  .reduce((s, v, i) => s + v * [.2126, .7152, .0722][i], 0);
const numbers = (text) => text.match(/[\\d.]+/g).map(Number);
let node = document.querySelector(arguments[0]);
const ink = luminance(numbers(getComputedStyle(node).color).slice(0, 3));
while (node && numbers(getComputedStyle(node).backgroundColor)[3] === 0) node = node.parentElement;
const paper = luminance(numbers(getComputedStyle(node).backgroundColor).slice(0, 3));
return (Math.max(ink, paper) + .05) / (Math.min(ink, paper) + .05);
"""


def test_a_page_of_codes_alone_works(page, bare):
    shown = page(bare)
    text = shown.run("return document.body.innerText")
    assert "Without the model" in text
    assert "Left out here: decoder pictures and top-activating images" in text
    assert len(shown.latents()) == 48


RNG = np.random.default_rng(0)
DEGENERATE = {
    "one row": np.eye(1, 5),
    "all zero": np.zeros((6, 4)),
    "one latent": np.ones((9, 1)),
    "dense": RNG.random((60, 8)),
    "signed": RNG.normal(size=(50, 8)) * (RNG.random((50, 8)) < 0.4),
}


@pytest.mark.parametrize("codes", DEGENERATE.values(), ids=DEGENERATE)
def test_pages_of_degenerate_codes_work(page, codes, tmp_path):
    names = np.array([str(i) for i in range(len(codes))], dtype=object)
    matrix = csr_array(codes.astype(np.float32))
    sparsecode.write_codes(tmp_path / "codes.h5", sparsecode.SparseCodes(matrix, names))
    shown = page(sparsecode.report_file(tmp_path / "codes.h5"))
    assert len(shown.latents()) == codes.shape[1]
    shown.run("document.querySelector('.open').click()")
    assert shown.driver.find_element("id", "detail-title").is_displayed()


def test_hostile_names_are_text_and_4096_latents_stay_fluid(page, hostile):
    shown = page(hostile)
    assert shown.driver.title == "<img src=x onerror=alert(1)>.h5 – sparsecode report"
    shown.search("bold")
    assert "of 4096 latents" in shown.found()
    assert "<b>bold</b>" in shown.run("return document.getElementById('cards').innerText")
    assert shown.run("return document.querySelectorAll('b').length") == 0
    shown.search("dead")
    dead = [i for i, status in enumerate(hostile.data["atlas"]["status"]) if status == "dead"]
    assert 7 in dead
    assert shown.latents() == dead[:48]
    shown.run("document.querySelector('.open').click()")
    assert shown.run("return document.getElementById('detail-body').innerText").count(
        "zero in every row"
    )
    # A page is drawn in 50 ms or so; 1.5 s leaves room for a busy machine.
    milliseconds = shown.run(
        "const start = performance.now(); refresh(); turn(1); turn(1); document.body.offsetHeight;"
        "return performance.now() - start"
    )
    assert milliseconds < 1500
