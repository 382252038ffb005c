"""What makes training fast must not change what it computes: batches by step, cached logits, several processes."""

from __future__ import annotations

import inspect
import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import archives
import numpy as np
import pytest
import torch
import torch.distributed.run
from commands import REPOSITORY, SCRIPTS, job, script, succeed, train, typed
from trained import fails, history, same, wait_for, weights

from openset_distill.augment import Mixed
from openset_distill.core.device import least_taken
from openset_distill.methods import METHODS, Batch, losses
from openset_distill.models import build_classifier
from openset_distill.models.checkpoint import load_tensors, save_tensors
from openset_distill.training import distributed
from openset_distill.training.compilation import compiled
from openset_distill.training.setup import make_batches, open_split
from openset_distill.training.teachers import TeacherEnsemble

CPU = torch.device("cpu")


@pytest.fixture
def data(digits, split):
    return open_split(digits, [], split / "split.npz", split / "split.json")


def seen_by(settings: dict):
    return typed(settings).images_seen()


# ------------------------------------------------------------------------------------------- batches


def test_a_batch_depends_on_its_number_and_not_on_what_was_asked_for_before(data):
    first, second = make_batches(typed(job("cutmix")), data, CPU), make_batches(typed(job("cutmix")), data, CPU)
    forwards = {number: first[number] for number in range(2 * first.steps_per_epoch)}
    for number in reversed(range(2 * first.steps_per_epoch)):
        a, b = forwards[number], second[number]
        assert torch.equal(a.images, b.images)
        assert torch.equal(a.labels, b.labels)
        assert (a.mixed is None) == (b.mixed is None)
        assert a.mixed is None or torch.equal(a.mixed.images, b.mixed.images)


def test_an_epoch_takes_no_image_twice_and_leaves_out_less_than_a_batch(data):
    batches = make_batches(typed(job("ce") | {"augment": {"single": [], "multi": None, "multi_until": 1.0}}), data, CPU)
    orders = []
    for epoch in range(2):
        numbers = range(epoch * batches.steps_per_epoch, (epoch + 1) * batches.steps_per_epoch)
        chosen = torch.cat([batches._indices(number) for number in numbers])
        assert len(chosen.unique()) == len(chosen)
        assert len(batches.images) - len(chosen) < batches.size
        orders.append(chosen)
    assert not torch.equal(*orders)


def test_mixing_ends_where_it_is_told_to_and_changes_nothing_before(data):
    settings = job("cutmix")
    cut = settings | {"augment": settings["augment"] | {"multi_until": 0.5}}
    whole, until = make_batches(typed(settings), data, CPU), make_batches(typed(cut), data, CPU)
    steps = settings["optimization"]["epochs"] * whole.steps_per_epoch
    mixed_late = 0
    for number in range(steps):
        a, b = whole[number], until[number]
        assert torch.equal(a.images, b.images)
        assert torch.equal(a.labels, b.labels)
        if number < steps // 2:
            assert (a.mixed is None) == (b.mixed is None)
            assert a.mixed is None or torch.equal(a.mixed.images, b.mixed.images)
        elif number > steps // 2:
            assert b.mixed is None
            mixed_late += a.mixed is not None
    assert mixed_late > 0
    # other images, so other teacher logits
    assert seen_by(settings) != seen_by(cut)


def test_runs_that_differ_in_method_or_schedule_alone_see_the_same_images():
    seen = seen_by(job("ad_as_released"))
    assert seen == seen_by(job("kd_mixed"))
    other = job("kd_mixed")
    other["optimization"] |= {"learning_rate": 0.5, "schedule": "step"}
    assert seen == seen_by(other)
    assert seen != seen_by(job("cutmix") | {"seed": 1})
    assert seen != seen_by(job("mixup"))


def asymmetric_logit_matching() -> dict:
    """Settings of a run that mixes and needs no teacher logits on mixed images."""
    return job("ad_as_released") | {"method": METHODS.resolve("logit_matching")}


