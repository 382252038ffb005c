import contextlib
import gzip
import hashlib
import json
import logging
import multiprocessing
import os
import re
import resource
import socket
import subprocess
import sys
import tempfile
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest

from openset_distill.core.errors import DataError, OpenSetError, SettingsError
from openset_distill.datasets import catalog, download
from openset_distill.datasets.catalog import Archive
from openset_distill.datasets.download import RetryPolicy, fetch, fetch_dataset, status

SCRIPT = Path(__file__).parents[2] / "workflow_scripts" / "download.py"
DATA = np.random.default_rng(0).bytes(300_000)
QUICK = RetryPolicy(attempts=3, first_wait=0.01, longest_wait=0.05, connect_timeout=2, read_timeout=2)


def sha256(data):
    return "sha256:" + hashlib.sha256(data).hexdigest()


def archive(*urls, data=DATA, **fields):
    fields = {"size": len(data), "checksum": sha256(data), **fields}
    return Archive(file="images.zip", urls=urls, **fields)


# ------------------------------------------------------------------------------------------- a real server


class Server(ThreadingHTTPServer):
    """Serves `DATA`, in the way that `plan` says for each request in turn (the last one stays)."""

    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.plan = [{}]
        self.requests = []
        self.stop = threading.Event()

    @property
    def url(self):
        return f"http://127.0.0.1:{self.server_port}/images.zip"

    def ranges(self):
        return [headers.get("Range") for headers in self.requests]


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        pass

    def do_GET(self):
        plan = self.server.plan
        how = plan.pop(0) if len(plan) > 1 else plan[0]
        self.server.requests.append(dict(self.headers))
        self.close_connection = True
        if how.get("stall"):
            self.server.stop.wait(5)
            return
        data = how.get("data", DATA)
        status, start = how.get("status", 200), 0
        wanted = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", ""))
        if wanted and status == 200 and not how.get("no_ranges"):
            start = int(wanted[1]) + how.get("shift", 0)
            status = 206 if start < len(data) else 416
        body = data[start:] if status in (200, 206) else how.get("body", b"")
        time.sleep(how.get("delay", 0))
        self.send_response(status)
        if status == 206:
            self.send_header("Content-Range", f"bytes {start}-{len(data) - 1}/{len(data)}")
        for name, value in how.get("headers", {}).items():
            self.send_header(name, value)
        if how.get("chunked"):
            self.send_header("Transfer-Encoding", "chunked")
        else:
            self.send_header("Content-Length", str(how.get("length", len(body))))
        self.end_headers()
        body = body[: how.get("cut")]
        if how.get("chunked"):
            body = b"%x\r\n%s\r\n" % (len(body), body) + (b"" if how.get("cut") else b"0\r\n\r\n")
        self.wfile.write(body)


@pytest.fixture(autouse=True)
def no_surroundings(monkeypatch, request):
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    if "real_data" not in request.keywords:
        monkeypatch.delenv(download.MIRROR_VARIABLE, raising=False)


@pytest.fixture
def server():
    server = Server()
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    yield server
    server.stop.set()
    server.shutdown()
    server.server_close()


def get(wanted, folder, **options):
    path = fetch(wanted, folder, retries=options.pop("retries", QUICK), progress=False, **options)
    assert path == Path(folder) / "images.zip"
    assert path.read_bytes() == DATA
    assert not list(Path(folder).glob(".*.part*"))
    return json.loads((Path(folder) / "images.zip.origin.json").read_text())


def failure(wanted, folder, **options):
    with pytest.raises(OpenSetError) as caught:
        fetch(wanted, folder, retries=options.pop("retries", QUICK), progress=False, **options)
    assert not (Path(folder) / "images.zip").exists()
    return str(caught.value)


# ------------------------------------------------------------------------------------------------ URLs


def test_a_file_is_fetched_verified_and_recorded(server, tmp_path):
    record = get(archive(server.url), tmp_path / "raw" / "x")
    assert record == {
        "file": "images.zip",
        "source": server.url,
        "sha256": hashlib.sha256(DATA).hexdigest(),
        "size": len(DATA),
        "verified": sha256(DATA),
    }
    assert server.ranges() == [None]


