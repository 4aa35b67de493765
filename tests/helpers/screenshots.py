"""Pictures of a report's page, taken by a Chromium without a window. The tests of the page drive the same browser.

    python tests/helpers/screenshots.py report/report.html pictures

Needs Chromium or Chrome. It is driven by its own protocol (https://chromedevtools.github.io/devtools-protocol) over a pipe,
with WebGL in software, so neither a driver nor a graphics card is needed.
"""

from __future__ import annotations

import argparse
import base64
import json
import os
import shutil
import subprocess
import tempfile
from collections import deque
from pathlib import Path
from select import select
from time import monotonic, sleep
from typing import Any

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "chrome")
MOST_BYTES = 300_000  # of a picture; a larger one is reduced to 256 colours
SIZE = (1440, 900)  # of the page, in CSS pixels


def find_browser() -> str | None:
    """Path of a Chromium or Chrome, None if none is installed."""
    return next((path for name in BROWSERS if (path := shutil.which(name))), None)


class Browser:
    """A Chromium with one page. What the page complains about and asks the network for is kept.

    Attributes:
        errors: Console errors, exceptions and refused requests, in words.
        requests: URL of everything the page loaded, itself included, data URIs not.
    """

    def __init__(self, executable: str, size: tuple[int, int] = SIZE, language: str = "en-US") -> None:
        self.errors: list[str] = []
        self.requests: list[str] = []
        self._profile = tempfile.TemporaryDirectory(ignore_cleanup_errors=True)
        to_browser, self._write = os.pipe()
        self._read, from_browser = os.pipe()
        command = [executable, "--headless=new", "--remote-debugging-pipe", f"--user-data-dir={self._profile.name}"]
        command += [
            f"--window-size={size[0]},{size[1]}",
            f"--lang={language}",
            f"--accept-lang={language}",
            "--no-sandbox",
        ]
        command += ["--use-gl=angle", "--use-angle=swiftshader", "--enable-unsafe-swiftshader", "--hide-scrollbars"]
        command += ["--no-first-run", "--disable-dev-shm-usage", "--disable-background-networking"]
        # The protocol's ends must be descriptors 3 and 4; other shells than bash take single digits only.
        shell = ["bash", "-c", f'exec "$@" 3<&{to_browser} 4>&{from_browser}', "bash", *command]
        self._process = subprocess.Popen(
            shell, pass_fds=(to_browser, from_browser), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        os.close(to_browser)
        os.close(from_browser)
        self._buffer, self._number = b"", 0
        self._waiting: deque[bytes] = deque()
        self._session: str | None = None
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        self._session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Network", "Log"):
            self.call(f"{domain}.enable")
        metrics = {"width": size[0], "height": size[1], "deviceScaleFactor": 1, "mobile": False}
        self.call("Emulation.setDeviceMetricsOverride", **metrics)

    def __enter__(self) -> Browser:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.terminate()
        self._process.wait(timeout=20)
        os.close(self._write)
        os.close(self._read)
        self._profile.cleanup()

    def call(self, method: str, **parameters: object) -> dict:
        """One command of the protocol and its answer."""
        self._number += 1
        message: dict = {"id": self._number, "method": method, "params": parameters}
        if self._session:
            message["sessionId"] = self._session
        data = json.dumps(message).encode() + b"\0"
        while data:
            data = data[os.write(self._write, data) :]
        while True:
            answer = self._receive(60)
            if answer.get("id") == self._number:
                if "error" in answer:
                    raise RuntimeError(f"{method}: {answer['error']['message']}")
                return answer["result"]

    def _receive(self, timeout_s: float) -> dict:
        while not self._waiting:
            if not select([self._read], [], [], timeout_s)[0]:
                raise TimeoutError(f"the browser did not answer within {timeout_s:g} s")
            chunk = os.read(self._read, 1 << 20)
            if not chunk:
                raise RuntimeError("the browser ended")
            *whole, self._buffer = (self._buffer + chunk).split(b"\0")
            self._waiting.extend(whole)
        message = json.loads(self._waiting.popleft())
        self._note(message.get("method"), message.get("params", {}))
        return message

    def _note(self, event: str | None, parameters: dict) -> None:
        if event == "Runtime.exceptionThrown":
            details = parameters["exceptionDetails"]
            self.errors.append(details.get("exception", {}).get("description", details["text"]))
        elif event == "Runtime.consoleAPICalled" and parameters["type"] in ("error", "assert"):
            self.errors.append(" ".join(str(a.get("value", a.get("description"))) for a in parameters["args"]))
        elif event == "Log.entryAdded" and parameters["entry"]["level"] == "error":
            self.errors.append(parameters["entry"]["text"])
        elif event == "Network.requestWillBeSent" and not parameters["request"]["url"].startswith("data:"):
            self.requests.append(parameters["request"]["url"])

    def open(self, page: Path) -> None:
        """Load a file and wait until all of it is there."""
        self.call("Page.navigate", url=page.resolve().as_uri())
        self.wait("document.readyState === 'complete'")

    def evaluate(self, script: str) -> Any:
        """Value of an expression in the page, as JSON has it; promises are awaited."""
        answer = self.call("Runtime.evaluate", expression=script, awaitPromise=True, returnByValue=True)
        if "exceptionDetails" in answer:
            raise RuntimeError(answer["exceptionDetails"].get("exception", {}).get("description", script))
        return answer["result"].get("value")

    def wait(self, condition: str, timeout_s: float = 60) -> None:
        """Until a JavaScript condition holds."""
        end = monotonic() + timeout_s
        while not self.evaluate(f"Boolean({condition})"):
            if monotonic() > end:
                raise TimeoutError(f"not within {timeout_s:g} s: {condition}; the page says {self.errors}")
            sleep(0.05)

    def press(self, key: str) -> None:
        for kind in ("keyDown", "keyUp"):
            self.call("Input.dispatchKeyEvent", type=kind, key=key)

    def mouse(self, kind: str, x: float, y: float, **more: object) -> None:
        """`mouseMoved`, `mousePressed`, `mouseReleased` or `mouseWheel`, at a place of the page."""
        self.call("Input.dispatchMouseEvent", type=kind, x=x, y=y, **more)

    def picture(self) -> bytes:
        """The page as it is, as PNG."""
        return base64.b64decode(self.call("Page.captureScreenshot", format="png")["data"])


def take_pictures(page: Path, out: Path) -> list[Path]:
    """Overview and viewer of the worst case, in both languages; the viewer once per image in English.

    Returns:
        The PNG files: `overview-en.png`, `viewer-en-CT.png`, ...

    Raises:
        FileNotFoundError: If there is no Chromium.
    """
    from PIL import Image

    executable = find_browser()
    if executable is None:
        raise FileNotFoundError(f"no {', '.join(BROWSERS)} found; install Chromium, e.g. `apt-get install chromium`.")
    out.mkdir(parents=True, exist_ok=True)
    files = []

    def take(browser: Browser, name: str) -> None:
        sleep(0.3)  # a frame or two
        file = out / f"{name}.png"
        file.write_bytes(browser.picture())
        with Image.open(file) as taken:
            picture = taken.convert("RGB")
        picture.save(file, optimize=True)
        if file.stat().st_size > MOST_BYTES:
            picture.quantize(256, Image.Quantize.MAXCOVERAGE, dither=Image.Dither.NONE).save(file, optimize=True)
        files.append(file)

    for language in ("en", "zh"):
        with Browser(executable, language={"en": "en-US", "zh": "zh-CN"}[language]) as browser:
            browser.open(page)
            take(browser, f"overview-{language}")
            browser.evaluate("goToCase(experiment.cases[0].name)")
            browser.wait("shownCase()")
            channels = browser.evaluate("viewer.header.channels.map(({ name }) => name)")
            for i, channel in enumerate(channels if language == "en" else channels[:1]):
                browser.evaluate(f"setChannel({i})")
                take(browser, f"viewer-{language}-{channel}")
    return files


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("page", type=Path, help="report.html")
    parser.add_argument("out", type=Path, help="folder for the pictures")
    arguments = parser.parse_args()
    for file in take_pictures(arguments.page, arguments.out):
        print(file)


if __name__ == "__main__":
    main()