def test_raw_images_do_not_depend_on_whether_they_are_mixed_afterwards(data):
    raw, mixed = make_batches(typed(job("ce")), data, CPU), make_batches(typed(job("cutmix")), data, CPU)
    assert all(torch.equal(raw[number].images, mixed[number].images) for number in range(2 * raw.steps_per_epoch))
    # so who asks a teacher for raw images alone shares its logits with runs that mix nothing
    seen = seen_by(asymmetric_logit_matching())
    assert seen == seen_by(job("ce") | {"method": METHODS.resolve("distillation")})
    symmetric = METHODS.resolve({"name": "logit_matching", "mixed_target": "symmetric"})
    assert seen_by(asymmetric_logit_matching() | {"method": symmetric}) == seen_by(job("ad_as_released"))


# ------------------------------------------------------------------------------------- cached teacher logits


def caching_command(path: Path, settings: dict, digits: Path, split: Path, teacher: Path) -> list[str]:
    inputs = ["--prepared", digits, "--split", split / "split.npz", "--description", split / "split.json"]
    seen = json.dumps(seen_by(settings).plain())
    weights_of_teacher = teacher / "weights.safetensors"
    return list(map(str, ["--job", seen, *inputs, "--teacher", weights_of_teacher, "--teacher-logits", path]))