@pytest.mark.parametrize("algorithm", ["md5", "sha1", "sha256", "sha512"])
def test_every_kind_of_checksum_is_compared(server, tmp_path, algorithm):
    digits = hashlib.new(algorithm, DATA).hexdigest()
    assert get(archive(server.url, checksum=f"{algorithm}:{digits}"), tmp_path)["verified"].startswith(algorithm)
    wrong = f"{algorithm}:{digits[::-1]}"
    assert f"{algorithm}:{digits} " in failure(archive(server.url, checksum=wrong), tmp_path / "other")


def test_a_verified_file_is_not_fetched_again(server, tmp_path):
    get(archive(server.url), tmp_path)
    get(archive(server.url), tmp_path)
    assert len(server.requests) == 1


def test_a_cut_transfer_is_resumed_where_it_broke(server, tmp_path):
    server.plan = [{"cut": 100_000}, {"cut": 150_000}, {}]
    get(archive(server.url), tmp_path)
    assert server.ranges() == [None, "bytes=100000-", "bytes=250000-"]


def test_a_download_that_was_killed_is_resumed_by_the_next_one(server, tmp_path):
    server.plan = [{"cut": 120_000}, {}]
    failure(archive(server.url), tmp_path, retries=RetryPolicy(attempts=1))
    get(archive(server.url), tmp_path)
    assert server.ranges() == [None, "bytes=120000-"]


def test_a_server_that_cannot_resume_starts_over(server, tmp_path):
    server.plan = [{"cut": 100_000}, {"no_ranges": True}]
    get(archive(server.url), tmp_path)
    assert server.ranges() == [None, "bytes=100000-"]


def test_a_file_that_changed_meanwhile_is_noticed_by_the_checksum_and_starts_over(server, tmp_path):
    server.plan = [{"data": bytes(300_000), "cut": 100_000}, {}]
    get(archive(server.url), tmp_path)
    assert server.ranges() == [None, "bytes=100000-", None]


def test_the_wrong_range_is_not_used(server, tmp_path):
    server.plan = [{"cut": 100_000}, {"shift": 10}, {}]
    get(archive(server.url), tmp_path)
    assert server.ranges() == [None, "bytes=100000-", None]


def test_a_file_that_became_shorter_starts_over(server, tmp_path):
    server.plan = [{"data": DATA * 2, "cut": 400_000}, {}]
    get(archive(server.url, size=None), tmp_path)
    assert server.ranges() == [None, "bytes=400000-", None]


def test_a_part_that_was_complete_is_only_verified(server, tmp_path):
    server.plan = [{"cut": 299_999}, {"stall": True}]
    failure(archive(server.url, size=None), tmp_path, retries=RetryPolicy(attempts=1))
    (part,) = tmp_path.glob(".*.part")
    part.write_bytes(DATA)
    server.plan = [{}]
    get(archive(server.url, size=None), tmp_path)
    assert server.ranges() == [None, "bytes=300000-"]
    part.write_bytes(DATA)
    (tmp_path / "images.zip").unlink()
    get(archive(server.url), tmp_path)
    assert len(server.requests) == 2


def test_without_a_checksum_nothing_is_resumed(server, tmp_path):
    server.plan = [{"cut": 100_000}, {}]
    get(archive(server.url, checksum=None), tmp_path)
    assert server.ranges() == [None, None]


def test_chunked_answers_without_a_length(server, tmp_path):
    server.plan = [{"chunked": True, "cut": 100_000}, {"chunked": True}]
    get(archive(server.url), tmp_path)
    assert server.ranges() == [None, "bytes=100000-"]


def test_busy_servers_are_tried_again(server, tmp_path):
    server.plan = [{"status": 503}, {"status": 429, "headers": {"Retry-After": "1"}}, {}]
    start = time.monotonic()
    get(archive(server.url), tmp_path)
    assert len(server.requests) == 3
    assert time.monotonic() - start < 1  # the server asked for a second, `longest_wait` allows less


ODD = ["\u00b2", "9" * 5000, "soon", "-1", "1e400", "nan", "Wed, 99 Foo", ""]


@pytest.mark.parametrize("text", ODD)
def test_a_retry_after_of_any_text_is_no_fault(text, server, tmp_path):
    server.plan = [{"status": 429, "headers": {"Retry-After": text}}, {}]
    get(archive(server.url), tmp_path)
    assert len(server.requests) == 2


