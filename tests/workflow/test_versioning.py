"""DVC with a remote, from the first run to a colleague's clone: real commands, real servers on loopback."""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
import shutil
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import botocore.exceptions
import botocore.session
import pytest
import yaml
from checkout import served
from commands import REPOSITORY
from small_repository import copy_of_the_repository, dvc_repository, jobs, run, snakemake

pytestmark = pytest.mark.stories

RESULTS = Path("results") / "digits"
MOTO = REPOSITORY / ".venv-tools" / "bin" / "moto_server"


def done(folder: Path, *command: str, **options) -> str:
    """What a command that must succeed printed."""
    process = run(folder, *command, **options)
    assert process.returncode == 0, f"{command}\n{process.stdout}{process.stderr}"
    return process.stdout + process.stderr


def commit(folder: Path, message: str) -> None:
    done(folder, "git", "add", "-A")
    done(folder, "git", "-c", "user.name=t", "-c", "user.email=t@localhost", "commit", "-qm", message)


def clone(source: Path, folder: Path) -> Path:
    done(source, "git", "clone", "-q", str(source), str(folder))
    return folder


def nothing_to_do(folder: Path) -> bool:
    """Neither Snakemake nor DVC has anything to do."""
    clean = "Data and pipelines are up to date" in done(folder, "dvc", "status")
    return clean and "Nothing to be done" in done(folder, "snakemake", "--cores", "2", "paper_figures")