@pytest.fixture(scope="module")
def cached(teacher, digits, split, tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("cached") / "teacher_logits.safetensors"
    succeed(script("cache_teacher_logits.py", *caching_command(path, job("ad_as_released"), digits, split, teacher)))
    return path


@pytest.mark.parametrize(
    ("run", "precision"),
    [
        ("kd_mixed", "float32"),
        ("ad_as_released", "float32"),
        ("ad_as_described_ce", "float32"),
        ("ad_soft", "bfloat16"),
    ],
)
def test_cached_teacher_logits_train_the_student_that_online_ones_do(run, precision, teacher, digits, split, tmp_path):
    names, settings = ["--teacher", teacher / "weights.safetensors"], job(run)
    settings["optimization"]["precision"] = precision
    cached = tmp_path / "teacher_logits.safetensors"
    succeed(script("cache_teacher_logits.py", *caching_command(cached, settings, digits, split, teacher)))
    succeed(train(tmp_path / "online", settings, digits, split, *names))
    succeed(train(tmp_path / "cached", settings, digits, split, *names, "--teacher-logits", cached))
    live, recorded = history(tmp_path / "online"), history(tmp_path / "cached")
    assert len(live) == len(recorded) == 3
    for a, b in zip(live, recorded, strict=True):
        assert a.keys() == b.keys()
        np.testing.assert_allclose([float(x) for x in a.values()], [float(x) for x in b.values()], rtol=2e-3, atol=2e-3)


def test_asymmetric_logit_matching_records_no_logits_on_mixed_images(teacher, digits, split, tmp_path):
    names, settings = ["--teacher", teacher / "weights.safetensors"], asymmetric_logit_matching()
    cached = tmp_path / "teacher_logits.safetensors"
    succeed(script("cache_teacher_logits.py", *caching_command(cached, settings, digits, split, teacher)))
    tensors, _ = load_tensors(cached)
    assert len(tensors["mixed"]) == 0
    assert len(tensors["raw"]) == len(tensors["row"])
    succeed(train(tmp_path / "online", settings, digits, split, *names))
    succeed(train(tmp_path / "cached", settings, digits, split, *names, "--teacher-logits", cached))
    for a, b in zip(history(tmp_path / "online"), history(tmp_path / "cached"), strict=True):
        assert float(a["loss_mixed_distill"]) > 0
        np.testing.assert_allclose([float(x) for x in a.values()], [float(x) for x in b.values()], rtol=2e-3, atol=2e-3)


def test_an_enriched_target_needs_the_head_bias_that_online_and_cached_teachers_give(
    cached, teacher, digits, split, tmp_path
):
    names, settings = ["--teacher", teacher / "weights.safetensors"], job("ad_as_released")
    settings["method"] = METHODS.resolve({"name": "asymmetric_distillation", "preset": "as_described_enriched"})
    succeed(train(tmp_path / "online", settings, digits, split, *names))
    tensors, metadata = load_tensors(cached)
    # as version 0.1 wrote and named it
    save_tensors(tmp_path / "answers.safetensors", tensors, {"views": metadata["cache_key"]})
    process = train(tmp_path / "cached", settings, digits, split, *names, "--answers", tmp_path / "answers.safetensors")
    assert "hint: --answers is now called --teacher-logits" in succeed(process).stderr
    for a, b in zip(history(tmp_path / "online"), history(tmp_path / "cached"), strict=True):
        np.testing.assert_allclose([float(x) for x in a.values()], [float(x) for x in b.values()], rtol=2e-3, atol=2e-3)
    del tensors["head_bias"]
    save_tensors(tmp_path / "older.safetensors", tensors, metadata)
    without = train(
        tmp_path / "run", settings, digits, split, *names, "--teacher-logits", tmp_path / "older.safetensors"
    )
    fails(without, tmp_path / "run", "ad_as_released", "easy_target: enriched", "choose another teacher")


def test_the_enriched_target_of_an_ensemble_is_the_mean_of_its_members():
    torch.manual_seed(0)
    settings = {"name": "small_resnet", "widths": [4, 8]}
    members = [build_classifier(settings, classes=3, channels=3) for _ in range(2)]
    members[1].head = torch.nn.Linear(members[1].head.in_features, 3, bias=False)
    networks = TeacherEnsemble(members)
    images, mixed = torch.rand(2, 4, 3, 8, 8)
    sources, weights = torch.tensor([[0, 1], [1, 2], [2, 3], [3, 0]]), torch.tensor([[0.3, 0.7]] * 4)
    batch = Batch(images, torch.zeros(4, dtype=torch.int64), Mixed(mixed, sources, weights), 0)
    with torch.inference_mode():
        expected = torch.zeros(4, 3)
        for member in members:
            raw, own = member(images)[0], member(mixed)[0]
            expected += member.head(own + 0.3 * raw[sources[:, 0]] + 0.7 * raw[sources[:, 1]]) / 2
        on_raw, on_mixed = networks.on_both(batch)
        got = losses.enriched_logits(on_mixed, on_raw, sources, weights, networks.head_bias)
    torch.testing.assert_close(got, expected)
    points = build_classifier(settings, classes=3, channels=3, head="reciprocal_points")
    assert TeacherEnsemble([members[0], points]).head_bias is None


def test_teacher_logits_of_other_images_or_of_another_teacher_are_refused(cached, teacher, digits, split, tmp_path):
    names = ["--teacher", teacher / "weights.safetensors", "--teacher-logits", cached]
    other_seed = train(tmp_path / "run", job("kd_mixed") | {"seed": 1}, digits, split, *names)
    fails(other_seed, tmp_path / "run", "teacher logits", "seed", "leave out --teacher-logits")
    settings = job("kd_mixed")
    settings["optimization"]["epochs"] = 4
    fails(train(tmp_path / "run", settings, digits, split, *names), tmp_path / "run", "optimization")
    succeed(train(tmp_path / "other", job("teacher") | {"seed": 5}, digits, split))
    names = ["--teacher", tmp_path / "other" / "weights.safetensors", "--teacher-logits", cached]
    fails(train(tmp_path / "run", job("kd_mixed"), digits, split, *names), tmp_path / "run", "teachers_sha256")


def test_damaged_teacher_logits_are_named(teacher, digits, split, tmp_path):
    (tmp_path / "teacher_logits.safetensors").write_bytes(b"nothing of the kind")
    names = ["--teacher", teacher / "weights.safetensors", "--teacher-logits", tmp_path / "teacher_logits.safetensors"]
    fails(train(tmp_path / "run", job("kd_mixed"), digits, split, *names), tmp_path / "run", "damaged")


def test_interrupted_caching_resumes_to_the_same_bits(teacher, digits, split, tmp_path):
    settings = job("kd_mixed")
    settings["optimization"]["epochs"] = 200
    words = caching_command(tmp_path / "cut.safetensors", settings, digits, split, teacher)
    command = [sys.executable, str(SCRIPTS / "cache_teacher_logits.py"), *words]
    process = subprocess.Popen(command, cwd=REPOSITORY, stderr=subprocess.PIPE, text=True)
    # the handler is in place once caching has begun; before that the signal ends the process without a state
    deadline = time.monotonic() + 60
    while not signal_is_handled(process.pid, signal.SIGTERM):
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.01)
    process.send_signal(signal.SIGTERM)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 2
    assert "stopped by a signal" in errors
    assert {path.name for path in tmp_path.iterdir()} == {"cut.state.safetensors"}
    continued = succeed(script("cache_teacher_logits.py", *words))
    assert "resuming at step" in continued.stderr
    assert {path.name for path in tmp_path.iterdir()} == {"cut.safetensors"}
    whole = tmp_path / "whole.safetensors"
    succeed(script("cache_teacher_logits.py", *caching_command(whole, settings, digits, split, teacher)))
    assert whole.read_bytes() == (tmp_path / "cut.safetensors").read_bytes()