@pytest.mark.parametrize(
    "place",
    ["http://[::1", "http://[::1]:0/x", "http://", "http://a b/", "http://127.0.0.1:999999/x", "//[", "ftp://x/y",
     "file:///etc/passwd", "\u00b2://x", "http://\u00ff\u00fe..", "http://" + "a" * 300 + "/x", "http://127.0.0.1:x/"],
)  # fmt: skip
def test_a_redirect_to_anything_is_one_line(place, server, tmp_path):
    server.plan = [{"status": 302, "headers": {"Location": place}}]
    message = failure(archive(server.url), tmp_path)
    assert f"{server.url}: " in message


def test_an_endless_redirect_ends(server, tmp_path):
    server.plan = [{"status": 302, "headers": {"Location": "/images.zip"}}]
    assert "redirect" in failure(archive(server.url), tmp_path)


@pytest.mark.parametrize(
    "url", ["http://[::1", "http://[::1]:0/x", "http://[fe80::1%25zz]/x", "http:", "http://\u00b2/"]
)
def test_an_odd_url_is_one_line(url, tmp_path):
    assert url in failure(archive(url), tmp_path)


ANSWERS = {
    "length of another script": b"HTTP/1.1 200 OK\r\nContent-Length: \xb2\r\n\r\nabc",
    "length without end": b"HTTP/1.1 200 OK\r\nContent-Length: " + b"9" * 5000 + b"\r\n\r\nabc",
    "negative length": b"HTTP/1.1 200 OK\r\nContent-Length: -5\r\n\r\nabc",
    "two lengths": b"HTTP/1.1 200 OK\r\nContent-Length: 3, 4\r\n\r\nabc",
    "chunks of garbage": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\nabc\r\n",
    "negative chunk": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n-5\r\nabc\r\n",
    "endless chunk size": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + b"1" * 70_000,
    "no status": b"HELLO\r\n\r\n",
    "odd status": b"HTTP/1.1 abc OK\r\n\r\n",
    "huge header": b"HTTP/1.1 200 OK\r\nX: " + b"a" * 70_000 + b"\r\n\r\n",
    "many headers": b"HTTP/1.1 200 OK\r\n" + b"X: y\r\n" * 300 + b"\r\n",
    "nothing": b"",
    "a range nobody asked for": b"HTTP/1.1 206 Partial\r\nContent-Range: bytes 5-7/9\r\nContent-Length: 3\r\n\r\nabc",
}