def rules(text: str) -> dict[str, int]:
    """How many jobs of each rule ran, from Snakemake's own words."""
    counts: dict[str, int] = {}
    for table in re.findall(r"^Job stats:\njob .*\n-.*\n((?:\w+ +\d+\n)*)", text, re.MULTILINE):
        for name, count in (line.split() for line in table.splitlines()):
            if name != "total":
                counts[name] = counts.get(name, 0) + int(count)
    return counts


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The whole workflow ran; its results are recorded, pushed to a folder, and the record is committed."""
    folder = dvc_repository(copy_of_the_repository(tmp_path_factory.mktemp("recorded") / "first"))
    assert jobs(snakemake(folder, "paper_figures"))["train_student"] == 8
    assert rules(done(folder, "dvc", "repro")) == {}
    done(folder, "dvc", "remote", "add", "--default", "store", str(folder.parent / "remote"))
    assert "pushed" in done(folder, "dvc", "push")
    commit(folder, "recorded")
    return folder


@pytest.fixture
def pulled(recorded: Path, tmp_path: Path) -> Path:
    folder = clone(recorded, tmp_path / "clone")
    done(folder, "dvc", "pull")
    return folder


def test_a_fresh_clone_with_what_was_pulled_has_nothing_to_do(recorded, pulled):
    assert nothing_to_do(pulled)
    assert done(pulled, "git", "status", "--short") == ""
    for name in ("figures/two_sides.pdf", "tables/benchmark.md", "split0/seed0/ce/weights.safetensors"):
        assert (pulled / RESULTS / name).read_bytes() == (recorded / RESULTS / name).read_bytes()
    header, _, *rows = done(pulled, "dvc", "metrics", "show", "--md").strip().splitlines()
    assert header.replace(" ", "") == "|Path|accuracy|auroc|fpr95|oscr|"
    runs = [row.split("|")[1].strip() for row in rows]
    assert sorted(runs) == [
        f"{RESULTS}/metrics/{run}.json" for run in ("ad_as_released", "ce", "cutmix", "kd_mixed", "teacher")
    ]


def test_one_figure_needs_the_tidy_tables_alone(recorded, tmp_path):
    folder = clone(recorded, tmp_path / "clone")
    done(folder, "dvc", "pull", "tidy", "records")
    assert sorted(path.name for path in (folder / RESULTS).iterdir()) == ["metrics", "tidy"]
    made = rules(done(folder, "snakemake", "--cores", "2", "two_sides"))
    assert made == {"figure_two_sides": 1, "table_augmentation": 1, "two_sides": 1}
    for kind in ("pdf", "png", "csv"):
        figure = RESULTS / "figures" / f"two_sides.{kind}"
        assert (folder / figure).read_bytes() == (recorded / figure).read_bytes()


@pytest.mark.usefixtures("recorded")
def test_an_experiment_with_one_setting_changed_trains_that_run_alone(pulled):
    change = "config/config.yaml:+runs.cutmix.optimization.epochs=3"
    ran = rules(done(pulled, "dvc", "exp", "run", "--name", "longer", "--set-param", change))
    assert ran["train_student"] == ran["evaluate"] == 2
    assert "train_teacher" not in ran
    assert "make_split" not in ran
    assert json.loads((pulled / RESULTS / "split1/seed0/cutmix/config.json").read_text())["optimization"]["epochs"] == 3
    assert nothing_to_do(pulled)

    compared = json.loads(done(pulled, "dvc", "metrics", "diff", "--json"))
    assert set(compared) == {f"{RESULTS}/metrics/cutmix.json"}
    drawn = json.loads(done(pulled, "dvc", "plots", "diff", "--json"))["data"]
    two_sides = drawn[f"{RESULTS}/figures/two_sides.png"]
    assert {version for plot in two_sides for version in plot["revisions"]} == {"HEAD", "workspace"}
    assert "longer" in done(pulled, "dvc", "exp", "list")
    # back to what was committed, without training
    done(pulled, "git", "checkout", "-q", "--", "config", "dvc.lock")
    done(pulled, "dvc", "checkout")
    assert nothing_to_do(pulled)

    done(pulled, "dvc", "plots", "show")
    page = (pulled / "dvc_plots" / "index.html").read_text()
    pictures = re.findall(r'<img src="(.*?)"', page)
    assert len(pictures) == 9
    assert "<script" not in page
    assert "http" not in page
    assert all((pulled / "dvc_plots" / picture).is_file() for picture in pictures)
    assert "dvc_plots" not in done(pulled, "git", "status", "--short")


def test_an_experiment_in_a_folder_of_its_own_trains_no_more_than_it_must(pulled):
    change = "config/config.yaml:+runs.cutmix.optimization.epochs=3"
    ran = rules(done(pulled, "dvc", "exp", "run", "--temp", "--name", "aside", "--set-param", change))
    assert ran["train_student"] == 2
    assert "train_teacher" not in ran
    assert nothing_to_do(pulled)  # the working tree is as it was


def test_a_branch_is_switched_with_its_results(pulled):
    main = done(pulled, "git", "branch", "--show-current").strip()
    done(pulled, "git", "checkout", "-q", "-b", "longer")
    path = pulled / "config" / "config.yaml"
    settings = yaml.safe_load(path.read_text())
    settings["runs"]["cutmix"]["optimization"] = {"epochs": 3}
    path.write_text(yaml.safe_dump(settings, sort_keys=False))
    assert rules(done(pulled, "dvc", "repro"))["train_student"] == 2
    commit(pulled, "longer")
    for branch, epochs in ((main, 2), ("longer", 3)):
        done(pulled, "git", "checkout", "-q", branch)
        done(pulled, "dvc", "checkout")
        config = json.loads((pulled / RESULTS / "split0" / "seed0" / "cutmix" / "config.json").read_text())
        assert config["optimization"]["epochs"] == epochs
        assert nothing_to_do(pulled)


def test_an_archive_without_git(recorded, tmp_path):
    folder = tmp_path / "archive"
    folder.mkdir()
    done(recorded, "git", "archive", "--output", str(tmp_path / "archive.tar"), "HEAD")
    shutil.unpack_archive(tmp_path / "archive.tar", folder)
    refused = run(folder, "dvc", "pull")
    assert refused.returncode != 0
    assert "is not a git repository" in refused.stderr
    done(folder, "dvc", "config", "--local", "core.no_scm", "true")
    done(folder, "dvc", "pull")
    assert nothing_to_do(folder)


# ----------------------------------------------------------------------------------------------- remotes


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


@contextlib.contextmanager
def s3_server() -> Iterator[str]:
    """The address of a server that speaks S3, with the bucket `results`."""
    port = free_port()
    process = subprocess.Popen(
        [str(MOTO), "-H", "127.0.0.1", "-p", str(port)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    address, deadline = f"http://127.0.0.1:{port}", time.monotonic() + 60
    try:
        client = botocore.session.get_session().create_client(
            "s3", "us-east-1", endpoint_url=address, aws_access_key_id="test", aws_secret_access_key="test"
        )
        while True:
            try:
                client.create_bucket(Bucket="results")
                break
            except botocore.exceptions.EndpointConnectionError:  # it is starting
                assert process.poll() is None
                assert time.monotonic() < deadline
                time.sleep(0.1)
        yield address
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(timeout=30)


@contextlib.contextmanager
def ssh_server(folder: Path) -> Iterator[tuple[int, Path]]:
    """The port of an SSH server with SFTP, and the private key that it lets in."""
    import asyncssh

    key = folder / "key"
    asyncssh.generate_private_key("ssh-ed25519").write_private_key(key)
    key.chmod(0o600)
    public = folder / "authorized"
    asyncssh.read_private_key(key).write_public_key(public)
    loop = asyncio.new_event_loop()
    server = loop.run_until_complete(
        asyncssh.listen(
            "127.0.0.1",
            0,
            server_host_keys=[asyncssh.generate_private_key("ssh-ed25519")],
            authorized_client_keys=str(public),
            sftp_factory=True,
        )
    )
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    try:
        yield server.get_port(), key
    finally:
        loop.call_soon_threadsafe(server.close)
        loop.call_soon_threadsafe(loop.stop)
        thread.join(timeout=30)


def pushed_and_pulled(recorded: Path, tmp_path: Path, address: str, options: dict[str, str]) -> None:
    """Pushes to a new remote from the first repository, pulls from it into a clone."""
    folders = [recorded, clone(recorded, tmp_path / "clone")]
    for folder, action in zip(folders, ("push", "pull"), strict=True):
        # --local: addresses and keys of one person stay out of what is committed
        done(folder, "dvc", "remote", "add", "--local", "--force", "other", address)
        for name, value in options.items():
            done(folder, "dvc", "remote", "modify", "--local", "other", name, value)
        done(folder, "dvc", action, "--remote", "other")
    assert nothing_to_do(folders[1])


def test_a_remote_that_speaks_s3(recorded, tmp_path):
    if not MOTO.exists():
        pytest.fail("the server that speaks S3 is missing; `make tools` installs it")
    with s3_server() as address:
        options = {"endpointurl": address, "access_key_id": "test", "secret_access_key": "test", "region": "us-east-1"}
        pushed_and_pulled(recorded, tmp_path, "s3://results/store", options)


def test_a_remote_over_ssh(recorded, tmp_path):
    store = tmp_path / "store"
    store.mkdir()
    with ssh_server(tmp_path) as (port, key):
        options = {"port": str(port), "user": "test", "keyfile": str(key)}
        pushed_and_pulled(recorded, tmp_path, f"ssh://127.0.0.1{store}", options)
    assert any(store.rglob("*.dir"))


def test_a_remote_that_is_only_read_over_http(recorded, tmp_path):
    folder = clone(recorded, tmp_path / "clone")
    with served(recorded.parent / "remote") as address:
        done(folder, "dvc", "remote", "add", "--local", "public", address)
        done(folder, "dvc", "pull", "--remote", "public")
        assert nothing_to_do(folder)
        refused = run(folder, "dvc", "push", "--remote", "public")
        # everything is there already: nothing is written, so nothing is refused
        assert refused.returncode == 0
        assert "up to date" in refused.stdout