def signal_is_handled(process: int, number: int) -> bool:
    for line in Path(f"/proc/{process}/status").read_text().splitlines():
        if line.startswith("SigCgt:"):
            return bool(int(line.split()[1], 16) >> (number - 1) & 1)
    return False


# ----------------------------------------------------------------------------------- several processes


def torchrun(
    folder: Path, settings: dict, digits: Path, split: Path, *more: object, launch: tuple[str, ...] = ()
) -> subprocess.Popen[str]:
    names = ["weights.safetensors", "history.csv", "outputs.npz", "config.json", "provenance.json"]
    outputs = [part for name in names for part in (f"--{name.split('.')[0]}", folder / name)]
    inputs = ["--prepared", digits, "--split", split / "split.npz", "--description", split / "split.json"]
    # on one machine as the workflow starts them, on several by hand
    launcher = ["-m", "torch.distributed.run", *launch] if launch else []
    more = more if launch else (*more, "--processes", "2")
    command = [sys.executable, *launcher, SCRIPTS / "train.py", "--job", json.dumps(settings), *inputs, *outputs, *more]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    return subprocess.Popen(list(map(str, command)), cwd=REPOSITORY, env=environment, stderr=subprocess.PIPE, text=True)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@pytest.mark.parametrize(("run", "nodes"), [("ad_as_described_ce", 1), ("cutmix", 2), ("arpl", 1), ("kd_mixed", 1)])
def test_two_processes_train_what_one_does(run, nodes, teacher, digits, split, tmp_path):
    distils = run in ("ad_as_described_ce", "kd_mixed")
    names = ["--teacher", teacher / "weights.safetensors"] if distils else []
    settings = job("ce", method=METHODS.resolve("arpl")) if run == "arpl" else job(run)
    # rounding differs, and training amplifies it step by step: one epoch is long enough to see a real difference
    settings["optimization"] |= {"epochs": 1, "warmup_epochs": 0}
    if run == "kd_mixed":  # its teacher's logits come from a file
        cached = tmp_path / "teacher_logits.safetensors"
        succeed(script("cache_teacher_logits.py", *caching_command(cached, settings, digits, split, teacher)))
        names += ["--teacher-logits", cached]
    succeed(train(tmp_path / "one", settings, digits, split, *names))
    launch: tuple[str, ...] = ()
    if nodes == 2:
        meeting = f"127.0.0.1:{free_port()}"
        launch = ("--nnodes", "2", "--nproc-per-node", "1", "--rdzv-backend", "c10d", "--rdzv-endpoint", meeting)
        launch += ("--local-addr", "127.0.0.1")
    started = [torchrun(tmp_path / "two", settings, digits, split, *names, launch=launch) for _ in range(nodes)]
    for process in started:
        _, errors = process.communicate(timeout=180)
        assert process.returncode == 0, errors
        # one of them speaks
        assert nodes == 2 or errors.count("device: cpu") == errors.count("epoch 1/1") == 1, errors
    for a, b in zip(history(tmp_path / "one"), history(tmp_path / "two"), strict=True):
        np.testing.assert_allclose([float(x) for x in a.values()], [float(x) for x in b.values()], rtol=1e-3, atol=1e-3)
    one, two = weights(tmp_path / "one"), weights(tmp_path / "two")
    assert one.keys() == two.keys()
    for name in one:  # running statistics of batch normalisation among them
        torch.testing.assert_close(one[name], two[name], rtol=1e-3, atol=1e-3)


