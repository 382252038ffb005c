"""Validates an RO-Crate without internet; runs in the environment of the tools.

    .venv-tools/bin/python tests/helpers/validate_crate.py CRATE PROFILE

The validator wants the JSON-LD context of RO-Crate 1.1 from its official address. The package `rocrate` contains it:
this puts it into the validator's cache.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path

import requests
import rocrate
import urllib3
from requests_cache import CachedSession

CONTEXT = "https://w3id.org/ro/crate/1.1/context"


def main(crate: str, profile: str) -> int:
    contents = Path(rocrate.__file__).with_name("data").joinpath("ro-crate.jsonld").read_bytes()
    with tempfile.TemporaryDirectory() as folder:
        cache = Path(folder) / "cache"
        response = requests.Response()
        response.status_code, response.url, response._content = 200, CONTEXT, contents
        response.headers["Content-Type"] = "application/ld+json"
        response.request = requests.Request("GET", CONTEXT).prepare()
        response.raw = urllib3.HTTPResponse(body=b"", status=200, preload_content=False)
        with CachedSession(str(cache), backend="sqlite", expire_after=-1) as session:
            session.cache.save_response(response)
        validator = str(Path(sys.executable).with_name("rocrate-validator"))
        options = ["--offline", "--cache-path", str(cache), "--no-auto-profile", "--profile-identifier", profile]
        command = [validator, "--no-interactive", "--disable-color", "validate", *options, "--verbose", "--no-paging"]
        return subprocess.run([*command, crate]).returncode


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