@pytest.mark.parametrize("kind", ANSWERS)
def test_an_odd_answer_is_one_line(kind, tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def answer():
            while True:
                try:
                    connection, _ = listening.accept()
                except OSError:
                    return
                with connection:
                    connection.recv(65536)
                    with contextlib.suppress(OSError):
                        connection.sendall(ANSWERS[kind])

        thread = threading.Thread(target=answer, daemon=True)
        thread.start()
        url = f"http://127.0.0.1:{listening.getsockname()[1]}/images.zip"
        message = failure(archive(url), tmp_path)
        assert f"{url}: " in message
        listening.shutdown(socket.SHUT_RDWR)
    thread.join(5)
    assert not thread.is_alive()
    assert not (tmp_path / "images.zip").exists()


def test_a_server_that_never_gets_anywhere_is_given_up(server, tmp_path):
    server.plan = [{"cut": 0}]
    assert "0 of 300000 bytes" in failure(archive(server.url), tmp_path) or len(server.requests) == 3
    assert len(server.requests) == 3


def test_a_server_whose_pieces_never_fit_is_given_up(server, tmp_path):
    server.plan = [{"data": bytes(300_000), "cut": 200_000}, {}] * 20
    message = failure(archive(server.url), tmp_path)
    assert "the resumed file has" in message
    assert "(3 attempts)" in message
    assert len(server.requests) == 6


def test_a_silent_server_is_given_up(server, tmp_path):
    server.plan = [{"stall": True}]
    retries = RetryPolicy(attempts=2, first_wait=0.01, read_timeout=0.1)
    assert "(2 attempts)" in failure(archive(server.url), tmp_path, retries=retries)


def test_the_next_address_is_used(server, tmp_path, caplog):
    server.plan = [{"status": 404}, {}]
    other = server.url + "?copy"
    assert get(archive(server.url, other), tmp_path)["source"] == other
    assert f"{server.url}: HTTP status 404" in caplog.text


def test_a_failure_lists_everything_that_was_tried_and_what_helps(server, tmp_path):
    server.plan = [{"status": 404}, {"data": bytes(300_000)}]
    (tmp_path / "mirror").mkdir()
    closed = "http://127.0.0.1:9/images.zip"
    urls = (server.url, server.url + "?copy", closed, "ftp://127.0.0.1/images.zip", "file:///etc/passwd")
    message = failure(archive(*urls, by_hand="ask the authors"), tmp_path / "x", mirror=tmp_path / "mirror")
    lines = message.splitlines()
    assert lines[0] == "cannot fetch images.zip; tried:"
    for line, words in zip(
        lines[1:],
        [
            ("mirror/images.zip", "the mirror has no such file"),
            (urls[0], "HTTP status 404"),
            (urls[1], sha256(bytes(300_000)), "where", sha256(DATA)),
            (closed, "refused", "(3 attempts)"),
            (urls[3], "only http and https"),
            (urls[4], "only http and https"),
            ("try one of", "ask the authors", f"put the file into {tmp_path / 'x'}", "OPENSET_MIRROR", "--mirror"),
        ],
        strict=True,
    ):
        for word in words:
            assert word in line
    assert not [path for path in (tmp_path / "x").iterdir() if path.name.endswith(".part")]


@pytest.mark.parametrize("target", ["file:///etc/passwd", "ftp://127.0.0.1/x"])
def test_redirects_to_other_kinds_of_addresses_are_refused(server, tmp_path, target):
    server.plan = [{"status": 302, "headers": {"Location": target}}]
    assert "InvalidSchema" in failure(archive(server.url), tmp_path)


def test_a_web_page_is_not_taken_for_the_file(server, tmp_path):
    server.plan = [{"data": b"<html>log in</html>", "headers": {"Content-Type": "text/html; charset=utf-8"}}]
    assert "sends a web page" in failure(archive(server.url, size=None, checksum=None), tmp_path)


def test_another_size_is_noticed_before_the_transfer(server, tmp_path):
    server.plan = [{"data": DATA + b"x"}]
    assert "offers 300001 bytes where 300000 are expected" in failure(archive(server.url), tmp_path)
    server.plan = [{"data": DATA + b"x", "chunked": True}]
    assert "sends more than the 300000 bytes" in failure(archive(server.url), tmp_path)
    server.plan = [{}]
    get(archive(server.url), tmp_path)


def test_a_file_larger_than_the_disk_is_noticed_before_the_transfer(server, tmp_path):
    server.plan = [{"length": 10**18, "cut": 10}]
    message = failure(archive(server.url, size=None), tmp_path)
    assert message.startswith("images.zip needs 1000000000000000000 bytes more in")
    assert "free some space" in message


def test_compression_on_the_way_is_not_undone(server, tmp_path):
    packed = gzip.compress(DATA)
    server.plan = [{"data": packed, "headers": {"Content-Encoding": "x-gzip"}}]
    path = fetch(archive(server.url, data=packed), tmp_path, retries=QUICK, progress=False)
    assert path.read_bytes() == packed
    assert server.requests[0]["Accept-Encoding"] == "identity"


def test_progress_is_told_in_plain_lines(server, tmp_path, capsys):
    fetch(archive(server.url), tmp_path, retries=QUICK)
    lines = capsys.readouterr().err.splitlines()
    assert lines == [f"images.zip: from {server.url}, 0.0 of 0.3 MB", "images.zip: 0.3 MB are here"]


# --------------------------------------------------------------------------------------- what is there, mirror


def test_a_file_put_there_by_hand_is_verified_and_recorded(tmp_path):
    (tmp_path / "images.zip").write_bytes(DATA)
    assert get(archive(), tmp_path)["source"] == "already there"


def test_a_wrong_file_that_is_there_is_kept_and_told(tmp_path):
    (tmp_path / "images.zip").write_bytes(b"mine")
    with pytest.raises(DataError, match=f"not the expected file.*Delete it.*data.checksum.*{sha256(b'mine')}"):
        fetch(archive(), tmp_path)
    assert (tmp_path / "images.zip").read_bytes() == b"mine"


def test_a_folder_in_the_place_of_the_file(tmp_path):
    (tmp_path / "images.zip").mkdir()
    with pytest.raises(DataError, match="is not a file"):
        fetch(archive(), tmp_path)


@pytest.mark.parametrize("below", ["", "ssb"])
@pytest.mark.parametrize("by", ["argument", "variable"])
def test_the_mirror_comes_first(server, tmp_path, monkeypatch, by, below):
    mirror = tmp_path / "mirror"
    (mirror / below).mkdir(parents=True)
    (mirror / below / "images.zip").write_bytes(DATA)
    if by == "variable":
        (tmp_path / "empty").mkdir()
        monkeypatch.setenv("OPENSET_MIRROR", f"{tmp_path / 'empty'}{os.pathsep}{mirror}")
    options = {"mirror": mirror} if by == "argument" else {}
    record = get(archive(server.url), tmp_path / "x", **options)
    assert record["source"] == str(mirror / below / "images.zip")
    assert server.requests == []
    assert not (tmp_path / "x" / "images.zip").samefile(mirror / below / "images.zip")


def test_a_mirror_with_another_checksum_is_passed_over_unless_that_is_stated(server, tmp_path, caplog):
    repacked = b"re-packed"
    (tmp_path / "mirror").mkdir()
    (tmp_path / "mirror" / "images.zip").write_bytes(repacked)
    assert get(archive(server.url), tmp_path / "a", mirror=tmp_path / "mirror")["source"] == server.url
    assert f"data.checksum: {{images.zip: {sha256(repacked)}}}" in caplog.text
    path = fetch(archive(server.url), tmp_path / "b", mirror=tmp_path / "mirror", checksum=sha256(repacked))
    assert path.read_bytes() == repacked
    assert fetch(archive(), tmp_path / "b", checksum=sha256(repacked)) == path
    refused = failure(archive(), tmp_path / "c", mirror=tmp_path / "mirror")
    assert f"data.checksum: {{images.zip: {sha256(repacked)}}}" in refused
    assert refused.endswith("try one of: state the checksum of your file, as told above"), "no copy of it would help"


def test_a_mirror_that_is_no_folder_is_told(tmp_path, monkeypatch):
    assert "absent, named by the mirror, is not a folder" in failure(
        archive(), tmp_path / "x", mirror=tmp_path / "absent"
    )
    monkeypatch.setenv("OPENSET_MIRROR", str(tmp_path / "absent"))
    assert "absent, named by OPENSET_MIRROR, is not a folder" in failure(archive(), tmp_path / "x")


@pytest.mark.parametrize("text", ["", "abc", "sha256:12", "crc32:00000000", "md5:" + "g" * 32, "a" * 64])
def test_a_checksum_of_another_form_is_refused(tmp_path, text):
    with pytest.raises(SettingsError, match="is not a checksum; write sha256:"):
        fetch(archive(), tmp_path, checksum=text)


# ---------------------------------------------------------------------------------------- trust on first use


def test_an_unknown_checksum_is_recorded_told_and_compared_later(server, tmp_path, caplog):
    wanted = archive(server.url, checksum=None, size=None)
    record = get(wanted, tmp_path)
    assert record["verified"] is None
    assert f"{sha256(DATA)} is trusted now, recorded in {tmp_path / 'images.zip.origin.json'}" in caplog.text
    get(wanted, tmp_path)
    (tmp_path / "images.zip").write_bytes(b"other")
    with pytest.raises(DataError, match=f"not the expected file.*{sha256(DATA)}"):
        fetch(wanted, tmp_path)


def test_a_damaged_record_is_told(tmp_path):
    (tmp_path / "images.zip").write_bytes(DATA)
    (tmp_path / "images.zip.origin.json").write_text('{"file": 1}')
    with pytest.raises(OpenSetError, match=r"images\.zip\.origin\.json is not a record"):
        fetch(archive(), tmp_path)


# ------------------------------------------------------------------------------ folders, disks, processes


def test_a_folder_that_cannot_be_made_is_told(tmp_path):
    (tmp_path / "file").write_text("x")
    with pytest.raises(OpenSetError, match=r"cannot write .*choose a folder"):
        fetch(archive("http://127.0.0.1:9/x"), tmp_path / "file" / "x", progress=False)


def in_a_process(target, *arguments):
    """Runs `target(*arguments)` in a child process and returns what it returns, or the text of its error."""

    def work(pipe):
        try:
            pipe.send(target(*arguments))
        except OpenSetError as error:
            pipe.send(str(error))

    here, there = multiprocessing.get_context("fork").Pipe()
    process = multiprocessing.get_context("fork").Process(target=work, args=(there,))
    process.start()
    assert here.poll(30)
    answer = here.recv()
    process.join()
    return answer


def test_a_file_in_a_read_only_folder_is_used(server):
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "images.zip"
        path.write_bytes(DATA)
        Path(folder).chmod(0o555)

        def as_nobody(wanted):
            if os.geteuid() == 0:
                os.setuid(65534)  # root may write everywhere
            return str(fetch(wanted, folder, progress=False))

        assert in_a_process(as_nobody, archive()) == str(path)
        assert "not the expected file" in in_a_process(as_nobody, archive(checksum=sha256(b"")))
        path.unlink()
        assert re.search("cannot write .*choose a folder", in_a_process(as_nobody, archive(server.url)))
        Path(folder).chmod(0o755)


@pytest.mark.parametrize("source", ["url", "mirror"])
def test_a_full_disk_is_told_and_what_came_is_kept_for_later(server, tmp_path, source):
    (tmp_path / "mirror").mkdir()
    if source == "mirror":
        (tmp_path / "mirror" / "images.zip").write_bytes(DATA)

    def on_a_small_disk():
        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
        return fetch(archive(server.url), tmp_path / "x", mirror=tmp_path / "mirror", progress=False)

    message = in_a_process(on_a_small_disk)
    assert "cannot write" in message
    assert "free space" in message or "free some space" in message
    assert not (tmp_path / "x" / "images.zip").exists()
    get(archive(server.url), tmp_path / "x", mirror=tmp_path / "mirror")


def test_processes_that_fetch_the_same_file_all_succeed_with_one_transfer(server, tmp_path):
    server.plan = [{"delay": 0.3}]
    context = multiprocessing.get_context("fork")
    with context.Pool(3) as pool:
        paths = pool.starmap_async(fetch, [(archive(server.url), tmp_path)] * 3, chunksize=1).get(timeout=30)
    assert paths == [tmp_path / "images.zip"] * 3
    assert paths[0].read_bytes() == DATA
    assert len(server.requests) == 1


# -------------------------------------------------------------------------------------- datasets and command


def test_status_tells_what_is_here(tmp_path):
    (tmp_path / "svhn").mkdir()
    (tmp_path / "svhn" / "train_32x32.mat").write_bytes(b"x")
    (tmp_path / "cifar10").mkdir()
    (tmp_path / "cifar10" / ".cifar-10-python.tar.gz.01234567.part").write_bytes(b"x")
    (tmp_path / "tinyimagenet").mkdir()
    (tmp_path / "tinyimagenet" / "tiny-imagenet-200.zip").write_bytes(b"1234")
    rows = {row.name: row for row in status(tmp_path)}
    assert rows["svhn"].state == "partial"
    assert rows["svhn"].size == 1 + 64_275_384
    assert rows["svhn"].licence == "non-commercial use only"
    assert rows["cifar10"].state == "partial"
    assert rows["cifar100"].state == "missing"
    assert (rows["tinyimagenet"].state, rows["tinyimagenet"].size) == ("here", 4)
    assert rows["isun"].size is None
    assert rows["digits"].state == "here"
    assert "image_folder" not in rows
    assert {row.state for row in status(tmp_path / "absent")} == {"here", "missing"}


def test_a_checksum_for_a_file_that_no_dataset_has_is_refused(tmp_path):
    with pytest.raises(SettingsError, match=r"no dataset has an archive 't10k.*did you mean"):
        fetch_dataset(catalog.find("mnist"), tmp_path, checksums={"t10k-images-ubyte.gz": sha256(b"")})
    with pytest.raises(SettingsError, match="is not a checksum"):
        fetch_dataset(catalog.find("digits"), tmp_path, checksums={"tiny-imagenet-200.zip": "abc"})
    assert fetch_dataset(catalog.find("digits"), tmp_path, checksums={"tiny-imagenet-200.zip": sha256(b"")}) == []


def test_what_lies_there_unpacked_takes_the_place_of_an_archive(tmp_path, caplog):
    entry = catalog.find("imagenet21k")
    with pytest.raises(DataError, match=r"cannot fetch imagenet21k_resized\.tar\.gz"):
        fetch_dataset(entry, tmp_path / "imagenet21k")
    (tmp_path / "imagenet21k" / "imagenet21k_val").mkdir()
    assert fetch_dataset(entry, tmp_path / "imagenet21k") == []
    assert "not verified" in caplog.text
    assert {row.name: row.state for row in status(tmp_path)}["imagenet21k"] == "here"


def command(*arguments, **environment):
    return subprocess.run(
        [sys.executable, str(SCRIPT), *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=60,
        env={**{k: v for k, v in os.environ.items() if k != "OPENSET_MIRROR"}, **environment},
    )


def test_the_command_records_an_embedded_dataset(tmp_path):
    done = command("--dataset", "digits", "--folder", tmp_path / "raw", "--record", tmp_path / "raw" / "download.json")
    assert done.returncode == 0, done.stderr
    record = json.loads((tmp_path / "raw" / "download.json").read_text())
    assert record["dataset"] == "digits"
    assert record["licence"] == "CC BY 4.0"
    assert record["files"] == []


@pytest.mark.parametrize("by", ["option", "variable"])
def test_the_command_takes_a_repacked_archive_from_the_mirror(tmp_path, by):
    (tmp_path / "mirror").mkdir()
    (tmp_path / "mirror" / "tiny-imagenet-200.zip").write_bytes(DATA)
    mirror = str(tmp_path / "mirror")
    done = command(
        *("--dataset", "tinyimagenet", "--folder", tmp_path / "raw", "--record", tmp_path / "record.json"),
        *("--checksum", f"tiny-imagenet-200.zip={sha256(DATA)}"),
        *(("--mirror", mirror) if by == "option" else ()),
        **({"OPENSET_MIRROR": mirror} if by == "variable" else {}),
    )
    assert done.returncode == 0, done.stderr
    [file] = json.loads((tmp_path / "record.json").read_text())["files"]
    assert file["sha256"] == hashlib.sha256(DATA).hexdigest()
    assert file["source"] == str(tmp_path / "mirror" / "tiny-imagenet-200.zip")
    assert (tmp_path / "raw" / "tiny-imagenet-200.zip").read_bytes() == DATA


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--dataset", "tinyimagnet"], "error: unknown dataset 'tinyimagnet'; did you mean 'tinyimagenet'"),
        (["--dataset", "imagenet"], "error: cannot fetch ILSVRC2012_img_train.tar; tried:"),
        (["--dataset", "cifar10_images"], "no public URL"),
        (
            ["--dataset", "cifar10", "--checksum", "cifar.tar.gz=md5:0"],
            "error: data.checksum: no dataset has an archive",
        ),
        (["--dataset", "cifar10", "--checksum", "cifar-10-python.tar.gz=abc"], "error: 'abc' is not a checksum"),
        (["--dataset", "cifar10", "--mirror", "absent"], "error: absent, named by the mirror, is not a folder"),
    ],
)
def test_the_command_ends_with_one_message(tmp_path, arguments, message):
    done = command(*arguments, "--folder", tmp_path / "raw", "--record", tmp_path / "record.json")
    assert done.returncode == 2
    assert message in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "record.json").exists()


@pytest.mark.real_data
@pytest.mark.parametrize("name", ["cifar10_images", "cub", "aircraft", "scars", "imagenet"])
def test_archives_of_the_mirror_have_the_checksums_of_the_catalog(tmp_path, caplog, name):
    mirror = os.environ.get("OPENSET_MIRROR")
    if not mirror:
        pytest.skip("name the folder that holds the official archives in OPENSET_MIRROR")
    caplog.set_level(logging.WARNING)
    here = [file for file in catalog.find(name).files if list(Path(mirror).rglob(file.file))]
    assert here
    for file in here:
        fetch(Archive(file=file.file, size=file.size, checksum=file.checksum), tmp_path, progress=False)