BATCHES = """
import hashlib, os, sys
import numpy as np, torch
from commands import job, typed
from openset_distill.augment import MULTI_SAMPLE
from openset_distill.datasets.index import StreamedImages
from openset_distill.datasets.prepared import open_prepared
from openset_distill.training.distributed import ProcessGroup, started_by_torchrun
from openset_distill.training.setup import SplitData, make_batches

torch.set_num_threads(1)
images = open_prepared(sys.argv[1]).train
assert isinstance(images, StreamedImages)
decoded, read = [], images.source.read
object.__setattr__(images.source, "read", lambda index: decoded.append(index) or read(index))
index, no = np.arange(len(images)), np.zeros(0, np.int64)
arrays = {"train_index": index, "train_label": images.labels, "validation_index": no, "validation_label": no}
data = SplitData(images, (images,), arrays, ("a", "b", "c"), ("known",), ("hash",))
config = job("cutmix")
config["augment"] |= {"multi": {**MULTI_SAMPLE.resolve("cutmix"), "probability": 1.0}}
config["normalization"] = {"mean": [0.5] * 3, "std": [0.25] * 3}
config["optimization"] |= {"batch_size": 4, "epochs": 2}
processes = ProcessGroup.join(torch.device("cpu")) if started_by_torchrun() else None
batches = make_batches(typed(config), data, torch.device("cpu"), processes)
digest = hashlib.sha256()
for number in range(4):
    batch = batches[number]
    assert batch.images.is_contiguous(memory_format=torch.channels_last)
    for tensor in (batch.images, batch.labels, batch.mixed.images, batch.mixed.sources):
        digest.update(tensor.contiguous().numpy().tobytes())
batches.images._ahead[1].result()  # the fifth, which is read ahead
print(digest.hexdigest(), len(decoded))
if processes:
    processes.leave()
"""


