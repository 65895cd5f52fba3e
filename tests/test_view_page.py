"""The page of `dino-ros view` in a real Chromium: a click, keys, sliders, and the pixels that they change."""

import shutil
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

webdriver = pytest.importorskip("selenium.webdriver")

from clients_view import Page, cosine
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.common.action_chains import ActionChains
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.support.ui import WebDriverWait

from dino_ros.demo.table import TABLE, TOPIC
from dino_ros.images.sources import open_source
from dino_ros.perception.perceiver import Perceiver
from dino_ros.taught.object_files import check_object_name
from dino_ros.view.player import Player
from dino_ros.view.server import Server
from dino_ros.view.teaching import Teaching

PERCEIVER_MODEL = "table_vit_micro_8"


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    binary, driver = shutil.which("chromium"), shutil.which("chromedriver")
    if not binary or not driver:
        pytest.skip("chromium is not installed")
    options = webdriver.ChromeOptions()
    options.binary_location = binary
    for flag in (
        "--headless=new",
        "--no-sandbox",
        "--disable-gpu",
        "--disable-dev-shm-usage",
        "--window-size=1280,900",
    ):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    chromium = webdriver.Chrome(options=options, service=Service(driver))
    yield chromium
    chromium.quit()


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    perceiver = Perceiver.load(PERCEIVER_MODEL, "onnxruntime")
    player = Player(open_source(TABLE, TOPIC), perceiver, Teaching(perceiver, tmp_path / "objects", check_object_name))
    server = Server(player, "127.0.0.1", 0)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server
    player.close()
    server.shutdown()
    server.server_close()


class Unheard:
    """A node that has not been heard."""

    name, recording = "/dino/perception", False

    def __init__(self) -> None:
        self.values: dict[str, Any] = {}
        self.learns: dict[str, str] = {}

    def scene(self, after: int, seconds: float, layers: Any) -> None:
        time.sleep(0.01)

    def status(self) -> dict[str, str]:
        return {}

    def learner(self) -> dict[str, str]:
        return self.learns

    def waiting_for(self) -> str:
        return "it is not heard"

    def parameters(self) -> dict[str, Any]:
        return self.values

    def taught(self) -> dict[str, int]:
        return {}

    def paused(self) -> bool:
        return False


def test_what_is_unknown_cannot_be_set(browser: Any) -> None:
    unheard = Unheard()
    server = Server(unheard, "127.0.0.1", 0)  # type: ignore[arg-type]
    threading.Thread(target=server.serve_forever, daemon=True).start()
    browser.get(server.url)
    wait = WebDriverWait(browser, 30, 0.1)
    wait.until(lambda b: "is not heard" in b.find_element("id", "waiting").text)
    sliders = browser.find_elements("css selector", "#parameters input, #parameters select")
    assert sliders
    assert not any(slider.is_enabled() for slider in sliders)
    unheard.values = {"mask_steady": 0.25}
    wait.until(lambda b: b.find_element("id", "mask_steady").is_enabled())
    assert browser.find_element("id", "mask_steady").get_property("value") == "0.25"
    learner = browser.find_element("id", "learner")
    assert not learner.is_displayed(), "there is none"
    unheard.learns = {"state": "active, training", "student": "<b>given</b>"}
    wait.until(lambda b: learner.text == "Learner\nstate\nactive, training\nstudent\n<b>given</b>")
    unheard.values = {}
    wait.until(lambda b: not b.find_element("id", "mask_steady").is_enabled())
    browser.get("about:blank")  # this page asks no more
    server.shutdown()
    server.server_close()


PIXELS = """const c = document.getElementById('camera');
return Array.from(c.getContext('2d').getImageData(0, 0, c.width, c.height).data)"""


