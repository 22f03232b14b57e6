"""A headless Chromium that a script drives over a pipe, with the standard library alone."""

import base64
import json
import os
import shutil
import signal
import subprocess
import tempfile
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Self

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome", "chrome-headless-shell")
CACHES = (
    "ms-playwright/chromium-*/chrome-linux*/chrome",
    "ms-playwright/chromium_headless_shell-*/chrome-*/*hell",
    "puppeteer/chrome/*/chrome-linux64/chrome",
)
HOW_TO_GET_ONE = """\
no Chromium on this machine. Do one of these:
  apt-get install chromium                    (Debian; other systems have the same package)
  npx playwright install chromium             (found in its cache)
  CHROMIUM=/path/to/chrome                    (one that is somewhere else)"""
PATIENCE = 60
_FLAGS = (
    "--headless=new",
    "--no-sandbox",  # it opens our own files and nothing else, and root has no sandbox
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-extensions",
    "--disable-dev-shm-usage",
    "--allow-file-access-from-files",
    "--remote-debugging-pipe",
)


def find() -> str | None:
    """Return the path of a Chromium: ``CHROMIUM``, one on PATH, or one that Playwright or Puppeteer has fetched."""
    if given := os.environ.get("CHROMIUM"):
        return shutil.which(given)
    on_path = (found for name in NAMES if (found := shutil.which(name)))
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    fetched = (str(path) for pattern in CACHES for path in sorted(cache.glob(pattern)))
    return next(on_path, None) or next(fetched, None)


class BrowserError(Exception):
    """Chromium ended, or refused a command."""


class Tab:
    """One page of a browser of its own, by the DevTools protocol."""

    def __init__(self, path: str) -> None:
        self._profile = tempfile.mkdtemp(prefix="catga-docs-")
        # These four are the lowest descriptors that are free, so what Popen opens for itself is never 3 or 4.
        theirs_in, self._out = os.pipe()
        self._in, theirs_out = os.pipe()

        def as_3_and_4() -> None:
            os.dup2(theirs_in, 3)
            os.dup2(theirs_out, 4)

        self._process = subprocess.Popen(
            [path, *_FLAGS, f"--user-data-dir={self._profile}", "about:blank"],
            pass_fds=(3, 4),
            preexec_fn=as_3_and_4,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        os.close(theirs_in)
        os.close(theirs_out)
        self._unread = b""
        self._last = 0
        self._session = ""
        self._loaded = False

    def __enter__(self) -> Self:
        previous = signal.signal(signal.SIGALRM, self._too_late)
        try:
            target = self.call("Target.createTarget", url="about:blank")["targetId"]
            self._session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
            self.call("Page.enable")
            self.call("Page.addScriptToEvaluateOnNewDocument", source="localStorage.clear()")
        except BaseException:
            self.__exit__(None, None, None)
            raise
        finally:
            signal.signal(signal.SIGALRM, previous)
        signal.signal(signal.SIGALRM, self._too_late)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        with suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        os.close(self._in)
        os.close(self._out)
        shutil.rmtree(self._profile, ignore_errors=True)

    def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        """Run one command, and return its result."""
        self._last += 1
        command = {"id": self._last, "method": method, "params": parameters}
        if self._session:
            command["sessionId"] = self._session
        os.write(self._out, json.dumps(command).encode() + b"\0")
        signal.alarm(PATIENCE)
        while (answer := self._read()).get("id") != self._last:
            self._note(answer)
        signal.alarm(0)
        if "error" in answer:
            raise BrowserError(f"{method}: {answer['error']['message']}")
        return answer["result"]

    def show(self, url: str, width: int, height: int, scheme: str) -> None:
        """Load a page in a window of this size, as a reader whose system is light or dark sees it."""
        self.call("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])
        self.call("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=False)
        self._loaded = False
        self.call("Page.navigate", url=url)
        signal.alarm(PATIENCE)
        while not self._loaded:
            self._note(self._read())
        signal.alarm(0)
        self.run("document.fonts.ready.then(() => new Promise(done => requestAnimationFrame(() => done(1))))")

    def run(self, script: str) -> Any:
        """Evaluate JavaScript in the page; what it promises is awaited."""
        answer = self.call("Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True)
        if "exceptionDetails" in answer:
            raise BrowserError(str(answer["exceptionDetails"]))
        return answer["result"].get("value")

    def picture(self, top: int, width: int, height: int) -> bytes:
        """Return a PNG of a part of the page."""
        clip = {"x": 0, "y": top, "width": width, "height": height, "scale": 1}
        answer = self.call("Page.captureScreenshot", format="png", clip=clip, captureBeyondViewport=True)
        return base64.b64decode(answer["data"])

    def _read(self) -> dict[str, Any]:
        while b"\0" not in self._unread:
            data = os.read(self._in, 1 << 16)
            if not data:
                raise BrowserError(f"Chromium ended with {self._process.wait()}")
            self._unread += data
        message, _, self._unread = self._unread.partition(b"\0")
        return json.loads(message)

    def _note(self, message: dict[str, Any]) -> None:
        self._loaded = self._loaded or message.get("method") == "Page.loadEventFired"

    def _too_late(self, number: int, frame: object) -> None:
        raise BrowserError(f"Chromium did not answer within {PATIENCE} s")