def test_each_of_two_processes_decodes_its_own_images_and_the_batches_stay_the_same(tmp_path):
    archives.imagenet(tmp_path / "raw", classes=3, train=3, test=2)
    names = ("train_images.npy", "train_labels.npy", "test_images.npy", "test_labels.npy", "manifest.json")
    made = [part for name in names for part in ("--" + name.split(".")[0].replace("_", "-"), tmp_path / "out" / name)]
    succeed(
        script("prepare.py", "--dataset", "imagenet", "--raw", tmp_path / "raw", "--size", 32, "--channels", 3, *made)
    )
    command = [sys.executable, "-c", BATCHES, str(tmp_path / "out")]
    path = os.pathsep.join([os.environ.get("PYTHONPATH", ""), str(REPOSITORY / "tests" / "helpers")])
    common = os.environ | {"PYTHONPATH": path, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port())}
    more = [{}, *({"RANK": str(rank), "WORLD_SIZE": "2"} for rank in range(2))]
    started = [
        subprocess.Popen(command, env=common | own, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        for own in more
    ]
    told = []
    for process in started:
        output, errors = process.communicate(timeout=120)
        assert process.returncode == 0, errors
        told.append(output.split())
    (one, all_images), *two = told
    assert [digest for digest, _ in two] == [one, one]
    assert [int(decoded) for _, decoded in two] == [int(all_images) // 2] * 2


def test_processes_that_read_different_states_end_in_one_line():
    program = (
        "import torch\nfrom openset_distill.core.command import run\n"
        "from openset_distill.training.distributed import ProcessGroup\n"
        "def main():\n"
        "    processes = ProcessGroup.join(torch.device('cpu'))\n"
        "    processes.check_same(2, 7)\n"
        "    processes.check_same(2, processes.rank)\n"
        "run(main)\n"
    )
    common = os.environ | {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port()), "WORLD_SIZE": "2"}
    started = [
        subprocess.Popen(
            [sys.executable, "-c", program], env=common | {"RANK": rank}, stderr=subprocess.PIPE, text=True
        )
        for rank in "01"
    ]
    for process in started:
        _, errors = process.communicate(timeout=120)
        assert process.returncode == 2 and "different saved states (epoch, step: 2, 0; 2, 1)" in errors, errors


def test_the_launcher_resolves_no_host_name_waits_for_the_state_and_gives_gpus(monkeypatch):
    class Replaced(Exception):
        """In place of the program that would take this one's place."""

    def replaced(_program, words, environment):
        raise Replaced(words, environment)

    monkeypatch.setattr(os, "execve", replaced)
    monkeypatch.setattr(distributed, "choose_gpus", lambda count: {"CUDA_VISIBLE_DEVICES": "1,3"})
    with pytest.raises(Replaced) as found:
        distributed.launch(2, ["train.py", "--job", "x"])
    words, environment = found.value.args
    assert words[words.index("--local-addr") + 1] == "localhost"
    assert words[-3:] == ["train.py", "--job", "x"]
    assert words[words.index("--nproc-per-node") + 1] == "2"
    assert environment["CUDA_VISIBLE_DEVICES"] == "1,3"
    # torch's launcher ends its processes after 30 s otherwise
    assert int(environment["TORCH_ELASTIC_SHUTDOWN_TIMEOUT"]) > 30
    assert "TORCH_ELASTIC_SHUTDOWN_TIMEOUT" in inspect.getsource(torch.distributed.run)


@pytest.mark.stories
def test_two_processes_that_are_interrupted_go_on_to_the_same_bits(digits, split, tmp_path):
    settings = job("cutmix")
    settings["optimization"] |= {"epochs": 20, "checkpoint_minutes": 1e-9}
    process = torchrun(tmp_path / "cut", settings, digits, split)
    wait_for(tmp_path / "cut" / "state.safetensors", process)
    process.send_signal(signal.SIGTERM)
    _, errors = process.communicate(timeout=120)
    assert process.returncode != 0
    assert "stopped by a signal" in errors
    for name in ("cut", "whole"):
        process = torchrun(tmp_path / name, settings, digits, split)
        _, errors = process.communicate(timeout=180)
        assert process.returncode == 0, errors
        assert ("resuming from epoch" in errors) == (name == "cut")
    assert same(tmp_path / "cut", tmp_path / "whole")


def test_a_batch_that_two_processes_cannot_share(digits, split, tmp_path):
    settings = job("ce")
    settings["optimization"]["batch_size"] = 33
    process = torchrun(tmp_path / "run", settings, digits, split)
    _, errors = process.communicate(timeout=120)
    assert process.returncode != 0
    assert "batch_size 33 cannot be shared by 2 processes" in errors


# --------------------------------------------------------------------------------- devices, compiler


def test_a_process_takes_the_device_that_fewest_others_hold(tmp_path):
    program = (
        "import sys; from pathlib import Path; from openset_distill.core.device import least_taken\n"
        "print(*least_taken(['a', 'b'], Path(sys.argv[1])), flush=True); sys.stdin.read()"
    )

    def start() -> tuple[subprocess.Popen[str], int]:
        process = subprocess.Popen(
            [sys.executable, "-c", program, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        return process, int(process.stdout.readline())

    started = [start() for _ in range(3)]
    try:
        assert [number for _, number in started] == [0, 1, 0]
        started[1][0].kill()
        started[1][0].wait(timeout=30)
        assert least_taken(["a", "b"], tmp_path) == [1]
    finally:
        for process, _ in started:
            process.kill()
            process.communicate(timeout=30)


def test_a_compiler_that_fails_is_reported_and_the_network_stays_as_it_was(monkeypatch):
    monkeypatch.setenv("CXX", "no-such-compiler")
    monkeypatch.setattr("torch._inductor.config.cpp.cxx", ("no-such-compiler",))
    monkeypatch.setattr("torch._inductor.config.fx_graph_cache", False)
    network = build_classifier({"name": "small_resnet", "widths": [5, 7]}, classes=3, channels=1)
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    for mode in (None, "reduce-overhead"):
        said: list[str] = []
        assert compiled(network, torch.rand(4, 1, 8, 8), said.append, mode) is network
        assert len(said) == 1
        assert "torch.compile failed" in said[0]
        assert "continues without it" in said[0]
        assert all(torch.equal(before[name], tensor) for name, tensor in network.state_dict().items())


def test_the_kind_of_compilation_is_a_name_that_there_is():
    made = job("ce")
    for value in (False, True, "reduce-overhead"):
        made["optimization"]["compile"] = value
        assert typed(made).optimization.compile == value
        assert typed(typed(made).plain()) == typed(made)
    made["optimization"]["compile"] = "reduce_overhead"
    with pytest.raises(ValueError, match="reduce-overhead"):
        typed(made)


def test_vgg32_trains_with_the_layer_that_nobody_uses(digits, split, tmp_path):
    settings = job("ce") | {"backbone": {"name": "vgg32"}}
    settings["optimization"] |= {"epochs": 1, "warmup_epochs": 0}
    succeed(train(tmp_path / "run", settings, digits, split))
    assert "encoder.bn10.weight" in weights(tmp_path / "run")