def test_clicks_keys_and_sliders(browser: Any, server: Server) -> None:
    browser.get(server.url)
    page = Page(server.server_address[1])

    def wait(condition: str) -> None:
        WebDriverWait(browser, 30, 0.1).until(lambda b: b.execute_script(f"return {condition}"), condition)

    def canvas() -> Any:
        size = browser.execute_script("const c = document.getElementById('camera'); return [c.height, c.width]")
        return np.array(browser.execute_script(PIXELS), dtype=int).reshape(*size, 4)[:, :, :3]

    def shows(number: int) -> None:
        wait(f"document.getElementById('camera').dataset.number == {number}")

    wait("document.getElementById('camera').dataset.number > 3")
    browser.find_element("id", "pause").click()
    wait("document.getElementById('numbers').textContent.startsWith('paused')")
    browser.find_element("id", "step").click()
    last = page.frame()["number"]
    while "camera" in (told := page.frame(after=last)):
        last = told["number"]
    frame = page.frame()
    shows(last)

    # Where the mask is, and only there, the image has another color.
    browser.find_element("id", "show-objects").click()
    masked = canvas()
    browser.find_element("id", "show-mask").click()
    bare = canvas()
    mask = page.pixels(frame["mask"])[:, :, 3] > 0
    assert 0.01 < mask.mean() < 0.5
    changed = np.abs(masked - bare).max(axis=2)
    assert np.percentile(changed[mask], 5) > 20
    assert changed[~mask].max() == 0

    # A click shows NumPy's cosine similarity with the patch that was clicked.
    rgb = page.pixels(frame["camera"])
    box = browser.find_element("id", "camera")
    ActionChains(browser).move_to_element_with_offset(box, 40, 30).click().perform()
    wait("document.getElementById('camera').dataset.point")
    x, y = map(float, browser.execute_script("return document.getElementById('camera').dataset.point").split(","))
    heated = canvas()
    source = next(f for f in open_source(TABLE, TOPIC) if f.stamp == frame["stamp"])
    features = Perceiver.load(PERCEIVER_MODEL, "onnxruntime")(source.rgb(), ["features"]).features
    assert features is not None
    rows, columns = features.shape[:2]
    row, column = int(y * rows), int(x * columns)
    expected = cosine(features, row, column)
    assert expected.max() == expected[row, column]
    shown = (heated - 0.25 * bare).sum(axis=2)  # the heat alone, which is brighter where the tokens are more alike
    height, width = rgb.shape[:2]
    centers = shown[
        np.ix_(
            ((np.arange(rows) + 0.5) * height / rows).astype(int),
            ((np.arange(columns) + 0.5) * width / columns).astype(int),
        )
    ]
    assert np.corrcoef(centers.ravel(), np.clip(expected, 0, 1).ravel())[0, 1] > 0.9
    assert centers[row, column] >= np.percentile(centers, 90)

    # Escape clears it.
    box.send_keys(Keys.ESCAPE)
    wait("document.getElementById('camera').dataset.point === ''")
    assert np.array_equal(canvas(), bare)

    # A slider changes the mask of the frame in view.
    browser.find_element("id", "show-mask").click()
    browser.execute_script(
        "const m = document.getElementById('mask_method'); m.value = 'attention'; m.dispatchEvent(new Event('change'))"
    )
    shows(last + 1)
    browser.find_element("id", "mask_attention_mass").send_keys(Keys.END)
    shows(last + 2)
    assert (np.abs(canvas() - bare).max(axis=2) > 20).mean() > 0.5

    # What is clicked and named is found, and the row of its name says so.
    box.click()
    wait("!document.getElementById('teach').hidden && document.activeElement.id === 'object'")
    browser.switch_to.active_element.send_keys("thing", Keys.ENTER)
    wait("/^thing[01][.]/.test(document.getElementById('taught').textContent)")
    wait("document.getElementById('teach').hidden && document.getElementById('camera').dataset.point === ''")
    assert page.frame()["looks"] == {"thing": 1}

    # Another page learns from the server that the recording is paused.
    browser.refresh()
    wait("document.getElementById('camera').dataset.number")
    assert browser.find_element("id", "pause").text == "Play"

    # Errors of scripts, and requests that the policy stops; Chromium warns of how this test reads pixels.
    assert [entry for entry in browser.get_log("browser") if entry["level"] == "SEVERE"] == []
    requests = browser.execute_script("return performance.getEntriesByType('resource').map(e => e.name)")
    assert all(name.startswith((server.url, "data:")) for name in requests)
