"""A real headless Chromium for tests, spoken to through a pipe: pages from disk, at any width, with what they log."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from base64 import b64decode
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from threading import Timer
from typing import Any, BinaryIO

PROGRAM = next((found for name in ("chromium", "google-chrome", "chrome") if (found := shutil.which(name))), None)
ABSENT = "no chromium here (apt-get install chromium)"
FLAGS = (
    "--headless=new",
    "--no-sandbox",
    "--disable-gpu",
    "--hide-scrollbars",
    "--no-first-run",
    "--remote-debugging-pipe",
)
NO_NETWORK = "--host-resolver-rules=MAP * ~NOTFOUND"
LONGEST = 240.0  # seconds after which a browser is ended, for its answers are waited for without a limit


@dataclass
class Browser:
    """One tab.

    Attributes:
        logged: what the page and the browser wrote to the console, with its level.
        asked: the addresses that were loaded, or tried, since the last page was opened.
    """

    _to: BinaryIO
    _from: BinaryIO
    logged: list[str] = field(default_factory=list)
    asked: list[str] = field(default_factory=list)
    _session: str | None = None
    _loaded: bool = False
    _count: int = 0

    def start(self) -> None:
        """Open the tab and listen to it."""
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        self._session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.call(f"{domain}.enable")

    def open(self, page: Path, width: int, dark: bool = False) -> None:
        """Load a page from disk into a window of that many CSS pixels."""
        self.logged.clear()
        self.asked.clear()
        self._loaded = False
        size = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 600}
        self.call("Emulation.setDeviceMetricsOverride", **size)
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.call("Emulation.setEmulatedMedia", features=[scheme])
        self.call("Page.navigate", url=page.resolve().as_uri())
        while not self._loaded:
            self._heard()

    def value(self, expression: str) -> Any:
        """What an expression of JavaScript gives in the page."""
        found = self.call("Runtime.evaluate", expression=expression, returnByValue=True)
        assert "exceptionDetails" not in found, found
        return found["result"].get("value")

    def picture(self, file: Path) -> None:
        """A screenshot of the whole page."""
        shot = self.call("Page.captureScreenshot", captureBeyondViewport=True)
        file.write_bytes(b64decode(shot["data"]))

    def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        """The answer of the browser to a command."""
        self._count += 1
        message = {"id": self._count, "method": method, "params": parameters}
        message |= {"sessionId": self._session} if self._session else {}
        self._to.write(json.dumps(message).encode() + b"\0")
        self._to.flush()
        while True:
            answer = self._heard()
            if answer.get("id") == self._count:
                assert "error" not in answer, (method, answer)
                return dict(answer["result"])

    def _heard(self) -> dict[str, Any]:
        """The next message, kept if it is an event that matters."""
        letters = bytearray()
        while (letter := self._from.read(1)) != b"\0":
            assert letter, "the browser has ended"
            letters += letter
        message: dict[str, Any] = json.loads(letters)
        about = message.get("params", {})
        match message.get("method"):
            case "Page.loadEventFired":
                self._loaded = True
            case "Runtime.consoleAPICalled":
                self.logged.append(f"{about['type']}: {about['args']}")
            case "Runtime.exceptionThrown":
                self.logged.append(f"exception: {about['exceptionDetails']}")
            case "Log.entryAdded":
                self.logged.append(f"{about['entry']['level']}: {about['entry']['text']}")
            case "Network.requestWillBeSent":
                self.asked.append(about["request"]["url"])
        return message


@contextmanager
def chromium(profile: Path) -> Iterator[Browser]:
    """A browser with a profile of its own; it ends with the block."""
    assert PROGRAM, ABSENT
    (theirs_in, ours_out), (ours_in, theirs_out) = os.pipe(), os.pipe()
    # It reads commands from descriptor 3 and answers on 4, which Python does not pass on under these numbers itself.
    redirect = 'exec "$@" 3<&"$IN" 4>&"$OUT"'
    process = subprocess.Popen(
        ["bash", "-c", redirect, "bash", PROGRAM, *FLAGS, NO_NETWORK, f"--user-data-dir={profile}"],
        pass_fds=(theirs_in, theirs_out),
        env={**os.environ, "IN": str(theirs_in), "OUT": str(theirs_out)},
        stderr=subprocess.DEVNULL,
        stdout=sys.stderr,
    )
    os.close(theirs_in)
    os.close(theirs_out)
    limit = Timer(LONGEST, process.kill)
    limit.start()
    with os.fdopen(ours_out, "wb") as to, os.fdopen(ours_in, "rb") as answers:
        browser = Browser(to, answers)
        try:
            browser.start()
            yield browser
            browser._session = None
            browser.call("Browser.close")
        finally:
            limit.cancel()
            process.kill()
            process.wait()
