"""Pages as a headless Chromium shows them."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


def document(address: str, profile: Path, *options: str) -> str:
    """The document at an address after its scripts have run; skips the test where there is no Chromium to run them.

    Args:
        profile: a folder for what Chromium keeps.
        options: further ones of Chromium's.
    """
    if CHROMIUM is None:
        if os.environ.get("OPENSET_REQUIRE_CHROMIUM"):
            pytest.fail("OPENSET_REQUIRE_CHROMIUM is set, and there is no Chromium")
        pytest.skip("Chromium is not installed")
    command = [CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={profile}"]
    command += [*options, "--dump-dom", address]
    return subprocess.run(command, capture_output=True, text=True, timeout=90, check=True).stdout
